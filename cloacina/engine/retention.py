"""The loop that deletes what has ended long ago, in small transactions with pauses between them.

Age and number say what goes: executions with their tasks, events, log lines and firings, or the events alone. What has
not ended is never touched. The idempotency key of a deleted execution stays taken for a while of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

from cloacina.engine.engine import wall_clock
from cloacina.engine.retention_metrics import RetentionMetrics
from cloacina.errors import Conflict, Unavailable
from cloacina.store.retention import HISTORY_BEGINS, Ended, RetentionStore

log = logging.getLogger(__name__)

DAY_US = 86_400_000_000

_BATCH_ROWS = 1000
"""Rows that one transaction deletes, as far as executions can be divided: a few milliseconds of the store's time."""
_ROW_BYTES = 4096
"""Log lines of so many bytes count as a row."""
_LOOKED_UP = 200
"""Executions looked up at once."""
_PAUSE_FACTOR = 3.0
"""Rest after a batch, in times of what it took: the loop has a quarter of the writer at most."""
_LEAST_PAUSE_S = 0.01
_CLOCK_STEP_US = 3_600_000_000
"""By how much the wall clock may run ahead of this machine's uptime before its step forward is not believed."""


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """How long what is kept.

    Args:
        executions_us: microseconds after its end that an execution is kept; 0 for ever.
        events_us: the same of its events; 0 for as long as the execution.
        per_tenant: newest executions of a tenant that are kept; older ones go once they have ended; 0 for all.
        keys_us: microseconds after the creation of an execution that its idempotency key stays taken.
        period_s: seconds between passes.
    """

    executions_us: int = 30 * DAY_US
    events_us: int = 0
    per_tenant: int = 10_000_000
    keys_us: int = 30 * DAY_US
    period_s: float = 60.0


@dataclass(slots=True)
class Deleted:
    """What a pass deleted, or would.

    Args:
        executions, events: how many.
        complete: whether nothing is left of what was to go.
    """

    executions: int = 0
    events: int = 0
    complete: bool = True


