"""The named instances of workflows, in the scheduler's store: an instance's id is its schedule's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cloacina.store.database import Database, Statement


class InstanceRow(NamedTuple):
    """Params bound to a workflow under a name. `params` is a JSON object; times are microseconds.

    Without a `cron_expression` there is no `next_run_at`, and nothing but a request starts it. With one, a row of
    `cloacina.store.schedules` of the same id says how its schedule is now.
    """

    instance_id: str
    tenant_id: str
    workflow_name: str
    instance_name: str
    params: bytes
    cron_expression: str | None
    timezone: str
    enabled: bool
    paused: bool
    next_run_at: int | None
    last_run_at: int | None
    created_at: int


class InstanceStore:
    """The only caller of the queries about instances.

    Args:
        database: an opened database of the store "scheduler".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, instance: InstanceRow) -> None:
        """Stores an instance.

        Raises:
            StoreConflict: the workflow has one of this name.
        """
        await self._database.write([Statement("insert_instance", [instance], expect=1)])

    async def delete(self, tenant_id: str, workflow_name: str, instance_name: str) -> None:
        """Deletes an instance.

        Raises:
            StoreConflict: there is none.
        """
        key = (tenant_id, workflow_name, instance_name)
        await self._database.write([Statement("delete_instance", [key], expect=1)])

    async def get(self, tenant_id: str, workflow_name: str, instance_name: str) -> InstanceRow | None:
        """One instance."""
        rows = await self._database.fetch("instance", tenant_id, workflow_name, instance_name, tenant=tenant_id)
        return _row(rows[0]) if rows else None

    async def get_by_id(self, instance_id: str) -> InstanceRow | None:
        """One instance."""
        rows = await self._database.fetch("instance_by_id", instance_id)
        return _row(rows[0]) if rows else None

    async def scheduled(self) -> Sequence[InstanceRow]:
        """The instances of all tenants whose schedule is on."""
        return [_row(row) for row in await self._database.fetch("scheduled_instances")]

    async def of_tenant(self, tenant_id: str) -> Sequence[InstanceRow]:
        """Every instance of a tenant."""
        return [_row(row) for row in await self._database.fetch("instances_of_tenant", tenant_id, tenant=tenant_id)]

    async def list(
        self, tenant_id: str, workflow_name: str, *, limit: int, offset: int = 0
    ) -> tuple[list[InstanceRow], int]:
        """A page of a workflow's instances, oldest first, and how many it has in all."""
        rows = await self._database.fetch("list_instances", tenant_id, workflow_name, limit, offset, tenant=tenant_id)
        total = await self._database.fetch("count_instances", tenant_id, workflow_name, tenant=tenant_id)
        return [_row(row) for row in rows], int(total[0][0])


def _row(row: tuple[object, ...]) -> InstanceRow:
    """SQLite knows no booleans."""
    found = InstanceRow(*row)  # type: ignore[arg-type]
    return found._replace(params=bytes(found.params), enabled=bool(found.enabled), paused=bool(found.paused))
