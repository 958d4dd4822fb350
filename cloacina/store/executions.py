"""The scheduler's store: executions, their tasks and events, definitions, executors' leases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cloacina.store.database import Database, Statement, StoreConflict
from cloacina.store.owners import Owner, OwnerStore, fence
from cloacina.store.schedules import FiringRow, ScheduleChange, ScheduleRow

_NO_CURSOR = (2**62, "")
MOST_COUNTED = 10_000
"""Executions that are counted for a page: counting a million would take longer than all else."""


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
    """The number of its last event; of one that has not ended, outside of `ExecutionStore.load_live`, as of the last
    change of the execution itself."""
    priority: int = 0
    parent_execution_id: str | None = None
    parent_task: str | None = None
    parent_claim_id: int | None = None
    depth: int = 0
    owner: int = 0
    """The epoch of its owner; written, and not read again with the rest."""


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
    instances: int | None = None


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
    instances: int | None
    execution_id: str
    task_index: int


class NewTask(NamedTuple):
    """A task that waits for its dependencies since its creation: what of its `TaskRow` is its own."""

    execution_id: str
    task_index: int
    task_name: str
    max_attempts: int
    created_at: int
    updated_at: int


class ClaimedRow(NamedTuple):
    """A task was given to an executor. The fields are in the order of the query ``claim_task``."""

    claim_id: int
    executor_id: str
    ready_at: int | None
    claimed_at: int | None
    updated_at: int
    execution_id: str
    task_index: int


class CompletedRow(NamedTuple):
    """A task that ran has succeeded. The fields are in the order of the query ``complete_task``."""

    output: bytes | None
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


class ExecutionProgress(NamedTuple):
    """How far an execution is: when it ended, if it has, and then the number of its last event."""

    tenant_id: str
    sequence: int
    finished_at: int | None


class ExecutorRow(NamedTuple):
    """An executor and its lease with one owner, which its epoch names."""

    owner: int
    executor_id: str
    slots: int
    version: str
    lease_expires_at: int
    updated_at: int


class TaskClaim(NamedTuple):
    """The last claim of a task, and whose its execution is: an epoch, ``None`` when it has ended."""

    claim_id: int
    owner: int | None


@dataclass(slots=True)
class Batch:
    """Everything one group commit writes. A row is in one of the lists only: the most frequent changes have lists of
    their own, which name few columns.

    Args:
        owner: whose commit it is; nothing is written once that is not current any more.
        check: look at that even if there is nothing to write.
        reopened: executions among the changes that had ended, and become the owner's.
    """

    definitions: list[DefinitionRow] = field(default_factory=list)
    executions: list[ExecutionRow] = field(default_factory=list)
    execution_changes: list[ExecutionChange] = field(default_factory=list)
    tasks: list[TaskRow] = field(default_factory=list)
    new_tasks: list[NewTask] = field(default_factory=list)
    task_changes: list[TaskChange] = field(default_factory=list)
    claims: list[ClaimedRow] = field(default_factory=list)
    completions: list[CompletedRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    executors: list[ExecutorRow] = field(default_factory=list)
    executors_gone: list[str] = field(default_factory=list)
    schedules: list[ScheduleRow] = field(default_factory=list)
    schedule_changes: list[ScheduleChange] = field(default_factory=list)
    schedules_gone: list[str] = field(default_factory=list)
    firings: list[FiringRow] = field(default_factory=list)
    owner: Owner | None = None
    check: bool = False
    reopened: list[str] = field(default_factory=list)

    def statements(self) -> list[Statement]:
        """The statements of the transaction; an update must find its row."""
        statements: list[Statement] = []
        for query, name, counted in _WRITES:
            rows: Sequence[Any] = getattr(self, name)
            if rows:
                statements.append(Statement(query, self._parameters(name, rows), len(rows) if counted else None))
        if self.owner is not None and (statements or self.check):
            statements.insert(0, fence(self.owner))
        return statements

    def _parameters(self, name: str, rows: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
        """The rows of a list as its query takes them: most are that already."""
        match name:
            case "reopened" | "executors_gone":
                epoch = 0 if self.owner is None else self.owner.epoch
                return [(epoch, each) for each in rows]
            case "schedules_gone":
                return [(schedule_id,) for schedule_id in rows]
            case "schedule_changes":
                return [change.parameters() for change in rows]
            case _:
                return rows


_WRITES = (
    ("insert_definition", "definitions", False),
    ("insert_execution", "executions", False),
    ("reopen_execution", "reopened", True),
    ("update_execution", "execution_changes", True),
    ("insert_task", "tasks", False),
    ("insert_new_task", "new_tasks", False),
    ("update_task", "task_changes", True),
    ("complete_task", "completions", True),
    ("claim_task", "claims", True),
    ("insert_event", "events", False),
    ("upsert_executor", "executors", False),
    ("delete_executor", "executors_gone", False),
    ("delete_firings_of_schedule", "schedules_gone", False),
    ("delete_schedule", "schedules_gone", False),
    ("update_schedule", "schedule_changes", True),
    ("insert_schedule", "schedules", False),
    ("insert_firing", "firings", False),
)
"""What a batch is written with, in order: the query, the list of `Batch`, and whether each row must find its own."""


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
        self.owners = OwnerStore(database)

    @property
    def system(self) -> str:
        """The database system, as OpenTelemetry names it."""
        return self._database.system

    async def commit(self, batch: Batch) -> int:
        """Writes a batch in one durable transaction.

        Returns:
            The rows it wrote.

        Raises:
            StoreUnavailable: nothing was written; the database cannot be now.
            StoreConflict: nothing was written; an idempotency key is taken, or a row is not as expected.
            OwnershipLost: nothing was written; the batch's owner is none any more.
        """
        statements = batch.statements()
        if statements:
            try:
                await self._database.write(statements, awaited=True)
            except StoreConflict as conflict:
                if batch.owner is None:
                    raise
                raise await self.owners.explain_conflict(batch.owner, conflict) from conflict
        return sum(len(statement.rows) for statement in statements if statement.query != "check_owner")

    async def load_live(self, owner: int = 0, *, adopted_after: int = -1) -> list[LiveExecution]:
        """The executions of an owner that have not ended.

        Args:
            owner: its epoch; 0 for those that never had an owner.
            adopted_after: only those that came with a later adoption than the one of this number.
        """
        which = (owner, adopted_after)
        executions = [ExecutionRow(*row) for row in await self._database.fetch("live_executions", *which)]
        tasks: dict[str, list[TaskRow]] = {execution.execution_id: [] for execution in executions}
        for row in await self._database.fetch("live_tasks", *which):
            tasks[row[0]].append(TaskRow(*row))
        return [LiveExecution(execution, tasks[execution.execution_id]) for execution in executions]

    async def load_definitions(
        self, definition_ids: Iterable[str], tenant_id: str | None = None
    ) -> list[DefinitionRow]:
        """The definitions of these ids, of a tenant where it is known."""
        rows = []
        for definition_id in definition_ids:
            rows += await self._database.fetch("definition", definition_id, tenant=tenant_id)
        return [DefinitionRow(*row) for row in rows]

    async def load_executors(self) -> list[ExecutorRow]:
        """Every executor that holds a lease, lapsed or not."""
        return [ExecutorRow(*row) for row in await self._database.fetch("executors")]

    async def load_one(self, tenant_id: str, execution_id: str) -> LiveExecution | None:
        """One execution of a tenant with its tasks, ended or not."""
        execution = await self.get_execution(tenant_id, execution_id)
        return execution and LiveExecution(execution, await self.list_tasks(tenant_id, execution_id))

    async def get_execution(self, tenant_id: str, execution_id: str) -> ExecutionRow | None:
        """One execution of a tenant."""
        rows = await self._database.fetch("execution", execution_id, tenant_id, tenant=tenant_id)
        return ExecutionRow(*rows[0]) if rows else None

    async def find_by_idempotency_key(self, tenant_id: str, workflow_name: str, key: str) -> str | None:
        """The id of the execution started under this key."""
        named = (tenant_id, workflow_name, key)
        rows = await self._database.fetch("execution_by_key", *named, *named)
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
        """A page of executions, newest first, and how many match, counted up to `MOST_COUNTED`.

        Args:
            tenant_id: whose.
            status, workflow_name: filters; empty for all.
            limit, offset: which rows.
            before: (created_at, execution_id) of the last row of the page before.
        """
        which, filters = _matching(tenant_id, status, workflow_name)
        page = (*filters, *(before or _NO_CURSOR), limit, offset)
        rows = await self._database.fetch(f"list_{which}", *page, tenant=tenant_id)
        total = await self._database.fetch(f"count_{which}", *filters, MOST_COUNTED, tenant=tenant_id)
        return [ExecutionSummary(*row) for row in rows], int(total[0][0])

    async def list_tasks(self, tenant_id: str, execution_id: str) -> list[TaskRow]:
        """The tasks of an execution, in topological order."""
        return [
            TaskRow(*row) for row in await self._database.fetch("list_tasks", execution_id, tenant_id, tenant=tenant_id)
        ]

    async def list_events(self, tenant_id: str, execution_id: str, *, after: int, limit: int) -> list[EventRow]:
        """The events of an execution after a sequence number, oldest first."""
        rows = await self._database.fetch("list_events", execution_id, tenant_id, after, limit, tenant=tenant_id)
        return [EventRow(*row) for row in rows]

    async def progress(self, tenant_id: str, execution_id: str) -> ExecutionProgress | None:
        """How far an execution of a tenant is; of any tenant with an empty `tenant_id`."""
        rows = await self._database.fetch(
            "execution_progress", execution_id, tenant_id, tenant_id, tenant=tenant_id or None
        )
        return ExecutionProgress(*rows[0]) if rows else None

    async def list_by_request(self, request_id: str, tenant_id: str, limit: int) -> list[ExecutionSummary]:
        """The executions that a request began, oldest first; those of all tenants with an empty `tenant_id`."""
        rows = await self._database.fetch(
            "executions_of_request", request_id, tenant_id, tenant_id, limit, tenant=tenant_id or None
        )
        return [ExecutionSummary(*row) for row in rows]

    async def latest_waits(self, tenant_id: str, execution_id: str) -> dict[tuple[str, str], int]:
        """When the execution was paused or began to be cancelled, and tasks of it were deferred, to be tried again or
        reset, last: by (event type, task), the task "" for the whole execution."""
        rows = await self._database.fetch("latest_waits", execution_id, tenant_id, tenant=tenant_id)
        return {(str(row[0]), str(row[1])): int(row[2]) for row in rows}

    async def task_claim(self, execution_id: str, task_name: str) -> TaskClaim | None:
        """The last claim of a task; ``None`` when there is no such task."""
        rows = await self._database.fetch("task_claim", execution_id, task_name)
        if not rows:
            return None
        claim_id, owner, finished_at = rows[0]
        return TaskClaim(int(claim_id), int(owner) if finished_at is None else None)

    async def is_held(self, execution_id: str, claim_id: int) -> bool:
        """Whether a claim is the current one of a task that runs, whoever owns the execution."""
        return bool(await self._database.fetch("held_claim", execution_id, claim_id))


def _matching(tenant_id: str, status: str, workflow_name: str) -> tuple[str, tuple[str, ...]]:
    """Which executions match: the end of the names of the two queries whose index finds them, and their parameters."""
    if status in ("Failed", "Cancelled"):
        return "executions_ended_badly", (tenant_id, status, workflow_name, workflow_name)
    if status in ("Pending", "Running", "Paused"):
        return "unfinished_executions", (tenant_id, status, workflow_name, workflow_name)
    if workflow_name:
        return "executions_of_workflow", (tenant_id, workflow_name, status, status)
    return "executions", (tenant_id, status, status)
