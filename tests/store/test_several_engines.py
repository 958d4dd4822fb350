"""Several engines on one PostgreSQL: each execution has one owner, whatever stops, hangs or comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from cloacina.domain.decisions import Cancel
from cloacina.domain.graph import TaskSpec
from cloacina.errors import NotFound, Unavailable
from cloacina.store.database import StoreUnavailable, open_database
from tests.ports import free_ports
from tests.unit.engine.engine_bench import Bench, StubbornDatabase, definition, succeeded, until

_LEASE_S = 2.0
"""Of the engines. That of the executors is the usual one: the tests send no heartbeats for them."""
Start = Callable[..., Awaitable[Bench]]
_CHAIN = (TaskSpec("first"), TaskSpec("second", ("first",)))


@pytest.fixture
async def start(postgres_url: str) -> AsyncIterator[Start]:
    """Starts an engine, given where it says it can be called, and the lease and heartbeat of an owner in seconds."""
    started: list[Bench] = []

    async def start_one(target: str, lease_s: float = _LEASE_S, heartbeat_s: float = 0.0) -> Bench:
        database = StubbornDatabase(open_database(postgres_url, "scheduler", shared_s=lease_s))
        await database.open()
        made = Bench(database, target=target, owner_lease_s=lease_s, owner_heartbeat_s=heartbeat_s)
        await made.engine.start()
        started.append(made)
        return made

    yield start_one
    for each in started:
        each.database.let_go()
        await each.engine.stop()
        await each.database.close()


def _die(bench: Bench) -> None:
    """Does nothing more, like a process that was killed."""
    for task in bench.engine._tasks:
        task.cancel()


async def test_each_runs_what_it_began(start: Start) -> None:
    first, second = await start("host:1"), await start("host:2")
    for bench in (first, second):
        executor = await bench.join()
        execution_id = await bench.submit()
        bench.engine.report(executor, succeeded(await executor.next()))
        assert (await bench.ended(execution_id)).status == "Completed"
    assert first.engine.ownership.keeps_schedules
    assert not second.engine.ownership.keeps_schedules
    with pytest.raises(NotFound):
        await second.engine.change("acme", await first.submit(), Cancel("not its own"))


async def test_the_executions_of_one_that_dies_go_on_under_another(start: Start) -> None:
    dying, living = await start("host:1"), await start("host:2")
    executor = await dying.join("x1", slots=1)
    running, waiting = await dying.submit(definition(*_CHAIN)), await dying.submit()
    claimed = await executor.next()
    _die(dying)
    end = await living.join("x1", slots=1, held=[claimed.claim_id])
    await until(lambda: living.engine.find(waiting) is not None, "the adoption")
    await until(lambda: end.owned == [claimed.claim_id], "the word that the claim is its own now")
    assert end.assigned == [], "the slot is taken by the claim that was adopted"
    living.engine.report(end, succeeded(claimed))
    for number in (1, 2):
        living.engine.report(end, succeeded(await end.next(number)))
    assert (await living.ended(running)).status == "Completed"
    assert (await living.ended(waiting)).status == "Completed"
    assert living.metric("cloacina_scheduler_adoptions_total") == 2
    assert living.engine.ownership.keeps_schedules


async def test_one_that_refuses_connections_is_not_waited_for_as_long_as_its_lease(start: Start) -> None:
    """Its process has ended. One that is silent and cannot be asked may live: for that the lease is there."""
    killed = await start(f"127.0.0.1:{free_ports(1)[0]}", lease_s=600.0, heartbeat_s=0.2)
    unreachable = await start("nowhere.invalid:1", lease_s=600.0, heartbeat_s=0.2)
    living = await start("host:3", lease_s=600.0, heartbeat_s=0.2)
    taken, kept = await killed.submit(), await unreachable.submit()
    for each in (killed, unreachable):
        _die(each)
    await until(lambda: living.engine.find(taken) is not None, "the adoption")
    assert living.engine.ownership.keeps_schedules
    for _ in range(3):  # looks, after each of which it is still so
        living.engine.ownership.look()
        await asyncio.sleep(0.3)
        assert living.engine.find(kept) is None


async def test_one_that_listens_is_not_given_up_however_silent(start: Start) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    hanging = await start(f"127.0.0.1:{port}", lease_s=600.0, heartbeat_s=0.1)
    living = await start("host:2", lease_s=600.0, heartbeat_s=0.1)
    execution_id = await hanging.submit()
    _die(hanging)
    await asyncio.sleep(1.0)
    assert living.engine.find(execution_id) is None
    server.close()
    await until(lambda: living.engine.find(execution_id) is not None, "the adoption once nobody listens")


async def test_one_that_stood_still_past_its_lease_writes_nothing_and_joins_again(
    start: Start,
) -> None:
    frozen, living = await start("host:1"), await start("host:2")
    executor = await frozen.join()
    execution_id = await frozen.submit()
    claimed = await executor.next()
    epoch = frozen.engine.ownership.owner.epoch
    frozen.database.hold()  # it is about to write, and then stands still
    late = asyncio.create_task(frozen.submit())
    frozen.engine.report(executor, succeeded(claimed, b'{"late":true}'))
    await until(lambda: living.engine.find(execution_id) is not None, "the adoption")
    frozen.database.let_go()
    with pytest.raises(Unavailable, match="taken over"):
        await late
    assert executor.acknowledged == []
    await until(lambda: frozen.engine.healthy and frozen.engine.ownership.owner.epoch > epoch, "the return")
    assert frozen.engine.find(execution_id) is None
    assert executor.closed
    assert (await living.execution(execution_id)).output is None
    assert frozen.metric("cloacina_scheduler_ownership_lost_total") == 1
    assert (await living.store.list_executions("acme"))[1] == 1, "what it wanted to write is not there"
    again = await frozen.join()
    other = await frozen.submit()
    frozen.engine.report(again, succeeded(await again.next()))
    assert (await frozen.ended(other)).status == "Completed"


async def test_one_that_stood_still_notices_also_when_it_has_nothing_to_write(
    start: Start,
) -> None:
    frozen, living = await start("host:1"), await start("host:2")
    await frozen.submit()
    before = frozen.engine.ownership.owner
    await living.store.owners.leave(before)  # as if the lease had lapsed
    living.engine.ownership.look()
    await until(lambda: living.engine.figures()["active_workflows"] == 1, "the adoption")
    await until(lambda: frozen.engine.healthy and frozen.engine.ownership.owner.epoch > before.epoch, "the return")
    assert frozen.engine.figures()["active_workflows"] == 0


async def test_the_loss_is_counted_also_when_a_commit_that_ran_out_of_time_is_noticed_first(
    start: Start,
) -> None:
    frozen, living = await start("host:1"), await start("host:2")
    execution_id = await frozen.submit()
    epoch = frozen.engine.ownership.owner.epoch
    frozen.database.hold()
    late = asyncio.create_task(frozen.submit())
    await until(lambda: living.engine.find(execution_id) is not None, "the adoption")
    frozen.database.failures.append(StoreUnavailable("no answer in time"))
    frozen.database.let_go()
    with pytest.raises(Unavailable):
        await late
    await until(lambda: frozen.engine.healthy and frozen.engine.ownership.owner.epoch > epoch, "the return")
    assert frozen.metric("cloacina_scheduler_ownership_lost_total") == 1


async def test_one_that_stops_leaves_its_executions_at_once(start: Start) -> None:
    leaving, staying = await start("host:1"), await start("host:2")
    ids = [await leaving.submit() for _ in range(3)]
    await leaving.engine.stop()
    staying.engine.ownership.look()
    await until(
        lambda: all(staying.engine.find(each) for each in ids),
        "the adoption",
    )
    end = await staying.join(slots=3)
    for number in (1, 2, 3):
        staying.engine.report(end, succeeded(await end.next(number)))
    for each in ids:
        assert (await staying.ended(each)).status == "Completed"


async def test_claims_grow_over_an_adoption_by_one_that_joined_earlier(start: Start) -> None:
    elder, dying = await start("host:1"), await start("host:2")
    executor = await dying.join()
    execution_id = await dying.submit(definition(*_CHAIN))
    claimed = await executor.next()
    _die(dying)
    await until(lambda: elder.engine.find(execution_id) is not None, "the adoption")
    end = await elder.join(held=[claimed.claim_id])
    elder.engine.report(end, succeeded(claimed))
    assert (await end.next()).claim_id > claimed.claim_id


async def test_claims_grow_over_a_retry_by_one_that_joined_earlier(start: Start) -> None:
    elder, younger = await start("host:1"), await start("host:2")
    executor = await younger.join()
    execution_id = await younger.submit()
    claimed = await executor.next()
    await younger.engine.change("acme", execution_id, Cancel("enough"))
    younger.engine.release("x1", executor, claimed.claim_id)
    await younger.ended(execution_id)
    await elder.engine.retry("acme", execution_id)
    assert (await (await elder.join()).next()).claim_id > claimed.claim_id


async def test_an_execution_that_ended_elsewhere_is_retried_by_whoever_is_asked(
    start: Start,
) -> None:
    first, second = await start("host:1"), await start("host:2")
    execution_id = await first.submit()
    await first.engine.change("acme", execution_id, Cancel("enough"))
    await first.ended(execution_id)
    await second.engine.retry("acme", execution_id)
    end = await second.join()
    second.engine.report(end, succeeded(await end.next()))
    assert (await second.ended(execution_id)).status == "Completed"


async def test_a_result_that_comes_to_another_owner_is_left_for_its_own(
    start: Start,
) -> None:
    first, second = await start("host:1"), await start("host:2")
    executor = await first.join()
    execution_id = await first.submit()
    claimed = await executor.next()
    end = await second.join("x1", held=[])
    second.engine.report(end, succeeded(claimed))
    first.engine.report(executor, succeeded(claimed))
    await first.ended(execution_id)
    second.engine.report(end, succeeded(claimed))
    await until(lambda: claimed.claim_id in end.acknowledged, "the answer once it has ended")
    assert end.acknowledged == [claimed.claim_id]
