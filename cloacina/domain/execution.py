"""The state of one execution, and the events that change it.

`evolve` applies one event; `cloacina.domain.decisions.decide` says which events a command leads to. Times are whole
microseconds since the Unix epoch, UTC, and always passed in: nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from cloacina.domain.graph import WorkflowSpec, instance_name, parent_of


class ExecutionStatus(StrEnum):
    """States of an execution, as they appear on the wire."""

    PENDING = "Pending"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    PAUSED = "Paused"

    @property
    def terminal(self) -> bool:
        """Whether nothing follows this state."""
        return self in _TERMINAL_EXECUTION


class TaskStatus(StrEnum):
    """States of a task, as they appear on the wire."""

    NOT_STARTED = "NotStarted"
    PENDING = "Pending"
    READY = "Ready"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    SKIPPED = "Skipped"

    @property
    def terminal(self) -> bool:
        """Whether nothing follows this state."""
        return self in _TERMINAL_TASK


_TERMINAL_EXECUTION = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED})
_TERMINAL_TASK = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.SKIPPED})


class FailureReason(StrEnum):
    """Why an attempt failed; the ``reason`` label of ``cloacina_tasks_total``."""

    TASK_ERROR = "task_error"
    TIMEOUT = "timeout"
    VALIDATION_FAILED = "validation_failed"
    INFRASTRUCTURE = "infrastructure"
    TASK_NOT_FOUND = "task_not_found"
    CONTEXT_LOAD_FAILED = "context_load_failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class SkipReason(StrEnum):
    """Why a task did not run."""

    TRIGGER_RULE = "trigger_rule"
    DEPENDENCY_FAILED = "dependency_failed"
    DEPENDENCY_SKIPPED = "dependency_skipped"
    CANCELLED = "cancelled"


class EndReason(StrEnum):
    """Why an execution ended; the ``reason`` label of ``cloacina_workflows_total``."""

    OK = "ok"
    DEPENDENCY_FAILED = "dependency_failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class WorkflowStarted(NamedTuple):
    """The execution began; its tasks now wait for their dependencies."""

    at: int


class TaskCreated(NamedTuple):
    """A task of the execution exists."""

    at: int
    task: str


class TaskExpanded(NamedTuple):
    """The task runs once for each of `size` elements; the instances of it that completed before are kept if `keep`."""

    at: int
    task: str
    size: int
    keep: bool


class TaskMarkedReady(NamedTuple):
    """Everything the task waited for is there; it may be claimed."""

    at: int
    task: str


class TaskClaimed(NamedTuple):
    """An executor holds the task. `claim_id` is the fencing token of this claim."""

    at: int
    task: str
    claim_id: int
    executor_id: str


class TaskStarted(NamedTuple):
    """The task's code began to run; `at` is the executor's clock, never before the claim."""

    at: int
    task: str


class TaskDeferred(NamedTuple):
    """The task gave its slot back while it waits for a condition."""

    at: int
    task: str


class TaskResumed(NamedTuple):
    """The deferred task holds a slot again."""

    at: int
    task: str


class TaskCompleted(NamedTuple):
    """The task's attempt succeeded; `output` is its context as JSON."""

    at: int
    task: str
    output: bytes


class TaskFailed(NamedTuple):
    """The task failed for good: no attempt follows."""

    at: int
    task: str
    reason: FailureReason
    error: str
    details: str


class TaskRetryScheduled(NamedTuple):
    """An attempt failed; the next one is due at `due`."""

    at: int
    task: str
    reason: FailureReason
    error: str
    details: str
    due: int


class TaskSkipped(NamedTuple):
    """The task will not run."""

    at: int
    task: str
    reason: SkipReason


class TaskAbandoned(NamedTuple):
    """The task lost so many claims that it is not offered again; its failure follows."""

    at: int
    task: str
    lost_claims: int


class TaskReset(NamedTuple):
    """The claim is void and the task is Ready again; `lost` when its holder vanished, not when it handed it back."""

    at: int
    task: str
    lost: bool


