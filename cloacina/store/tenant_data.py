"""Deleting all that a store has of a tenant, for ever, in transactions of a bounded size."""

from __future__ import annotations

from cloacina.store.database import Database, Statement

_EXECUTIONS = 500
"""Executions that one transaction deletes, with their tasks, events and log lines: other writers wait no longer than
for these."""


class TenantExecutions:
    """What the scheduler's store has of a tenant.

    Args:
        database: an opened database of the store "scheduler".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def unfinished(self, tenant_id: str) -> int:
        """Executions that have not ended."""
        return int((await self._database.fetch("tenant_unfinished", tenant_id, tenant=tenant_id))[0][0])

    async def drop(self, tenant_id: str) -> int:
        """Deletes it; what was deleted before, by a drop that broke off, stays so.

        Returns:
            The executions that it deleted.

        Raises:
            StoreUnavailable: the rest is still there; to be called again.
        """
        deleted = 0
        while rows := await self._database.fetch("tenant_executions", tenant_id, _EXECUTIONS, tenant=tenant_id):
            ids = [(row[0],) for row in rows]
            await self._database.write(
                [
                    Statement("tenant_delete_events", ids),
                    Statement("tenant_delete_tasks", ids),
                    Statement("tenant_delete_logs", ids),
                    Statement("tenant_delete_execution", ids),
                ]
            )
            deleted += len(ids)
        rest = (
            "tenant_delete_firings",
            "tenant_delete_schedules",
            "tenant_delete_instances",
            "tenant_delete_definitions",
            "tenant_delete_retired_keys",
        )
        await self._database.write([Statement(query, [(tenant_id,)]) for query in rest])
        return deleted


class TenantRegistry:
    """What the reconciler's store has of a tenant.

    Args:
        database: an opened database of the store "registry".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def drop(self, tenant_id: str) -> int:
        """Deletes packages, secrets, pauses and signing keys, and the archives that no other tenant has.

        Returns:
            The packages and secrets that it deleted.
        """
        ((packages, secrets),) = await self._database.fetch(
            "tenant_registry_size", tenant_id, tenant_id, tenant=tenant_id
        )
        await self._database.write(
            [
                Statement("tenant_delete_artifacts", [(tenant_id, tenant_id)]),
                *(
                    Statement(query, [(tenant_id,)])
                    for query in (
                        "tenant_delete_packages",
                        "tenant_delete_secrets",
                        "tenant_delete_pauses",
                        "tenant_delete_signing_keys",
                    )
                ),
            ]
        )
        return int(packages) + int(secrets)
