"""Which revision of what is valid the store holds now: what lets gateways remember keys and still refuse, on the next
request, what another gateway revoked."""

from __future__ import annotations

import asyncio

from cloacina.errors import Unavailable
from cloacina.store.identity import IdentityStore

DEADLINE_S = 5.0
"""Seconds the store has to answer. Without an answer nothing is believed."""


class AccessRevision:
    """Tells the current revision, never one that is older than the question.

    On SQLite that costs a look at shared memory. On PostgreSQL it is a query, which all requests share that arrive
    while the one before is on its way: the more there are, the less each costs.

    Args:
        identity: the store.
    """

    def __init__(self, identity: IdentityStore) -> None:
        self._identity = identity
        self._version: int | None = None
        self._revision = -1
        self._running: asyncio.Task[int] | None = None
        self._next: asyncio.Task[int] | None = None

    async def current(self) -> int:
        """The revision.

        Raises:
            Unavailable: the store cannot be read, or does not answer.
        """
        version = self._identity.data_version()
        if version is not None and version == self._version:
            return self._revision
        if self._next is None:
            self._next = asyncio.create_task(self._read(self._running), name="read the access revision")
            self._next.add_done_callback(_noticed)
        return await asyncio.shield(self._next)

    async def _read(self, before: asyncio.Task[int] | None) -> int:
        if before is not None and not before.done():
            await asyncio.wait((before,))  # it may have read before those who wait for this one asked
        self._running, self._next = self._next, None
        version = self._identity.data_version()  # first: what is written meanwhile is looked at again
        try:
            async with asyncio.timeout(DEADLINE_S):
                revision = await self._identity.access_revision()
        except TimeoutError:
            raise Unavailable("the identity store does not answer") from None
        self._version, self._revision = version, revision
        return revision


def _noticed(task: asyncio.Task[int]) -> None:
    if not task.cancelled():
        task.exception()  # every caller may have gone: then nobody else takes it
