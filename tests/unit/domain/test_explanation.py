"""Why an execution is not done, by the table: a state and its surroundings, and what is said of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloacina.domain import explanation
from cloacina.domain.decisions import (
    Cancel,
    ClaimTask,
    Command,
    Pause,
    ReportDeferred,
    ReportFailure,
    ReportStarted,
    ReportSuccess,
    Start,
    VoidClaim,
    decide,
)
from cloacina.domain.execution import ExecutionState, FailureReason, evolve
from cloacina.domain.explanation import (
    PACKAGE_UNAVAILABLE,
    CauseKind,
    Explanation,
    Holder,
    Preparation,
    Surroundings,
    duration,
    explain,
)
from cloacina.domain.graph import TaskSpec, WorkflowSpec
from cloacina.domain.retry import Backoff, RetryPolicy
from cloacina.domain.rules import Always, Combined, ContextValue, Operator, TaskEnded, TaskOutcome

S = 1_000_000
BEGIN = 1_000 * S
TWICE = RetryPolicy(max_attempts=2, backoff=Backoff.FIXED, delay_ms=30_000, jitter=False)
ONCE = RetryPolicy(max_attempts=1)
A = TaskSpec("a", retry=TWICE)
HOLDER = Holder(slots=4, free=2, connected=True, heard_at=BEGIN + 8 * S, lease_until=BEGIN + 23 * S)
AROUND = Surroundings(executors={"x1": HOLDER})


def state_after(*commands: Command, tasks: tuple[TaskSpec, ...] = (A,), context: bytes = b"{}") -> ExecutionState:
    """A state that the commands led to, one second apart."""
    state = ExecutionState.new(WorkflowSpec.create("flow", tasks), context)
    for number, command in enumerate(commands):
        for event in decide(state, command, BEGIN + number * S):
            evolve(state, event)
    return state


def told(state: ExecutionState, around: Surroundings = AROUND, after_s: float = 10) -> Explanation:
    return explain(state, around, BEGIN + int(after_s * S))


def claimed(task: str = "a", claim: int = 1) -> tuple[Command, ...]:
    return Start(), ClaimTask(task, claim, "x1")


def _preparing(stage: Preparation) -> Surroundings:
    """What bears on a task whose first claim waits for something since the third second."""
    return Surroundings(executors={"x1": replace(HOLDER, preparing={1: (stage, BEGIN + 3 * S)})}, package_id="p1")


FAILED = ReportFailure("a", 1, BEGIN + S, FailureReason.TASK_ERROR, "ValueError: bad\nsecond line")
NO_PACKAGE = ReportFailure("a", 1, BEGIN + S, FailureReason.INFRASTRUCTURE, f"{PACKAGE_UNAVAILABLE}: gone")


@pytest.mark.parametrize(
    ("commands", "around", "kind", "text", "since", "until"),
    [
        ((Start(),), Surroundings(), CauseKind.NO_EXECUTOR, "no executor is connected", BEGIN, None),
        (
            (Start(),),
            Surroundings(executors={"x1": Holder(0, 0, True, 0, 0)}),
            CauseKind.NO_EXECUTOR,
            "every connected executor is draining",
            BEGIN,
            None,
        ),
        (
            (Start(),),
            Surroundings(executors={"x1": Holder(4, 0, True, 0, 0)}, ready_tasks=9),
            CauseKind.NO_FREE_SLOT,
            "a is ready for 10 s, but no slot is free: 1 executor with 4 slots in all; tasks of all executions",
            BEGIN,
            None,
        ),
        (
            (Start(),),
            Surroundings(executors={"x1": HOLDER}, task_limit="3 tasks of flow run, and no more may at once"),
            CauseKind.TASK_LIMIT,
            "3 tasks of flow run, and no more may at once",
            BEGIN,
            None,
        ),
        ((Start(),), AROUND, CauseKind.ABOUT_TO_BE_CLAIMED, "a slot is free", BEGIN, None),
        (
            claimed(),
            _preparing(Preparation.PACKAGE),
            CauseKind.FETCHING_PACKAGE,
            "executor x1 fetches package p1 for 7.0 s (attempt 1 of 2); its last heartbeat was 2.0 s ago",
            BEGIN + 3 * S,
            None,
        ),
        (
            claimed(),
            _preparing(Preparation.WORKER),
            CauseKind.STARTING_WORKER,
            "executor x1 starts a worker that loads package p1 for 7.0 s",
            BEGIN + 3 * S,
            None,
        ),
        (
            claimed(),
            _preparing(Preparation.SECRETS),
            CauseKind.FETCHING_SECRETS,
            "executor x1 asks for its secrets for 7.0 s",
            BEGIN + 3 * S,
            None,
        ),
        (claimed(claim=2), _preparing(Preparation.PACKAGE), CauseKind.STARTING, "was claimed", BEGIN + S, None),
        (
            (*claimed(), ReportStarted("a", 1, BEGIN + 4 * S)),
            _preparing(Preparation.PACKAGE),
            CauseKind.RUNNING,
            "a runs for 6.0 s",
            BEGIN + 4 * S,
            None,
        ),
        (claimed(), AROUND, CauseKind.STARTING, "was claimed by executor x1 for 9.0 s", BEGIN + S, None),
        (
            (*claimed(), ReportStarted("a", 1, BEGIN + 2 * S)),
            AROUND,
            CauseKind.RUNNING,
            "a runs for 8.0 s on executor x1 (attempt 1 of 2); its last heartbeat was 2.0 s ago",
            BEGIN + 2 * S,
            None,
        ),
        (
            (*claimed(), ReportStarted("a", 1, BEGIN + 2 * S)),
            Surroundings(executors={"x1": Holder(4, 0, False, BEGIN + 4 * S, BEGIN + 19 * S)}),
            CauseKind.EXECUTOR_SILENT,
            "not connected; its last heartbeat was 6.0 s ago; unless it comes back the task is ready again in 9.0 s",
            BEGIN + 4 * S,
            BEGIN + 19 * S,
        ),
        (
            (*claimed(), ReportStarted("a", 1, BEGIN + 2 * S), ReportDeferred("a", 1, True)),
            Surroundings(executors={"x1": HOLDER}, since={("task_deferred", "a"): BEGIN + 3 * S}),
            CauseKind.DEFERRED,
            "a has given its slot back for 7.0 s",
            BEGIN + 3 * S,
            None,
        ),
        (
            (*claimed(), FAILED),
            AROUND,
            CauseKind.RETRY_DUE,
            "a failed and attempt 2 of 2 is due in 22 s: ValueError: bad",
            BEGIN + S,
            BEGIN + 32 * S,
        ),
        (
            (*claimed(), NO_PACKAGE),
            AROUND,
            CauseKind.PACKAGE_UNAVAILABLE,
            "the package is not available: gone",
            BEGIN + S,
            BEGIN + 32 * S,
        ),
        ((*claimed(), VoidClaim("a", 1, lost=True)), AROUND, CauseKind.ABOUT_TO_BE_CLAIMED, "", BEGIN + 2 * S, None),
    ],
)
def test_one_task(
    commands: tuple[Command, ...], around: Surroundings, kind: CauseKind, text: str, since: int, until: int | None
) -> None:
    found = told(state_after(*commands), around)
    (cause,) = found.causes
    assert (cause.kind, cause.task, cause.since, cause.until) == (kind, "a", since, until)
    assert text in cause.text
    assert "second line" not in cause.text
    assert found.answer == f"Running for 10 s: {cause.text}."
    assert found.since == BEGIN


def test_the_ids_to_follow() -> None:
    (cause,) = told(state_after(*claimed(claim=77))).causes
    assert cause.ids == {"executor_id": "x1", "claim_id": "77"}


def test_a_timeout_is_when_it_ends_by_itself() -> None:
    task = TaskSpec("a", timeout_s=60)
    (cause,) = told(state_after(*claimed(), ReportStarted("a", 1, BEGIN + 2 * S), tasks=(task,))).causes
    assert cause.until == BEGIN + 62 * S
    assert "its timeout ends it in 52 s" in cause.text


def test_what_waits_comes_behind_what_it_waits_for() -> None:
    tasks = (TaskSpec("a", retry=ONCE), TaskSpec("b", retry=ONCE), TaskSpec("z", ("a", "b"), rule=Always()))
    causes = told(state_after(*claimed(), tasks=tasks)).causes
    assert [(cause.kind, cause.task) for cause in causes] == [
        (CauseKind.STARTING, "a"),
        (CauseKind.ABOUT_TO_BE_CLAIMED, "b"),
        (CauseKind.DEPENDENCY, "z"),
    ]
    assert causes[2].text == (
        "z waits for a (Running), b (Ready); it runs if this holds then: whatever becomes of them"
    )
    assert (causes[2].since, causes[2].ids) == (BEGIN, {"depends_on": "a, b"})


def test_what_has_failed_for_good_is_said_while_the_rest_runs() -> None:
    tasks = (TaskSpec("a", retry=ONCE), TaskSpec("b"))
    found = told(state_after(*claimed(), FAILED, ClaimTask("b", 2, "x1"), tasks=tasks))
    assert [(cause.kind, cause.task) for cause in found.causes] == [(CauseKind.STARTING, "b"), (CauseKind.FAILED, "a")]
    assert found.answer.endswith(" Failed for good: a.")


def test_many_dependencies_are_not_all_named() -> None:
    before = tuple(TaskSpec(f"t{number}") for number in range(8))
    causes = told(state_after(Start(), tasks=(*before, TaskSpec("z", tuple(task.id for task in before))))).causes
    assert causes[-1].text.endswith("t4 (Ready) and 3 more")


def test_a_task_that_executes_a_workflow_names_the_execution() -> None:
    state = state_after(Start(), ClaimTask("a", 1, "scheduler"), tasks=(TaskSpec("a", workflow="inner"),))
    (cause,) = told(state, Surroundings(children={"a": "child-id"})).causes
    assert (cause.kind, cause.ids) == (CauseKind.CHILD_EXECUTION, {"execution_id": "child-id"})
    assert "for execution child-id of inner" in cause.text


def test_a_task_of_instances_counts_them() -> None:
    task = TaskSpec("a", for_each="items")
    commands = (Start(), ClaimTask("a[0]", 1, "x1"), ReportSuccess("a[0]", 1, BEGIN + S, b"{}"))
    causes = told(state_after(*commands, tasks=(task,), context=b'{"items":[1,2,3]}')).causes
    assert [cause.task for cause in causes] == ["a[1]", "a[2]", "a"]
    assert causes[-1].text == "a consists of 3 instances; 2 of them are not done"


def test_a_paused_execution() -> None:
    around = Surroundings(executors={"x1": HOLDER}, since={("workflow_paused", ""): BEGIN + S})
    found = told(state_after(Start(), Pause()), around)
    assert found.answer == ("Paused for 9.0 s: it is paused: no further task is started until it is resumed.")
    assert [(cause.kind, cause.since) for cause in found.causes] == [(CauseKind.PAUSED, BEGIN + S)]


def test_an_execution_that_is_being_cancelled_waits_for_what_runs() -> None:
    around = Surroundings(executors={"x1": HOLDER}, since={("workflow_cancelling", ""): BEGIN + 2 * S})
    first = told(state_after(*claimed(), Cancel("too slow")), around).causes[0]
    assert (first.kind, first.since) == (CauseKind.CANCELLING, BEGIN + 2 * S)
    assert first.text == "it is being cancelled (too slow); 1 running task must end first"


def test_an_execution_that_a_limit_holds_back() -> None:
    state = ExecutionState.new(WorkflowSpec.create("flow", (A,)), b"{}")
    limit = "2 executions of flow run, and no more may at once"
    found = told(state, Surroundings(execution_limit=limit, created_at=BEGIN - S, limited_by=("e1", "e2")))
    assert found.answer == ("Pending: it has not started: 2 executions of flow run, and no more may at once.")
    (cause,) = found.causes
    assert (cause.since, cause.ids) == (BEGIN - S, {"execution_id": "e1, e2"})


def test_a_package_that_is_not_there_is_named() -> None:
    around = Surroundings(package_id="p1", since={("task_retry_scheduled", "a"): BEGIN + 3 * S})
    (cause,) = told(state_after(*claimed(), NO_PACKAGE), around).causes
    assert (cause.kind, cause.since) == (CauseKind.PACKAGE_UNAVAILABLE, BEGIN + 3 * S)
    assert cause.ids == {"executor_id": "x1", "package_id": "p1"}


def test_the_rule_that_is_waited_for_is_said_in_words() -> None:
    rule = Combined("Any", (TaskEnded(TaskOutcome.FAILED, "a"), ContextValue("rows", Operator.GREATER_THAN, 3)))
    causes = told(state_after(Start(), tasks=(A, TaskSpec("z", ("a",), rule=rule)))).causes
    assert causes[-1].text.endswith("it runs if this holds then: a failed or context value 'rows' is greater than '3'")


def test_every_cause_of_an_unfinished_execution_has_a_since() -> None:
    tasks = (TaskSpec("a", retry=TWICE), TaskSpec("b"), TaskSpec("c", for_each="items"), TaskSpec("z", ("a", "b")))
    state = state_after(Start(), ClaimTask("b", 2, "gone"), tasks=tasks, context=b'{"items":[1]}')
    causes = told(state).causes
    assert len(causes) >= 4
    assert [cause.kind for cause in causes if cause.since is None] == []


@pytest.mark.parametrize(
    ("commands", "answer", "kinds"),
    [
        (
            (*claimed(), ReportSuccess("a", 1, BEGIN + S, b"{}")),
            "Completed 8.0 s ago, after 2.0 s.",
            [],
        ),
        (
            (*claimed(), FAILED),
            "Failed 8.0 s ago, after 2.0 s: a failed in attempt 1 of 1 (task_error): ValueError: bad.",
            [CauseKind.FAILED, CauseKind.SKIPPED],
        ),
        (
            (Start(), Cancel("enough")),
            "Cancelled 9.0 s ago, after 1.0 s: it was cancelled: enough.",
            [CauseKind.CANCELLED, CauseKind.SKIPPED, CauseKind.SKIPPED],
        ),
    ],
)
def test_how_an_execution_ended(commands: tuple[Command, ...], answer: str, kinds: list[CauseKind]) -> None:
    tasks = (TaskSpec("a", retry=ONCE),) if not kinds else (TaskSpec("a", retry=ONCE), TaskSpec("z", ("a",)))
    found = told(state_after(*commands, tasks=tasks))
    assert found.answer == answer
    assert [cause.kind for cause in found.causes] == kinds


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (-5, "0 ms"),
        (0, "0 ms"),
        (99_999, "99 ms"),
        (100_000, "0.1 s"),
        (9_999_999, "10.0 s"),
        (10 * S, "10 s"),
        (60 * S, "1 min"),
        (3_725 * S, "1 h 2 min"),
        (3_601 * S, "1 h 1 s"),
        (86_400 * S * 400, "400 d"),
    ],
)
def test_lengths_of_time(micros: int, text: str) -> None:
    assert duration(micros) == text


def test_every_kind_of_an_unfinished_task_has_its_place_and_its_words() -> None:
    assert set(explanation._URGENCY) == set(explanation._COUNTED)
