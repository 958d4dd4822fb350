"""Trigger rules: whether a task runs, once all it depends on is terminal.

The wire form is JSON. A rule is ``{"type": "Always"}`` or ``{"type": "All" | "Any" | "None", "conditions": […]}``; a
condition is ``{"type": "TaskSuccess" | "TaskFailed" | "TaskSkipped", "task_name": …}``,
``{"type": "ContextValue", "key": …, "operator": …, "value": …}``, or another rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class TaskOutcome(StrEnum):
    """The three ways a task can end."""

    SUCCESS = "TaskSuccess"
    FAILED = "TaskFailed"
    SKIPPED = "TaskSkipped"


class Operator(StrEnum):
    """How a context value is compared."""

    EQUALS = "Equals"
    NOT_EQUALS = "NotEquals"
    GREATER_THAN = "GreaterThan"
    LESS_THAN = "LessThan"
    CONTAINS = "Contains"
    NOT_CONTAINS = "NotContains"
    EXISTS = "Exists"
    NOT_EXISTS = "NotExists"


@dataclass(frozen=True, slots=True)
class Always:
    """Holds whatever the outcome of the dependencies."""


@dataclass(frozen=True, slots=True)
class Combined:
    """``All``, ``Any`` or ``None`` of its conditions."""

    kind: str
    conditions: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """Holds when the named dependency ended with this outcome."""

    outcome: TaskOutcome
    task: str


@dataclass(frozen=True, slots=True)
class ContextValue:
    """Holds when the value at `key` of the task's input context compares as said."""

    key: str
    operator: Operator
    value: Any


Rule = Always | Combined | TaskEnded | ContextValue


def evaluate(rule: Rule, outcome_of: Callable[[str], TaskOutcome], context: Callable[[], Mapping[str, Any]]) -> bool:
    """Whether the rule holds.

    Args:
        rule: the rule.
        outcome_of: the outcome of a dependency by its id.
        context: gives the task's input context; called only when a condition looks into it.
    """
    match rule:
        case Always():
            return True
        case TaskEnded(outcome, task):
            return outcome_of(task) is outcome
        case ContextValue(key, operator, value):
            return _compare(context(), key, operator, value)
        case Combined(kind, conditions):
            results = (evaluate(condition, outcome_of, context) for condition in conditions)
            if kind == "All":
                return all(results)
            return any(results) if kind == "Any" else not any(results)


def tasks_named_by(rule: Rule) -> set[str]:
    """The ids of the tasks whose outcome the rule asks for."""
    match rule:
        case TaskEnded(_, task):
            return {task}
        case Combined(_, conditions):
            return set().union(*(tasks_named_by(condition) for condition in conditions))
        case _:
            return set()


def handles_failure_of(rule: Rule, task: str) -> bool:
    """Whether the rule asks for the failure of `task`: then a dependent that completed has handled that failure."""
    match rule:
        case TaskEnded(outcome, named):
            return outcome is TaskOutcome.FAILED and named == task
        case Combined(kind, conditions):
            return kind != "None" and any(handles_failure_of(condition, task) for condition in conditions)
        case _:
            return False


def in_words(rule: Rule) -> str:
    """The rule as a person would say it, such as ``a completed and (b failed or c was skipped)``."""
    match rule:
        case Always():
            return "whatever becomes of them"
        case TaskEnded(outcome, task):
            return f"{task} {_ENDINGS[outcome]}"
        case ContextValue(key, operator, value):
            compared = "" if operator in (Operator.EXISTS, Operator.NOT_EXISTS) else f" {str(value)[:100]!r}"
            return f"context value {key!r} {_COMPARISONS[operator]}{compared}"
        case Combined(kind, conditions):
            words = [in_words(each) for each in conditions]
            words = [
                f"({each})" if isinstance(of, Combined) and len(of.conditions) > 1 else each
                for each, of in zip(words, conditions, strict=True)
            ]
            if kind == "None":
                return f"none of: {', '.join(words)}"
            return (" and " if kind == "All" else " or ").join(words) or f"{kind.lower()} of nothing"


_ENDINGS = {TaskOutcome.SUCCESS: "completed", TaskOutcome.FAILED: "failed", TaskOutcome.SKIPPED: "was skipped"}
_COMPARISONS = {
    Operator.EQUALS: "equals",
    Operator.NOT_EQUALS: "does not equal",
    Operator.GREATER_THAN: "is greater than",
    Operator.LESS_THAN: "is less than",
    Operator.CONTAINS: "contains",
    Operator.NOT_CONTAINS: "does not contain",
    Operator.EXISTS: "exists",
    Operator.NOT_EXISTS: "does not exist",
}


def rule_to_wire(rule: Rule) -> dict[str, Any]:
    """The JSON form of a rule, the inverse of `rule_from_wire`."""
    match rule:
        case Always():
            return {"type": "Always"}
        case TaskEnded(outcome, task):
            return {"type": outcome.value, "task_name": task}
        case ContextValue(key, operator, value):
            return {"type": "ContextValue", "key": key, "operator": operator.value, "value": value}
        case Combined(kind, conditions):
            return {"type": kind, "conditions": [rule_to_wire(condition) for condition in conditions]}


def rule_from_wire(wire: Any, *, depth: int = 0) -> Rule:
    """Reads the JSON form.

    Raises:
        ValueError: the rule is malformed, or nested more than 32 deep.
    """
    if depth > 32:
        raise ValueError("the trigger rule is nested more than 32 deep")
    kind = wire.get("type") if isinstance(wire, Mapping) else None
    match kind:
        case "Always":
            return Always()
        case "All" | "Any" | "None":
            conditions = wire.get("conditions")
            if not isinstance(conditions, list | tuple):
                raise ValueError(f"the 'conditions' of trigger rule {kind!r} must be a list")
            return Combined(kind, tuple(rule_from_wire(condition, depth=depth + 1) for condition in conditions))
        case "TaskSuccess" | "TaskFailed" | "TaskSkipped":
            return TaskEnded(TaskOutcome(kind), str(wire.get("task_name")))
        case "ContextValue":
            try:
                operator = Operator(wire.get("operator"))
            except ValueError:
                allowed = ", ".join(repr(member.value) for member in Operator)
                raise ValueError(f"operator {wire.get('operator')!r} is not one of {allowed}") from None
            return ContextValue(str(wire.get("key")), operator, wire.get("value"))
        case _:
            raise ValueError(f"{wire!r} is not a trigger rule")


def _compare(context: Mapping[str, Any], key: str, operator: Operator, value: Any) -> bool:
    present = key in context
    actual = context.get(key)
    match operator:
        case Operator.EXISTS:
            return present
        case Operator.NOT_EXISTS:
            return not present
        case Operator.EQUALS:
            return present and _same(actual, value)
        case Operator.NOT_EQUALS:
            return not (present and _same(actual, value))
        case Operator.GREATER_THAN:
            return _number(actual) and _number(value) and actual > value
        case Operator.LESS_THAN:
            return _number(actual) and _number(value) and actual < value
        case Operator.CONTAINS:
            return _contains(actual, value)
        case Operator.NOT_CONTAINS:
            return not _contains(actual, value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(left: Any, right: Any) -> bool:
    """JSON equality: ``true`` is not ``1``, though Python says so."""
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _contains(actual: Any, value: Any) -> bool:
    if isinstance(actual, str):
        return isinstance(value, str) and value in actual
    return isinstance(actual, list) and any(_same(item, value) for item in actual)
