"""The scheduler's store: executions, their tasks and events, definitions, executors' leases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from cloacina.store.database import Database, Statement

_NO_CURSOR = (2**62, "")


class DefinitionRow(NamedTuple):
    """One immutable version of a workflow; `body` is the owner's own encoding."""

    definition_id: str
    tenant_id: str
    workflow_name: str
    package_id: str
    package_digest: str
    body: bytes


class ExecutionRow(NamedTuple):
    """One execution. Times are microseconds since the epoch; contexts are JSON."""

    execution_id: str
    tenant_id: str
    workflow_name: str
    definition_id: str
    status: str
    reason: str | None
    error: str | None
    input: bytes
    output: bytes | None
    request_id: str
    traceparent: str
    trigger_origin: str
    idempotency_key: str | None
    created_at: int
    started_at: int | None
    finished_at: int | None
    cancelling: str | None
    sequence: int


class ExecutionSummary(NamedTuple):
    """An execution as lists show it, without its contexts."""

    execution_id: str
    tenant_id: str
    workflow_name: str
    definition_id: str
    status: str
    reason: str | None
    error: str | None
    request_id: str
    traceparent: str
    trigger_origin: str
    created_at: int
    started_at: int | None
    finished_at: int | None


class ExecutionChange(NamedTuple):
    """What changes of an execution. The fields are in the order of the query ``update_execution``."""

    status: str
    reason: str | None
    error: str | None
    output: bytes | None
    started_at: int | None
    finished_at: int | None
    cancelling: str | None
    sequence: int
    execution_id: str


class TaskRow(NamedTuple):
    """One task of an execution; `task_index` is its position in topological order."""

    execution_id: str
    task_index: int
    task_name: str
    max_attempts: int
    status: str
    attempt: int
    claim_id: int
    executor_id: str
    lost_claims: int
    deferred: bool
    retry_due: int | None
    output: bytes | None
    error: str | None
    details: str | None
    reason: str | None
    created_at: int
    ready_at: int | None
    claimed_at: int | None
    started_at: int | None
    finished_at: int | None
    updated_at: int


class TaskChange(NamedTuple):
    """What changes of a task. The fields are in the order of the query ``update_task``."""

    status: str
    attempt: int
    claim_id: int
    executor_id: str
    lost_claims: int
    deferred: bool
    retry_due: int | None
    output: bytes | None
    error: str | None
    details: str | None
    reason: str | None
    ready_at: int | None
    claimed_at: int | None
    started_at: int | None
    finished_at: int | None
    updated_at: int
    execution_id: str
    task_index: int


class EventRow(NamedTuple):
    """One event; `sequence` counts from 1 within its execution, `data` is JSON."""

    execution_id: str
    sequence: int
    event_type: str
    task_name: str | None
    at: int
    data: str | None


class ExecutorRow(NamedTuple):
    """An executor and its lease."""

    executor_id: str
    slots: int
    version: str
    lease_expires_at: int
    updated_at: int


@dataclass(slots=True)
class Batch:
    """Everything one group commit writes."""

    definitions: list[DefinitionRow] = field(default_factory=list)
    executions: list[ExecutionRow] = field(default_factory=list)
    execution_changes: list[ExecutionChange] = field(default_factory=list)
    tasks: list[TaskRow] = field(default_factory=list)
    task_changes: list[TaskChange] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    executors: list[ExecutorRow] = field(default_factory=list)
    executors_gone: list[str] = field(default_factory=list)

    def statements(self) -> list[Statement]:
        """The statements of the transaction; an update must find its row."""
        listed = (
            Statement("insert_definition", self.definitions),
            Statement("insert_execution", self.executions),
            Statement("update_execution", self.execution_changes, expect=len(self.execution_changes)),
            Statement("insert_task", self.tasks),
            Statement("update_task", self.task_changes, expect=len(self.task_changes)),
            Statement("insert_event", self.events),
            Statement("upsert_executor", self.executors),
            Statement("delete_executor", [(executor_id,) for executor_id in self.executors_gone]),
        )
        return [statement for statement in listed if statement.rows]


