"""What retention reads and deletes in the scheduler's store. It touches only what has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cloacina.store.database import Database, Statement

Cursor = tuple[int, str]
"""created_at and id of an execution: a place in a tenant's history."""

HISTORY_BEGINS: Cursor = (-1, "")


class Ended(NamedTuple):
    """An execution that can be deleted, with how many rows it has, and bytes of log lines."""

    execution_id: str
    events: int
    tasks: int
    log_bytes: int = 0


class RetentionStore:
    """Finds what is old or superfluous, and deletes it; every call is one small read or one transaction.

    Args:
        database: an opened database of the store "scheduler".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # Finding. Times are microseconds since the epoch; an execution's id begins with the time of its creation.

    async def expired(self, before: int, *, after: str, limit: int) -> list[Ended]:
        """Executions that ended before a time, by id, behind the id `after`."""
        rows = await self._database.fetch("expired_executions", after, _id_bound(before), before, limit)
        return [Ended(*row) for row in rows]

    async def expired_events(self, before: int, *, after: str, limit: int) -> list[Ended]:
        """Executions that ended before a time and have events; the tasks are not counted."""
        rows = await self._database.fetch("expired_events", after, _id_bound(before), before, limit)
        return [Ended(execution_id, events, 0) for execution_id, events in rows]

    async def count_expired(self, before: int) -> int:
        """How many executions ended before a time."""
        return int((await self._database.fetch("count_expired_executions", _id_bound(before), before))[0][0])

    async def count_expired_events(self, before: int) -> int:
        """How many events those have."""
        return int((await self._database.fetch("count_expired_events", _id_bound(before), before))[0][0])

    async def tenants(self) -> list[str]:
        """Tenants that have executions."""
        return [str(row[0]) for row in await self._database.fetch("tenants_with_executions")]

    async def newest_beyond(self, tenant_id: str, kept: int) -> Cursor | None:
        """The tenant's newest execution that is not among its `kept` newest; ``None`` when there is none."""
        rows = await self._database.fetch("newest_beyond", tenant_id, kept, tenant=tenant_id)
        return (int(rows[0][0]), str(rows[0][1])) if rows else None

    async def superfluous(
        self, tenant_id: str, newest: Cursor, *, after: Cursor, limit: int
    ) -> tuple[list[Ended], Cursor]:
        """A tenant's executions that have ended, behind `after` and up to `newest`; and where the next ones begin."""
        rows = await self._database.fetch("superfluous_executions", tenant_id, *after, *newest, limit, tenant=tenant_id)
        return [Ended(*row[:4]) for row in rows], (int(rows[-1][4]), str(rows[-1][0])) if rows else after

    async def expired_firings(self, before: int, limit: int) -> list[str]:
        """Keys of firings before a time that started nothing."""
        return [str(row[0]) for row in await self._database.fetch("expired_firings", before, limit)]

    async def lapsed_keys(self, before: int, limit: int) -> list[tuple[str, str, str]]:
        """Idempotency keys of deleted executions that were created before a time."""
        return [(row[0], row[1], row[2]) for row in await self._database.fetch("lapsed_keys", before, limit)]

    # Deleting

    async def delete(self, execution_ids: Sequence[str]) -> None:
        """Deletes executions with tasks, events, log lines and firings; their idempotency keys stay taken.

        Raises:
            StoreConflict: nothing was deleted; one of them does not exist any more, or has not ended.
            StoreUnavailable: nothing was deleted.
        """
        rows = [(execution_id,) for execution_id in execution_ids]
        await self._database.write(
            [
                Statement("retire_key", rows),
                Statement("delete_ended_execution", rows, expect=len(rows)),
                Statement("delete_tasks", rows),
                Statement("delete_events", rows),
                Statement("delete_logs", rows),
                Statement("delete_firings_of_execution", rows),
            ]
        )

    async def delete_events(self, execution_ids: Sequence[str]) -> None:
        """Deletes all events of executions."""
        await self._database.write([Statement("delete_events", [(execution_id,) for execution_id in execution_ids])])

    async def delete_events_up_to(self, execution_id: str, sequence: int) -> None:
        """Deletes an execution's first events."""
        await self._database.write([Statement("delete_events_up_to", [(execution_id, sequence)])])

    async def delete_firings(self, keys: Sequence[str]) -> None:
        """Deletes firings."""
        await self._database.write([Statement("delete_firing", [(key,) for key in keys])])

    async def delete_keys(self, keys: Sequence[tuple[str, str, str]]) -> None:
        """Frees idempotency keys of deleted executions."""
        await self._database.write([Statement("delete_retired_key", keys)])


def _id_bound(at: int) -> str:
    """What sorts behind the id of every execution that was created before a time, to the millisecond."""
    milliseconds = f"{max(at, 0) // 1000 + 1:012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}"
