"""One group commit in the making: what it changes in the store, and what is to be said once it is durable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from cloacina.domain.execution import (
    EVENT_TYPES,
    Event,
    TaskAbandoned,
    TaskClaimed,
    TaskCompleted,
    TaskCreated,
    TaskExpanded,
    TaskFailed,
    TaskMarkedReady,
    TaskReset,
    TaskRetryScheduled,
    TaskSkipped,
    TaskStarted,
    TaskState,
    WorkflowCancelled,
    WorkflowCancelling,
    WorkflowFailed,
    WorkflowReopened,
)
from cloacina.domain.graph import instance_name
from cloacina.engine.model import Assignment, Live, Session
from cloacina.store.executions import (
    Batch,
    ClaimedRow,
    CompletedRow,
    DefinitionRow,
    EventRow,
    ExecutionChange,
    ExecutionRow,
    ExecutorRow,
    NewTask,
    TaskChange,
    TaskRow,
)
from cloacina.store.owners import Owner
from cloacina.store.schedules import FiringRow, ScheduleChange, ScheduleRow

_CREATED, _READY, _CLAIMED, _STARTED, _COMPLETED, _OTHER = (1 << bit for bit in range(6))
_KINDS: dict[type[object], int] = {
    TaskCreated: _CREATED,
    TaskMarkedReady: _READY,
    TaskClaimed: _CLAIMED,
    TaskStarted: _STARTED,
    TaskCompleted: _COMPLETED,
}
"""What can happen to a task in one group, as bits: together they say which columns change."""
_WAITS = frozenset({_CREATED})
_IS_CLAIMED = frozenset({_CLAIMED, _READY | _CLAIMED})
_HAS_COMPLETED = frozenset({_COMPLETED, _STARTED | _COMPLETED})


@dataclass(slots=True)
class _Touched:
    """An execution that a group creates or changes.

    Args:
        live: the execution.
        created: whether it is new.
        itself: whether more than tasks of it changed.
        tasks: what happened to its tasks, see `_KINDS`.
    """

    live: Live
    created: bool
    itself: bool = False
    tasks: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Scheduled:
    stored: ScheduleRow | None
    row: ScheduleRow | None


class Transaction(NamedTuple):
    """The transaction that wrote a group.

    Args:
        rows: how many rows it wrote.
        began_ns, ended_ns: nanoseconds since the epoch.
    """

    rows: int
    began_ns: int
    ended_ns: int


class GroupWork:
    """Collects the events of many executions, and everything that must wait until they are durable.

    Args:
        now: microseconds since the epoch; the ``updated_at`` of every row of this commit.
        owner: whose commit it is.
    """

    def __init__(self, now: int, owner: Owner) -> None:
        self.now = now
        self.owner = owner
        self.transaction: Transaction | None = None
        """Of rows that were written; for its spans, when tracing is on."""
        self.must_own = False
        """Whether the ownership is to be looked at even if nothing is written: something is told from memory."""
        self.reopened: list[str] = []
        self.history: list[tuple[Live, Event]] = []
        self.assignments: dict[Session, list[Assignment]] = defaultdict(list)
        self.acknowledged: dict[Session, list[int]] = defaultdict(list)
        self.stops: dict[Session, list[int]] = defaultdict(list)
        self.afterwards: list[Callable[[], None]] = []
        self.definitions: dict[str, DefinitionRow] = {}
        self.executors: dict[str, ExecutorRow] = {}
        self.executors_gone: set[str] = set()
        self._touched: dict[str, _Touched] = {}
        self.events: list[EventRow] = []
        self._schedules: dict[str, _Scheduled] = {}
        self.firings: list[FiringRow] = []

    @property
    def executions(self) -> int:
        """Executions this commit creates or changes."""
        return len(self._touched)

    def lives(self) -> list[Live]:
        """The executions this commit creates or changes."""
        return [touched.live for touched in self._touched.values()]

    def traceparent(self) -> str:
        """Where the trace of one of them began; empty when that of none is known."""
        return next((each.live.origin.traceparent for each in self._touched.values()), "")

    def create(self, live: Live) -> None:
        """A new execution; its events follow through `record`."""
        self._touched[live.execution_id] = _Touched(live, created=True)

    def record(self, live: Live, event: Event) -> None:
        """An event that has just been applied to the execution's state."""
        touched = self._touched.get(live.execution_id)
        if touched is None:
            touched = self._touched[live.execution_id] = _Touched(live, created=False)
        task: str | None = getattr(event, "task", None)
        if task is None:
            touched.itself = True
        else:
            touched.tasks[task] = touched.tasks.get(task, 0) | _KINDS.get(type(event), _OTHER)
            if isinstance(event, TaskExpanded):
                for index in range(event.size):  # those that ran before begin anew
                    touched.tasks[instance_name(task, index)] = _OTHER
        self.history.append((live, event))
        self.events.append(
            EventRow(
                live.execution_id, live.state.sequence, EVENT_TYPES[type(event)], task, event.at, _event_data(event)
            )
        )

    def set_schedule(self, schedule_id: str, stored: ScheduleRow | None, row: ScheduleRow | None) -> None:
        """A schedule as it is to be.

        Args:
            schedule_id: which.
            stored: as it is in the store; ``None`` when it is not there.
            row: as it is to be; ``None`` to take it out.
        """
        self._schedules.setdefault(schedule_id, _Scheduled(stored, None)).row = row

    def batch(self) -> Batch:
        """The rows to write, each once, in their final state."""
        batch = Batch(
            owner=self.owner,
            check=self.must_own,
            reopened=self.reopened,
            definitions=sorted(self.definitions.values()),  # others may write the same at once: no deadlock
            events=self.events,
            executors=list(self.executors.values()),
            executors_gone=list(self.executors_gone),
            firings=self.firings,
        )
        for schedule_id, schedule in self._schedules.items():
            if schedule.stored is None and schedule.row is not None:
                batch.schedules.append(schedule.row)
            elif schedule.stored is not None and schedule.row is not None:
                batch.schedule_changes.append(ScheduleChange(schedule.row, schedule.stored.next_run_at))
            elif schedule.stored is not None:
                batch.schedules_gone.append(schedule_id)
        for touched in self._touched.values():
            self._add_rows(batch, touched)
        return batch

    def _add_rows(self, batch: Batch, touched: _Touched) -> None:
        live, now = touched.live, self.now
        if touched.created:
            batch.executions.append(_execution_row(live, self.owner))
            for name in live.state.tasks:
                self._add_new_task(batch, live, name, touched.tasks.get(name, _OTHER))
            return
        if touched.itself:
            batch.execution_changes.append(_execution_change(live))
        for name, kinds in touched.tasks.items():
            if kinds in _HAS_COMPLETED:
                batch.completions.append(_task_completed(live, name, now))
            elif kinds in _IS_CLAIMED:
                batch.claims.append(_task_claimed(live, name, now))
            elif kinds & _CREATED and name not in live.definition.spec.tasks:
                self._add_new_task(batch, live, name, kinds)
            else:
                batch.task_changes.append(_task_change(live, name, now))

    def _add_new_task(self, batch: Batch, live: Live, name: str, kinds: int) -> None:
        if kinds in _WAITS:
            batch.new_tasks.append(_new_task(live, name, self.now))
        else:
            batch.tasks.append(_task_row(live, name, live.state.tasks[name], self.now))


