"""decide: which events a command leads to. The rules of the engine are here and nowhere else.

When a task runs. Once all its dependencies are terminal its trigger rule is evaluated. A task without an explicit rule
runs unless a dependency failed (or was skipped because something before it failed), or all of them were skipped. A task
whose rule does not hold is Skipped.

When an execution fails. A failed task is *handled* when a direct dependent whose rule asks for that failure
(``task_failed(…)``) completed. An execution with an unhandled failure fails once nothing is left to run; the other
branches run to their end first.

Claims. A result is accepted only from the current claim. The same result again changes nothing, until the task is
claimed anew; a result of a claim that was given up raises `ClaimRejected`. A task whose holder vanished is Ready again
at once, and fails with reason ``infrastructure`` when that happened `MAX_LOST_CLAIMS` times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from cloacina.domain.execution import (
    EndReason,
    Event,
    ExecutionState,
    ExecutionStatus,
    FailureReason,
    SkipReason,
    TaskAbandoned,
    TaskClaimed,
    TaskCompleted,
    TaskCreated,
    TaskDeferred,
    TaskExpanded,
    TaskFailed,
    TaskMarkedReady,
    TaskReopened,
    TaskReset,
    TaskResumed,
    TaskRetryScheduled,
    TaskSkipped,
    TaskStarted,
    TaskState,
    TaskStatus,
    WorkflowCancelled,
    WorkflowCancelling,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowPaused,
    WorkflowReopened,
    WorkflowResumed,
    WorkflowStarted,
    merge_contexts,
)
from cloacina.domain.graph import instance_name, parent_of
from cloacina.domain.rules import TaskOutcome, evaluate, handles_failure_of
from cloacina.errors import Conflict

MAX_LOST_CLAIMS = 3
"""A task whose holder vanished this often is not offered again: it may be what kills its executors."""


MAX_INSTANCES = 10_000
"""Elements that a task may run for: each is a task with rows and events of its own."""


class ClaimRejected(Conflict):
    """A result came from a claim that is not the current one; it was dropped."""

    default_code = "claim_lost"


class IllegalTransition(Conflict):
    """The command does not fit the execution's state (resuming what is not paused, say)."""

    default_code = "illegal_transition"


@dataclass(frozen=True, slots=True)
class Start:
    """Begin the execution."""


@dataclass(frozen=True, slots=True)
class ClaimTask:
    """Give a Ready task to an executor under a fencing token larger than any before."""

    task: str
    claim_id: int
    executor_id: str


@dataclass(frozen=True, slots=True)
class ReportStarted:
    """The executor began to run the task at `started_at` (its clock)."""

    task: str
    claim_id: int
    started_at: int


@dataclass(frozen=True, slots=True)
class ReportDeferred:
    """The task gave its slot back, or holds one again."""

    task: str
    claim_id: int
    deferred: bool


@dataclass(frozen=True, slots=True)
class ReportSuccess:
    """The attempt succeeded. `output` is the task's context as JSON, ``None`` when it left its input unchanged."""

    task: str
    claim_id: int
    started_at: int
    output: bytes | None


@dataclass(frozen=True, slots=True)
class ReportFailure:
    """The attempt failed.

    Args:
        task, claim_id: whose attempt.
        started_at: when it began to run (executor's clock), ``None`` if it never did.
        reason: class of the failure.
        error: message for a person.
        details: traceback or the like.
        transient: whether another attempt may help by the nature of the error.
        retry: the verdict of the author's own retry condition; ``None`` when there is none.
        spread: a number in [0, 1) for the jitter of the retry delay.
    """

    task: str
    claim_id: int
    started_at: int | None
    reason: FailureReason
    error: str
    details: str = ""
    transient: bool = True
    retry: bool | None = None
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class VoidClaim:
    """The claim is over without a result: its holder vanished (`lost`), or handed it back while draining."""

    task: str
    claim_id: int
    lost: bool


