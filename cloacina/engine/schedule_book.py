"""The schedules of one store as they are: looking at them, and changing them inside group commits.

Memory changes inside the group that writes the change, and is loaded again when the commit fails.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

import orjson

from cloacina.domain.cron import CronExpression
from cloacina.domain.schedules import CatchUp, PollInterval, Schedule, ScheduleKind, planned, resumed
from cloacina.engine.engine import Engine
from cloacina.engine.firings import workflows_of
from cloacina.engine.work import GroupWork
from cloacina.errors import CloacinaError, Conflict, InvalidRequest, NotFound
from cloacina.store.schedules import ScheduleRow
from cloacina.telemetry import scope

log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """A schedule as somebody wants it: a trigger of a package, or one that was registered.

    Args:
        name: unique within the tenant.
        kind: what it is.
        workflows: what it starts; the first is the main one.
        cron, timezone: with the kind ``cron``.
        poll_interval_ms: with the kind ``trigger``.
        allow_concurrent: whether it starts a workflow while one that it started with the same context is unfinished.
        source: see `cloacina.store.schedules.ScheduleRow`.
        package_id, package_digest: the package that declares it.
        catch_up, catch_up_cap: see `cloacina.domain.schedules.Schedule`.
        params: JSON object that is part of every execution's input, and whose values nothing gives others.
    """

    name: str
    kind: ScheduleKind
    workflows: tuple[str, ...]
    cron: str | None = None
    timezone: str | None = None
    poll_interval_ms: int | None = None
    allow_concurrent: bool = False
    source: str = ""
    package_id: str = ""
    package_digest: str = ""
    catch_up: CatchUp = CatchUp.SKIP
    catch_up_cap: int = 100
    params: bytes | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """A schedule in memory.

    Args:
        row: as it is; it may be ahead of the store in what polls change.
        stored: as it is in the store once what has been decided so far is written.
        cadence: when it is due; ``None`` when what is stored cannot be read.
        deciding: a group that decides on it is under way.
    """

    row: ScheduleRow
    stored: ScheduleRow
    cadence: CronExpression | PollInterval | None
    deciding: bool = False

    @property
    def paused(self) -> bool:
        return self.row.paused_at is not None

    def schedule(self) -> Schedule:
        """For the core."""
        assert self.cadence is not None
        row = self.row
        return Schedule(
            id=row.schedule_id,
            tenant=row.tenant_id,
            workflow=workflows_of(row)[0],
            cadence=self.cadence,
            catch_up=CatchUp(row.catch_up),
            catch_up_cap=row.catch_up_cap,
            paused=self.paused,
            next_run_at=row.next_run_at,
            last_run_at=row.last_run_at,
        )


class ScheduleBook:
    """All schedules of a store.

    Args:
        engine: whose commits write them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._entries: dict[str, Entry] = {}
        self._by_name: dict[tuple[str, str], Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def _take_up(self, rows: Sequence[ScheduleRow]) -> None:
        """Begins again with what the store says."""
        self._entries.clear()
        self._by_name.clear()
        for row in rows:
            self._keep(Entry(row, row, _cadence_of(row)))

    def _arm(self, entry: Entry) -> None:
        """A schedule is durable as it is now: what fires it is to know."""
        raise NotImplementedError

    # Looking

    def of_tenant(self, tenant_id: str, kind: ScheduleKind | None = None) -> list[ScheduleRow]:
        """The schedules of a tenant, by name."""
        rows = (entry.row for entry in self._entries.values())
        mine = [row for row in rows if row.tenant_id == tenant_id and kind in (None, row.kind)]
        return sorted(mine, key=lambda row: row.name)

    def find(self, tenant_id: str, name: str) -> ScheduleRow:
        """The schedule of this name, or else the first that starts a workflow of this name.

        Raises:
            NotFound: there is none.
        """
        entry = self._by_name.get((tenant_id, name))
        if entry is not None:
            return entry.row
        for row in self.of_tenant(tenant_id):
            if name in workflows_of(row):
                return row
        raise _no_trigger(name)

    def get(self, schedule_id: str) -> ScheduleRow | None:
        """The schedule of this id."""
        entry = self._entries.get(schedule_id)
        return None if entry is None else entry.row

    # Changing

    async def follow(self, wanted: Mapping[tuple[str, str], Sequence[Wanted]], *, complete: bool) -> None:
        """Makes the schedules of packages what their packages declare. One that stays keeps its past and, unless its
        cadence changed, its next instant.

        Args:
            wanted: by tenant and source.
            complete: whether schedules of every other source are to go.

        Raises:
            Unavailable: the store cannot be written.
        """
        await self._engine.transact(lambda work: self._follow(work, wanted, complete))

    async def register(self, tenant_id: str, wanted: Wanted, *, schedule_id: str | None = None) -> ScheduleRow:
        """Adds a schedule.

        Args:
            tenant_id: whose.
            wanted: what it is.
            schedule_id: a UUID of the caller's; ``None`` for a new one.

        Raises:
            InvalidRequest: it cannot be read, or would never fire.
            Conflict: the tenant has one of this name.
            Unavailable: the store cannot be written.
        """
        entry = await self._engine.transact(lambda work: self._register(work, tenant_id, wanted, schedule_id))
        return entry.row

    async def set_cadence(self, schedule_id: str, cron: str, timezone: str) -> ScheduleRow:
        """Gives a cron schedule other times.

        Raises:
            InvalidRequest: they cannot be read, or never come.
            NotFound: there is no such schedule.
            Unavailable: the store cannot be written.
        """

        def apply(work: GroupWork) -> Entry:
            entry = self._entry(schedule_id)
            if entry.row.kind != ScheduleKind.CRON:
                raise InvalidRequest(f"schedule {entry.row.name!r} is no cron schedule")
            row = entry.row._replace(cron=cron, timezone=timezone)
            cadence = _read_cadence(row)
            row = row._replace(next_run_at=_first(cadence, row, work.now))
            entry.cadence = cadence
            self._write(work, entry, row)
            return entry

        return (await self._engine.transact(apply)).row

    async def set_paused(self, schedule_id: str, paused: bool) -> ScheduleRow:
        """Pauses or resumes a schedule. What came due in the pause is not caught up.

        Raises:
            NotFound: there is no such schedule.
            Unavailable: the store cannot be written.
        """

        def apply(work: GroupWork) -> Entry:
            entry = self._entry(schedule_id)
            if paused and not entry.paused:
                self._write(work, entry, entry.row._replace(paused_at=work.now))
            elif not paused and entry.paused:
                next_run_at = None if entry.cadence is None else resumed(entry.schedule(), work.now).next_run_at
                self._write(work, entry, entry.row._replace(paused_at=None, next_run_at=next_run_at))
            return entry

        return (await self._engine.transact(apply)).row

    async def remove(self, schedule_id: str) -> None:
        """Takes a schedule out; executions that it started go on.

        Raises:
            NotFound: there is no such schedule.
            Unavailable: the store cannot be written.
        """
        await self._engine.transact(lambda work: self._forget(work, self._entry(schedule_id)))

    def _follow(self, work: GroupWork, wanted: Mapping[tuple[str, str], Sequence[Wanted]], complete: bool) -> None:
        named = {(tenant_id, each.name): each for (tenant_id, _), all_of in wanted.items() for each in all_of}
        for entry in list(self._entries.values()):
            row = entry.row
            concerned = row.source and (complete or (row.tenant_id, row.source) in wanted)
            if concerned and (row.tenant_id, row.name) not in named:
                self._forget(work, entry)
        for (tenant_id, name), each in named.items():
            entry_now = self._by_name.get((tenant_id, name))
            if entry_now is not None and entry_now.row.kind == each.kind:
                self._adopt(work, entry_now, each)
                continue
            if entry_now is not None:
                self._forget(work, entry_now)
            try:
                self._register(work, tenant_id, each)
            except CloacinaError as error:
                with scope.bind(tenant_id=tenant_id, workflow_name=each.workflows[0], package_id=each.package_id):
                    log.error("a trigger cannot be scheduled", extra={"schedule": name, "error": error.message})

    def _register(self, work: GroupWork, tenant_id: str, wanted: Wanted, schedule_id: str | None = None) -> Entry:
        if (tenant_id, wanted.name) in self._by_name:
            raise Conflict(f"there is a schedule {wanted.name!r} already")
        row = ScheduleRow(
            schedule_id=schedule_id or str(uuid4()),
            tenant_id=tenant_id,
            name=wanted.name,
            paused_at=None,
            next_run_at=None,
            last_run_at=None,
            last_poll_at=None,
            last_outcome=None,
            last_error=None,
            created_at=work.now,
            updated_at=work.now,
            **_declared(wanted),
        )
        cadence = _read_cadence(row)
        # a trigger is polled at once, a cron schedule waits for its time
        first = _first(cadence, row, work.now) if wanted.kind is ScheduleKind.CRON else work.now
        row = row._replace(next_run_at=first)
        entry = Entry(row, row, cadence)
        self._keep(entry)
        work.set_schedule(row.schedule_id, None, entry.row)
        work.afterwards.append(lambda: self._arm(entry))
        return entry

    def _adopt(self, work: GroupWork, entry: Entry, wanted: Wanted) -> None:
        """A schedule that is there already, as its package declares it now."""
        before = entry.row
        row = before._replace(**_declared(wanted))
        if row == before:
            return
        same = (row.cron, row.timezone, row.poll_interval_ms) == (
            before.cron,
            before.timezone,
            before.poll_interval_ms,
        )
        if not same or entry.cadence is None:
            try:
                entry.cadence = _read_cadence(row)
                row = row._replace(next_run_at=_first(entry.cadence, row, work.now))
            except InvalidRequest as error:
                entry.cadence = None
                row = row._replace(next_run_at=None, last_error=error.message)
        self._write(work, entry, row)

    def _write(self, work: GroupWork, entry: Entry, row: ScheduleRow) -> None:
        """The schedule as it is to be, in memory and in the store."""
        self._set(work, entry, row._replace(updated_at=work.now))
        work.afterwards.append(lambda: self._arm(entry))

    def _set(self, work: GroupWork, entry: Entry, row: ScheduleRow) -> None:
        work.set_schedule(row.schedule_id, entry.stored, row)
        entry.row = entry.stored = row

    def _forget(self, work: GroupWork, entry: Entry) -> None:
        row = entry.row
        del self._entries[row.schedule_id]
        del self._by_name[row.tenant_id, row.name]
        work.set_schedule(row.schedule_id, entry.stored, None)

    def _keep(self, entry: Entry) -> None:
        self._entries[entry.row.schedule_id] = entry
        self._by_name[entry.row.tenant_id, entry.row.name] = entry

    def _entry(self, schedule_id: str) -> Entry:
        entry = self._entries.get(schedule_id)
        if entry is None:
            raise _no_trigger(schedule_id)
        return entry


def _declared(wanted: Wanted) -> dict[str, Any]:
    """The columns that say what a schedule is."""
    return {
        "kind": wanted.kind.value,
        "workflows": orjson.dumps(wanted.workflows).decode(),
        "source": wanted.source,
        "package_id": wanted.package_id,
        "package_digest": wanted.package_digest,
        "cron": wanted.cron,
        "timezone": wanted.timezone,
        "poll_interval_ms": wanted.poll_interval_ms,
        "allow_concurrent": wanted.allow_concurrent,
        "catch_up": wanted.catch_up.value,
        "catch_up_cap": wanted.catch_up_cap,
        "params": wanted.params,
    }


def _read_cadence(row: ScheduleRow) -> CronExpression | PollInterval:
    try:
        if row.kind == ScheduleKind.TRIGGER:
            return PollInterval((row.poll_interval_ms or 0) * 1000, row.created_at)
        return CronExpression.parse(row.cron or "", row.timezone or "UTC")
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _cadence_of(row: ScheduleRow) -> CronExpression | PollInterval | None:
    """Of a row that is stored: what could be read then may be unreadable now, such as a time zone that is gone."""
    try:
        return _read_cadence(row)
    except InvalidRequest as error:
        with scope.bind(**ids_of(row)):
            log.error(
                "a stored schedule cannot be read; it does not fire", extra={"schedule": row.name, "error": error}
            )
        return None


def _first(cadence: CronExpression | PollInterval, row: ScheduleRow, now: int) -> int:
    """The next instant of a schedule whose times are new."""
    schedule = Schedule(row.schedule_id, row.tenant_id, workflows_of(row)[0], cadence, last_run_at=row.last_run_at)
    found = planned(schedule, now).next_run_at
    if found is None:
        raise InvalidRequest(f"the cron expression {row.cron!r} never fires")
    return found


def ids_of(row: ScheduleRow, request_id: str | None = None) -> dict[str, str | None]:
    """Its ids, for the scope."""
    return {
        "request_id": request_id,
        "tenant_id": row.tenant_id,
        "package_id": row.package_id or None,
        "workflow_name": workflows_of(row)[0],
    }


def _no_trigger(name: str) -> NotFound:
    return NotFound(f"there is no trigger {name[:128]!r}", code="trigger_not_found")
