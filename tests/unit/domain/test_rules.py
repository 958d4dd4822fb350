"""Trigger rules: what each holds for, and their wire form."""

from __future__ import annotations

from typing import Any

import pytest
from drawn_workflows import rules
from hypothesis import given, settings

from cloacina.domain.rules import (
    Always,
    Combined,
    ContextValue,
    Operator,
    Rule,
    TaskEnded,
    TaskOutcome,
    evaluate,
    handles_failure_of,
    in_words,
    rule_from_wire,
    rule_to_wire,
    tasks_named_by,
)

_OUTCOMES = {"done": TaskOutcome.SUCCESS, "broken": TaskOutcome.FAILED, "left": TaskOutcome.SKIPPED}
_CONTEXT = {"n": 5, "f": 2.5, "s": "hello", "l": [1, "two", True], "t": True, "zero": 0, "nothing": None}
_YES = TaskEnded(TaskOutcome.SUCCESS, "done")
_NO = TaskEnded(TaskOutcome.SUCCESS, "broken")


def _holds(rule: Rule) -> bool:
    return evaluate(rule, _OUTCOMES.__getitem__, lambda: _CONTEXT)


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        (Always(), True),
        (_YES, True),
        (_NO, False),
        (TaskEnded(TaskOutcome.FAILED, "broken"), True),
        (TaskEnded(TaskOutcome.SKIPPED, "left"), True),
        (TaskEnded(TaskOutcome.SKIPPED, "broken"), False),
        (Combined("All", ()), True),
        (Combined("Any", ()), False),
        (Combined("None", ()), True),
        (Combined("All", (_YES, _NO)), False),
        (Combined("All", (_YES, _YES)), True),
        (Combined("Any", (_NO, _YES)), True),
        (Combined("Any", (_NO, _NO)), False),
        (Combined("None", (_NO, _NO)), True),
        (Combined("None", (_NO, _YES)), False),
        (Combined("Any", (Combined("None", (_NO,)), _NO)), True),
    ],
)
def test_outcomes_and_combinations(rule: Rule, holds: bool) -> None:
    assert _holds(rule) is holds


@pytest.mark.parametrize(
    ("key", "operator", "value", "holds"),
    [
        ("n", "Equals", 5, True),
        ("n", "Equals", 5.0, True),
        ("n", "Equals", "5", False),
        ("t", "Equals", 1, False),
        ("zero", "Equals", False, False),
        ("nothing", "Equals", None, True),
        ("absent", "Equals", None, False),
        ("absent", "NotEquals", None, True),
        ("n", "NotEquals", 6, True),
        ("n", "NotEquals", 5, False),
        ("n", "GreaterThan", 4.5, True),
        ("n", "GreaterThan", 5, False),
        ("n", "LessThan", 6, True),
        ("f", "LessThan", 2.5, False),
        ("s", "GreaterThan", 1, False),
        ("t", "GreaterThan", 0, False),
        ("absent", "LessThan", 1, False),
        ("s", "Contains", "ell", True),
        ("s", "Contains", 1, False),
        ("l", "Contains", "two", True),
        ("l", "Contains", 2, False),
        ("l", "NotContains", 2, True),
        ("n", "Contains", 5, False),
        ("absent", "NotContains", "x", True),
        ("nothing", "Exists", None, True),
        ("absent", "Exists", None, False),
        ("absent", "NotExists", None, True),
        ("nothing", "NotExists", None, False),
    ],
)
def test_context_values(key: str, operator: str, value: Any, holds: bool) -> None:
    assert _holds(ContextValue(key, Operator(operator), value)) is holds


def test_every_operator_has_a_row_above() -> None:
    marks = test_context_values.pytestmark  # type: ignore[attr-defined]
    assert {row[1] for row in marks[0].args[1]} == {operator.value for operator in Operator}


def test_the_context_is_not_parsed_for_rules_that_do_not_look_into_it() -> None:
    def context() -> dict[str, Any]:
        raise AssertionError("not asked for")

    assert evaluate(Combined("Any", (_YES, ContextValue("n", Operator.EXISTS, None))), _OUTCOMES.__getitem__, context)


@settings(max_examples=200, deadline=None)
@given(rule=rules(("x", "y")))
def test_the_wire_form_loses_nothing(rule: Rule) -> None:
    assert rule_from_wire(rule_to_wire(rule)) == rule


def test_named_tasks_are_found_at_any_depth() -> None:
    deep = Combined("All", (Combined("None", (TaskEnded(TaskOutcome.FAILED, "x"),)), _YES, Always()))
    assert tasks_named_by(deep) == {"x", "done"}


def test_only_asking_for_a_failure_handles_it() -> None:
    asks = TaskEnded(TaskOutcome.FAILED, "x")
    assert handles_failure_of(Combined("Any", (_YES, Combined("All", (asks,)))), "x")
    assert not handles_failure_of(asks, "y")
    assert not handles_failure_of(Combined("None", (asks,)), "x")
    assert not handles_failure_of(Always(), "x")
    assert not handles_failure_of(TaskEnded(TaskOutcome.SKIPPED, "x"), "x")


@pytest.mark.parametrize(
    ("wire", "named"),
    [
        (None, "None is not a trigger rule"),
        ("Always", "not a trigger rule"),
        ({"type": "Sometimes"}, "Sometimes"),
        ({"type": "All", "conditions": "x"}, "'conditions'"),
        ({"type": "Any"}, "'conditions'"),
        ({"type": "ContextValue", "key": "k", "operator": "Like"}, "'Like' is not one of 'Equals'"),
        ({"type": "None", "conditions": [{"type": "?"}]}, "not a trigger rule"),
    ],
)
def test_a_malformed_rule_is_refused(wire: Any, named: str) -> None:
    with pytest.raises(ValueError, match=r"trigger rule|operator") as raised:
        rule_from_wire(wire)
    assert named in str(raised.value)


def test_a_rule_nested_too_deep_is_refused() -> None:
    wire: dict[str, Any] = {"type": "Always"}
    for _ in range(40):
        wire = {"type": "All", "conditions": [wire]}
    with pytest.raises(ValueError, match="more than 32 deep"):
        rule_from_wire(wire)


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        ({"type": "Always"}, "whatever becomes of them"),
        ({"type": "TaskSkipped", "task_name": "a"}, "a was skipped"),
        (
            {"type": "ContextValue", "key": "k", "operator": "NotExists", "value": None},
            "context value 'k' does not exist",
        ),
        (
            {
                "type": "All",
                "conditions": [
                    {"type": "TaskSuccess", "task_name": "a"},
                    {
                        "type": "Any",
                        "conditions": [
                            {"type": "TaskFailed", "task_name": "b"},
                            {"type": "TaskSkipped", "task_name": "c"},
                        ],
                    },
                ],
            },
            "a completed and (b failed or c was skipped)",
        ),
        ({"type": "None", "conditions": [{"type": "TaskFailed", "task_name": "b"}]}, "none of: b failed"),
    ],
)
def test_a_rule_can_be_said_in_words(wire: dict[str, object], words: str) -> None:
    assert in_words(rule_from_wire(wire)) == words