def _event_data(event: Event) -> str | None:
    match event:
        case TaskCreated():
            return None
        case TaskExpanded():
            return _json(instances=event.size)
        case TaskClaimed():
            return _json(claim_id=event.claim_id, executor_id=event.executor_id)
        case TaskFailed():
            return _json(reason=event.reason, error=event.error)
        case TaskRetryScheduled():
            return _json(reason=event.reason, error=event.error, due=event.due)
        case TaskSkipped():
            return f'{{"reason":"{event.reason}"}}'
        case TaskReset():
            return _json(lost=event.lost)
        case TaskAbandoned():
            return _json(lost_claims=event.lost_claims)
        case WorkflowFailed():
            return _json(reason=event.reason, error=event.error)
        case WorkflowReopened():
            return '{"retry":true}'
        case WorkflowCancelling() | WorkflowCancelled():
            return _json(reason=event.reason)
        case _:
            return None


def _json(**fields: Any) -> str:
    return orjson.dumps(fields).decode()


def _execution_row(live: Live, owner: Owner) -> ExecutionRow:
    state, parent = live.state, live.parent
    return ExecutionRow(
        execution_id=live.execution_id,
        tenant_id=live.tenant_id,
        workflow_name=live.workflow_name,
        definition_id=live.definition.definition_id,
        status=state.status,
        reason=state.reason,
        error=state.error,
        input=state.input,
        output=state.output,
        request_id=live.origin.request_id,
        traceparent=live.origin.traceparent,
        trigger_origin=live.trigger_origin,
        idempotency_key=live.idempotency_key,
        created_at=live.created_at,
        started_at=state.started_at,
        finished_at=state.finished_at,
        cancelling=state.cancelling,
        sequence=state.sequence,
        priority=live.priority,
        parent_execution_id=parent.execution_id if parent is not None else None,
        parent_task=parent.task if parent is not None else None,
        parent_claim_id=parent.claim_id if parent is not None else None,
        depth=parent.depth if parent is not None else 0,
        owner=owner.epoch,
    )