class LiveExecution(NamedTuple):
    """An execution that has not ended, with its tasks in topological order."""

    execution: ExecutionRow
    tasks: list[TaskRow]


class ExecutionStore:
    """The only caller of the queries in ``sql/scheduler``.

    Args:
        database: an opened database of the store "scheduler".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def commit(self, batch: Batch) -> None:
        """Writes a batch in one durable transaction.

        Raises:
            StoreUnavailable: nothing was written; the database cannot be now.
            StoreConflict: nothing was written; an idempotency key is taken, or a row is not as expected.
        """
        statements = batch.statements()
        if statements:
            await self._database.write(statements)

    async def next_epoch(self) -> int:
        """A number larger than every one given before, over restarts too."""
        await self._database.write([Statement("raise_epoch", [("claims",)], expect=1)])
        return int((await self._database.fetch("epoch", "claims"))[0][0])

    async def load_live(self) -> list[LiveExecution]:
        """Every execution that has not ended."""
        executions = [ExecutionRow(*row) for row in await self._database.fetch("live_executions")]
        tasks: dict[str, list[TaskRow]] = {execution.execution_id: [] for execution in executions}
        for row in await self._database.fetch("live_tasks"):
            tasks[row[0]].append(TaskRow(*row))
        return [LiveExecution(execution, tasks[execution.execution_id]) for execution in executions]

    async def load_definitions(self, definition_ids: Iterable[str]) -> list[DefinitionRow]:
        """The definitions of these ids."""
        rows = []
        for definition_id in definition_ids:
            rows += await self._database.fetch("definition", definition_id)
        return [DefinitionRow(*row) for row in rows]

    async def load_executors(self) -> list[ExecutorRow]:
        """Every executor that holds a lease, lapsed or not."""
        return [ExecutorRow(*row) for row in await self._database.fetch("executors")]

    async def get_execution(self, tenant_id: str, execution_id: str) -> ExecutionRow | None:
        """One execution of a tenant."""
        rows = await self._database.fetch("execution", execution_id, tenant_id)
        return ExecutionRow(*rows[0]) if rows else None

    async def find_by_idempotency_key(self, tenant_id: str, workflow_name: str, key: str) -> str | None:
        """The id of the execution started under this key."""
        rows = await self._database.fetch("execution_by_key", tenant_id, workflow_name, key)
        return str(rows[0][0]) if rows else None

    async def list_executions(
        self,
        tenant_id: str,
        *,
        status: str = "",
        workflow_name: str = "",
        limit: int = 50,
        offset: int = 0,
        before: tuple[int, str] | None = None,
    ) -> tuple[list[ExecutionSummary], int]:
        """A page of executions, newest first, and how many match in all.

        Args:
            tenant_id: whose.
            status, workflow_name: filters; empty for all.
            limit, offset: which rows.
            before: (created_at, execution_id) of the last row of the page before.
        """
        filters = (tenant_id, status, status, workflow_name, workflow_name)
        rows = await self._database.fetch("list_executions", *filters, *(before or _NO_CURSOR), limit, offset)
        total = await self._database.fetch("count_executions", *filters)
        return [ExecutionSummary(*row) for row in rows], int(total[0][0])

    async def list_tasks(self, tenant_id: str, execution_id: str) -> list[TaskRow]:
        """The tasks of an execution, in topological order."""
        return [TaskRow(*row) for row in await self._database.fetch("list_tasks", execution_id, tenant_id)]

    async def list_events(self, tenant_id: str, execution_id: str, *, after: int, limit: int) -> list[EventRow]:
        """The events of an execution after a sequence number, oldest first."""
        rows = await self._database.fetch("list_events", execution_id, tenant_id, after, limit)
        return [EventRow(*row) for row in rows]

    async def task_claim(self, execution_id: str, task_name: str) -> int | None:
        """The last claim of a task."""
        rows = await self._database.fetch("task_claim", execution_id, task_name)
        return int(rows[0][0]) if rows else None
