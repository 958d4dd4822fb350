"""Executions as the store has them, made into what the engine works with."""

from __future__ import annotations

from cloacina.domain.execution import ExecutionState, ExecutionStatus, TaskState, TaskStatus
from cloacina.engine.model import Definition, Live, Origin, Parent
from cloacina.store.executions import LiveExecution, TaskRow


def restore(row: LiveExecution, definition: Definition) -> Live:
    """An execution as it was when its rows were written.

    Args:
        row: the execution, and its tasks.
        definition: its definition.
    """
    execution = row.execution
    state = ExecutionState.new(definition.spec, execution.input)
    state.status = ExecutionStatus(execution.status)
    state.cancelling = execution.cancelling
    state.sequence = execution.sequence
    state.started_at, state.finished_at = execution.started_at, execution.finished_at
    state.tasks.update((task.task_name, _restore_task(task)) for task in row.tasks)
    state.recount()
    parent = None
    if execution.parent_execution_id is not None:
        parent = Parent(
            execution.parent_execution_id, execution.parent_task or "", execution.parent_claim_id or 0, execution.depth
        )
    return Live(
        execution_id=execution.execution_id,
        definition=definition,
        state=state,
        origin=Origin(execution.request_id, execution.traceparent),
        created_at=execution.created_at,
        trigger_origin=execution.trigger_origin,
        idempotency_key=execution.idempotency_key,
        priority=execution.priority,
        parent=parent,
    )


def _restore_task(row: TaskRow) -> TaskState:
    """The state of a task as its row says; what can be derived is left to `ExecutionState.recount`."""
    return TaskState(
        status=TaskStatus(row.status),
        attempt=row.attempt,
        claim_id=row.claim_id,
        executor_id=row.executor_id,
        lost_claims=row.lost_claims,
        deferred=bool(row.deferred),
        retry_due=row.retry_due,
        output=row.output,
        error=row.error,
        details=row.details,
        reason=row.reason,
        instances=row.instances,
        ready_at=row.ready_at,
        claimed_at=row.claimed_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