def _execution_change(live: Live) -> ExecutionChange:
    state = live.state
    return ExecutionChange(
        execution_id=live.execution_id,
        status=state.status,
        reason=state.reason,
        error=state.error,
        output=state.output,
        started_at=state.started_at,
        finished_at=state.finished_at,
        cancelling=state.cancelling,
        sequence=state.sequence,
    )


def _new_task(live: Live, name: str, now: int) -> NewTask:
    definition = live.definition
    max_attempts = definition.spec.task_of(name).retry.max_attempts
    return NewTask(live.execution_id, definition.index_of(name), name, max_attempts, live.created_at, now)


def _task_claimed(live: Live, name: str, now: int) -> ClaimedRow:
    task, index = live.state.tasks[name], live.definition.index_of(name)
    return ClaimedRow(task.claim_id, task.executor_id, task.ready_at, task.claimed_at, now, live.execution_id, index)


def _task_completed(live: Live, name: str, now: int) -> CompletedRow:
    task, index = live.state.tasks[name], live.definition.index_of(name)
    return CompletedRow(task.output, task.started_at, task.finished_at, now, live.execution_id, index)


def _task_row(live: Live, name: str, task: TaskState, now: int) -> TaskRow:
    return TaskRow(
        execution_id=live.execution_id,
        task_index=live.definition.index_of(name),
        task_name=name,
        max_attempts=live.definition.spec.task_of(name).retry.max_attempts,
        status=task.status,
        attempt=task.attempt,
        claim_id=task.claim_id,
        executor_id=task.executor_id,
        lost_claims=task.lost_claims,
        deferred=task.deferred,
        retry_due=task.retry_due,
        output=task.output,
        error=task.error,
        details=task.details,
        reason=task.reason,
        created_at=live.created_at,
        ready_at=task.ready_at,
        claimed_at=task.claimed_at,
        started_at=task.started_at,
        finished_at=task.finished_at,
        updated_at=now,
        instances=task.instances,
    )


def _task_change(live: Live, name: str, now: int) -> TaskChange:
    task = live.state.tasks[name]
    return TaskChange(
        execution_id=live.execution_id,
        task_index=live.definition.index_of(name),
        status=task.status,
        attempt=task.attempt,
        claim_id=task.claim_id,
        executor_id=task.executor_id,
        lost_claims=task.lost_claims,
        deferred=task.deferred,
        retry_due=task.retry_due,
        output=task.output,
        error=task.error,
        details=task.details,
        reason=task.reason,
        ready_at=task.ready_at,
        claimed_at=task.claimed_at,
        started_at=task.started_at,
        finished_at=task.finished_at,
        updated_at=now,
        instances=task.instances,
    )