@dataclass(frozen=True, slots=True)
class RetryDue:
    """The wait before the next attempt is over."""

    task: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Claim no further task."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Claim tasks again."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the execution: nothing further starts, what runs is being stopped."""

    reason: str


@dataclass(frozen=True, slots=True)
class RetryFailed:
    """Run again what did not succeed, in an execution that failed or was cancelled."""


Command = (
    Start
    | ClaimTask
    | ReportStarted
    | ReportDeferred
    | ReportSuccess
    | ReportFailure
    | VoidClaim
    | RetryDue
    | Pause
    | Resume
    | Cancel
    | RetryFailed
)


def decide(state: ExecutionState, command: Command, now: int) -> list[Event]:
    """The events that follow from a command; the state is not changed.

    Args:
        state: the execution.
        command: what is asked or reported.
        now: microseconds since the epoch.

    Returns:
        Events to be applied with `evolve`, in order; none when the command changes nothing (a duplicate, say).

    Raises:
        ClaimRejected: a report of a claim that is not the current one.
        IllegalTransition: pause, resume or cancel of an execution that is not in a state for it.
    """
    decision = _Decision(state, now)
    _DECIDE[type(command)](decision, command)
    return decision.events


Ending = TaskCompleted | TaskFailed | TaskSkipped
"""How a task ends."""


class _Decision:
    """The events decided so far, and how the state looks with them applied."""

    __slots__ = ("cancelling", "ended", "events", "left", "now", "open", "running", "state", "waiting")

    def __init__(self, state: ExecutionState, now: int) -> None:
        self.state = state
        self.now = now
        self.events: list[Event] = []
        self.open = state.open
        self.running = state.running
        self.cancelling = state.cancelling
        self.waiting: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.ended: dict[str, tuple[TaskStatus, str | None, bytes]] = {}
        """Tasks these events end: status, reason, and the context each passes on."""

    def status(self, task: str) -> TaskStatus:
        ended = self.ended.get(task)
        return self.state.tasks[task].status if ended is None else ended[0]

    def reason(self, task: str) -> str | None:
        ended = self.ended.get(task)
        return self.state.tasks[task].reason if ended is None else ended[1]

    def output(self, task: str) -> bytes:
        ended = self.ended.get(task)
        return (self.state.tasks[task].output or self.state.input) if ended is None else ended[2]

    def context_for(self, task: str) -> bytes:
        if task not in self.state.spec.tasks:
            return self.state.context_for(task)
        dependencies = self.state.spec.tasks[task].dependencies
        return merge_contexts(map(self.output, dependencies)) if dependencies else self.state.input

    def end(self, task: str, event: Ending) -> None:
        """A task ends; whatever this decides about tasks after it follows, and the execution's end."""
        pending: list[tuple[str, Ending]] = [(task, event)]
        for name, ending in pending:  # grows while it is walked
            self._note_end(name, ending)
            if name not in self.state.spec.tasks:
                parent = parent_of(name)
                if self.left[parent] == 0:
                    pending.append((parent, self._joined(parent)))
                continue
            for dependent in self.state.spec.dependents[name]:
                left = self.waiting.get(dependent, self.state.tasks[dependent].waiting) - 1
                self.waiting[dependent] = left
                if left == 0 and not self.status(dependent).terminal:
                    ended = self.resolve(dependent)
                    if ended is not None:
                        pending.append((dependent, ended))
        self.close()

    def _note_end(self, task: str, event: Ending) -> None:
        self.running -= self.state.tasks[task].claimed
        self.open -= 1
        instance = task not in self.state.spec.tasks
        if instance:
            parent = parent_of(task)
            self.left[parent] = self.left.get(parent, self.state.tasks[parent].left) - 1
        match event:
            case TaskCompleted():
                self.ended[task] = (TaskStatus.COMPLETED, None, event.output)
            case TaskFailed():
                self.ended[task] = (TaskStatus.FAILED, event.reason, b"" if instance else self.context_for(task))
            case TaskSkipped():
                self.ended[task] = (TaskStatus.SKIPPED, event.reason, b"" if instance else self.context_for(task))
        self.events.append(event)

    def resolve(self, task: str) -> Ending | None:
        """All dependencies of `task` are terminal: it is Ready now (or its instances are), or it ends as returned."""
        skip = SkipReason.CANCELLED if self.cancelling is not None else self._verdict(task)
        if skip is not None:
            return TaskSkipped(self.now, task, skip)
        if self.state.spec.tasks[task].for_each is not None:
            return self._expand(task)
        self.events.append(TaskMarkedReady(self.now, task))
        return None

    def _expand(self, task: str) -> Ending | None:
        """The task becomes an instance for each element of its list."""
        key = self.state.spec.tasks[task].for_each or ""
        context = self.context_for(task)
        elements = _object(context).get(key)
        if not isinstance(elements, list) or len(elements) > MAX_INSTANCES:
            found = f"a list of {len(elements)}" if isinstance(elements, list) else type(elements).__name__
            error = (
                f"task {task!r} runs for each element of context[{key!r}], which must be a list of at most "
                f"{MAX_INSTANCES}, not {found}"
            )
            return TaskFailed(self.now, task, FailureReason.VALIDATION_FAILED, error, "")
        if not elements:
            return TaskCompleted(self.now, task, _with_results(context, task, []))
        again = self.ended.get(task) is not None  # it is being retried
        keep = again and not any(each in self.ended for each in self.state.spec.tasks[task].dependencies)
        self.events.append(TaskExpanded(self.now, task, len(elements), keep))
        for index in range(len(elements)):
            name = instance_name(task, index)
            before = self.state.tasks.get(name)
            if keep and before is not None and before.status is TaskStatus.COMPLETED:
                continue
            if before is None:
                self.events.append(TaskCreated(self.now, name))
            self.events.append(TaskMarkedReady(self.now, name))
            self.open += 1
        return None

    def _joined(self, task: str) -> Ending:
        """All instances of a task have ended, and so does it."""
        count = self.state.tasks[task].instances or 0
        names = [instance_name(task, index) for index in range(count)]
        failed = [name for name in names if self.status(name) is TaskStatus.FAILED]
        if failed:
            shown = "; ".join(f"{name}: {self._error(name)}" for name in failed[:3])
            error = f"{len(failed)} of {count} instances failed: {shown}"
            reason = FailureReason(self.reason(failed[0]) or FailureReason.UNKNOWN)
            return TaskFailed(self.now, task, reason, error, "")
        if any(self.status(name) is TaskStatus.SKIPPED for name in names):
            return TaskSkipped(self.now, task, SkipReason.CANCELLED)
        results = [_object(self.output(name)).get("item") for name in names]
        return TaskCompleted(self.now, task, _with_results(self.context_for(task), task, results))

    def _error(self, task: str) -> str:
        told = (each.error for each in self.events if isinstance(each, TaskFailed) and each.task == task)
        return next(told, self.state.tasks[task].error or "")

    def _verdict(self, task: str) -> SkipReason | None:
        spec = self.state.spec.tasks[task]
        if spec.rule is not None:
            holds = evaluate(spec.rule, self._outcome, lambda: _object(self.context_for(task)))
            return None if holds else SkipReason.TRIGGER_RULE
        all_skipped = bool(spec.dependencies)
        for dependency in spec.dependencies:
            status = self.status(dependency)
            if status is TaskStatus.FAILED or self.reason(dependency) == SkipReason.DEPENDENCY_FAILED:
                return SkipReason.DEPENDENCY_FAILED
            all_skipped = all_skipped and status is TaskStatus.SKIPPED
        return SkipReason.DEPENDENCY_SKIPPED if all_skipped else None

    def _outcome(self, task: str) -> TaskOutcome:
        return _OUTCOME[self.status(task)]

    def close(self) -> None:
        """Ends the execution when nothing of it is left."""
        if self.cancelling is not None:
            if self.running == 0:
                self.events.append(WorkflowCancelled(self.now, self.cancelling))
            return
        if self.open:
            return
        unhandled = [name for name in self.state.spec.tasks if self._failure_unhandled(name)]
        output = self._final_context()
        if unhandled:
            error = "failed tasks: " + ", ".join(unhandled)
            self.events.append(WorkflowFailed(self.now, EndReason.DEPENDENCY_FAILED, error, output))
        else:
            self.events.append(WorkflowCompleted(self.now, output))

    def _failure_unhandled(self, task: str) -> bool:
        if self.status(task) is not TaskStatus.FAILED:
            return False
        for dependent in self.state.spec.dependents[task]:
            rule = self.state.spec.tasks[dependent].rule
            asked = rule is not None and handles_failure_of(rule, task)
            if asked and self.status(dependent) is TaskStatus.COMPLETED:
                return False
        return True

    def _final_context(self) -> bytes:
        """The merged contexts, in topological order, of the completed tasks after which no other completed."""
        completed = TaskStatus.COMPLETED
        last = [
            self.output(name)
            for name in self.state.spec.tasks
            if self.status(name) is completed
            and not any(self.status(dependent) is completed for dependent in self.state.spec.dependents[name])
        ]
        return merge_contexts(last) if last else self.state.input

    def claimed(self, task: str, claim_id: int) -> TaskState | None:
        """The task's state if the claim is current and live; ``None`` if this claim already gave its result."""
        found = self.state.tasks.get(task)
        if found is None or found.claim_id != claim_id:
            raise ClaimRejected(f"claim {claim_id} of task {task!r} is no longer held; its result was dropped")
        return found if found.claimed else None

    def note_started(self, task: TaskState, name: str, started_at: int | None) -> None:
        if task.started_at is None and started_at is not None:
            self.events.append(TaskStarted(max(started_at, task.claimed_at or 0), name))