class WorkflowPaused(NamedTuple):
    """No further task is claimed until it is resumed."""

    at: int


class WorkflowResumed(NamedTuple):
    """Tasks are claimed again."""

    at: int


class WorkflowReopened(NamedTuple):
    """An execution that failed or was cancelled goes on: the tasks that follow are run again."""

    at: int


class TaskReopened(NamedTuple):
    """The task did not succeed before, and is run again from its first attempt."""

    at: int
    task: str


class WorkflowCancelling(NamedTuple):
    """Cancellation was asked for while tasks run; they are being stopped."""

    at: int
    reason: str


class WorkflowCompleted(NamedTuple):
    """Every task is terminal and no failure is left unhandled; `output` is the final context as JSON."""

    at: int
    output: bytes


class WorkflowFailed(NamedTuple):
    """Every task is terminal and a failure is left unhandled; `error` names the tasks."""

    at: int
    reason: EndReason
    error: str
    output: bytes


class WorkflowCancelled(NamedTuple):
    """The execution was cancelled and nothing of it runs any more."""

    at: int
    reason: str


Event = (
    WorkflowStarted
    | TaskCreated
    | TaskExpanded
    | TaskMarkedReady
    | TaskClaimed
    | TaskStarted
    | TaskDeferred
    | TaskResumed
    | TaskCompleted
    | TaskFailed
    | TaskRetryScheduled
    | TaskSkipped
    | TaskAbandoned
    | TaskReset
    | WorkflowPaused
    | WorkflowResumed
    | WorkflowReopened
    | TaskReopened
    | WorkflowCancelling
    | WorkflowCompleted
    | WorkflowFailed
    | WorkflowCancelled
)

EVENT_TYPES: dict[type[Any], str] = {
    WorkflowStarted: "workflow_started",
    TaskCreated: "task_created",
    TaskExpanded: "task_started",
    TaskMarkedReady: "task_marked_ready",
    TaskClaimed: "task_claimed",
    TaskStarted: "task_started",
    TaskDeferred: "task_deferred",
    TaskResumed: "task_resumed",
    TaskCompleted: "task_completed",
    TaskFailed: "task_failed",
    TaskRetryScheduled: "task_retry_scheduled",
    TaskSkipped: "task_skipped",
    TaskAbandoned: "task_abandoned",
    TaskReset: "task_reset",
    WorkflowPaused: "workflow_paused",
    WorkflowResumed: "workflow_resumed",
    WorkflowReopened: "workflow_resumed",
    TaskReopened: "task_reset",
    WorkflowCancelling: "workflow_cancelling",
    WorkflowCompleted: "workflow_completed",
    WorkflowFailed: "workflow_failed",
    WorkflowCancelled: "workflow_cancelled",
}
"""The name each event has on the wire and in the store (contract, section 5)."""


@dataclass(slots=True)
class TaskState:
    """Where one task of an execution stands.

    Args:
        status: its state.
        waiting: dependencies that are not terminal yet.
        attempt: number of the current or next attempt, from 1.
        claim_id: fencing token of the current or last claim; 0 when there is none to accept a result from.
        executor_id: who holds or last held the claim.
        lost_claims: how often its holder vanished.
        deferred: whether it runs without a slot.
        retry_due: when the next attempt is due, while it waits for one.
        output: context it passes on, as JSON: its own when it completed, else what it was given.
        error: message of the last failed attempt.
        details: traceback or like of the last failed attempt.
        reason: failure or skip reason of its end.
        instances: of how many instances it consists, once that is known; ``None`` for a task that runs itself.
        left: its instances that are not terminal.
        ready_at, claimed_at, started_at, finished_at: when it got there; ``None`` before.
    """

    status: TaskStatus = TaskStatus.NOT_STARTED
    waiting: int = 0
    attempt: int = 1
    claim_id: int = 0
    executor_id: str = ""
    lost_claims: int = 0
    deferred: bool = False
    retry_due: int | None = None
    output: bytes | None = None
    error: str | None = None
    details: str | None = None
    reason: str | None = None
    instances: int | None = None
    left: int = 0
    ready_at: int | None = None
    claimed_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    shared: tuple[dict[str, Any], list[Any]] | None = field(default=None, compare=False, repr=False)
    """What its instances have in common, and the elements: read once from its context."""

    @property
    def claimed(self) -> bool:
        """Whether somebody holds it: a task of instances runs, but only they are held."""
        return self.status is TaskStatus.RUNNING and self.instances is None


