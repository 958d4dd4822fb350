"""Strategies that draw workflows of any shape, and a driver that plays an execution of one and watches it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import strategies as st

from cloacina.domain.decisions import (
    MAX_LOST_CLAIMS,
    ClaimRejected,
    ClaimTask,
    Command,
    ReportFailure,
    ReportSuccess,
    RetryDue,
    Start,
    VoidClaim,
    decide,
)
from cloacina.domain.execution import (
    Event,
    ExecutionState,
    ExecutionStatus,
    FailureReason,
    TaskClaimed,
    TaskCompleted,
    TaskFailed,
    TaskReopened,
    TaskReset,
    TaskRetryScheduled,
    TaskSkipped,
    TaskStarted,
    TaskStatus,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowReopened,
    evolve,
)
from cloacina.domain.graph import TaskSpec, WorkflowSpec, instance_name
from cloacina.domain.retry import Backoff, RetryPolicy, RetryWhen
from cloacina.domain.rules import Always, Combined, ContextValue, Operator, Rule, TaskEnded, TaskOutcome

CONTEXT_KEYS = ("a", "b", "c")
json_values = st.one_of(st.integers(0, 3), st.booleans(), st.sampled_from(["", "x", "xy"]), st.none())
contexts = st.dictionaries(st.sampled_from(CONTEXT_KEYS), json_values, max_size=3).map(orjson.dumps)

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 4),
    backoff=st.sampled_from(Backoff),
    delay_ms=st.integers(0, 10_000),
    max_delay_ms=st.integers(0, 100_000),
    base=st.floats(0, 10),
    multiplier=st.floats(0, 10),
    jitter=st.booleans(),
    condition=st.sampled_from(RetryWhen),
    patterns=st.lists(st.sampled_from(["boom", "Reset", "absent"]), max_size=2).map(tuple),
)


def rules(dependencies: tuple[str, ...]) -> st.SearchStrategy[Rule]:
    """Any rule a task with these dependencies may have."""
    leaves: list[st.SearchStrategy[Any]] = [
        st.just(Always()),
        st.builds(ContextValue, st.sampled_from(CONTEXT_KEYS), st.sampled_from(Operator), json_values),
    ]
    if dependencies:
        leaves.append(st.builds(TaskEnded, st.sampled_from(TaskOutcome), st.sampled_from(dependencies)))
    return st.recursive(
        st.one_of(leaves),
        lambda inner: st.builds(
            Combined, st.sampled_from(["All", "Any", "None"]), st.lists(inner, max_size=3).map(tuple)
        ),
        max_leaves=4,
    )


@st.composite
def task_lists(draw: st.DrawFn, most: int = 7) -> list[TaskSpec]:
    """The tasks of a valid DAG, listed in any order."""
    names = [f"t{number}" for number in range(draw(st.integers(1, most)))]
    tasks = []
    for number, name in enumerate(names):
        earlier = names[:number]
        chosen = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=4)) if earlier else []
        dependencies = tuple(chosen)
        rule = draw(st.none() | rules(dependencies))
        tasks.append(TaskSpec(name, dependencies, draw(policies), rule=rule))
    return draw(st.permutations(tasks))


workflows = task_lists().map(lambda tasks: WorkflowSpec.create("drawn", tasks))


@dataclass
class Play:
    """One execution being played. Every command goes through `tell`, which checks what must always hold.

    Args:
        spec: its graph.
        input: its input context.
    """

    spec: WorkflowSpec
    input: bytes
    state: ExecutionState = field(init=False)
    history: list[Event] = field(default_factory=list)
    now: int = 1_000_000
    claims_made: int = 0
    claims: list[tuple[str, int]] = field(default_factory=list)
    """Every claim ever made, live or not."""
    held: dict[str, int] = field(default_factory=dict)
    """The live claim of each running task."""
    answered: dict[str, int] = field(default_factory=dict)
    """The claim under which each task last gave a result."""

    def __post_init__(self) -> None:
        self.state = ExecutionState.new(self.spec, self.input)

    def tell(self, command: Command) -> list[Event]:
        """Decides on a command and applies what follows.

        Raises:
            Conflict: as `decide`; the state is as before.
        """
        self.now += 1
        before = copy.deepcopy((self.state.tasks, self.facts()))
        try:
            events = decide(self.state, command, self.now)
        finally:
            assert (self.state.tasks, self.facts()) == before, "decide must not change the state"
        for event in events:
            self._check_before(event)
            evolve(self.state, event)
            self.history.append(event)
            self._follow_claim(event)
        self.check()
        return events

    def facts(self) -> tuple[object, ...]:
        """Everything of the state but its tasks."""
        state = self.state
        return (state.status, state.open, state.running, state.cancelling, state.output, state.sequence, state.error)

    def ready(self) -> list[str]:
        """The tasks that could be claimed."""
        return [name for name, task in self.state.tasks.items() if task.status is TaskStatus.READY]

    def claim(self, task: str) -> bool:
        """Tries to claim; whether it was given."""
        self.claims_made += 1
        return bool(self.tell(ClaimTask(task, self.claims_made, "executor")))

    def report(self, task: str, command: Command) -> None:
        """Tells a result or a void claim, and checks that it counts if, and only if, its claim is the live one."""
        claim_id: int = command.claim_id  # type: ignore[union-attr]
        was = copy.deepcopy((self.state.tasks, self.facts()))
        if self.held.get(task) == claim_id:
            assert self.tell(command), "the result of a live claim must count"
            assert task not in self.held, "a result ends its claim"
            if isinstance(command, VoidClaim):
                self.answered.pop(task, None)
            else:
                self.answered[task] = claim_id
            return
        try:
            events = self.tell(command)
        except ClaimRejected:
            assert self.answered.get(task) != claim_id, "the same result again is no lost claim"
        else:
            assert events == []
            cancelled_under_it = self.state.tasks[task].status is TaskStatus.SKIPPED
            assert self.answered.get(task) == claim_id or cancelled_under_it, "a claim given up must be rejected"
        assert (self.state.tasks, self.facts()) == was

    def finish(self, fails: bool = False) -> None:
        """Drives what is left to its end: every claim is answered, every wait ends."""
        for _ in range(1000):
            if self.state.status.terminal:
                return
            for name, task in self.state.tasks.items():
                if task.status is TaskStatus.PENDING and task.retry_due is not None:
                    self.tell(RetryDue(name))
            for name in self.ready():
                self.claim(name)
            for name, claim_id in list(self.held.items()):
                if fails:
                    failure = ReportFailure(name, claim_id, self.now, FailureReason.TASK_ERROR, "boom")
                    self.report(name, failure)
                else:
                    self.report(name, ReportSuccess(name, claim_id, self.now, None))
        raise AssertionError(f"the execution does not end: {self.state}")

    def _follow_claim(self, event: Event) -> None:
        if isinstance(event, TaskClaimed):
            self.claims.append((event.task, event.claim_id))
            self.held[event.task] = event.claim_id
            self.answered.pop(event.task, None)  # once the task is claimed anew, an older claim counts as given up
        elif isinstance(event, TaskCompleted | TaskFailed | TaskSkipped | TaskRetryScheduled | TaskReset):
            self.held.pop(event.task, None)

    def _check_before(self, event: Event) -> None:
        if isinstance(event, TaskClaimed):
            assert self.state.status is ExecutionStatus.RUNNING, "only a running execution claims"
            for dependency in self.spec.task_of(event.task).dependencies:
                assert self.state.tasks[dependency].status.terminal, "claimed before its dependencies were terminal"
        if isinstance(event, TaskCompleted | TaskFailed | TaskSkipped):
            assert not self.state.tasks[event.task].status.terminal, "a task ended twice"
        if isinstance(event, TaskStarted):
            assert event.at >= (self.state.tasks[event.task].claimed_at or 0)
        opens = isinstance(event, WorkflowReopened)
        assert self.state.status.terminal == opens, "nothing but a retry happens after the end"
        if isinstance(event, TaskReopened):
            assert self.state.tasks[event.task].status is not TaskStatus.COMPLETED, "what completed is kept"

    def check(self) -> None:
        """What holds of every state that can be reached."""
        state, tasks = self.state, self.state.tasks
        assert state.sequence == len(self.history)
        assert state.open == sum(not task.status.terminal for task in tasks.values())
        assert state.running == sum(task.claimed for task in tasks.values()) == len(self.held)
        for name, task in tasks.items():
            spec = self.spec.task_of(name)
            if name in self.spec.tasks:
                assert task.waiting == sum(not tasks[dependency].status.terminal for dependency in spec.dependencies)
            if task.instances is not None:
                names = [instance_name(name, index) for index in range(task.instances)]
                assert task.left == sum(not tasks[each].status.terminal for each in names)
                assert (task.left > 0) == (task.status is TaskStatus.RUNNING)
            assert 1 <= task.attempt <= spec.retry.max_attempts
            assert 0 <= task.lost_claims <= MAX_LOST_CLAIMS
            assert task.deferred is False or task.status is TaskStatus.RUNNING
            assert task.claimed == (name in self.held)
            assert task.retry_due is None or task.status is TaskStatus.PENDING
        if state.status is not ExecutionStatus.PENDING:
            stuck = [n for n, t in tasks.items() if t.status is TaskStatus.NOT_STARTED and not state.status.terminal]
            assert stuck == []
        ends = [e for e in self.history if isinstance(e, WorkflowCompleted | WorkflowFailed | WorkflowCancelled)]
        retries = sum(isinstance(event, WorkflowReopened) for event in self.history)
        assert len(ends) == retries + state.status.terminal
        if state.status.terminal:
            assert state.open == state.running == 0
            assert self.history[-1] is ends[-1]

    def check_replay(self) -> None:
        """The events alone, applied to a new state, give the state that is."""
        replayed = ExecutionState.new(self.spec, self.input)
        for event in self.history:
            evolve(replayed, event)
        assert replayed == self.state


def started(spec: WorkflowSpec, context: bytes = b"{}") -> Play:
    """A play whose execution has begun."""
    play = Play(spec, context)
    play.tell(Start())
    return play