_OUTCOME = {
    TaskStatus.COMPLETED: TaskOutcome.SUCCESS,
    TaskStatus.FAILED: TaskOutcome.FAILED,
    TaskStatus.SKIPPED: TaskOutcome.SKIPPED,
}


def _with_results(context: bytes, task: str, results: list[Any]) -> bytes:
    """The context after a task that ran for each element: what each left in ``item``, in order, under the task's id."""
    return orjson.dumps({**_object(context), task: results})


def _object(context: bytes) -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = orjson.loads(context)
    return loaded


def _start(decision: _Decision, _: Start) -> None:
    state = decision.state
    if state.status is not ExecutionStatus.PENDING:
        return
    decision.events.append(WorkflowStarted(decision.now))
    decision.events.extend(TaskCreated(decision.now, task) for task in state.tasks)
    ended = [ending for task in state.spec.roots if (ending := decision.resolve(task)) is not None]
    for ending in ended:
        decision.end(ending.task, ending)


def _claim(decision: _Decision, command: ClaimTask) -> None:
    state = decision.state
    if state.status is ExecutionStatus.RUNNING and state.tasks[command.task].status is TaskStatus.READY:
        decision.events.append(TaskClaimed(decision.now, command.task, command.claim_id, command.executor_id))


def _started(decision: _Decision, command: ReportStarted) -> None:
    task = decision.claimed(command.task, command.claim_id)
    if task is not None:
        decision.note_started(task, command.task, command.started_at)


