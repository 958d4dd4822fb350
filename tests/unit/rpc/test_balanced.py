"""Calling a service of several processes: in turn, and again elsewhere only where that is safe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cloacina.errors import Conflict, Unavailable
from cloacina.rpc import balanced
from cloacina.rpc.balanced import BalancedClient
from cloacina.rpc.batched_server import BatchedExecutesServer
from cloacina.rpc.client import RpcClient
from cloacina.rpc.places import Place, Places
from cloacina.rpc.server import RpcServer
from cloacina.rpc.v1 import scheduler_pb2, scheduler_pb2_grpc
from cloacina.telemetry.metrics import RpcMetrics

_NAME = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name
_STUB = scheduler_pb2_grpc.SchedulerServiceStub
_REFUSED = Unavailable("too much is in flight")
_DRAINING = Unavailable("the scheduler is stopping", code="draining")


class Process(scheduler_pb2_grpc.SchedulerServiceServicer):
    """One process: notes what it is asked, and does as the test says.

    Args:
        port: where it listens; 0 for any.
    """

    def __init__(self, port: int = 0) -> None:
        self.asked: list[Any] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = port

    async def start(self) -> None:
        metrics = RpcMetrics(CollectorRegistry())
        self._executes = BatchedExecutesServer(metrics)
        self._executes.handle_with(self.Execute)
        self._server = RpcServer("scheduler", "127.0.0.1", self.port, metrics=metrics)
        self._server.add(scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server, self, _NAME)
        self.port = await self._server.start()
        await self._server.set_serving(True)

    async def hang(self) -> None:
        """Answers nothing, and is not well."""
        self.gate.clear()
        await self._server.set_serving(False)

    async def stop(self) -> None:
        await self._server.stop(0)

    async def _answer(self, request: Any) -> None:
        self.asked.append(request)
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    async def Execute(self, request: Any, context: Any) -> scheduler_pb2.ExecuteResponse:
        await self._answer(request)
        return scheduler_pb2.ExecuteResponse(execution_id=request.execution_id)

    async def ExecuteMany(self, request_iterator: Any, context: Any) -> AsyncIterator[scheduler_pb2.ExecuteAnswers]:
        async for answers in self._executes.serve(request_iterator):
            yield answers

    async def FireTrigger(self, request: Any, context: Any) -> scheduler_pb2.FireTriggerResponse:
        await self._answer(request)
        return scheduler_pb2.FireTriggerResponse()

    async def ListExecutions(self, request: Any, context: Any) -> scheduler_pb2.ListExecutionsResponse:
        await self._answer(request)
        return scheduler_pb2.ListExecutionsResponse()


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Process, Process]]:
    """Two processes."""
    both = Process(), Process()
    for process in both:
        await process.start()
    yield both
    for process in both:
        process.gate.set()
        await process.stop()


@pytest.fixture
async def connect(pair: tuple[Process, Process]) -> AsyncIterator[Callable[[], Awaitable[BalancedClient]]]:
    """Makes a client of both."""
    made: list[BalancedClient] = []

    async def make() -> BalancedClient:
        client = BalancedClient(
            ",".join(f"127.0.0.1:{process.port}" for process in pair),
            lambda place: RpcClient(place.address, service="scheduler"),
            service="scheduler",
            deadline_s=3.0,
        )
        await client.start()
        made.append(client)
        return client

    yield make
    for client in made:
        await client.close()


async def _warm(client: BalancedClient, pair: tuple[Process, Process]) -> None:
    """Both are connected, and were asked something."""
    async with asyncio.timeout(10):
        while not all(process.asked for process in pair):
            await client.call(_STUB(client.channel).ListExecutions, scheduler_pb2.ListExecutionsRequest())
    for process in pair:
        process.asked.clear()


def _asked(pair: tuple[Process, Process]) -> list[Any]:
    return [request for process in pair for request in process.asked]


async def test_calls_go_to_each_in_turn(pair, connect) -> None:
    client = await connect()
    await _warm(client, pair)
    for _ in range(4):
        await client.call(_STUB(client.channel).Execute, scheduler_pb2.ExecuteRequest())
    assert [len(process.asked) for process in pair] == [2, 2]
    assert not any(request.again for request in _asked(pair))


async def test_one_that_drains_did_nothing_and_any_call_goes_to_another(pair, connect) -> None:
    client = await connect()
    await _warm(client, pair)
    pair[0].error = _DRAINING
    for _ in range(3):
        await client.call(_STUB(client.channel).FireTrigger, scheduler_pb2.FireTriggerRequest())
    assert len(pair[1].asked) == 3
    for _ in range(3):
        await client.call(_STUB(client.channel).Execute, scheduler_pb2.ExecuteRequest())
    assert not any(request.again for request in pair[1].asked if isinstance(request, scheduler_pb2.ExecuteRequest))


async def test_who_says_no_is_believed(pair, connect) -> None:
    client = await connect()
    await _warm(client, pair)
    for error in (_REFUSED, Conflict("no")):
        for process in pair:
            process.asked.clear()
            process.error = error
        with pytest.raises(type(error)):
            await client.call(_STUB(client.channel).Execute, scheduler_pb2.ExecuteRequest())
        assert len(_asked(pair)) == 1


async def test_one_that_hangs_leaves_another_the_time_and_the_request_says_that_it_comes_again(pair, connect) -> None:
    client = await connect()
    await _warm(client, pair)
    await pair[0].hang()
    for number in range(2):  # one of them goes to the one that hangs first
        request = scheduler_pb2.ExecuteRequest(execution_id=str(number))
        assert (await client.call(_STUB(client.channel).Execute, request)).execution_id == str(number)
    assert [request.again for request in pair[0].asked] == [False]
    assert sorted(request.again for request in pair[1].asked) == [False, True]


async def test_one_that_is_slow_is_waited_for(pair, connect) -> None:
    client = await connect()
    await _warm(client, pair)
    for process in pair:
        process.gate.clear()
    calling = asyncio.create_task(
        client.call(_STUB(client.channel).Execute, scheduler_pb2.ExecuteRequest(execution_id="1"), deadline_s=4)
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(calling), 4 * balanced._LONG_PART + 0.3)
    for process in pair:
        process.gate.set()
    assert (await calling).execution_id == "1"
    assert len(_asked(pair)) == 1


async def test_what_may_have_happened_and_cannot_say_so_is_not_repeated(pair, connect) -> None:
    client = await connect()
    await _warm(client, pair)
    for process in pair:
        process.gate.clear()
    with pytest.raises(Unavailable, match="did not answer in time"):
        await client.call(_STUB(client.channel).FireTrigger, scheduler_pb2.FireTriggerRequest(), deadline_s=0.3)
    assert len(_asked(pair)) == 1


async def test_one_that_is_gone_is_not_asked_and_comes_back(pair, connect) -> None:
    client = await connect()
    await _warm(client, pair)
    await pair[0].stop()
    for _ in range(6):
        await client.call(_STUB(client.channel).FireTrigger, scheduler_pb2.FireTriggerRequest())
    assert len(pair[1].asked) == 6
    await pair[0].start()
    await _warm(client, pair)


async def test_a_restart_of_all_is_waited_for_but_not_for_ever(pair, connect, monkeypatch) -> None:
    client = await connect()
    await _warm(client, pair)
    for process in pair:
        await process.stop()
    calling = asyncio.create_task(
        client.call(_STUB(client.channel).ListExecutions, scheduler_pb2.ListExecutionsRequest(), deadline_s=10)
    )
    await asyncio.sleep(0)
    await pair[1].start()
    await calling
    await pair[1].stop()
    monkeypatch.setattr(balanced, "_PATIENCE_S", 0.0)
    with pytest.raises(Unavailable, match="the scheduler cannot be reached"):
        await client.call(_STUB(client.channel).ListExecutions, scheduler_pb2.ListExecutionsRequest())
    await pair[1].start()
    await pair[0].start()


@pytest.mark.parametrize(
    ("targets", "places"),
    [
        ("127.0.0.1:1, 127.0.0.2:1", [Place("127.0.0.1:1"), Place("127.0.0.2:1")]),
        ("localhost:1", [Place("127.0.0.1:1", "localhost")]),
        ("dns:///localhost:1,127.0.0.1:2", [Place("127.0.0.1:1", "localhost"), Place("127.0.0.1:2")]),
        ("[::1]:1", [Place("[::1]:1")]),
        ("nowhere.invalid:1", [Place("nowhere.invalid:1")]),
        ("unix:/run/scheduler", [Place("unix:/run/scheduler")]),
    ],
)
async def test_targets_and_the_places_they_stand_for(targets: str, places: list[Place]) -> None:
    assert await Places(targets).find() == places
