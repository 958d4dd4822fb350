"""Who owns executions: scheduler processes with leases, in the scheduler's store.

An owner joins under an epoch that nobody had before. Every transaction of its begins with the statement that `fence`
gives, which finds no row once others have given the owner up: what was decided before that is never written after it.
All that changes owners takes turns on one row, and adopts with one statement whatever then belongs to no owner. Leases
are counted on the database's clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cloacina.store.database import Database, Statement, StoreConflict, StoreUnavailable


class OwnershipLost(StoreUnavailable):
    """The lease lapsed and others took over: nothing of the transaction happened, here nor later."""

    default_code = "ownership_lost"


class Owner(NamedTuple):
    """A scheduler process, as its transactions name it.

    Args:
        owner_id: identity of the process.
        epoch: of its present membership; grows with each.
    """

    owner_id: str
    epoch: int


class OwnerRow(NamedTuple):
    """An owner as others see it.

    Args:
        owner_id, epoch: see `Owner`.
        target: where its gRPC server is, ``host:port``; empty when nobody can call it.
        joined_at, lease_ends, seen_at: microseconds since the epoch, on the database's clock; the last is when this row
            was read.
        keeps_schedules: whether it is the one that fires schedules.
    """

    owner_id: str
    epoch: int
    target: str
    joined_at: int
    lease_ends: int
    seen_at: int
    keeps_schedules: bool

    @property
    def lapsed(self) -> bool:
        """Whether its lease had lapsed."""
        return self.lease_ends <= self.seen_at

    def silent_s(self, lease_s: float) -> float:
        """Seconds since it renewed its lease last, if that is as long as `lease_s`."""
        return lease_s - (self.lease_ends - self.seen_at) / 1e6


class ExecutionOwner(NamedTuple):
    """Whose an execution is.

    Args:
        epoch: of its owner, present or last.
        owner_id, target: who that is; empty when it is nobody any more.
        ended: whether the execution has ended.
    """

    epoch: int
    owner_id: str
    target: str
    ended: bool


def fence(owner: Owner) -> Statement:
    """The first statement of every transaction of an owner."""
    return Statement("check_owner", [owner], expect=1)


class OwnerStore:
    """Joining, leaving, adopting.

    Args:
        database: an opened database of the store "scheduler".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def join(self, owner_id: str = "", target: str = "", *, lease_s: float = 15.0, sole: bool = False) -> Owner:
        """Becomes an owner, under a new epoch, and adopts what belongs to nobody: also what was its own before.

        Args:
            owner_id: identity of the process.
            target: where it can be called; an owner that was there before has ended.
            lease_s: seconds until others take over unless it is renewed.
            sole: the process has the store to itself: every other owner has ended.

        Raises:
            StoreUnavailable: the database cannot be written.
        """
        gone = Statement("delete_other_owners", [(owner_id,)])
        if not sole:
            gone = Statement("delete_predecessors", [(target, owner_id)] if target else [])
        statements = [
            Statement("raise_epoch", [("claims",)], expect=1),
            Statement("join_owner", [(owner_id, target, int(lease_s * 1e6))]),
            gone,
            *_adoption(owner_id),
        ]
        await self._database.write([statement for statement in statements if statement.rows])
        rows = await self._database.fetch("owner_epoch", owner_id)
        return Owner(owner_id, int(rows[0][0]))

    async def adopt(self, owner: Owner, dead: Iterable[OwnerRow] = ()) -> None:
        """Takes over from owners whose leases have lapsed, in one transaction.

        Args:
            owner: who takes over.
            dead: others that are known to have ended, unless they have renewed their leases since.

        Raises:
            OwnershipLost: its own has.
            StoreUnavailable: the database cannot be written.
        """
        given_up = [(row.epoch, row.lease_ends) for row in dead]
        statements = [
            Statement("raise_epoch", [("claims",)], expect=1),
            fence(owner),
            *([Statement("give_up_owner", given_up)] if given_up else []),
            *_adoption(owner.owner_id),
        ]
        await self._write(owner, statements)

    async def renew(self, owner: Owner, lease_s: float) -> None:
        """Renews the lease.

        Raises:
            OwnershipLost: others have taken over.
            StoreUnavailable: the database cannot be written.
        """
        renewal = Statement("renew_owner", [(int(lease_s * 1e6), *owner)], expect=1)
        await self._write(owner, [renewal])

    async def leave(self, owner: Owner) -> None:
        """Is no owner any more: whoever looks next adopts what it leaves behind.

        Raises:
            StoreUnavailable: the database cannot be written.
        """
        await self._database.write([Statement("leave_owner", [owner])])

    async def owners(self) -> list[OwnerRow]:
        """All owners, the eldest first."""
        rows = await self._database.fetch("owners")
        return [
            OwnerRow(owner_id, epoch, target, joined_at, lease_ends, seen_at, bool(keeps))
            for owner_id, epoch, target, joined_at, lease_ends, seen_at, keeps in rows
        ]

    async def owner_of(self, tenant_id: str, execution_id: str) -> ExecutionOwner | None:
        """Whose an execution of a tenant is; ``None`` when there is no such execution."""
        rows = await self._database.fetch("owner_of_execution", execution_id, tenant_id, tenant=tenant_id)
        if not rows:
            return None
        epoch, owner_id, target, finished_at = rows[0]
        return ExecutionOwner(int(epoch), owner_id or "", target or "", finished_at is not None)

    async def last_adoption(self, owner: Owner) -> int:
        """The number of its last adoption, which is larger than every epoch and number before it."""
        rows = await self._database.fetch("last_adoption", owner.epoch)
        return int(rows[0][0]) if rows else owner.epoch

    async def is_current(self, owner: Owner) -> bool:
        """Whether nobody has taken over from it."""
        rows = await self._database.fetch("owner_epoch", owner.owner_id)
        return bool(rows) and int(rows[0][0]) == owner.epoch

    async def _write(self, owner: Owner, statements: list[Statement]) -> None:
        try:
            await self._database.write(statements)
        except StoreConflict as error:
            raise await self.explain_conflict(owner, error) from error

    async def explain_conflict(self, owner: Owner, conflict: StoreConflict) -> StoreConflict | OwnershipLost:
        """What a conflict in a transaction of an owner is: often that it is none any more."""
        if await self.is_current(owner):
            return conflict
        return OwnershipLost("another scheduler has taken over what this one owned; try again")


def _adoption(owner_id: str) -> list[Statement]:
    return [
        Statement("delete_lapsed_owners", [(owner_id,)]),
        Statement("number_adoption", [(owner_id,)], expect=1),
        Statement("adopt_executions", [(owner_id,)]),
        Statement("adopt_schedules", [(owner_id,)]),
        Statement("delete_executors_of_nobody", [()]),
    ]