def _deferred(decision: _Decision, command: ReportDeferred) -> None:
    task = decision.claimed(command.task, command.claim_id)
    if task is None or task.deferred is command.deferred:
        return
    decision.note_started(task, command.task, decision.now)
    kind = TaskDeferred if command.deferred else TaskResumed
    decision.events.append(kind(decision.now, command.task))


def _success(decision: _Decision, command: ReportSuccess) -> None:
    task = decision.claimed(command.task, command.claim_id)
    if task is None:
        return
    decision.note_started(task, command.task, command.started_at)
    output = decision.context_for(command.task) if command.output is None else command.output
    decision.end(command.task, TaskCompleted(decision.now, command.task, output))


def _failure(decision: _Decision, command: ReportFailure) -> None:
    task = decision.claimed(command.task, command.claim_id)
    if task is None:
        return
    decision.note_started(task, command.task, command.started_at)
    name, now = command.task, decision.now
    if decision.cancelling is not None:
        decision.end(name, TaskSkipped(now, name, SkipReason.CANCELLED))
        return
    policy = decision.state.spec.task_of(name).retry
    again = policy.allows(attempt=task.attempt, transient=command.transient, error=command.error)
    if command.retry is not None:
        again = command.retry and task.attempt < policy.max_attempts
    if again:
        due = now + policy.delay_us(attempt=task.attempt, spread=command.spread)
        event = TaskRetryScheduled(now, name, command.reason, command.error, command.details, due)
        decision.events.append(event)
    else:
        decision.end(name, TaskFailed(now, name, command.reason, command.error, command.details))


