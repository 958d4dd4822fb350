"""Log lines that are kept with their executions, in the scheduler's store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cloacina.store.database import Database, Statement, StoreConflict

_TRIES = 12
_PAUSE_S = 0.01
_LARGE_BYTES = 16 << 10
"""Whether there is room left is looked up only for executions that gave so much at once."""


class LogChunk(NamedTuple):
    """Some lines of an execution.

    Args:
        execution_id: which.
        tenant_id: whose it must be; empty for anybody's.
        lines: JSON objects, each ended by a line break.
    """

    execution_id: str
    tenant_id: str
    lines: str


class StoredChunk(NamedTuple):
    """Lines as they were stored; `number` counts from 1 within their execution."""

    number: int
    lines: str


class AttemptEvent(NamedTuple):
    """An event by which a task's next attempt begins, or its first one again."""

    task_name: str
    event_type: str
    data: str | None


class ExecutionLogStore:
    """The lines of executions, a bounded size of each.

    Args:
        database: an opened database of the store "scheduler".
        room: bytes of lines of one execution, about: the last chunk may go beyond.
    """

    def __init__(self, database: Database, room: int) -> None:
        self._database = database
        self._room = room

    async def append(self, batch: str, chunks: Sequence[LogChunk], closing: Callable[[LogChunk], str]) -> list[str]:
        """Stores lines behind those that are there; none of executions that do not exist, are another tenant's or have
        no room, and none of a batch that is there already.

        Args:
            batch: a name that no other batch has.
            chunks: each execution once.
            closing: makes the line behind the last one that there is room for.

        Returns:
            Ids of executions that have no more room, among those that gave much.

        Raises:
            StoreUnavailable: nothing was stored, or that is not known.
            StoreConflict: nothing was stored; other schedulers stored lines of the same executions all the time.
        """
        if not self._room:
            return [each.execution_id for each in chunks]
        rows = [
            (each.execution_id, each.tenant_id, batch, len(each.lines.encode()), self._room, each.lines, closing(each))
            for each in sorted(chunks)  # in one order: two that write the same executions do not wait for each other
        ]
        for tried in range(1, _TRIES + 1):
            try:
                await self._database.write([Statement("append_log_chunk", rows)])
                break
            except StoreConflict:  # another scheduler has just stored the next chunk of one of them
                if tried == _TRIES:
                    raise
                await asyncio.sleep(random.random() * _PAUSE_S * tried)  # noqa: S311 - so that they do not meet again
        large = [row[0] for row in rows if row[3] >= min(_LARGE_BYTES, self._room)]
        return [each for each in large if await self._database.fetch("full_log", each, self._room)]

    async def chunks(self, tenant_id: str, execution_id: str, *, first: int, limit: int) -> list[StoredChunk]:
        """A tenant's execution's chunks, from a number on."""
        rows = await self._database.fetch("log_chunks", execution_id, tenant_id, first, limit, tenant=tenant_id)
        return [StoredChunk(*row) for row in rows]

    async def attempts_ended(self, tenant_id: str, execution_id: str, up_to: int) -> list[AttemptEvent]:
        """What says at which attempt each task of a tenant's execution was after an event, oldest first."""
        rows = await self._database.fetch("attempts_ended", execution_id, tenant_id, up_to, tenant=tenant_id)
        return [AttemptEvent(*row) for row in rows]
