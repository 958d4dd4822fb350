"""Owners of executions: leases, epochs, adoption and the fence, on every driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from stored_rows import begun, event, execution_change

from cloacina.store.database import Database, StoreConflict
from cloacina.store.executions import Batch, ExecutionStore
from cloacina.store.owners import Owner, OwnershipLost, OwnerStore

_LAPSED_S = 0.0
"""The lease of an owner who is silent: it has lapsed at once."""


@pytest.fixture
async def store(database: Callable[[str], Awaitable[Database]]) -> ExecutionStore:
    return ExecutionStore(await database("scheduler"))


@pytest.fixture
def owners(store: ExecutionStore) -> OwnerStore:
    return store.owners


async def _begin(store: ExecutionStore, owner: Owner, number: int) -> None:
    batch = begun(number, owner=owner.epoch)
    batch.owner = owner
    await store.commit(batch)


async def _has(store: ExecutionStore, owner: Owner, *, adopted_after: int = -1) -> list[str]:
    live = await store.load_live(owner.epoch, adopted_after=adopted_after)
    return [each.execution.execution_id for each in live]


async def test_every_membership_has_an_epoch_of_its_own_that_only_grows(owners: OwnerStore) -> None:
    joined = [await owners.join(owner_id) for owner_id in ("a", "b", "a", "c", "a")]
    epochs = [owner.epoch for owner in joined]
    assert epochs == sorted(set(epochs))
    assert [row.owner_id for row in await owners.owners()] == ["b", "c", "a"]


async def test_an_owner_that_joins_again_keeps_its_executions_and_its_former_self_cannot_write(
    store: ExecutionStore, owners: OwnerStore
) -> None:
    before = await owners.join("a")
    await _begin(store, before, 1)
    now = await owners.join("a")
    assert await _has(store, now) == ["e1"]
    with pytest.raises(OwnershipLost):
        await _begin(store, before, 2)
    assert await _has(store, before) == []
    await _begin(store, now, 2)


async def test_nobody_takes_over_from_an_owner_whose_lease_holds(store: ExecutionStore, owners: OwnerStore) -> None:
    first, second = await owners.join("a"), await owners.join("b")
    await _begin(store, first, 1)
    await owners.adopt(second)
    assert (await _has(store, first), await _has(store, second)) == (["e1"], [])


async def test_what_an_owner_had_whose_lease_lapsed_is_anothers_at_once(
    store: ExecutionStore, owners: OwnerStore
) -> None:
    silent = await owners.join("silent", lease_s=_LAPSED_S)
    await _begin(store, silent, 1)
    await _begin(store, silent, 2)
    ended = Batch(owner=silent, execution_changes=[execution_change("e2")])
    await store.commit(ended)
    other = await owners.join("other")  # joining adopts, too
    assert await _has(store, other) == ["e1"], "what has ended stays where it was"
    found = await owners.owner_of("acme", "e1")
    assert found is not None
    assert (found.epoch, found.owner_id, found.ended) == (other.epoch, "other", False)
    with pytest.raises(OwnershipLost):
        await store.commit(Batch(owner=silent, events=[event("e1", 3)]))
    with pytest.raises(OwnershipLost):
        await owners.renew(silent, 60.0)
    with pytest.raises(OwnershipLost):
        await store.commit(Batch(owner=silent, check=True))
    assert len(await store.list_events("acme", "e1", after=0, limit=10)) == 2


async def test_one_that_is_known_to_have_ended_is_not_waited_for(store: ExecutionStore, owners: OwnerStore) -> None:
    ended, other = await owners.join("ended"), await owners.join("other")
    await _begin(store, ended, 1)
    rows = [row for row in await owners.owners() if row.owner_id == "ended"]
    assert 0 <= rows[0].silent_s(15.0) < 15
    await owners.adopt(other, rows)
    assert await _has(store, other) == ["e1"]
    with pytest.raises(OwnershipLost):
        await owners.renew(ended, 60.0)


async def test_one_that_renews_its_lease_after_it_was_thought_dead_stays(
    store: ExecutionStore, owners: OwnerStore
) -> None:
    alive, other = await owners.join("alive"), await owners.join("other")
    await _begin(store, alive, 1)
    rows = [row for row in await owners.owners() if row.owner_id == "alive"]
    await owners.renew(alive, 60.0)
    await owners.adopt(other, rows)
    assert (await _has(store, alive), await _has(store, other)) == (["e1"], [])


async def test_a_renewed_lease_holds_on(store: ExecutionStore, owners: OwnerStore) -> None:
    first = await owners.join("a", lease_s=_LAPSED_S)
    await _begin(store, first, 1)
    assert [row.lapsed for row in await owners.owners()] == [True]
    await owners.renew(first, 60.0)
    assert [row.lapsed for row in await owners.owners()] == [False]
    second = await owners.join("b")
    assert await _has(store, second) == []


async def test_adoptions_can_be_told_apart(store: ExecutionStore, owners: OwnerStore) -> None:
    staying = await owners.join("staying")
    await _begin(store, staying, 1)
    for number in (2, 3):
        last = await owners.last_adoption(staying)
        leaving = await owners.join("leaving")
        await _begin(store, leaving, number)
        await owners.leave(leaving)
        await owners.adopt(staying)
        assert await _has(store, staying, adopted_after=last) == [f"e{number}"]
    assert await _has(store, staying) == ["e1", "e2", "e3"]


async def test_what_never_had_an_owner_gets_one(store: ExecutionStore, owners: OwnerStore) -> None:
    await store.commit(begun(1))
    assert await _has(store, await owners.join("a")) == ["e1"]


async def test_a_successor_at_the_same_place_takes_over_without_waiting(
    store: ExecutionStore, owners: OwnerStore
) -> None:
    before = await owners.join("a", "host:1")
    await _begin(store, before, 1)
    elsewhere = await owners.join("b", "host:2")
    now = await owners.join("c", "host:1")
    assert await _has(store, now) == ["e1"]
    assert [row.owner_id for row in await owners.owners()] == ["b", "c"]
    await owners.renew(elsewhere, 60.0)


async def test_a_process_that_has_the_store_to_itself_is_the_only_owner(
    store: ExecutionStore, owners: OwnerStore
) -> None:
    before = await owners.join("a", "host:1")
    await _begin(store, before, 1)
    now = await owners.join("b", "host:2", sole=True)
    assert await _has(store, now) == ["e1"]
    assert [row.owner_id for row in await owners.owners()] == ["b"]


async def test_one_owner_keeps_the_schedules_until_it_is_gone(owners: OwnerStore) -> None:
    async def keeper() -> list[str]:
        return [row.owner_id for row in await owners.owners() if row.keeps_schedules]

    first = await owners.join("a")
    second = await owners.join("b")
    third = await owners.join("c")
    await owners.adopt(second)
    assert await keeper() == ["a"]
    await owners.leave(first)
    assert await keeper() == []
    await owners.adopt(third)
    await owners.adopt(second)
    assert await keeper() == ["c"]


async def test_of_two_that_reopen_an_execution_one_succeeds(store: ExecutionStore, owners: OwnerStore) -> None:
    first, second = await owners.join("a"), await owners.join("b")
    await _begin(store, first, 1)
    await store.commit(Batch(owner=first, execution_changes=[execution_change("e1", status="Failed")]))

    def reopening(owner: Owner) -> Batch:
        change = execution_change("e1", status="Running", finished_at=None)
        return Batch(owner=owner, reopened=["e1"], execution_changes=[change])

    await store.commit(reopening(second))
    assert await _has(store, second) == ["e1"]
    with pytest.raises(StoreConflict, match="reopen_execution"):
        await store.commit(reopening(first))


async def test_of_many_that_adopt_at_once_each_execution_gets_one_owner(
    store: ExecutionStore, owners: OwnerStore
) -> None:
    silent = await owners.join("silent", lease_s=_LAPSED_S + 0.2)
    for number in range(20):
        await _begin(store, silent, number)
    others = [await owners.join(f"o{number}") for number in range(4)]

    async def adopted() -> bool:
        await asyncio.gather(*(owners.adopt(other) for other in others))
        return not any(row.owner_id == "silent" for row in await owners.owners())

    async with asyncio.timeout(20):
        while not await adopted():
            await asyncio.sleep(0.02)
    shares = [await _has(store, other) for other in others]
    assert sorted(name for share in shares for name in share) == sorted(f"e{number}" for number in range(20))
    assert len([share for share in shares if share]) == 1
