"""What retention deletes, and what it must never touch; on every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cloacina.engine.ids import new_execution_id
from cloacina.engine.retention import DAY_US, Retention, RetentionRules
from cloacina.engine.retention_metrics import RetentionMetrics
from cloacina.errors import Conflict
from cloacina.store.database import Database, Statement
from cloacina.store.executions import Batch, ExecutionStore
from cloacina.store.retention import RetentionStore
from cloacina.store.schedules import FiringRow, ScheduleRow, ScheduleStore
from tests.store.conftest import OpenDatabase
from tests.store.stored_rows import DEFINITION, event, execution, task

NOW = 1_790_000_000_000_000
NEVER = RetentionRules(executions_us=0, events_us=0, per_tenant=0)


class History:
    """A store, what is put into it, and what is left."""

    def __init__(self, database: Database) -> None:
        self.store = ExecutionStore(database)
        self.schedules = ScheduleStore(database)
        self.database = database
        self.registry = CollectorRegistry()
        self.now, self.uptime = NOW, 0

    def retention(self, rules: RetentionRules = NEVER) -> Retention:
        self.registry = CollectorRegistry()
        return Retention(
            RetentionStore(self.database),
            rules,
            RetentionMetrics(self.registry),
            asyncio.Lock(),
            clock=lambda: self.now,
            uptime=lambda: self.uptime,
        )

    async def add(self, age_days: float, *, live: bool = False, events: int = 2, **changed: Any) -> str:
        """An execution that was created, and ended, so long ago."""
        at = NOW - int(age_days * DAY_US)
        execution_id = new_execution_id(at)
        row = execution(
            execution_id=execution_id,
            created_at=at,
            status="Running" if live else "Completed",
            finished_at=None if live else at + 1,
            **changed,
        )
        await self.store.commit(
            Batch(
                definitions=[DEFINITION],
                executions=[row],
                tasks=[task(execution_id, 0), task(execution_id, 1)],
                events=[
                    event(execution_id, number + 1, event_type="workflow_paused", at=at) for number in range(events)
                ],
            )
        )
        return execution_id

    async def left(self, tenant: str = "acme") -> list[str]:
        rows, _ = await self.store.list_executions(tenant, limit=1000)
        return [row.execution_id for row in reversed(rows)]

    async def events(self, execution_id: str) -> int:
        return len(await self.store.list_events("acme", execution_id, after=0, limit=10_000))

    def deleted(self, kind: str) -> float:
        return self.registry.get_sample_value("cloacina_retention_deleted_total", {"kind": kind}) or 0.0


@pytest.fixture
async def history(database: OpenDatabase) -> AsyncIterator[History]:
    yield History(await database("scheduler"))


async def test_what_ended_long_ago_goes_with_all_its_rows_and_the_rest_stays(history: History) -> None:
    old = [await history.add(days) for days in (40, 35, 31)]
    live = await history.add(50, live=True)
    young = [await history.add(days) for days in (29, 1)]
    deleted = await history.retention(RetentionRules(per_tenant=0)).run()
    assert (deleted.executions, deleted.events, deleted.complete) == (3, 6, True)
    assert await history.left() == [live, *young]
    for execution_id in old:
        assert await history.store.task_claim(execution_id, "t0") is None
        assert await history.store.latest_waits("acme", execution_id) == {}  # which reads the events themselves
    assert await history.store.latest_waits("acme", live) != {}
    assert [await history.events(execution_id) for execution_id in (live, *young)] == [2, 2, 2]
    assert (history.deleted("executions"), history.deleted("events")) == (3, 6)
    assert [row.execution.execution_id for row in await history.store.load_live()] == [live]


async def test_each_tenant_keeps_its_newest(history: History) -> None:
    mine = [await history.add(days) for days in (5, 4, 3, 2, 1)]
    live = await history.add(6, live=True)
    theirs = await history.add(7, tenant_id="other")
    await history.retention(RetentionRules(executions_us=0, per_tenant=2)).run()
    assert await history.left() == [live, *mine[3:]]
    assert await history.left("other") == [theirs]


async def test_events_may_go_before_their_execution_and_large_ones_go_in_pieces(history: History) -> None:
    large = await history.add(9, events=2500)
    small, young = await history.add(8), await history.add(1)
    live = await history.add(9, live=True)
    deleted = await history.retention(RetentionRules(0, 7 * DAY_US, 0)).run()
    assert (deleted.executions, deleted.events) == (0, 2502)
    assert [await history.events(each) for each in (large, small, young, live)] == [0, 0, 2, 2]
    assert len(await history.left()) == 4


async def test_a_key_names_its_deleted_execution_until_it_lapses(history: History) -> None:
    execution_id = await history.add(3, idempotency_key="once")
    find = lambda: history.store.find_by_idempotency_key("acme", "flow", "once")  # noqa: E731
    await history.retention(RetentionRules(executions_us=DAY_US, keys_us=4 * DAY_US)).run()
    assert (await history.left(), await find()) == ([], execution_id)
    await history.retention(RetentionRules(executions_us=DAY_US, keys_us=2 * DAY_US)).run()
    assert await find() is None
    assert history.deleted("keys") == 1


async def test_firings_go_with_their_execution_and_idle_ones_by_age(history: History) -> None:
    old, young = await history.add(40), await history.add(1)

    def firing(number: int, execution_id: str | None, days: float) -> FiringRow:
        at = NOW - int(days * DAY_US)
        outcome = "fired" if execution_id else "skipped"
        return FiringRow(f"k{number}", f"f{number}", "s1", "flow", execution_id, outcome, None, None, at, at)

    schedule = ScheduleRow(
        "s1", "acme", "hourly", "cron", '["flow"]', "", "", "", "0 * * * *", "UTC", None,
        False, "skip", 1, None, None, None, None, None, None, None, NOW, NOW,
    )  # fmt: skip
    firings = [firing(1, old, 40), firing(2, young, 1), firing(3, None, 40), firing(4, None, 1)]
    await history.store.commit(Batch(schedules=[schedule], firings=firings))
    await history.retention(RetentionRules(per_tenant=0)).run()
    left = await history.schedules.list_firings("acme", "s1", limit=10)
    assert {record.firing.firing_key for record in left} == {"k2", "k4"}


async def test_what_was_opened_again_meanwhile_is_not_deleted(history: History) -> None:
    execution_id, other = await history.add(40), await history.add(40)
    store = RetentionStore(history.database)
    found = await store.expired(NOW, after="", limit=10)
    await history.database.write([Statement("update_execution", [_opened_again(execution_id)], expect=1)])
    with pytest.raises(Conflict):
        await store.delete([ended.execution_id for ended in found])
    assert sorted(await history.left()) == sorted([execution_id, other])
    assert await history.events(execution_id) == 2


def _opened_again(execution_id: str) -> tuple[Any, ...]:
    return ("Running", None, None, None, NOW, None, None, 5, execution_id)


async def test_a_clock_set_forward_deletes_nothing_that_is_young(history: History) -> None:
    young = await history.add(1)
    retention = history.retention(RetentionRules(per_tenant=0))
    history.now += 365 * DAY_US  # a step: the machine has not been up for that long
    await retention.run()
    assert await history.left() == [young]
    history.uptime += 365 * DAY_US
    await retention.run()
    assert await history.left() == []


async def test_on_demand_it_counts_first_and_stops_when_its_time_is_up(history: History) -> None:
    for days in (40, 39):
        await history.add(days)
    young = await history.add(1)
    retention, before = history.retention(), NOW - 30 * DAY_US
    counted = await retention.clean(before, executions=True, dry_run=True, budget_s=10)
    assert (counted.executions, counted.events, counted.complete) == (2, 4, True)
    late = await retention.clean(before, executions=True, dry_run=False, budget_s=-1)
    assert (late.executions, late.complete, len(await history.left())) == (0, False, 3)
    events = await retention.clean(before, executions=False, dry_run=False, budget_s=10)
    assert (events.executions, events.events, len(await history.left())) == (0, 4, 3)
    both = await retention.clean(before, executions=True, dry_run=False, budget_s=10)
    assert (both.executions, both.events, await history.left()) == (2, 0, [young])