@dataclass(slots=True)
class ExecutionState:
    """One execution: its graph, its input, and where each task stands.

    A state belongs to whoever holds it and is changed only by `evolve`.

    Args:
        spec: the validated DAG.
        input: the context it was started with, as JSON.
        status: its state.
        tasks: by id, in topological order.
        open: tasks that are not terminal.
        running: tasks with a live claim.
        cancelling: why it is being cancelled, while tasks still run.
        output: final context as JSON, once it ended.
        reason, error: why it ended, once it did.
        sequence: events applied so far; the sequence number of the last one.
        started_at, finished_at: when it got there.
    """

    spec: WorkflowSpec
    input: bytes = b"{}"
    status: ExecutionStatus = ExecutionStatus.PENDING
    tasks: dict[str, TaskState] = field(default_factory=dict)
    open: int = 0
    running: int = 0
    cancelling: str | None = None
    output: bytes | None = None
    reason: EndReason | None = None
    error: str | None = None
    sequence: int = 0
    started_at: int | None = None
    finished_at: int | None = None

    @classmethod
    def new(cls, spec: WorkflowSpec, context: bytes) -> ExecutionState:
        """The state before the first event.

        Args:
            spec: the validated DAG.
            context: input context, a JSON object.
        """
        tasks = {task: TaskState(waiting=len(of.dependencies)) for task, of in spec.tasks.items()}
        return cls(spec=spec, input=context, tasks=tasks, open=len(tasks))

    def recount(self) -> None:
        """Derives `open`, `running`, `waiting` and what ended tasks pass on, after the rest was read from a store."""
        self.open = sum(not task.status.terminal for task in self.tasks.values())
        self.running = sum(task.claimed for task in self.tasks.values())
        for name, spec in self.spec.tasks.items():
            task, dependencies = self.tasks[name], spec.dependencies
            if task.instances is not None:
                names = (instance_name(name, index) for index in range(task.instances))
                task.left = sum(not self.tasks[each].status.terminal for each in names)
            task.waiting = sum(not self.tasks[dependency].status.terminal for dependency in dependencies)
            if task.status in (TaskStatus.FAILED, TaskStatus.SKIPPED):
                task.output = self.context_for(name)

    def context_for(self, task: str) -> bytes:
        """The input context of `task` as JSON: its dependencies' contexts merged in dependency order (see
        `merge_contexts`); the execution's input for a task without dependencies. An instance has the element as
        ``item`` and its number as ``index``, in place of the list."""
        parent = parent_of(task) if task not in self.spec.tasks else None
        if parent is not None:
            common, elements = self.elements(parent)
            index = int(task[len(parent) + 1 : -1])
            return orjson.dumps({**common, "item": elements[index], "index": index})
        dependencies = self.spec.tasks[task].dependencies
        if not dependencies:
            return self.input
        return merge_contexts(self.tasks[each].output or self.input for each in dependencies)

    def elements(self, task: str) -> tuple[dict[str, Any], list[Any]]:
        """What the instances of a task have in common, and the elements they run for."""
        state, key = self.tasks[task], self.spec.tasks[task].for_each
        if state.shared is None:
            common = orjson.loads(self.context_for(task))
            elements = common.pop(key, [])
            state.shared = common, elements if isinstance(elements, list) else []
        return state.shared


