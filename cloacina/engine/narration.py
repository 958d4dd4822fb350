"""What the engine says of itself, in log lines and spans that carry the ids of the execution they are about."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cloacina.domain.execution import (
    EVENT_TYPES,
    Event,
    TaskClaimed,
    TaskCompleted,
    TaskDeferred,
    TaskFailed,
    TaskMarkedReady,
    TaskReset,
    TaskResumed,
    TaskRetryScheduled,
    TaskSkipped,
    TaskStarted,
    WorkflowCancelled,
    WorkflowCancelling,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowPaused,
    WorkflowReopened,
    WorkflowResumed,
    WorkflowStarted,
)
from cloacina.engine.model import Joining, Live, Origin, Result
from cloacina.engine.work import GroupWork, Transaction
from cloacina.store.owners import Owner, OwnerRow
from cloacina.telemetry import scope, tracing

log = logging.getLogger(__name__)

_EVENTS: dict[type[object], tuple[int, str]] = {
    WorkflowStarted: (logging.INFO, "execution scheduled"),
    WorkflowReopened: (logging.INFO, "execution retried: what did not succeed is run again"),
    WorkflowCompleted: (logging.INFO, "execution completed"),
    WorkflowFailed: (logging.WARNING, "execution failed"),
    WorkflowCancelled: (logging.INFO, "execution cancelled"),
    TaskMarkedReady: (logging.DEBUG, "task ready"),
    TaskCompleted: (logging.DEBUG, "task completed"),
    TaskFailed: (logging.WARNING, "task failed"),
    TaskRetryScheduled: (logging.WARNING, "task failed; another attempt is due"),
    TaskSkipped: (logging.INFO, "task skipped"),
    TaskReset: (logging.WARNING, "task is ready again: its claim is void"),
}
_STORED: dict[type[object], tuple[int, str]] = {
    **_EVENTS,
    TaskClaimed: (logging.DEBUG, "task claimed by an executor"),
    TaskStarted: (logging.DEBUG, "task started"),
    TaskDeferred: (logging.INFO, "task deferred: it waits without a slot"),
    TaskResumed: (logging.INFO, "task goes on after it was deferred"),
    TaskCompleted: (logging.INFO, "task completed"),
    WorkflowPaused: (logging.INFO, "execution paused"),
    WorkflowResumed: (logging.INFO, "execution resumed"),
    WorkflowCancelling: (logging.INFO, "execution is being cancelled"),
}


def spoken(event_type: str, data: Mapping[str, Any]) -> tuple[int, str] | None:
    """How a stored event is said in a log line: level and message; ``None`` for what is not said.

    Args:
        event_type: as it is stored.
        data: what else is stored of it.
    """
    if event_type == "workflow_resumed":
        return _STORED[WorkflowReopened if data.get("retry") else WorkflowResumed]
    if event_type == "task_started" and "instances" in data:
        return None
    if event_type == "task_reset" and "lost" not in data:
        return None  # the retry of the whole execution was said
    return _SPOKEN.get(event_type)


_SPOKEN = {EVENT_TYPES[kind]: said for kind, said in _STORED.items()}


def event(live: Live, happened: Event) -> None:
    """One committed event of an execution."""
    said = _EVENTS.get(type(happened))
    if said is None or not log.isEnabledFor(said[0]):
        return
    extra: dict[str, object] = {}
    for name in ("reason", "error"):
        value = getattr(happened, name, None)
        if value is not None:
            extra[name] = str(value)
    if isinstance(happened, WorkflowCompleted | WorkflowFailed | WorkflowCancelled):
        extra["status"] = live.state.status.value
        extra["duration_ms"] = ((live.state.finished_at or 0) - live.created_at) / 1000
    task = getattr(happened, "task", None)
    place = _place(live, task)
    if isinstance(happened, TaskRetryScheduled):  # the line is about the attempt that failed; the state is one further
        place["attempt"] = live.state.tasks[happened.task].attempt - 1
    with scope.within(_scope_of(live, task)):
        log.log(said[0], said[1], extra={**extra, **place, "_told": True})


def child_scheduled(child: Live) -> Origin:
    """An execution was begun by a task of another one: from what its own spans hang below, in the same trace."""
    if not child.origin.traceparent or not tracing.enabled():
        return child.origin
    now = time.time_ns()
    traceparent = tracing.record_span(
        f"schedule {child.workflow_name}",
        start_ns=now,
        end_ns=now,
        parent=child.origin.traceparent,
        about=_scope_of(child),
    )
    return Origin(child.origin.request_id, traceparent)


def result_rejected(live: Live, result: Result) -> None:
    """A result came from a claim that is not the current one."""
    with scope.within(_scope_of(live, result.task)):
        extra = {"claim_id": result.claim_id, **_place(live, result.task)}
        log.warning("a result was rejected: its claim is no longer held", extra=extra)


def result_too_late(result: Result) -> None:
    """A result came when its execution had ended, from a claim that had been given up."""
    with scope.bind(execution_id=result.execution_id, task_name=result.task):
        log.warning("a result came after its execution had ended", extra={"claim_id": result.claim_id})


def executor_joined(joining: Joining) -> None:
    """An executor connected."""
    extra = {"executor_id": joining.executor_id, "slots": joining.slots, "claims_held": len(joining.held)}
    log.info("executor joined", extra=extra)


def adopted(gone: Sequence[OwnerRow], executions: int, owner: Owner) -> None:
    """What belonged to owners that are gone was taken over."""
    if gone or executions:
        from_whom = ", ".join(f"{row.owner_id} ({row.epoch})" for row in gone)
        extra = {"executions": executions, "from": from_whom, "owner_id": owner.owner_id, "epoch": owner.epoch}
        log.warning("took over the executions of schedulers that are gone", extra=extra)


def lease_lapsed(executor_id: str, claims: int) -> None:
    """An executor fell silent."""
    extra = {"executor_id": executor_id, "claims": claims}
    log.warning("an executor's lease lapsed; its tasks are ready again", extra=extra)


def commit(work: GroupWork, transaction: Transaction, system: str) -> None:
    """A commit serves many executions: it is a span in the trace of each.

    Args:
        work: what was committed.
        transaction: with what.
        system: the database, "sqlite" or "postgresql".
    """
    attributes = {
        "db.system.name": system,
        "db.namespace": "scheduler",
        "db.operation.batch.size": transaction.rows,
        "cloacina.executions": work.executions,
    }
    tracing.record_in_each(
        "store commit",
        start_ns=transaction.began_ns,
        end_ns=transaction.ended_ns,
        kind="client",
        attributes=attributes,
        places=((live.origin.traceparent, _scope_of(live)) for live in work.lives() if live.origin.traceparent),
    )


def _place(live: Live, task: str | None) -> dict[str, object]:
    """Where in its trace a line belongs, and which attempt it is about."""
    place: dict[str, object] = {"_trace": tracing.ids_of(live.origin.traceparent)}
    if task is not None:
        place["attempt"] = live.state.tasks[task].attempt
    return place


def _scope_of(live: Live, task: str | None = None) -> scope.Scope:
    return scope.Scope(
        request_id=live.origin.request_id or None,
        tenant_id=live.tenant_id,
        package_id=live.definition.package_id or None,
        workflow_name=live.workflow_name,
        execution_id=live.execution_id,
        task_name=task,
    )
