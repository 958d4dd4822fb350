"""The loop that fires the schedules of one store.

One timer is set to the next instant that is due; nothing is polled. What is due is decided inside a group commit, which
writes the schedule, the executions it starts and the record of the firing together, on condition that the schedule's
`next_run_at` is still what was read. So a crash loses no firing and repeats none. Memory changes inside the group, too,
and is loaded again when the commit fails.

Polls of triggers are not durable: a poll that says "not now" writes nothing. Their intervals are counted on the
monotonic clock, so a step of the wall clock does not silence them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson

from cloacina.domain.schedules import (
    FireOutcome,
    Firing,
    PollInterval,
    ScheduleKind,
    decide_due,
)
from cloacina.engine.engine import Engine, wall_clock
from cloacina.engine.firings import (
    Start,
    Workflows,
    cron_values,
    hash_of,
    kind_of,
    prepare,
    start_all,
    trigger_values,
    workflows_of,
)
from cloacina.engine.model import Origin, PollAnswer, PollOrder
from cloacina.engine.polls import Poll, Polls
from cloacina.engine.schedule_book import Entry, ScheduleBook, ids_of
from cloacina.engine.schedule_metrics import ScheduleMetrics
from cloacina.engine.timers import DueTimers
from cloacina.engine.work import GroupWork
from cloacina.errors import CloacinaError, Internal, InvalidRequest, Unavailable
from cloacina.store.schedules import FiringRow, ScheduleRow, ScheduleStore
from cloacina.telemetry import scope, tracing

log = logging.getLogger(__name__)

_AGAIN_US = 1_000_000
"""What could not be decided, or stored, is tried again after so long."""

_AFTER_DEFECT_US = 60_000_000
"""A firing that runs into a defect of ours resets the engine: not more often than this."""

_ANSWER_GRACE_S = 5.0
"""Seconds beyond a poll's timeout for its answer to come."""


