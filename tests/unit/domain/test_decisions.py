"""Single decisions that an operator would recognise: claims, losses, retries, pausing, cancelling, merging."""

from __future__ import annotations

import orjson
import pytest
from drawn_workflows import Play, started

from cloacina.domain.decisions import (
    MAX_LOST_CLAIMS,
    Cancel,
    ClaimRejected,
    IllegalTransition,
    Pause,
    ReportFailure,
    ReportSuccess,
    Resume,
    RetryDue,
    Start,
    VoidClaim,
)
from cloacina.domain.execution import (
    EVENT_TYPES,
    ExecutionStatus,
    FailureReason,
    SkipReason,
    TaskStatus,
    merge_contexts,
)
from cloacina.domain.graph import TaskSpec, WorkflowSpec
from cloacina.domain.retry import RetryPolicy, RetryWhen
from cloacina.domain.rules import Always, TaskEnded, TaskOutcome

_ONCE = RetryPolicy(max_attempts=1)


def _play(*tasks: TaskSpec, context: bytes = b"{}") -> Play:
    return started(WorkflowSpec.create("flow", tasks), context)


def _succeed(play: Play, task: str, output: bytes | None = None) -> None:
    assert play.claim(task)
    play.report(task, ReportSuccess(task, play.held[task], play.now, output))


def _fail(play: Play, task: str, **more: object) -> None:
    assert play.claim(task)
    failure = ReportFailure(task, play.held[task], None, FailureReason.TASK_ERROR, "boom", **more)  # type: ignore[arg-type]
    play.report(task, failure)


def test_a_chain_runs_in_order_and_tells_its_story() -> None:
    play = _play(TaskSpec("first"), TaskSpec("second", ("first",)))
    assert play.ready() == ["first"]
    _succeed(play, "first", b'{"n":1}')
    assert play.ready() == ["second"]
    _succeed(play, "second", b'{"n":2}')
    assert [EVENT_TYPES[type(event)] for event in play.history] == [
        "workflow_started",
        "task_created",
        "task_created",
        "task_marked_ready",
        "task_claimed",
        "task_started",
        "task_completed",
        "task_marked_ready",
        "task_claimed",
        "task_started",
        "task_completed",
        "workflow_completed",
    ]
    assert play.state.output == b'{"n":2}'


def test_contexts_merge_in_dependency_order_and_later_ones_win() -> None:
    """The author's order of dependencies counts, not the order in which they finished."""
    play = _play(TaskSpec("a"), TaskSpec("b"), TaskSpec("join", ("b", "a")), context=b'{"start":0}')
    _succeed(play, "b", b'{"x":"b","only_b":1}')
    _succeed(play, "a", b'{"x":"a","only_a":1}')
    merged = orjson.loads(play.state.context_for("join"))
    assert merged == {"x": "a", "only_a": 1, "only_b": 1}
    _succeed(play, "join")
    assert orjson.loads(play.state.output or b"") == merged, "a task that changes nothing passes on what it was given"


@pytest.mark.parametrize(
    ("contexts", "merged"),
    [
        ([b'{"a":1}'], {"a": 1}),
        ([b'{"a":1}', b'{"a":2}'], {"a": 2}),
        ([b'{"a":{"x":1}}', b'{"a":{"y":2}}'], {"a": {"x": 1, "y": 2}}),
        ([b'{"a":{"x":[1,{"k":1}]}}', b'{"a":{"x":[{"k":1},2,1]}}'], {"a": {"x": [1, {"k": 1}, 2]}}),
        ([b'{"a":[1]}', b'{"a":2}'], {"a": 2}),
        ([b'{"a":2}', b'{"a":[1]}'], {"a": [1]}),
        ([b'{"a":[1,1]}', b'{"a":[1,1]}'], {"a": [1, 1]}),
        ([b"{}", b'{"b":null}'], {"b": None}),
    ],
)
def test_merging_joins_arrays_and_objects_and_otherwise_the_later_one_wins(
    contexts: list[bytes], merged: dict[str, object]
) -> None:
    assert orjson.loads(merge_contexts(contexts)) == merged