def merge_contexts(contexts: Iterable[bytes]) -> bytes:
    """Merges JSON objects in order, as the original does: of two arrays the second adds what the first lacks, objects
    merge key by key, and of anything else the later one wins. One object, or equal ones, are passed on as they are."""
    given = list(contexts)
    if len(set(given)) == 1:
        return given[0]
    merged: Any = {}
    for context in given:
        merged = _merge(merged, orjson.loads(context))
    return orjson.dumps(merged)


def _merge(earlier: Any, later: Any) -> Any:
    if isinstance(earlier, dict) and isinstance(later, dict):
        merged = dict(earlier)
        for key, value in later.items():
            merged[key] = _merge(merged[key], value) if key in merged else value
        return merged
    if isinstance(earlier, list) and isinstance(later, list):
        known = {orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in earlier}
        return earlier + [each for each in later if orjson.dumps(each, option=orjson.OPT_SORT_KEYS) not in known]
    return later


def evolve(state: ExecutionState, event: Event) -> ExecutionState:
    """Applies one event to the state and returns it (the same object: a state has one holder)."""
    state.sequence += 1
    _APPLY[type(event)](state, event)
    return state


def _workflow_started(state: ExecutionState, event: WorkflowStarted) -> None:
    state.status = ExecutionStatus.RUNNING
    state.started_at = event.at


def _task_created(state: ExecutionState, event: TaskCreated) -> None:
    state.tasks[event.task].status = TaskStatus.PENDING


def _task_expanded(state: ExecutionState, event: TaskExpanded) -> None:
    task = state.tasks[event.task]
    task.status = TaskStatus.RUNNING
    task.started_at = event.at
    task.instances, task.left = event.size, 0
    for index in range(event.size):
        name = instance_name(event.task, index)
        before = state.tasks.get(name)
        if not (event.keep and before is not None and before.status is TaskStatus.COMPLETED):
            state.tasks[name] = TaskState(status=TaskStatus.PENDING)
            task.left += 1
    state.open += task.left


def _task_marked_ready(state: ExecutionState, event: TaskMarkedReady) -> None:
    task = state.tasks[event.task]
    task.status = TaskStatus.READY
    task.ready_at = event.at
    task.retry_due = None


def _task_claimed(state: ExecutionState, event: TaskClaimed) -> None:
    task = state.tasks[event.task]
    task.status = TaskStatus.RUNNING
    task.claim_id = event.claim_id
    task.executor_id = event.executor_id
    task.claimed_at = event.at
    task.started_at = None
    state.running += 1


def _task_started(state: ExecutionState, event: TaskStarted) -> None:
    state.tasks[event.task].started_at = event.at


def _task_deferred(state: ExecutionState, event: TaskDeferred) -> None:
    state.tasks[event.task].deferred = True


def _task_resumed(state: ExecutionState, event: TaskResumed) -> None:
    state.tasks[event.task].deferred = False


def _task_completed(state: ExecutionState, event: TaskCompleted) -> None:
    _end_task(state, event.task, TaskStatus.COMPLETED, event.at).output = event.output


def _task_failed(state: ExecutionState, event: TaskFailed) -> None:
    context = _passed_on(state, event.task)
    task = _end_task(state, event.task, TaskStatus.FAILED, event.at)
    task.output, task.error, task.details, task.reason = context, event.error, event.details, event.reason


def _task_skipped(state: ExecutionState, event: TaskSkipped) -> None:
    context = _passed_on(state, event.task)
    task = _end_task(state, event.task, TaskStatus.SKIPPED, event.at)
    task.output, task.reason = context, event.reason


def _passed_on(state: ExecutionState, name: str) -> bytes | None:
    """What a task that did not complete passes on: what it was given. Nothing depends on an instance."""
    return state.context_for(name) if name in state.spec.tasks else None