class Schedules(ScheduleBook):
    """The schedules of a store (also the engine's `Companion`).

    Args:
        engine: whose commits write them, and whose executors poll.
        store: reads them.
        workflows: what they start.
        metrics: what firings are counted in.
        poll_timeout_s: seconds that a trigger's function may take.
        clock: the wall clock, microseconds since the epoch.
        kept: called when this becomes the scheduler that keeps the schedules: to bring them up to date, and to start.
    """

    def __init__(
        self,
        engine: Engine,
        store: ScheduleStore,
        workflows: Workflows,
        metrics: ScheduleMetrics,
        *,
        poll_timeout_s: float = 30.0,
        clock: Callable[[], int] = wall_clock,
        kept: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        super().__init__(engine)
        self._store = store
        self._workflows = workflows
        self._metrics = metrics
        self._poll_timeout_s = poll_timeout_s
        self._now = clock
        self._started: dict[str, dict[str, str]] = {}
        """Executions by schedule that may be unfinished, with the hash of their context."""
        self._crons = DueTimers(clock, self._cron_due)
        self._intervals = DueTimers(_monotonic_us, self._poll_due)
        self._polls = Polls(poll_timeout_s + _ANSWER_GRACE_S, self._silent)
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = self._stopped = False
        self._kept = kept
        self._keeping = False
        engine.attach(self)

    @property
    def kept_here(self) -> bool:
        """Whether this is the one scheduler of the store that keeps the schedules. The others know of none."""
        return self._keeping

    async def load(self) -> None:
        """Takes up what the store says, if it is for this scheduler to keep."""
        before, self._keeping = self._keeping, self._engine.ownership.keeps_schedules
        if not self._keeping:
            self._take_up([])
            self._started.clear()
            self._running = False
            self._arm_all()
            return
        await self._load_kept()
        if not before and self._kept is not None:
            self._later(self._kept())

    async def adopted(self) -> None:
        """The engine has taken over from others: perhaps the schedules, perhaps executions that they started."""
        if self._keeping:
            await self._load_started()
        elif self._engine.ownership.keeps_schedules:
            await self.load()

    async def _load_kept(self) -> None:
        self._take_up(await self._store.load())
        self._started.clear()
        await self._load_started()
        if self._running:
            self._arm_all()

    async def _load_started(self) -> None:
        for firing in await self._store.load_live_firings():
            if firing.context_hash is not None:
                self._started.setdefault(firing.schedule_id, {})[firing.execution_id] = firing.context_hash

    def start(self) -> None:
        """Begins to fire. Until then schedules can be looked at and changed."""
        if not self._running and not self._stopped:
            self._running = True
            self._arm_all()

    async def stop(self) -> None:
        """Fires nothing more, for good."""
        self._running, self._stopped = False, True
        self._crons.clear()
        self._intervals.clear()
        self._polls.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def fire(self, schedule_id: str, event: Mapping[str, Any], origin: Origin) -> list[tuple[str, str]]:
        """Starts its workflows now, whatever is due.

        Args:
            schedule_id: which.
            event: values for the executions' input.
            origin: the request that asks for it.

        Returns:
            Workflows and executions.

        Raises:
            NotFound: there is no such schedule, or none of its workflows.
            InvalidRequest: the event does not fit their params (code ``trigger_event_invalid``).
            Unavailable: the store cannot be written.
        """

        def apply(work: GroupWork) -> list[FiringRow]:
            entry = self._entry(schedule_id)
            row = entry.row
            starts = prepare(self._workflows, row, event, trigger_values(row, work.now, manual=True))
            wrong = next((start.error for start in starts if start.definition is None), None)
            if wrong is not None:
                raise InvalidRequest(f"trigger {row.name!r} cannot be fired: {wrong}", code="trigger_event_invalid")
            key = f"manual:{uuid4()}"
            return start_all(
                work,
                self._engine,
                row,
                starts,
                key=key,
                origin=origin,
                trigger_origin="manual",
                outcome=FireOutcome.FIRED,
                scheduled_at=work.now,
            )

        records = await self._engine.transact(apply)
        return [(record.workflow_name, record.execution_id or "") for record in records]

    def _forget(self, work: GroupWork, entry: Entry) -> None:
        super()._forget(work, entry)
        self._started.pop(entry.row.schedule_id, None)

    # Timers

    def _arm_all(self) -> None:
        self._crons.clear()
        self._intervals.clear()
        for entry in self._entries.values():
            entry.deciding = False
            if isinstance(entry.cadence, PollInterval) and not entry.paused:  # what was due before nobody waits for
                entry.row = entry.row._replace(next_run_at=entry.cadence.next_after(self._now()))
            self._arm(entry)

    def _arm(self, entry: Entry) -> None:
        due = entry.row.next_run_at
        if not self._running or entry.paused or due is None or entry.cadence is None:
            return
        if isinstance(entry.cadence, PollInterval):
            self._intervals.add(_monotonic_us() + max(0, due - self._now()), entry.row.schedule_id, str(due))
        else:
            self._crons.add(due, entry.row.schedule_id, "")

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Cron

    def _cron_due(self, schedule_id: str, _: str) -> None:
        entry = self._entries.get(schedule_id)
        if entry is None or entry.deciding or not self._is_due(entry):
            return
        entry.deciding = True
        self._later(self._fire_cron(schedule_id))

    def _is_due(self, entry: Entry) -> bool:
        due = entry.row.next_run_at
        return not entry.paused and entry.cadence is not None and due is not None and due <= self._now()

    async def _fire_cron(self, schedule_id: str) -> None:
        again_us = None
        try:
            await self._engine.transact(lambda work: self._decide_cron(work, schedule_id))
        except Internal:
            again_us = _AFTER_DEFECT_US  # it was logged; the others are not to be held up by it
        except CloacinaError as error:
            log.debug("a firing waits", extra={"schedule_id": schedule_id, "error": error.message})
            again_us = _AGAIN_US
        finally:
            entry = self._entries.get(schedule_id)  # another one, if all were loaded again
            if entry is not None:
                entry.deciding = False
                if again_us is None:
                    self._arm(entry)
                elif self._running:
                    self._crons.add(self._now() + again_us, schedule_id, "")

    def _decide_cron(self, work: GroupWork, schedule_id: str) -> None:
        entry = self._entries.get(schedule_id)
        if entry is None or entry.cadence is None:
            return
        row = entry.row
        decided = decide_due(entry.schedule(), work.now)
        if decided.next_run_at == row.next_run_at and not decided.start:
            return
        ready = [
            (firing, prepare(self._workflows, row, {}, cron_values(row, firing.scheduled_at)))
            for firing in decided.start
        ]
        self._engine.check_room(sum(len(starts) for _, starts in ready))
        outcome, error = row.last_outcome, row.last_error
        for firing, starts in ready:
            records = self._start_cron(work, row, firing, starts)
            outcome, error = records[0].outcome, records[0].error
        self._write(
            work,
            entry,
            row._replace(
                next_run_at=decided.next_run_at,
                last_run_at=decided.last_run_at,
                last_outcome=outcome,
                last_error=error,
            ),
        )
        if decided.skipped is not None:
            skipped = decided.skipped
            work.afterwards.append(lambda: self._tell_missed(row, skipped.number, skipped.first_at))

    def _start_cron(
        self, work: GroupWork, row: ScheduleRow, firing: Firing, starts: Sequence[Start]
    ) -> list[FiringRow]:
        request_id = scope.new_request_id()
        with scope.bind(**ids_of(row, request_id)):
            span = tracing.start_span("cron fire", attributes={"cloacina.schedule": row.name})
        records = start_all(
            work,
            self._engine,
            row,
            starts,
            key=firing.key,
            origin=Origin(request_id, span.traceparent),
            trigger_origin="cron",
            outcome=firing.outcome,
            scheduled_at=firing.scheduled_at,
        )

        def durable() -> None:
            lag_us = max(0, work.now - firing.scheduled_at)
            self._metrics.lag.observe(lag_us / 1e6, tracing.exemplar(span.traceparent))
            self._tell(row, request_id, span, records, lag_ms=lag_us / 1000)
            span.end()

        work.afterwards.append(durable)
        return records

    # Polls

    def _poll_due(self, schedule_id: str, due: str) -> None:
        entry = self._entries.get(schedule_id)
        if entry is None or entry.paused or not isinstance(entry.cadence, PollInterval):
            return
        if str(entry.row.next_run_at) != due:  # another instant is due: this timer is an old one
            return
        entry.row = entry.row._replace(next_run_at=entry.cadence.next_after(self._now()))
        self._arm(entry)
        under_way = self._polls.of(schedule_id)
        if under_way is not None:
            if under_way.answered or self._engine.knows(under_way.session):
                return
            self._polls.remove(under_way)  # its executor is gone; if it answers all the same, nobody listens
        self._poll(entry.row)

    def _poll(self, row: ScheduleRow) -> None:
        request_id = scope.new_request_id()
        with scope.bind(**ids_of(row, request_id)):
            span = tracing.start_span("trigger poll", attributes={"cloacina.schedule": row.name})
        order = PollOrder(
            poll_id=self._engine.new_poll_id(),
            tenant_id=row.tenant_id,
            trigger=row.name,
            workflow_name=workflows_of(row)[0],
            package_id=row.package_id,
            package_digest=row.package_digest,
            timeout_s=self._poll_timeout_s,
            origin=Origin(request_id, span.traceparent),
        )
        session = self._engine.poll(order)
        if session is None:
            log.debug("a trigger is not polled: no executor is connected", extra={"schedule": row.name})
            return
        self._polls.add(Poll(order.poll_id, row.schedule_id, request_id, span, session))

    def answered(self, poll_id: int, answer: PollAnswer) -> None:
        poll = self._polls.answer(poll_id)
        if poll is not None:
            self._later(self._settle_poll(poll, answer))

    def _silent(self, poll: Poll) -> None:
        poll.answered = True
        limit_s = self._poll_timeout_s + _ANSWER_GRACE_S
        answer = PollAnswer(error=f"no answer came within {limit_s:g} s: its executor is gone, or too slow")
        self._later(self._settle_poll(poll, answer))

    async def _settle_poll(self, poll: Poll, answer: PollAnswer) -> None:
        """Deals with an answer; one that fires is not lost while the store cannot be written."""
        try:
            while True:
                try:
                    await self._heed(poll, answer)
                    return
                except Unavailable as error:
                    log.debug("a trigger's answer waits", extra={"error": error.message})
                    await asyncio.sleep(_AGAIN_US / 1e6)
                except CloacinaError as error:
                    log.error("a trigger's answer could not be stored", extra={"error": error.message})
                    return
        finally:
            self._polls.remove(poll)

    async def _heed(self, poll: Poll, answer: PollAnswer) -> None:
        entry = self._entries.get(poll.schedule_id)
        if entry is None:
            return
        entry.row = entry.row._replace(last_poll_at=self._now())
        if answer.error:
            await self._poll_failed(poll, entry, answer)
        elif answer.fires:
            poll.span.set_attribute("cloacina.fires", True)
            await self._engine.transact(lambda work: self._decide_trigger(work, poll, answer.context))

    async def _poll_failed(self, poll: Poll, entry: Entry, answer: PollAnswer) -> None:
        row = entry.row
        self._metrics.fires[ScheduleKind.TRIGGER, FireOutcome.FAILED].inc()
        poll.span.fail(answer.error)
        with scope.bind(**ids_of(row, poll.request_id)):
            extra: dict[str, object] = {"schedule": row.name, "error": answer.error}
            if answer.details:
                extra["_exception"] = answer.details
            log.warning("a trigger could not be polled", extra={**extra, "_trace": _trace(poll.span)})

        def apply(work: GroupWork) -> None:
            now = self._entries.get(poll.schedule_id)
            if now is not None:
                self._note_outcome(work, now, FireOutcome.FAILED, answer.error)

        with contextlib.suppress(CloacinaError):  # it was told; the row is told the next time
            await self._engine.transact(apply)

    def _note_outcome(self, work: GroupWork, entry: Entry, outcome: FireOutcome, error: str | None) -> None:
        """Writes only what is new, so that a trigger that fails, or skips, at each poll does not keep the disk busy."""
        row = entry.row
        if (row.last_outcome, row.last_error) == (outcome, error):
            return
        row = row._replace(last_outcome=outcome, last_error=error, updated_at=work.now)
        self._set(work, entry, row)

    def _decide_trigger(self, work: GroupWork, poll: Poll, raw: bytes | None) -> None:
        entry = self._entries.get(poll.schedule_id)
        if entry is None or entry.paused:
            return
        row = entry.row
        context: dict[str, Any] | None = None if raw is None else orjson.loads(raw)
        context_hash = hash_of(context)
        if not row.allow_concurrent:
            other = self._unfinished(row.schedule_id, context_hash)
            if other is not None:
                error = f"execution {other}, which it started with the same context, is unfinished"
                self._note_outcome(work, entry, FireOutcome.SKIPPED, error)
                work.afterwards.append(lambda: self._tell_same(row, poll, other))
                return
        starts = prepare(self._workflows, row, context or {}, trigger_values(row, work.now))
        self._engine.check_room(len(starts))
        records = start_all(
            work,
            self._engine,
            row,
            starts,
            key=f"poll:{poll.poll_id}",
            origin=Origin(poll.request_id, poll.span.traceparent),
            trigger_origin="trigger",
            outcome=FireOutcome.FIRED,
            scheduled_at=work.now,
            context_hash=context_hash,
        )
        if not row.allow_concurrent:
            self._remember(records)
        main = records[0]
        row = row._replace(last_run_at=work.now, last_outcome=main.outcome, last_error=main.error, updated_at=work.now)
        self._set(work, entry, row)
        work.afterwards.append(lambda: self._tell(row, poll.request_id, poll.span, records))

    def _unfinished(self, schedule_id: str, context_hash: str) -> str | None:
        """An execution that the schedule started with this context and that has not ended."""
        started = self._started.get(schedule_id, {})
        for execution_id in [each for each in started if self._engine.find(each) is None]:
            del started[execution_id]
        return next((each for each, hashed in started.items() if hashed == context_hash), None)

    def _remember(self, records: Iterable[FiringRow]) -> None:
        """For `_unfinished`."""
        for record in records:
            if record.execution_id is not None and record.context_hash is not None:
                self._started.setdefault(record.schedule_id, {})[record.execution_id] = record.context_hash

    # What is said once it is durable

    def _tell(
        self,
        row: ScheduleRow,
        request_id: str,
        span: tracing.Span,
        records: Collection[FiringRow],
        **more: object,
    ) -> None:
        for record in records:
            self._metrics.fires[kind_of(row), FireOutcome(record.outcome)].inc()
            ids = {
                **ids_of(row, request_id),
                "workflow_name": record.workflow_name,
                "execution_id": record.execution_id,
            }
            extra = {"schedule": row.name, "outcome": record.outcome, **more, "_trace": _trace(span)}
            with scope.bind(**ids):
                if record.error is None:
                    log.info("a schedule fired", extra=extra)
                else:
                    span.fail(record.error)
                    log.warning("a schedule could not start its workflow", extra={**extra, "error": record.error})

    def _tell_missed(self, row: ScheduleRow, number: int, first_at: int) -> None:
        self._metrics.fires[kind_of(row), FireOutcome.SKIPPED].inc(number)
        with scope.bind(**ids_of(row)):
            extra = {"schedule": row.name, "number": number, "first_at": first_at}
            log.warning("missed firings were given up", extra=extra)

    def _tell_same(self, row: ScheduleRow, poll: Poll, other: str) -> None:
        self._metrics.fires[ScheduleKind.TRIGGER, FireOutcome.SKIPPED].inc()
        with scope.bind(**ids_of(row, poll.request_id)):
            extra = {"schedule": row.name, "unfinished": other, "_trace": _trace(poll.span)}
            log.debug("a trigger was not fired: an execution with the same context is unfinished", extra=extra)


def _trace(span: tracing.Span) -> tuple[str, str] | None:
    return tracing.ids_of(span.traceparent)


def _monotonic_us() -> int:
    return int(asyncio.get_running_loop().time() * 1e6)