def test_merging_the_first_again_after_another_lets_it_win() -> None:
    """Equal contexts of several dependencies are no reason to change who is last."""
    assert orjson.loads(merge_contexts([b'{"a":1}', b'{"a":2}', b'{"a":1}'])) == {"a": 1}


def test_a_lost_claim_makes_the_task_ready_again_without_costing_an_attempt() -> None:
    play = _play(TaskSpec("t", retry=_ONCE))
    play.claim("t")
    lost = play.held["t"]
    play.report("t", VoidClaim("t", lost, lost=True))
    task = play.state.tasks["t"]
    assert (task.status, task.attempt, task.lost_claims) == (TaskStatus.READY, 1, 1)
    play.claim("t")
    with pytest.raises(ClaimRejected, match="no longer held"):
        play.tell(ReportSuccess("t", lost, play.now, None))
    assert play.state.tasks["t"].status is TaskStatus.RUNNING


def test_a_task_that_loses_its_claims_too_often_fails_as_infrastructure() -> None:
    play = _play(TaskSpec("t"))
    for loss in range(1, MAX_LOST_CLAIMS + 1):
        play.claim("t")
        play.report("t", VoidClaim("t", play.held["t"], lost=True))
        assert play.state.tasks["t"].status is (TaskStatus.READY if loss < MAX_LOST_CLAIMS else TaskStatus.FAILED)
    task = play.state.tasks["t"]
    assert (task.reason, task.lost_claims) == (FailureReason.INFRASTRUCTURE, MAX_LOST_CLAIMS)
    assert "vanished 3 times" in (task.error or "")
    assert play.state.status is ExecutionStatus.FAILED


def test_a_late_result_of_an_abandoned_task_is_rejected() -> None:
    """Its claim was given up like any other; that the task is not offered again changes nothing about it."""
    play = _play(TaskSpec("t"), TaskSpec("other"))
    for _ in range(MAX_LOST_CLAIMS):
        play.claim("t")
        last = play.held["t"]
        play.report("t", VoidClaim("t", last, lost=True))
    with pytest.raises(ClaimRejected):
        play.tell(ReportSuccess("t", last, play.now, None))


def test_a_claim_handed_back_does_not_count_as_lost() -> None:
    play = _play(TaskSpec("t"))
    for _ in range(MAX_LOST_CLAIMS * 2):
        play.claim("t")
        play.report("t", VoidClaim("t", play.held["t"], lost=False))
    assert play.state.tasks["t"].lost_claims == 0
    assert play.ready() == ["t"]


def test_attempts_end_with_the_policy() -> None:
    play = _play(TaskSpec("t", retry=RetryPolicy(max_attempts=3, delay_ms=1000, jitter=False)))
    for attempt in (1, 2):
        assert play.state.tasks["t"].attempt == attempt
        _fail(play, "t")
        task = play.state.tasks["t"]
        assert task.status is TaskStatus.PENDING
        assert task.retry_due == play.now + attempt * 1_000_000
        assert task.error == "boom"
        play.tell(RetryDue("t"))
    _fail(play, "t")
    assert play.state.tasks["t"].status is TaskStatus.FAILED
    assert play.state.tasks["t"].attempt == 3
    assert play.state.error == "failed tasks: t"


@pytest.mark.parametrize(
    ("condition", "verdict", "tried_again"),
    [
        (RetryWhen.NEVER, None, False),
        (RetryWhen.NEVER, True, True),
        (RetryWhen.ALL, None, True),
        (RetryWhen.ALL, False, False),
        (RetryWhen.TRANSIENT, None, False),
        (RetryWhen.TRANSIENT, True, True),
    ],
)
def test_the_authors_own_verdict_on_an_error_wins(
    condition: RetryWhen, verdict: bool | None, tried_again: bool
) -> None:
    play = _play(TaskSpec("t", retry=RetryPolicy(condition=condition)))
    _fail(play, "t", transient=False, retry=verdict)
    assert (play.state.tasks["t"].status is TaskStatus.PENDING) is tried_again


