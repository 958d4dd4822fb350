"""Following an execution's events: stored ones, then each as it is committed, until the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import StartBench
from engine_bench import Bench, disk_full, succeeded, until

from cloacina.engine.engine import Engine
from cloacina.errors import NotFound, Unavailable
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.store.executions import EventRow
from services.scheduler import following
from services.scheduler.following import Following


def _message(row: EventRow) -> scheduler_pb2.ExecutionEvent:
    return scheduler_pb2.ExecutionEvent(sequence=row.sequence, event_type=row.event_type)


def _follow(bench: Bench, execution_id: str, after: int = 0, tenant_id: str = "acme") -> AsyncIterator[Any]:
    request = scheduler_pb2.FollowEventsRequest(tenant_id=tenant_id, execution_id=execution_id, after=after)
    return Following(bench.store, bench.engine, _message).follow(request)


async def _all(messages: AsyncIterator[Any]) -> list[tuple[int, str]]:
    async with asyncio.timeout(10):
        return [(event.sequence, event.event_type) async for message in messages for event in message.events]


def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only being woken up helps."""
    monkeypatch.setattr(following, "_LOOK_AGAIN_S", 60.0)
    monkeypatch.setattr(following, "_LOOK_ELSEWHERE_S", 60.0)


async def test_it_begins_with_what_is_stored_and_ends_with_the_execution(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _patient(monkeypatch)
    execution_id = await bench.submit()
    followed = asyncio.create_task(_all(_follow(bench, execution_id)))
    await until(lambda: len(bench.engine.watchers) == 1, "it is followed")
    x = await bench.join()
    bench.engine.report(x, succeeded(await x.next()))
    events = await followed
    assert [number for number, _ in events] == list(range(1, len(events) + 1))
    assert events[-1][1] == "workflow_completed"
    assert [kind for _, kind in events if kind == "task_completed"] == ["task_completed"]
    assert len(bench.engine.watchers) == 0
    assert await _all(_follow(bench, execution_id)) == events  # long after the end
    assert await _all(_follow(bench, execution_id, after=2)) == events[2:]
    assert await _all(_follow(bench, execution_id, after=len(events))) == []
    assert await _all(_follow(bench, execution_id, after=10**9)) == []


async def test_pages_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_PAGE", 2)
    execution_id = await bench.submit()
    x = await bench.join()
    bench.engine.report(x, succeeded(await x.next()))
    await bench.ended(execution_id)
    messages = [message async for message in _follow(bench, execution_id)]
    assert all(len(message.events) <= 2 for message in messages)
    numbers = [event.sequence for message in messages for event in message.events]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 4


async def test_executions_of_others_are_not_there(bench: Bench) -> None:
    execution_id = await bench.submit()
    with pytest.raises(NotFound):
        await _all(_follow(bench, execution_id, tenant_id="other"))
    with pytest.raises(NotFound):
        await _all(_follow(bench, "00000000-0000-0000-0000-000000000000"))
    first = await anext(_follow(bench, execution_id, tenant_id=""))  # for those who see every tenant
    assert first.tenant_id == "acme"


async def test_nothing_is_told_before_it_is_committed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _patient(monkeypatch)
    execution_id = await bench.submit()
    x = await bench.join()
    assignment = await x.next()
    seen: list[str] = []

    async def follow() -> None:
        async for message in _follow(bench, execution_id):
            seen.extend(event.event_type for event in message.events)

    followed = asyncio.create_task(follow())
    await until(lambda: "task_claimed" in seen, "it is followed")
    bench.database.hold()
    bench.engine.report(x, succeeded(assignment))
    await until(lambda: bench.database.held > 0, "the commit is under way")
    assert "task_completed" not in seen
    bench.database.let_go()
    await asyncio.wait_for(followed, 10)
    assert "task_completed" in seen


async def test_a_commit_that_failed_is_no_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _patient(monkeypatch)
    execution_id = await bench.submit()
    followed = asyncio.create_task(_all(_follow(bench, execution_id)))
    await until(lambda: len(bench.engine.watchers) == 1, "it is followed")
    bench.database.failures.append(disk_full())
    with pytest.raises(Unavailable):
        await bench.submit()
    await until(lambda: bench.engine.healthy, "it has recovered")
    x = await bench.join()
    bench.engine.report(x, succeeded(await x.next()))
    assert (await followed)[-1][1] == "workflow_completed"


async def test_what_another_process_commits_is_found(start: StartBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await start()
    execution_id = await bench.submit()
    x = await bench.join()
    stranger = Engine.__new__(Engine)  # one that runs nothing, so that nobody wakes the follower
    stranger.watchers = type(bench.engine.watchers)()
    stranger._live = {}
    request = scheduler_pb2.FollowEventsRequest(execution_id=execution_id)
    followed = asyncio.create_task(_all(Following(bench.store, stranger, _message).follow(request)))
    bench.engine.report(x, succeeded(await x.next()))
    assert (await followed)[-1][1] == "workflow_completed"


async def test_a_scheduler_that_stops_lets_go(bench: Bench) -> None:
    followed = asyncio.create_task(_all(_follow(bench, await bench.submit())))
    await until(lambda: len(bench.engine.watchers) == 1, "it is followed")
    await bench.engine.stop()
    with pytest.raises(Unavailable, match="stopping"):
        await followed
