"""The schedules in the scheduler's store, and their firings: rows, and reading them.

They are written by the group commit (`cloacina.store.executions.Batch`): a firing, the execution it starts and the
schedule's next instant are one transaction.
"""

from __future__ import annotations

from typing import NamedTuple

from cloacina.store.database import Database


class ScheduleRow(NamedTuple):
    """One schedule. Times are microseconds since the epoch.

    Args:
        schedule_id: its UUID.
        tenant_id: whose it is.
        name: unique within the tenant.
        kind: "cron" or "trigger".
        workflows: JSON list of the workflows it starts; the first is its main one.
        source: what it comes from and goes with: the workflow of the package that declares it; empty for one that was
            registered by itself.
        package_id, package_digest: that package; empty without.
        cron, timezone: with the kind "cron".
        poll_interval_ms: with the kind "trigger".
        allow_concurrent: see `cloacina.authoring.triggers.trigger`.
        catch_up, catch_up_cap: see `cloacina.domain.schedules.Schedule`.
        params: JSON object that is part of every execution's input.
        paused_at: since when it is paused; ``None`` when it is not.
        next_run_at, last_run_at: see `cloacina.domain.schedules.Schedule`.
        last_poll_at: when its function was asked last, as of the last change of this row.
        last_outcome: of its last firing.
        last_error: why that failed or was skipped.
        created_at, updated_at: of this row.
    """

    schedule_id: str
    tenant_id: str
    name: str
    kind: str
    workflows: str
    source: str
    package_id: str
    package_digest: str
    cron: str | None
    timezone: str | None
    poll_interval_ms: int | None
    allow_concurrent: bool
    catch_up: str
    catch_up_cap: int
    params: bytes | None
    paused_at: int | None
    next_run_at: int | None
    last_run_at: int | None
    last_poll_at: int | None
    last_outcome: str | None
    last_error: str | None
    created_at: int
    updated_at: int


class ScheduleChange(NamedTuple):
    """A schedule as it is to be, on condition that its `next_run_at` is still `expected_next_run_at`."""

    row: ScheduleRow
    expected_next_run_at: int | None

    def parameters(self) -> tuple[object, ...]:
        """In the order of the query ``update_schedule``."""
        return (*self.row[1:], self.row.schedule_id, self.expected_next_run_at)


class FiringRow(NamedTuple):
    """One firing for one workflow; `firing_key` is the same whoever decides it."""

    firing_key: str
    firing_id: str
    schedule_id: str
    workflow_name: str
    execution_id: str | None
    outcome: str
    error: str | None
    context_hash: str | None
    scheduled_at: int
    fired_at: int


class FiringRecord(NamedTuple):
    """A firing, and when its execution ended."""

    firing: FiringRow
    finished_at: int | None


class LiveFiring(NamedTuple):
    """An execution that a schedule started and that has not ended."""

    schedule_id: str
    execution_id: str
    context_hash: str | None


class ScheduleStore:
    """Reads schedules and firings.

    Args:
        database: an opened database of the store "scheduler".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[ScheduleRow]:
        """Every schedule."""
        rows = [ScheduleRow(*row) for row in await self._database.fetch("schedules")]
        return [row._replace(allow_concurrent=bool(row.allow_concurrent)) for row in rows]

    async def load_live_firings(self) -> list[LiveFiring]:
        """The unfinished executions that schedules started."""
        return [LiveFiring(*row) for row in await self._database.fetch("live_firings")]

    async def list_firings(
        self, tenant_id: str, schedule_id: str, *, limit: int, offset: int = 0
    ) -> list[FiringRecord]:
        """Firings of a tenant's schedule, newest first."""
        rows = await self._database.fetch("list_firings", schedule_id, tenant_id, limit, offset, tenant=tenant_id)
        return [FiringRecord(FiringRow(*row[:-1]), row[-1]) for row in rows]

    async def count_firings(self, kind: str, since: int) -> tuple[int, int]:
        """How many firings there were of schedules of a kind since a time, and how many started an execution."""
        ((total, started),) = await self._database.fetch("count_firings", kind, since)
        return int(total), int(started)