def test_even_the_authors_verdict_cannot_exceed_the_attempts() -> None:
    play = _play(TaskSpec("t", retry=_ONCE))
    _fail(play, "t", retry=True)
    assert play.state.tasks["t"].status is TaskStatus.FAILED


def test_tasks_after_a_failure_are_skipped_and_other_branches_run_to_their_end() -> None:
    play = _play(
        TaskSpec("bad", retry=_ONCE),
        TaskSpec("after", ("bad",)),
        TaskSpec("after_that", ("after",)),
        TaskSpec("good"),
    )
    _fail(play, "bad")
    assert play.state.status is ExecutionStatus.RUNNING
    assert play.state.tasks["after_that"].reason == SkipReason.DEPENDENCY_FAILED
    _succeed(play, "good")
    assert play.state.status is ExecutionStatus.FAILED
    assert play.state.error == "failed tasks: bad"


def test_a_failure_is_handled_by_a_dependent_that_asked_for_it_and_completed() -> None:
    play = _play(TaskSpec("bad", retry=_ONCE), TaskSpec("repair", ("bad",), rule=TaskEnded(TaskOutcome.FAILED, "bad")))
    _fail(play, "bad")
    _succeed(play, "repair")
    assert play.state.status is ExecutionStatus.COMPLETED


def test_a_dependent_that_runs_anyway_has_not_handled_the_failure() -> None:
    play = _play(TaskSpec("bad", retry=_ONCE), TaskSpec("cleanup", ("bad",), rule=Always()))
    _fail(play, "bad")
    _succeed(play, "cleanup")
    assert play.state.status is ExecutionStatus.FAILED


def test_a_paused_execution_accepts_results_and_goes_on_when_resumed() -> None:
    play = _play(TaskSpec("first"), TaskSpec("second", ("first",)))
    play.claim("first")
    play.tell(Pause())
    play.report("first", ReportSuccess("first", play.held["first"], play.now, None))
    assert play.ready() == ["second"]
    assert not play.claim("second")
    play.tell(Resume())
    assert play.claim("second")


def test_cancelling_waits_for_what_runs_and_starts_nothing_more() -> None:
    play = _play(TaskSpec("runs"), TaskSpec("waits", ("runs",)), TaskSpec("ready"))
    play.claim("runs")
    play.tell(Cancel("stop it"))
    assert play.state.status is ExecutionStatus.RUNNING
    assert {name for name, task in play.state.tasks.items() if task.reason == SkipReason.CANCELLED} == {
        "waits",
        "ready",
    }
    play.report("runs", ReportFailure("runs", play.held["runs"], None, FailureReason.CANCELLED, "stopped"))
    assert play.state.status is ExecutionStatus.CANCELLED
    assert play.state.error == "stop it"
    assert play.state.tasks["runs"].status is TaskStatus.SKIPPED, "a stopped task is not tried again"


@pytest.mark.parametrize("command", [Pause(), Resume()])
def test_what_has_not_begun_or_has_ended_cannot_be_paused_or_resumed(command: Pause | Resume) -> None:
    play = Play(WorkflowSpec.create("flow", [TaskSpec("t")]), b"{}")
    with pytest.raises(IllegalTransition, match="that is Pending"):
        play.tell(command)
    play.tell(Start())
    play.finish()
    with pytest.raises(IllegalTransition, match="that is Completed"):
        play.tell(command)


def test_what_has_completed_cannot_be_cancelled() -> None:
    play = _play(TaskSpec("t"))
    play.finish()
    with pytest.raises(IllegalTransition, match="cannot cancel an execution that is Completed"):
        play.tell(Cancel("late"))


def test_a_result_for_a_task_that_does_not_exist_is_rejected() -> None:
    with pytest.raises(ClaimRejected):
        _play(TaskSpec("t")).tell(ReportSuccess("stranger", 1, 1, None))
