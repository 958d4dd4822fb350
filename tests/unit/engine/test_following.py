"""Following an execution's events: stored ones, then each as it is committed, until the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import pytest
from engine_bench import Bench, disk_full, load_definition, succeeded, until
from prometheus_client import CollectorRegistry

from cloacina.engine.engine import Engine
from cloacina.engine.metrics import EngineMetrics
from cloacina.errors import NotFound, Unavailable
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.store.executions import EventRow
from services.scheduler import following
from services.scheduler.following import Following


def _message(row: EventRow) -> scheduler_pb2.ExecutionEvent:
    return scheduler_pb2.ExecutionEvent(sequence=row.sequence, event_type=row.event_type)


async def _here(tenant_id: str, execution_id: str) -> str | None:
    """There are no other schedulers."""
    return ""


def _nowhere(owner: str, request: Any) -> Any:
    raise AssertionError(f"nothing is at {owner}")


def _follow(bench: Bench, execution_id: str, after: int = 0, tenant_id: str = "acme") -> AsyncIterator[Any]:
    request = scheduler_pb2.FollowEventsRequest(tenant_id=tenant_id, execution_id=execution_id, after=after)
    return Following(bench.store, bench.engine, _message, _here, _nowhere).follow(request)


async def _all(messages: AsyncIterator[Any]) -> list[tuple[int, str]]:
    async with asyncio.timeout(10):
        return [(event.sequence, event.event_type) async for message in messages for event in message.events]


async def _has_ended(bench: Bench, execution_id: str) -> bool:
    row = await bench.store.get_execution("acme", execution_id)
    return row is not None and row.finished_at is not None


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


class _Call:
    """A call to the owner, answered by `messages`.

    Args:
        messages: what the owner says.
    """

    def __init__(self, messages: AsyncGenerator[Any, None]) -> None:
        self._messages = messages
        self.cancelled = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages

    def cancel(self) -> None:
        self.cancelled = True


def _stranger(bench: Bench) -> Engine:
    """The engine of a scheduler that does not run what `bench` does, and is told nothing of it."""
    return Engine(bench.store, EngineMetrics(CollectorRegistry()), load_definition)


async def test_what_another_scheduler_runs_is_followed_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _patient(monkeypatch)
    execution_id = await bench.submit()
    owner = Following(bench.store, bench.engine, _message, _here, _nowhere)
    calls = []

    async def find_owner(tenant_id: str, execution_id: str) -> str:
        return "" if await _has_ended(bench, execution_id) else "owner:9201"

    def pass_on(target: str, request: Any) -> _Call:
        assert target == "owner:9201"
        assert request.tenant_id == "acme"
        calls.append(_Call(owner.follow(request, forwarded=True)))
        return calls[-1]

    request = scheduler_pb2.FollowEventsRequest(execution_id=execution_id)
    elsewhere = Following(bench.store, _stranger(bench), _message, find_owner, pass_on)
    followed = asyncio.create_task(_all(elsewhere.follow(request)))
    await until(lambda: len(bench.engine.watchers) == 1, "it is followed at its owner")
    x = await bench.join()
    bench.engine.report(x, succeeded(await x.next()))
    events = await followed
    assert [number for number, _ in events] == list(range(1, len(events) + 1))
    assert events[-1][1] == "workflow_completed"
    assert [call.cancelled for call in calls] == [True]
    assert len(bench.engine.watchers) == 0


async def test_while_the_owner_cannot_be_reached_the_store_tells(bench: Bench) -> None:
    execution_id = await bench.submit()
    tried = []

    async def broken() -> AsyncGenerator[Any, None]:
        tried.append(1)
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "it is gone")
        yield

    async def find_owner(tenant_id: str, execution_id: str) -> str | None:
        return "owner:9201" if len(tried) < 2 else None

    elsewhere = Following(
        bench.store, _stranger(bench), _message, find_owner, lambda _target, _request: _Call(broken())
    )
    request = scheduler_pb2.FollowEventsRequest(execution_id=execution_id)
    followed = asyncio.create_task(_all(elsewhere.follow(request)))
    await until(lambda: len(tried) == 2, "its owner was tried")
    x = await bench.join()
    bench.engine.report(x, succeeded(await x.next()))
    assert (await followed)[-1][1] == "workflow_completed"


@pytest.mark.parametrize("owner", ["third:9201", None])
async def test_a_request_that_was_passed_on_goes_no_further(bench: Bench, owner: str | None) -> None:
    execution_id = await bench.submit()

    async def find_owner(tenant_id: str, execution_id: str) -> str | None:
        return owner

    elsewhere = Following(bench.store, _stranger(bench), _message, find_owner, _nowhere)
    request = scheduler_pb2.FollowEventsRequest(execution_id=execution_id)
    with pytest.raises(Unavailable) as refused:
        await _all(elsewhere.follow(request, forwarded=True))
    assert refused.value.code == "moving"


async def test_live_events_are_not_read_from_the_store(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _patient(monkeypatch)
    execution_id = await bench.submit()
    x = await bench.join()
    assignment = await x.next()
    read = []
    list_events = bench.store.list_events

    async def counted(*args: Any, **named: Any) -> list[EventRow]:
        read.append(1)
        return await list_events(*args, **named)

    monkeypatch.setattr(bench.store, "list_events", counted)
    messages = _follow(bench, execution_id)
    seen: list[str] = []
    async with asyncio.timeout(10):
        while "task_claimed" not in seen:
            seen += [event.event_type for event in (await anext(messages)).events]
        bench.engine.report(x, succeeded(assignment))
        rest = await _all(messages)
    assert rest[-1][1] == "workflow_completed"
    assert len(read) == 1


async def test_a_follower_that_falls_behind_reads_the_store(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _patient(monkeypatch)
    monkeypatch.setattr(following, "_PAGE", 3)
    execution_id = await bench.submit()
    messages = _follow(bench, execution_id)
    await anext(messages)  # it is watched, and takes nothing for a while
    x = await bench.join()
    bench.engine.report(x, succeeded(await x.next()))
    await bench.ended(execution_id)
    numbers = [number for number, _ in await _all(messages)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 3


async def test_a_scheduler_that_stops_lets_go(bench: Bench) -> None:
    followed = asyncio.create_task(_all(_follow(bench, await bench.submit())))
    await until(lambda: len(bench.engine.watchers) == 1, "it is followed")
    await bench.engine.stop()
    with pytest.raises(Unavailable, match="stopping"):
        await followed