def _end_task(state: ExecutionState, name: str, status: TaskStatus, at: int) -> TaskState:
    task = state.tasks[name]
    state.running -= task.claimed
    task.status = status
    task.finished_at = at
    task.deferred = False
    task.retry_due = None
    state.open -= 1
    task.shared = None
    if name not in state.spec.tasks:
        state.tasks[parent_of(name)].left -= 1
        return task
    for dependent in state.spec.dependents[name]:
        state.tasks[dependent].waiting -= 1
    return task


def _task_retry_scheduled(state: ExecutionState, event: TaskRetryScheduled) -> None:
    task = state.tasks[event.task]
    task.status = TaskStatus.PENDING
    task.attempt += 1
    task.error, task.details = event.error, event.details
    task.retry_due = event.due
    task.deferred = False
    state.running -= 1


def _task_abandoned(state: ExecutionState, event: TaskAbandoned) -> None:
    task = state.tasks[event.task]
    task.lost_claims = event.lost_claims
    task.claim_id = 0


def _task_reset(state: ExecutionState, event: TaskReset) -> None:
    task = state.tasks[event.task]
    task.status = TaskStatus.READY
    task.claim_id = 0
    task.ready_at = event.at
    task.claimed_at = task.started_at = None
    task.deferred = False
    task.lost_claims += event.lost
    state.running -= 1


def _workflow_paused(state: ExecutionState, event: WorkflowPaused) -> None:
    state.status = ExecutionStatus.PAUSED


def _workflow_resumed(state: ExecutionState, event: WorkflowResumed) -> None:
    state.status = ExecutionStatus.RUNNING


def _workflow_reopened(state: ExecutionState, event: WorkflowReopened) -> None:
    state.status = ExecutionStatus.RUNNING
    state.reason = state.error = state.output = state.finished_at = state.cancelling = None


def _task_reopened(state: ExecutionState, event: TaskReopened) -> None:
    """What it waits for was counted when the tasks before it were opened: events come in topological order."""
    state.tasks[event.task] = TaskState(status=TaskStatus.PENDING, waiting=state.tasks[event.task].waiting)
    state.open += 1
    for dependent in state.spec.dependents[event.task]:
        state.tasks[dependent].waiting += 1


def _workflow_cancelling(state: ExecutionState, event: WorkflowCancelling) -> None:
    state.cancelling = event.reason


def _workflow_completed(state: ExecutionState, event: WorkflowCompleted) -> None:
    state.status, state.reason = ExecutionStatus.COMPLETED, EndReason.OK
    state.output, state.finished_at = event.output, event.at


def _workflow_failed(state: ExecutionState, event: WorkflowFailed) -> None:
    state.status, state.reason, state.error = ExecutionStatus.FAILED, event.reason, event.error
    state.output, state.finished_at = event.output, event.at


def _workflow_cancelled(state: ExecutionState, event: WorkflowCancelled) -> None:
    state.status, state.reason, state.error = ExecutionStatus.CANCELLED, EndReason.CANCELLED, event.reason
    state.finished_at = event.at


_APPLY: dict[type[Any], Callable[[ExecutionState, Any], None]] = {
    WorkflowStarted: _workflow_started,
    TaskCreated: _task_created,
    TaskExpanded: _task_expanded,
    TaskMarkedReady: _task_marked_ready,
    TaskClaimed: _task_claimed,
    TaskStarted: _task_started,
    TaskDeferred: _task_deferred,
    TaskResumed: _task_resumed,
    TaskCompleted: _task_completed,
    TaskFailed: _task_failed,
    TaskRetryScheduled: _task_retry_scheduled,
    TaskSkipped: _task_skipped,
    TaskAbandoned: _task_abandoned,
    TaskReset: _task_reset,
    WorkflowPaused: _workflow_paused,
    WorkflowResumed: _workflow_resumed,
    WorkflowReopened: _workflow_reopened,
    TaskReopened: _task_reopened,
    WorkflowCancelling: _workflow_cancelling,
    WorkflowCompleted: _workflow_completed,
    WorkflowFailed: _workflow_failed,
    WorkflowCancelled: _workflow_cancelled,
}
