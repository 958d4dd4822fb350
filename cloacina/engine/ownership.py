"""The engine's membership among the schedulers of one store: joining, keeping the lease, noticing who is gone.

PostgreSQL is the only arbiter (`cloacina.store.owners`): this only asks it, at every heartbeat and when something hints
at a change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from uuid import uuid4

from cloacina.errors import CloacinaError, Unavailable
from cloacina.store.owners import Owner, OwnerRow, OwnershipLost, OwnerStore

log = logging.getLogger(__name__)

_NOBODY = Owner("", 0)
_SOON_S = 0.5
"""An owner whose lease has lapsed, but who is in the midst of a transaction, is looked at again after so long."""
_LOOK_PAUSE_S = 0.2
"""Hints that come sooner after one another are looked into together."""
_SILENT_HEARTBEATS = 1.5
"""An owner that has not renewed its lease for so many heartbeats, and refuses connections where it says it can be
called, has ended. It need not be waited for as long as its lease: should it live after all, the fence stops it."""
_PROBE_DEADLINE_S = 0.5


class Ownership:
    """The membership of one engine.

    Args:
        store: the arbiter.
        owner_id: identity of the process; a new one if empty.
        target: where its gRPC server can be called, ``host:port``; empty if it cannot.
        lease_s: seconds without renewal after which others take over.
        heartbeat_s: seconds between renewals.
        sole: nobody else can have the store open.
    """

    def __init__(
        self,
        store: OwnerStore,
        owner_id: str = "",
        target: str = "",
        *,
        lease_s: float = 15.0,
        heartbeat_s: float = 5.0,
        sole: bool = True,
    ) -> None:
        self._store = store
        self._owner_id = owner_id or str(uuid4())
        self._target = target
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self.sole = sole
        self._look = asyncio.Event()
        self.owner = _NOBODY
        self.owners: list[OwnerRow] = []
        """All owners, as they were when they were looked at last."""

    @property
    def owner_id(self) -> str:
        """Identity of the process."""
        return self._owner_id

    @property
    def alone(self) -> bool:
        """Whether there is no other owner, as far as is known."""
        return self.sole or len(self.owners) < 2

    @property
    def others(self) -> list[str]:
        """Where the other owners can be called, as far as is known."""
        return [row.target for row in self.owners if row.target and row.owner_id != self._owner_id]

    @property
    def keeps_schedules(self) -> bool:
        """Whether this is the owner that fires the schedules."""
        keeper = self.keeper
        return keeper is not None and keeper.epoch == self.owner.epoch

    @property
    def keeper(self) -> OwnerRow | None:
        """The owner that fires the schedules."""
        return next((row for row in self.owners if row.keeps_schedules), None)

    async def join(self) -> Owner:
        """Becomes an owner, for the first time or again; all that it was before is void.

        Raises:
            Unavailable: the store cannot be written.
        """
        self.owner = await self._store.join(self._owner_id, self._target, lease_s=self._lease_s, sole=self.sole)
        self.owners = await self._store.owners()
        if not self.sole:
            extra = {"owner_id": self._owner_id, "epoch": self.owner.epoch, "owners": len(self.owners)}
            log.info("joined the schedulers of this store", extra=extra)
        return self.owner

    async def was_taken_over(self) -> bool:
        """Whether others have taken over from what it joined as last, however that came to be noticed: a process that
        stood still past its lease may hear first that a commit ran out of time.

        Raises:
            Unavailable: the store cannot be read.
        """
        return self.owner.epoch != 0 and not self.sole and not await self._store.is_current(self.owner)

    async def leave(self) -> None:
        """Gives everything to the others at once. What the store does not hear of lapses with the lease."""
        owner, self.owner = self.owner, _NOBODY
        if owner.epoch:
            with contextlib.suppress(CloacinaError):
                await self._store.leave(owner)

    def look(self) -> None:
        """Somebody may be gone: look soon, not only at the next heartbeat."""
        self._look.set()

    async def refresh(self) -> None:
        """Looks at who is there.

        Raises:
            Unavailable: the store cannot be read.
        """
        self.owners = await self._store.owners()

    async def keep(
        self, adopted: Callable[[list[OwnerRow]], Awaitable[None]], lost: Callable[[OwnershipLost], None]
    ) -> None:
        """Renews the lease, and takes over from those who do not, until cancelled.

        Args:
            adopted: called after a take-over, with the owners that are gone.
            lost: called when others have taken over from this one.
        """
        if self.sole:
            return
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        wait_s = self._heartbeat_s
        unfinished = False  # what was adopted, but could not be loaded
        while True:
            hinted = False
            with contextlib.suppress(TimeoutError):
                hinted = await asyncio.wait_for(self._look.wait(), wait_s)
            await asyncio.sleep(looked_at + _LOOK_PAUSE_S - loop.time())
            looked_at = loop.time()
            self._look.clear()
            owner = self.owner
            wait_s = self._heartbeat_s
            if not owner.epoch:
                continue
            try:
                await self._store.renew(owner, self._lease_s)
                before, self.owners = self.owners, await self._store.owners()
                dead = await self._ended_without_a_word()
                if hinted or unfinished or dead or self._someone_is_gone(before):
                    unfinished = True
                    await self._store.adopt(owner, dead)
                    remaining = await self._store.owners()
                    there = {row.epoch for row in remaining}
                    gone = {row.epoch: row for row in (*before, *self.owners) if row.epoch not in there}
                    self.owners = remaining
                    await adopted(list(gone.values()))
                    unfinished = False
                    if any(row.lapsed for row in remaining):
                        wait_s = _SOON_S
            except OwnershipLost as error:
                if owner == self.owner:
                    lost(error)
            except Unavailable as error:
                log.warning("the lease of this scheduler could not be renewed", extra={"error": error.message})
                wait_s = min(_SOON_S, self._heartbeat_s)
            except Exception:
                log.exception("the ownership could not be kept")
                wait_s = min(_SOON_S, self._heartbeat_s)

    def _someone_is_gone(self, before: list[OwnerRow]) -> bool:
        there = {row.epoch for row in self.owners}
        left = any(row.epoch not in there for row in before)
        return left or self.keeper is None or any(row.lapsed for row in self.owners)

    async def _ended_without_a_word(self) -> list[OwnerRow]:
        """Owners that are gone though their leases have not lapsed yet: killed, say."""
        silent = [
            row
            for row in self.owners
            if row.target
            and row.epoch != self.owner.epoch
            and row.silent_s(self._lease_s) > _SILENT_HEARTBEATS * self._heartbeat_s
        ]
        refused = await asyncio.gather(*(_refuses_connections(row.target) for row in silent))
        dead = [row for row, refuses in zip(silent, refused, strict=True) if refuses]
        for row in dead:
            log.warning(
                "a scheduler is silent and refuses connections: it has ended",
                extra={"owner_id": row.owner_id, "epoch": row.epoch, "target": row.target},
            )
        return dead


async def _refuses_connections(target: str) -> bool:
    """Whether the machine at ``host:port`` says that nobody listens there. A way there that is broken says nothing."""
    host, _, port = target.rpartition(":")
    try:
        async with asyncio.timeout(_PROBE_DEADLINE_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):  # a TimeoutError is an OSError
        return False
    writer.close()
    return False
