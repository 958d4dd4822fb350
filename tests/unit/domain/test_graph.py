"""What makes a workflow's graph valid, and how its errors name the offenders."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from drawn_workflows import task_lists
from hypothesis import given, settings
from hypothesis import strategies as st

from cloacina.domain.graph import InvalidGraph, TaskSpec, WorkflowSpec
from cloacina.domain.rules import TaskEnded, TaskOutcome


def _spec(**dependencies: str) -> WorkflowSpec:
    return WorkflowSpec.create("flow", [TaskSpec(name, tuple(given.split())) for name, given in dependencies.items()])


@settings(max_examples=100, deadline=None)
@given(tasks=task_lists())
def test_tasks_come_after_what_they_depend_on_whatever_the_order_they_were_written_in(tasks: list[TaskSpec]) -> None:
    spec = WorkflowSpec.create("flow", tasks)
    order = list(spec.tasks)
    assert sorted(order) == sorted(task.id for task in tasks)
    for name, task in spec.tasks.items():
        assert all(order.index(dependency) < order.index(name) for dependency in task.dependencies)
        assert all(name in spec.dependents[dependency] for dependency in task.dependencies)
    assert sum(map(len, spec.dependents.values())) == sum(len(task.dependencies) for task in tasks)
    assert set(spec.roots) == {task.id for task in tasks if not task.dependencies}


@settings(max_examples=100, deadline=None)
@given(tasks=task_lists())
def test_the_wire_form_is_json_and_loses_nothing(tasks: list[TaskSpec]) -> None:
    spec = WorkflowSpec.create("flow", tasks)
    again = WorkflowSpec.from_wire(orjson.loads(orjson.dumps(spec.to_wire())))
    assert again.tasks == spec.tasks
    assert list(again.tasks) == list(spec.tasks)
    assert again.dependents == spec.dependents


@settings(max_examples=100, deadline=None)
@given(tasks=task_lists(), data=st.data())
def test_any_arrow_backwards_is_a_cycle_whose_path_is_named(tasks: list[TaskSpec], data: st.DataObject) -> None:
    """Adding, to a task, a dependency on itself or on anything after it."""
    spec = WorkflowSpec.create("flow", tasks)
    name = data.draw(st.sampled_from(list(spec.tasks)), "task")
    after, seen = [name], {name}
    for each in after:
        new = [dependent for dependent in spec.dependents[each] if dependent not in seen]
        seen.update(new)
        after.extend(new)
    target = data.draw(st.sampled_from(after), "depends on")
    bent = [
        TaskSpec(task.id, (*task.dependencies, target), task.retry, rule=task.rule) if task.id == name else task
        for task in tasks
    ]
    with pytest.raises(InvalidGraph, match="dependency cycle") as raised:
        WorkflowSpec.create("flow", bent)
    path = raised.value.message.split("cycle: ", 1)[1].replace("'", "").split(" -> ")
    depends_on = {task.id: task.dependencies for task in bent}
    assert path[0] == path[-1]
    assert len(path) > 1
    for left, right in pairwise(path):
        assert right in depends_on[left], "every arrow of the path is a dependency"
    assert name in path


def test_a_task_that_depends_on_itself_is_a_cycle() -> None:
    with pytest.raises(InvalidGraph, match="'loop' -> 'loop'"):
        _spec(loop="loop")


def test_a_workflow_needs_a_task() -> None:
    with pytest.raises(InvalidGraph, match="'flow' has no tasks"):
        _spec()


def test_every_duplicate_is_named() -> None:
    tasks = [TaskSpec(name) for name in ("a", "b", "a", "c", "b")]
    with pytest.raises(InvalidGraph, match="more than once: 'a', 'b'"):
        WorkflowSpec.create("flow", tasks)


def test_every_missing_dependency_is_named_with_the_task_that_wants_it() -> None:
    with pytest.raises(InvalidGraph) as raised:
        _spec(a="ghost phantom", b="a spectre")
    for name in ("'a'", "'ghost'", "'phantom'", "'b'", "'spectre'"):
        assert name in raised.value.message


def test_a_dependency_listed_twice_is_named() -> None:
    with pytest.raises(InvalidGraph, match="task 'b' lists a dependency twice: 'a'"):
        _spec(a="", b="a a")


def test_a_rule_about_a_task_it_does_not_depend_on_is_named() -> None:
    tasks = [TaskSpec("a"), TaskSpec("b", rule=TaskEnded(TaskOutcome.FAILED, "a"))]
    with pytest.raises(InvalidGraph, match="rule of task 'b' names tasks it does not depend on: 'a'"):
        WorkflowSpec.create("flow", tasks)


@pytest.mark.parametrize(
    ("wire", "named"),
    [
        ({}, "'id'"),
        ({"id": ""}, "'id'"),
        ({"id": 7}, "'id'"),
        ({"id": "t", "timeout_s": 0}, "'timeout_s'"),
        ({"id": "t", "timeout_s": "soon"}, "'timeout_s'"),
        ({"id": "t", "timeout_s": True}, "'timeout_s'"),
        ({"id": "t", "dependencies": "abc"}, "'dependencies'"),
        ({"id": "t", "dependencies": 5}, "'dependencies'"),
        ({"id": "t", "dependencies": [["x"]]}, "'dependencies'"),
        ({"id": "t", "retry": ["x"]}, "'retry'"),
        ({"id": "t", "retry": {"max_attempts": 0}}, "'max_attempts'"),
        ({"id": "t", "retry": {"delay_ms": -1}}, "'delay_ms'"),
        ({"id": "t", "retry": {"delay_ms": 1.5}}, "'delay_ms'"),
        ({"id": "t", "retry": {"max_attempts": True}}, "'max_attempts'"),
        ({"id": "t", "retry": {"base": -1}}, "'base'"),
        ({"id": "t", "retry": {"multiplier": float("nan")}}, "'multiplier'"),
        ({"id": "t", "retry": {"backoff": "slowly"}}, "'backoff' must be one of 'fixed', 'linear', 'exponential'"),
        ({"id": "t", "retry": {"condition": "maybe"}}, "'condition'"),
        ({"id": "t", "retry": {"patterns": "boom"}}, "'patterns'"),
        ({"id": "t", "trigger_rule": {"type": "Perhaps"}}, "Perhaps"),
    ],
)
def test_a_malformed_task_is_refused_with_the_key_named(wire: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidGraph) as raised:
        TaskSpec.from_wire(wire)
    assert named in raised.value.message
    if wire.get("id") == "t":
        assert "task 't'" in raised.value.message


def test_keys_for_readers_are_ignored_and_absent_ones_take_their_defaults() -> None:
    assert TaskSpec.from_wire({"id": "t", "what": "prose", "retry": None}) == TaskSpec("t")
