"""Named instances in the scheduler's store, and pauses of workflows in the reconciler's."""

from __future__ import annotations

import pytest

from cloacina.store.database import StoreConflict
from cloacina.store.instances import InstanceRow, InstanceStore
from cloacina.store.registry import RegistryStore


def instance(number: int, **fields: object) -> InstanceRow:
    given = InstanceRow(
        instance_id=f"i{number}",
        tenant_id="acme",
        workflow_name="sync",
        instance_name=f"name {number}",
        params=b'{"a":1}',
        cron_expression=None,
        timezone="UTC",
        enabled=True,
        paused=False,
        next_run_at=None,
        last_run_at=None,
        created_at=100 + number,
    )
    return given._replace(**fields)


@pytest.fixture
async def instances(database) -> InstanceStore:
    return InstanceStore(await database("scheduler"))


async def test_an_instance_comes_back_as_it_was(instances: InstanceStore) -> None:
    scheduled = instance(
        2, cron_expression="0 2 * * *", timezone="Europe/Berlin", enabled=False, paused=True, next_run_at=2**53
    )
    for row in (instance(1, params='{"ü":"\\u0000"}'.encode()), scheduled):
        await instances.add(row)
        assert await instances.get("acme", "sync", row.instance_name) == row
    assert await instances.get("acme", "sync", "absent") is None
    assert await instances.get("other", "sync", "name 1") is None
    assert await instances.get("acme", "other", "name 1") is None


async def test_a_name_is_unique_for_a_tenants_workflow(instances: InstanceStore) -> None:
    await instances.add(instance(1))
    with pytest.raises(StoreConflict):
        await instances.add(instance(2, instance_name="name 1"))
    await instances.add(instance(3, instance_name="name 1", tenant_id="other"))
    await instances.add(instance(4, instance_name="name 1", workflow_name="other"))
    await instances.add(instance(5, instance_name="NAME 1"))
    assert (await instances.get("acme", "sync", "name 1")) == instance(1)


async def test_a_page_has_the_oldest_first_and_how_many_there_are(instances: InstanceStore) -> None:
    for number in (3, 1, 2, 4):
        await instances.add(instance(number))
    await instances.add(instance(9, workflow_name="other"))
    page, total = await instances.list("acme", "sync", limit=2, offset=1)
    assert ([row.instance_id for row in page], total) == (["i2", "i3"], 4)
    assert await instances.list("acme", "sync", limit=2, offset=4) == ([], 4)
    assert await instances.list("other", "sync", limit=2) == ([], 0)


async def test_a_deleted_instance_is_gone_and_its_name_free(instances: InstanceStore) -> None:
    await instances.add(instance(1))
    await instances.delete("acme", "sync", "name 1")
    assert await instances.get("acme", "sync", "name 1") is None
    with pytest.raises(StoreConflict):
        await instances.delete("acme", "sync", "name 1")
    await instances.add(instance(2, instance_name="name 1"))


async def test_the_scheduled_are_those_with_times_that_are_on(instances: InstanceStore) -> None:
    on = instance(2, cron_expression="0 2 * * *", tenant_id="other")
    for row in (instance(1), on, instance(3, cron_expression="0 2 * * *", enabled=False)):
        await instances.add(row)
    assert await instances.scheduled() == [on]
    assert await instances.get_by_id("i2") == on
    assert await instances.get_by_id("i4") is None


async def test_a_pause_belongs_to_a_tenant_and_a_name(database) -> None:
    registry = RegistryStore(await database("registry"))
    for at in (5, 6):
        await registry.set_paused("acme", "sync", at)
    await registry.set_paused("other", "sync", 7)
    assert sorted(await registry.paused()) == [("acme", "sync"), ("other", "sync")]
    for _ in range(2):
        await registry.set_paused("acme", "sync", None)
    assert await registry.paused() == [("other", "sync")]