def _void(decision: _Decision, command: VoidClaim) -> None:
    task = decision.claimed(command.task, command.claim_id)
    if task is None:
        return
    name, now = command.task, decision.now
    lost = task.lost_claims + command.lost
    if decision.cancelling is not None:
        decision.end(name, TaskSkipped(now, name, SkipReason.CANCELLED))
    elif command.lost and lost >= MAX_LOST_CLAIMS:
        error = f"the executor running this task vanished {lost} times; the task is not offered again"
        decision.events.append(TaskAbandoned(now, name, lost))
        decision.end(name, TaskFailed(now, name, FailureReason.INFRASTRUCTURE, error, ""))
    else:
        decision.events.append(TaskReset(now, name, command.lost))


def _retry_due(decision: _Decision, command: RetryDue) -> None:
    task = decision.state.tasks[command.task]
    if task.status is TaskStatus.PENDING and task.retry_due is not None:
        decision.events.append(TaskMarkedReady(decision.now, command.task))


def _pause(decision: _Decision, _: Pause) -> None:
    _require(decision.state, "pause", ExecutionStatus.RUNNING, ExecutionStatus.PAUSED)
    if decision.state.status is ExecutionStatus.RUNNING:
        decision.events.append(WorkflowPaused(decision.now))


def _resume(decision: _Decision, _: Resume) -> None:
    _require(decision.state, "resume", ExecutionStatus.PAUSED, ExecutionStatus.RUNNING)
    if decision.state.status is ExecutionStatus.PAUSED:
        decision.events.append(WorkflowResumed(decision.now))


def _cancel(decision: _Decision, command: Cancel) -> None:
    state = decision.state
    if state.status is ExecutionStatus.CANCELLED or state.cancelling is not None:
        return
    _require(state, "cancel", ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.PAUSED)
    decision.events.append(WorkflowCancelling(decision.now, command.reason))
    decision.cancelling = command.reason
    for name, task in state.tasks.items():
        if task.status is not TaskStatus.RUNNING and not task.status.terminal:
            decision._note_end(name, TaskSkipped(decision.now, name, SkipReason.CANCELLED))
    for name, task in state.tasks.items():
        expanded = task.status is TaskStatus.RUNNING and task.instances is not None
        if expanded and decision.left.get(name, task.left) == 0:
            decision._note_end(name, TaskSkipped(decision.now, name, SkipReason.CANCELLED))
    decision.close()


def _retry_failed(decision: _Decision, _: RetryFailed) -> None:
    state = decision.state
    _require(state, "retry", ExecutionStatus.FAILED, ExecutionStatus.CANCELLED)
    again = _to_run_again(state)
    if not again:
        raise IllegalTransition("no task of this execution failed or was stopped: there is nothing to run again")
    decision.events.append(WorkflowReopened(decision.now))
    decision.cancelling = None
    decision.open = len(again)
    for name in again:
        decision.events.append(TaskReopened(decision.now, name))
        decision.ended[name] = (TaskStatus.PENDING, None, b"{}")
    for name in again:
        dependencies = state.spec.tasks[name].dependencies
        decision.waiting[name] = sum(dependency in decision.ended for dependency in dependencies)
    skipped = [skip for name in again if decision.waiting[name] == 0 and (skip := decision.resolve(name)) is not None]
    for skip in skipped:
        decision.end(skip.task, skip)


def _to_run_again(state: ExecutionState) -> list[str]:
    """What failed or was stopped, and what comes after it and did not complete: its rule is asked again. What completed
    is kept. In topological order."""
    again: dict[str, None] = {}
    for name in state.spec.tasks:
        task = state.tasks[name]
        if task.status is TaskStatus.COMPLETED:
            continue
        stopped = task.status is TaskStatus.FAILED or task.reason == SkipReason.CANCELLED
        if stopped or any(dependency in again for dependency in state.spec.tasks[name].dependencies):
            again[name] = None
    return list(again)


def _require(state: ExecutionState, verb: str, *allowed: ExecutionStatus) -> None:
    if state.status not in allowed:
        raise IllegalTransition(f"cannot {verb} an execution that is {state.status}")


_DECIDE: dict[type[Any], Callable[[_Decision, Any], None]] = {
    Start: _start,
    ClaimTask: _claim,
    ReportStarted: _started,
    ReportDeferred: _deferred,
    ReportSuccess: _success,
    ReportFailure: _failure,
    VoidClaim: _void,
    RetryDue: _retry_due,
    Pause: _pause,
    Resume: _resume,
    Cancel: _cancel,
    RetryFailed: _retry_failed,
}
