"""Schedules and their firings in the scheduler's store, on every driver."""

from __future__ import annotations

import pytest
from stored_rows import begun, execution_change

from cloacina.store.database import StoreConflict
from cloacina.store.executions import Batch, ExecutionStore
from cloacina.store.schedules import FiringRow, LiveFiring, ScheduleChange, ScheduleRow, ScheduleStore

ROW = ScheduleRow(
    schedule_id="s1",
    tenant_id="acme",
    name="nightly",
    kind="cron",
    workflows='["flow"]',
    source="flow",
    package_id="p1",
    package_digest="sha",
    cron="0 3 * * *",
    timezone="Europe/Berlin",
    poll_interval_ms=None,
    allow_concurrent=False,
    catch_up="skip",
    catch_up_cap=100,
    params=b'{"a":1}',
    paused_at=None,
    next_run_at=1_000,
    last_run_at=None,
    last_poll_at=None,
    last_outcome=None,
    last_error=None,
    created_at=1,
    updated_at=1,
)


def firing(key: str = "k1", **changed: object) -> FiringRow:
    """A firing that started the execution e1."""
    row = FiringRow(key, f"id-{key}", "s1", "flow", "e1", "fired", None, "hash", 1_000, 1_001)
    return row._replace(**changed)


class Stores:
    """The two halves of the scheduler's store."""

    def __init__(self, database) -> None:
        self.executions = ExecutionStore(database)
        self.schedules = ScheduleStore(database)


@pytest.fixture
async def stores(database) -> Stores:
    return Stores(await database("scheduler"))


async def test_every_field_comes_back_as_it_was_written(stores: Stores) -> None:
    full = ROW._replace(
        schedule_id="s2",
        name="inbox",
        kind="trigger",
        cron=None,
        timezone=None,
        poll_interval_ms=5_000,
        allow_concurrent=True,
        params=None,
        paused_at=2**60,
        next_run_at=None,
        last_run_at=5,
        last_poll_at=6,
        last_outcome="failed",
        last_error="é\n",
    )
    await stores.executions.commit(Batch(schedules=[ROW, full]))
    assert await stores.schedules.load() == [ROW, full]
    changed = full._replace(schedule_id="s1", next_run_at=7, updated_at=8)
    await stores.executions.commit(Batch(schedules_gone=["s2"]))
    await stores.executions.commit(Batch(schedule_changes=[ScheduleChange(changed, 1_000)]))
    assert await stores.schedules.load() == [changed]


@pytest.mark.parametrize("stored", [1_000, None])
async def test_a_change_of_what_has_changed_meanwhile_changes_nothing(stores: Stores, stored: int | None) -> None:
    row = ROW._replace(next_run_at=stored)
    await stores.executions.commit(Batch(schedules=[row]))
    for expected in (999, None if stored else 0):
        batch = begun(1)
        batch.schedule_changes.append(ScheduleChange(row._replace(next_run_at=2_000), expected))
        batch.firings.append(firing())
        with pytest.raises(StoreConflict):
            await stores.executions.commit(batch)
    assert await stores.schedules.load() == [row]
    assert await stores.executions.get_execution("acme", "e1") is None
    assert await stores.schedules.list_firings("acme", "s1", limit=10) == []
    await stores.executions.commit(Batch(schedule_changes=[ScheduleChange(row._replace(next_run_at=2_000), stored)]))


async def test_a_name_is_unique_for_a_tenant(stores: Stores) -> None:
    await stores.executions.commit(Batch(schedules=[ROW]))
    with pytest.raises(StoreConflict):
        await stores.executions.commit(Batch(schedules=[ROW._replace(schedule_id="s2")]))
    await stores.executions.commit(Batch(schedules=[ROW._replace(schedule_id="s2", tenant_id="other")]))
    # one that goes leaves its name in the same transaction
    await stores.executions.commit(Batch(schedules=[ROW._replace(schedule_id="s3")], schedules_gone=["s1"]))
    assert [row.schedule_id for row in await stores.schedules.load()] == ["s2", "s3"]


async def test_a_firing_is_stored_once(stores: Stores) -> None:
    batch = begun(1)
    batch.schedules.append(ROW)
    batch.firings.append(firing())
    await stores.executions.commit(batch)
    again = begun(2)
    again.firings.append(firing(execution_id="e2"))
    with pytest.raises(StoreConflict):
        await stores.executions.commit(again)
    assert await stores.executions.get_execution("acme", "e2") is None


async def test_firings_are_listed_with_the_end_of_their_execution(stores: Stores) -> None:
    batch = begun(1)
    batch.schedules.append(ROW)
    failed = firing("k2", execution_id=None, outcome="failed", error="gone", fired_at=2_000)
    batch.firings += [firing(), failed, firing("k3", schedule_id="s9", execution_id=None)]
    await stores.executions.commit(batch)
    assert await stores.schedules.load_live_firings() == [LiveFiring("s1", "e1", "hash")]
    await stores.executions.commit(Batch(execution_changes=[execution_change("e1", finished_at=9)]))
    assert await stores.schedules.load_live_firings() == []
    assert await stores.schedules.list_firings("acme", "s1", limit=10) == [(failed, None), (firing(), 9)]
    assert await stores.schedules.list_firings("acme", "s1", limit=1, offset=1) == [(firing(), 9)]
    assert await stores.schedules.count_firings("cron", 0) == (2, 1)
    assert await stores.schedules.count_firings("cron", 2_000) == (1, 0)
    assert await stores.schedules.count_firings("trigger", 0) == (0, 0)


async def test_a_schedule_that_goes_takes_its_firings_along_and_leaves_its_executions(stores: Stores) -> None:
    batch = begun(1)
    batch.schedules.append(ROW)
    batch.firings.append(firing())
    await stores.executions.commit(batch)
    await stores.executions.commit(Batch(schedules_gone=["s1"]))
    assert await stores.schedules.load() == []
    assert await stores.schedules.list_firings("acme", "s1", limit=10) == []
    assert await stores.executions.get_execution("acme", "e1") is not None
