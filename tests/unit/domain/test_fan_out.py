"""A task that runs once for each element of a list."""

from __future__ import annotations

import orjson
import pytest
from drawn_workflows import Play, started
from hypothesis import given
from hypothesis import strategies as st

from cloacina.domain.decisions import (
    MAX_INSTANCES,
    Cancel,
    ReportFailure,
    ReportSuccess,
    RetryFailed,
    VoidClaim,
)
from cloacina.domain.execution import ExecutionState, ExecutionStatus, FailureReason, TaskStatus
from cloacina.domain.graph import InvalidGraph, TaskSpec, WorkflowSpec, instance_name, parent_of
from cloacina.domain.retry import RetryPolicy

ONCE = RetryPolicy(max_attempts=1)
FAN = WorkflowSpec.create(
    "fan",
    [TaskSpec("list"), TaskSpec("each", ("list",), ONCE, for_each="items"), TaskSpec("sum", ("each",))],
)


def listed(items: object) -> Play:
    """The execution after its first task left `items`."""
    play = started(FAN)
    play.claim("list")
    play.report("list", ReportSuccess("list", play.held["list"], 1, orjson.dumps({"items": items, "other": 1})))
    return play


def succeed(play: Play, name: str, item: object) -> None:
    assert play.claim(name)
    play.report(name, ReportSuccess(name, play.held[name], 1, orjson.dumps({"item": item})))


def fail(play: Play, name: str) -> None:
    assert play.claim(name)
    play.report(name, ReportFailure(name, play.held[name], 1, FailureReason.TASK_ERROR, f"{name} broke"))


def test_each_instance_gets_its_element_and_the_results_come_together_in_order() -> None:
    play = listed([10, 20, 30])
    assert play.ready() == ["each[0]", "each[1]", "each[2]"]
    assert orjson.loads(play.state.context_for("each[1]")) == {"other": 1, "item": 20, "index": 1}
    for index in (2, 0, 1):
        succeed(play, f"each[{index}]", index * 100)
    assert play.state.tasks["each"].status is TaskStatus.COMPLETED
    given_on = orjson.loads(play.state.context_for("sum"))
    assert given_on == {"items": [10, 20, 30], "other": 1, "each": [0, 100, 200]}
    play.check_replay()


def test_an_instance_that_changes_nothing_passes_its_element_on() -> None:
    play = listed(["a"])
    assert play.claim("each[0]")
    play.report("each[0]", ReportSuccess("each[0]", play.held["each[0]"], 1, None))
    assert orjson.loads(play.state.context_for("sum"))["each"] == ["a"]


def test_an_empty_list_is_done_at_once() -> None:
    play = listed([])
    assert play.ready() == ["sum"]
    assert orjson.loads(play.state.context_for("sum"))["each"] == []


@pytest.mark.parametrize("items", [None, "text", {"a": 1}, list(range(MAX_INSTANCES + 1))])
def test_what_is_no_list_or_too_long_fails_the_task(items: object) -> None:
    play = listed(items)
    task = play.state.tasks["each"]
    assert (task.status, task.reason) == (TaskStatus.FAILED, FailureReason.VALIDATION_FAILED)
    assert "'items'" in (task.error or "")
    assert play.state.status is ExecutionStatus.FAILED


def test_one_failure_fails_the_task_once_all_have_ended() -> None:
    play = listed([1, 2, 3])
    fail(play, "each[1]")
    assert play.state.tasks["each"].status is TaskStatus.RUNNING
    succeed(play, "each[0]", 1)
    succeed(play, "each[2]", 3)
    task = play.state.tasks["each"]
    assert task.status is TaskStatus.FAILED
    assert "1 of 3" in (task.error or "")
    assert "each[1] broke" in (task.error or "")
    assert play.state.status is ExecutionStatus.FAILED
    play.check_replay()


def test_a_retry_runs_the_failed_instances_only() -> None:
    play = listed([1, 2, 3])
    fail(play, "each[1]")
    succeed(play, "each[0]", "first")
    succeed(play, "each[2]", "third")
    play.tell(RetryFailed())
    assert play.ready() == ["each[1]"]
    succeed(play, "each[1]", "second")
    assert orjson.loads(play.state.context_for("sum"))["each"] == ["first", "second", "third"]
    play.finish()
    assert play.state.status is ExecutionStatus.COMPLETED


def test_a_retry_from_before_the_list_expands_anew() -> None:
    spec = WorkflowSpec.create(
        "fan", [TaskSpec("list", retry=ONCE), TaskSpec("each", ("list",), ONCE, for_each="items")]
    )
    play = started(spec)
    play.claim("list")
    play.report("list", ReportSuccess("list", play.held["list"], 1, b'{"items":[1,2]}'))
    play.tell(Cancel("stop"))
    assert play.state.status is ExecutionStatus.CANCELLED
    play.tell(RetryFailed())
    assert play.ready() == ["each[0]", "each[1]"]
    play.finish()
    assert play.state.status is ExecutionStatus.COMPLETED


def test_cancelling_waits_for_the_instances_that_run() -> None:
    play = listed([1, 2, 3])
    play.claim("each[1]")
    play.tell(Cancel("stop"))
    assert play.state.status is ExecutionStatus.RUNNING
    play.report("each[1]", VoidClaim("each[1]", play.held["each[1]"], lost=False))
    assert play.state.status is ExecutionStatus.CANCELLED
    assert {task.status for name, task in play.state.tasks.items() if name != "list"} == {TaskStatus.SKIPPED}


def test_the_state_read_from_a_store_is_the_state_that_was() -> None:
    play = listed([1, 2, 3])
    succeed(play, "each[0]", 1)
    play.claim("each[1]")
    read = ExecutionState.new(FAN, b"{}")
    read.status, read.started_at, read.sequence = play.state.status, play.state.started_at, play.state.sequence
    for name, task in play.state.tasks.items():
        read.tasks[name] = task
    read.recount()
    assert (read.open, read.running, read.tasks["each"].left) == (play.state.open, 1, 2)


@given(names=st.text("ab[]0", min_size=1, max_size=5), index=st.integers(0, MAX_INSTANCES))
def test_instance_names_lead_back_to_their_task(names: str, index: int) -> None:
    try:
        WorkflowSpec.create("w", [TaskSpec(names)])
    except InvalidGraph:
        assert parent_of(names) != names, "only what looks like an instance is refused"
    else:
        assert parent_of(instance_name(names, index)) == names


@given(count=st.integers(0, 6), data=st.data())
def test_any_order_of_results_ends_the_execution(count: int, data: st.DataObject) -> None:
    play = listed(list(range(count)))
    names = [f"each[{index}]" for index in range(count)]
    failed = set()
    for name in data.draw(st.permutations(names)):
        if data.draw(st.booleans()):
            fail(play, name)
            failed.add(name)
        else:
            succeed(play, name, name)
        play.check_replay()
    play.finish()
    assert play.state.status is (ExecutionStatus.FAILED if failed else ExecutionStatus.COMPLETED)
    if failed:
        play.tell(RetryFailed())
        assert set(play.ready()) == failed
        play.finish()
        assert play.state.status is ExecutionStatus.COMPLETED
        play.check_replay()


def test_task_ids_that_look_like_instances_are_refused() -> None:
    with pytest.raises(InvalidGraph, match=r"each\[3\]"):
        WorkflowSpec.create("w", [TaskSpec("each[3]")])