class Retention:
    """The loop, and the same deletions on demand.

    Args:
        store: what is deleted from.
        rules: what goes by itself.
        metrics: where it counts.
        untouched: held while executions that have ended must not be opened again.
        kept: whether the loop does its work; of several schedulers on one store one does.
        clock: the wall clock, microseconds since the epoch.
        uptime: microseconds that never jump, also counted while the machine sleeps.
    """

    def __init__(
        self,
        store: RetentionStore,
        rules: RetentionRules,
        metrics: RetentionMetrics,
        untouched: asyncio.Lock,
        *,
        kept: Callable[[], bool] = lambda: True,
        clock: Callable[[], int] = wall_clock,
        uptime: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000,
    ) -> None:
        self._store = store
        self._rules = rules
        self._metrics = metrics
        self._untouched = untouched
        self._kept = kept
        self._clock = clock
        self._uptime = uptime
        self._started_at = clock() - uptime()
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to work."""
        self._task = asyncio.create_task(self._keep_clean(), name="retention")

    async def stop(self) -> None:
        """Ends; the transaction that runs is finished or did not happen."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep_clean(self) -> None:
        while True:
            await asyncio.sleep(self._rules.period_s)
            if not self._kept():
                continue
            try:
                deleted = await self.run()
            except (Conflict, Unavailable) as error:  # opened again, or the store is away: the next pass sees
                self._metrics.failed.inc()
                log.warning("a retention pass was given up; the next one goes on", extra={"error": str(error)})
                continue
            except Exception:
                self._metrics.failed.inc()
                log.exception("a retention pass failed")
                continue
            self._metrics.completed.inc()
            if deleted.executions or deleted.events:
                log.info(
                    "old executions were deleted",
                    extra={"executions": deleted.executions, "events": deleted.events},
                )

    async def run(self) -> Deleted:
        """One pass by the rules.

        Raises:
            Conflict: one of the executions is not as it was when it was looked up.
            Unavailable: the store cannot be read or written.
        """
        rules, now, deleted = self._rules, self._now(), Deleted()
        if rules.executions_us:
            await self._delete_expired(now - rules.executions_us, deleted)
        if rules.events_us:
            await self._delete_expired_events(now - rules.events_us, deleted)
        if rules.per_tenant:
            await self._delete_superfluous(deleted)
        await self._delete_the_rest(now)
        return deleted

    async def clean(self, before: int, *, executions: bool, dry_run: bool, budget_s: float) -> Deleted:
        """Deletes the events of executions that ended before a time, or the executions as a whole.

        Args:
            before: microseconds since the epoch.
            executions: whether the executions go too.
            dry_run: only count.
            budget_s: seconds after which it stops; `Deleted.complete` says whether something is left.

        Raises:
            Conflict, Unavailable: as of `run`.
        """
        if dry_run:
            count = await self._store.count_expired(before) if executions else 0
            return Deleted(count, await self._store.count_expired_events(before))
        deleted = Deleted()
        until = asyncio.get_running_loop().time() + budget_s
        await (self._delete_expired if executions else self._delete_expired_events)(before, deleted, until)
        return deleted

    def _now(self) -> int:
        """The wall clock; if it was set forward since the start, what this machine's uptime says instead: history is
        not lost to a wrong clock."""
        now, expected = self._clock(), self._started_at + self._uptime()
        if now - expected < _CLOCK_STEP_US:
            return now
        log.warning("the clock was set forward; retention goes by the uptime", extra={"step_s": (now - expected) / 1e6})
        return expected

    async def _delete_expired(self, before: int, deleted: Deleted, until: float = math.inf) -> None:
        after = ""
        while found := await self._store.expired(before, after=after, limit=_LOOKED_UP):
            if not await self._delete(found, deleted, until):
                return
            after = found[-1].execution_id

    async def _delete_superfluous(self, deleted: Deleted) -> None:
        for tenant_id in await self._store.tenants():
            newest = await self._store.newest_beyond(tenant_id, self._rules.per_tenant)
            after = HISTORY_BEGINS
            while newest is not None:
                found, after = await self._store.superfluous(tenant_id, newest, after=after, limit=_LOOKED_UP)
                if not found:
                    break
                await self._delete(found, deleted, math.inf)

    async def _delete_expired_events(self, before: int, deleted: Deleted, until: float = math.inf) -> None:
        after = ""
        while found := await self._store.expired_events(before, after=after, limit=_LOOKED_UP):
            for batch in _batches(found):
                if asyncio.get_running_loop().time() > until:
                    deleted.complete = False
                    return
                await self._trim_events(batch[0], deleted)
                async with self._batch():
                    await self._store.delete_events([ended.execution_id for ended in batch])
                self._count_events(batch, deleted)
            after = found[-1].execution_id

    async def _delete(self, found: Sequence[Ended], deleted: Deleted, until: float) -> bool:
        """Deletes executions; whether there was time for all of them."""
        for batch in _batches(found):
            if asyncio.get_running_loop().time() > until:
                deleted.complete = False
                return False
            await self._trim_events(batch[0], deleted)
            async with self._batch():
                await self._store.delete([ended.execution_id for ended in batch])
            deleted.executions += len(batch)
            self._metrics.deleted["executions"].inc(len(batch))
            self._count_events(batch, deleted)
        return True

    def _count_events(self, batch: Sequence[Ended], deleted: Deleted) -> None:
        events = sum(ended.events for ended in batch)
        deleted.events += events
        self._metrics.deleted["events"].inc(events)

    async def _trim_events(self, ended: Ended, deleted: Deleted) -> None:
        """Of an execution that is larger than a batch, deletes the events piece by piece before the rest."""
        if ended.events <= _BATCH_ROWS:
            return
        for last in range(_BATCH_ROWS, ended.events, _BATCH_ROWS):
            async with self._batch():
                await self._store.delete_events_up_to(ended.execution_id, last)

    async def _delete_the_rest(self, now: int) -> None:
        if self._rules.executions_us:
            before = now - self._rules.executions_us
            while keys := await self._store.expired_firings(before, _BATCH_ROWS):
                async with self._batch():
                    await self._store.delete_firings(keys)
                self._metrics.deleted["firings"].inc(len(keys))
        while lapsed := await self._store.lapsed_keys(now - self._rules.keys_us, _BATCH_ROWS):
            async with self._batch():
                await self._store.delete_keys(lapsed)
            self._metrics.deleted["keys"].inc(len(lapsed))

    @contextlib.asynccontextmanager
    async def _batch(self) -> AsyncIterator[None]:
        """Around one transaction: nothing that has ended is opened again in it, and a pause follows."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            began = loop.time()
            async with self._untouched:
                yield
            await asyncio.sleep(max(_LEAST_PAUSE_S, (loop.time() - began) * _PAUSE_FACTOR))


def _batches(found: Sequence[Ended]) -> Iterator[list[Ended]]:
    """Divides executions into batches of about as many rows each; a large one is a batch by itself."""
    batch: list[Ended] = []
    rows = 0
    for ended in found:
        size = ended.events + ended.tasks + ended.log_bytes // _ROW_BYTES + 1
        if batch and rows + size > _BATCH_ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(ended)
        rows += size
    if batch:
        yield batch
