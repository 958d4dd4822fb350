"""What waits and what is live is bounded, in number, bytes and by tenant; and everyone's turn comes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_bench import Bench, ExecutorEnd, StubbornDatabase, definition, succeeded, until

from cloacina.domain.graph import TaskSpec
from cloacina.engine.intake import MOST_OF_CLIENTS, Intake, Request
from cloacina.engine.model import Joining, Origin
from cloacina.errors import Unavailable


def request(tenant_id: str = "", size: int = 0) -> Request:
    return Request(lambda _: None, tenant_id=tenant_id, size=size)


def intake(most: int = 1000, most_bytes: int = 1 << 20, tenant_share: float = 1.0) -> Intake:
    return Intake(most, most_bytes, tenant_share)


def test_reports_come_first_and_tenants_in_turn() -> None:
    waiting = intake()
    for tenant_id in ("a", "a", "a", "b", "", "b", ""):
        waiting.put(request(tenant_id))
    assert [each.tenant_id for each in waiting.take(6)] == ["", "", "a", "b", "a", "b"]
    assert [each.tenant_id for each in waiting.take(6)] == ["a"]
    assert (len(waiting), waiting.queued) == (7, 0), "they wait until they are written"
    waiting.written(7)
    assert len(waiting) == 0


def test_a_tenant_that_comes_late_is_in_the_next_group_however_many_wait() -> None:
    waiting = intake(100_000)
    for _ in range(20_000):
        waiting.put(request("many"))
    waiting.put(request("late"))
    group = waiting.take(100_000)
    assert len(group) == MOST_OF_CLIENTS
    assert [each.tenant_id for each in group].index("late") == 1


def test_number_bytes_and_a_tenants_share_are_limits() -> None:
    waiting = intake(most=4, most_bytes=1000, tenant_share=0.5)
    waiting.check_room("a", 5000)  # one alone is let in: it is limited where it came from
    for _ in range(2):
        waiting.put(request("a", 100))
    with pytest.raises(Unavailable, match="2 requests of this tenant"):
        waiting.check_room("a", 1)
    waiting.check_room("b", 700)
    with pytest.raises(Unavailable, match="KiB"):
        waiting.check_room("b", 900)
    waiting.put(request("b", 700))
    waiting.put(request(""))
    with pytest.raises(Unavailable, match="4 requests wait"):
        waiting.check_room("c", 0)
    assert waiting.crowded
    waiting.written(len(waiting.take(10)))
    assert not waiting.crowded
    waiting.check_room("a", 999)


async def test_executors_are_not_read_while_too_much_waits(start: Any, database: StubbornDatabase) -> None:
    bench: Bench = await start(max_waiting=10)
    executor = await bench.join()
    database.hold()
    waiting = [asyncio.create_task(bench.submit())]
    await until(lambda: database.held)
    for _ in range(10):
        bench.engine.heartbeat("x1", 4)
    room = asyncio.create_task(bench.engine.room())
    waiting.append(asyncio.create_task(bench.submit()))
    await until(lambda: waiting[1].done())
    assert isinstance(waiting[1].exception(), Unavailable)
    assert not room.done()
    assert bench.metric("cloacina_scheduler_queue_depth", queue="waiting") == 10
    assert bench.metric("cloacina_scheduler_refusals_total", queue="waiting") == 1
    database.let_go()
    async with asyncio.timeout(10):
        await asyncio.gather(room, waiting[0])
    assert executor.closed is False


async def test_leases_do_not_lapse_over_heartbeats_that_were_not_read(start: Any, database: StubbornDatabase) -> None:
    bench: Bench = await start(max_waiting=5, lease_s=0.3)
    executor = await bench.join()
    database.hold()
    held = asyncio.create_task(bench.submit())
    await until(lambda: database.held)
    for _ in range(5):
        bench.engine.heartbeat("x1", 4)
    now, began = asyncio.get_running_loop().time, asyncio.get_running_loop().time()
    await until(lambda: now() - began > 0.9, "three leases, in which nothing more is read")
    database.let_go()
    await held
    await until(lambda: bool(executor.assigned))
    assert executor.closed is False


async def test_bytes_of_live_executions_are_a_limit_and_given_back(start: Any) -> None:
    bench: Bench = await start(max_live_bytes=200_000)
    large = b'{"text":"' + b"x" * 120_000 + b'"}'
    first = await submit(bench, large)
    with pytest.raises(Unavailable, match="unfinished executions hold"):
        await submit(bench, large)
    assert bench.metric("cloacina_scheduler_live_bytes") > 120_000
    assert bench.metric("cloacina_scheduler_refusals_total", queue="live") == 1
    executor = await bench.join()
    await until(lambda: bool(executor.assigned))
    bench.engine.report(executor, succeeded(executor.assigned[0], b"{}"))
    await bench.ended(first)
    assert bench.metric("cloacina_scheduler_live_bytes") == 0
    await submit(bench, large)


async def test_what_tasks_leave_behind_counts(start: Any) -> None:
    bench: Bench = await start()
    of = definition(TaskSpec("a"), TaskSpec("b", dependencies=("a",)))
    await bench.submit(of)
    before = bench.metric("cloacina_scheduler_live_bytes")
    executor = await bench.join()
    await until(lambda: bool(executor.assigned))
    bench.engine.report(executor, succeeded(executor.assigned[0], b'{"text":"' + b"x" * 50_000 + b'"}'))
    await until(lambda: len(executor.assigned) == 2)
    grown = bench.metric("cloacina_scheduler_live_bytes")
    assert grown - before >= 50_000


async def test_one_tenant_cannot_take_all_room_for_live_executions(start: Any) -> None:
    bench: Bench = await start(max_live=4, tenant_share=0.5)
    for _ in range(2):
        await submit(bench, b"{}", "greedy")
    with pytest.raises(Unavailable, match="2 executions of this tenant"):
        await submit(bench, b"{}", "greedy")
    await submit(bench, b"{}", "other")


async def test_a_successor_counts_what_it_takes_up(start: Any) -> None:
    bench: Bench = await start()
    for _ in range(3):
        await bench.submit()
    counted = bench.metric("cloacina_scheduler_live_bytes")
    await bench.engine.stop()
    successor: Bench = await start()
    assert successor.metric("cloacina_scheduler_live_bytes") == counted
    assert successor.metric("cloacina_scheduler_queue_depth", queue="live") == 3


async def test_a_tenant_with_a_long_queue_delays_anothers_task_by_no_more_than_one_task(start: Any) -> None:
    """With one slot: whatever is queued, the late tenant's task is the next but one to run."""
    bench: Bench = await start()
    greedy, late = of_tenant("greedy"), of_tenant("late")
    await asyncio.gather(*(bench.engine.submit(greedy, b"{}", Origin()) for _ in range(2000)))
    executor = ExecutorEnd()
    await bench.engine.join(Joining("x1", 1, frozenset(), "1"), executor)
    await until(lambda: len(executor.assigned) == 1)
    await bench.engine.submit(late, b"{}", Origin())
    for number in (1, 2):
        bench.engine.report(executor, succeeded(executor.assigned[-1], b"{}"))
        await until(lambda number=number: len(executor.assigned) == number + 1)
    assert "late" in [each.live.tenant_id for each in executor.assigned[1:]]


def of_tenant(tenant_id: str) -> Any:
    made = definition(TaskSpec("a"))
    return type(made)(f"d-{tenant_id}", tenant_id, made.spec)


async def submit(bench: Bench, context: bytes, tenant_id: str = "acme") -> str:
    return (await bench.engine.submit(of_tenant(tenant_id), context, Origin()))[0]
