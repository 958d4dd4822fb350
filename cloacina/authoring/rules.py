"""Builders of trigger rules: conditions on what a task depends on, and their combinations.

A rule is a dictionary in the wire form that the engine reads (``cloacina.domain.rules``).
"""

from __future__ import annotations

from typing import Any

import orjson

_OPERATORS = {
    "equals": "Equals",
    "==": "Equals",
    "eq": "Equals",
    "notequals": "NotEquals",
    "!=": "NotEquals",
    "ne": "NotEquals",
    "greaterthan": "GreaterThan",
    ">": "GreaterThan",
    "gt": "GreaterThan",
    "lessthan": "LessThan",
    "<": "LessThan",
    "lt": "LessThan",
    "contains": "Contains",
    "notcontains": "NotContains",
    "exists": "Exists",
    "notexists": "NotExists",
}
_CONDITIONS = ("TaskSuccess", "TaskFailed", "TaskSkipped", "ContextValue")
_RULES = ("Always", "All", "Any", "None")


def always() -> dict[str, Any]:
    """Run whatever became of the dependencies."""
    return {"type": "Always"}


def all_of(*conditions: dict[str, Any]) -> dict[str, Any]:
    """Every condition holds. Conditions may be rules themselves."""
    return {"type": "All", "conditions": [check_rule(condition) for condition in conditions]}


def any_of(*conditions: dict[str, Any]) -> dict[str, Any]:
    """At least one condition holds."""
    return {"type": "Any", "conditions": [check_rule(condition) for condition in conditions]}


def none_of(*conditions: dict[str, Any]) -> dict[str, Any]:
    """No condition holds."""
    return {"type": "None", "conditions": [check_rule(condition) for condition in conditions]}


def task_success(task_name: str) -> dict[str, Any]:
    """The dependency completed."""
    return {"type": "TaskSuccess", "task_name": task_name}


def task_failed(task_name: str) -> dict[str, Any]:
    """The dependency failed, all its attempts used up."""
    return {"type": "TaskFailed", "task_name": task_name}


def task_skipped(task_name: str) -> dict[str, Any]:
    """The dependency was skipped."""
    return {"type": "TaskSkipped", "task_name": task_name}


def context_value(key: str, operator: str, value: Any) -> dict[str, Any]:
    """The value at `key` of the task's input context compares as said.

    Args:
        key: the context key.
        operator: Equals, NotEquals, GreaterThan, LessThan, Contains, NotContains, Exists or NotExists, in any case and
            with or without underscores; or ==, !=, >, <, eq, ne, gt, lt.
        value: what it is compared with; JSON.

    Raises:
        ValueError: the operator is unknown, or the value is not JSON.
    """
    name = _OPERATORS.get(operator.lower().replace("_", "").strip())
    if name is None:
        raise ValueError(f"unknown operator {operator!r}; use one of {', '.join(dict.fromkeys(_OPERATORS.values()))}")
    try:
        value = orjson.loads(orjson.dumps(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"context_value: the value is not JSON: {error}") from None
    return {"type": "ContextValue", "key": key, "operator": name, "value": value}


def check_rule(rule: Any) -> dict[str, Any]:
    """The rule itself, if it is one.

    Raises:
        ValueError: it is not; the message says what to build rules with.
    """
    kind = rule.get("type") if isinstance(rule, dict) else None
    if kind in ("All", "Any", "None") and isinstance(rule.get("conditions"), list):
        for condition in rule["conditions"]:
            check_rule(condition)
    elif kind not in ("Always", *_CONDITIONS):
        raise ValueError(
            f"{rule!r} is not a trigger rule; build rules with context_value, task_success, task_failed and "
            "task_skipped, and combine them with all_of, any_of and none_of"
        )
    checked: dict[str, Any] = rule
    return checked


def as_rule(rule: Any) -> dict[str, Any]:
    """What ``trigger_rules=`` takes: a rule, or a single condition, which stands for all_of that condition.

    Raises:
        ValueError: see `check_rule`.
    """
    checked = check_rule(rule)
    return checked if checked["type"] in _RULES else all_of(checked)
