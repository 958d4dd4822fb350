"""Calls of Execute over one stream: each is what it would be by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from cloacina.errors import Conflict, Internal, NotFound, RateLimited, Unavailable
from cloacina.rpc import batched
from cloacina.rpc.batched import BatchedExecutes
from cloacina.rpc.batched_server import BatchedExecutesServer
from cloacina.rpc.client import RpcClient
from cloacina.rpc.errors import Unreachable
from cloacina.rpc.server import RpcServer
from cloacina.rpc.v1 import scheduler_pb2, scheduler_pb2_grpc
from cloacina.telemetry import scope
from cloacina.telemetry.metrics import RpcMetrics

_NAME = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name
_COUNT = "cloacina_rpc_requests_total"


class Scheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Answers with the workflow's name for an id, or as `errors` says; holds what is asked while the gate is closed."""

    def __init__(self, most_calls: int = 4096) -> None:
        self.registry = CollectorRegistry()
        self.metrics = RpcMetrics(self.registry)
        self.executes = BatchedExecutesServer(self.metrics, most_calls)
        self.executes.handle_with(self.Execute)
        self.errors: dict[str, Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived: dict[str, tuple[str | None, float | None]] = {}
        self.messages = 0
        self.broken = False
        self.port = 0

    async def start(self, adder: Any = scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server) -> None:
        self._server = RpcServer("scheduler", "127.0.0.1", self.port, metrics=self.metrics, token="ours")
        self._server.add(adder, self, _NAME)
        self.port = await self._server.start()

    async def stop(self, grace_s: float = 0.0) -> None:
        await self._server.stop(grace_s)

    async def Execute(self, request: Any, context: Any) -> scheduler_pb2.ExecuteResponse:
        self.arrived[request.workflow_name] = scope.current().request_id, context.time_remaining()
        await self.gate.wait()
        if (error := self.errors.get(request.workflow_name)) is not None:
            raise error
        return scheduler_pb2.ExecuteResponse(execution_id=request.workflow_name)

    async def ExecuteMany(self, request_iterator: Any, context: Any) -> AsyncIterator[scheduler_pb2.ExecuteAnswers]:
        if self.broken:
            await context.abort(grpc.StatusCode.INTERNAL, "reset")
        async for answers in self.executes.serve(self._counted(request_iterator)):
            yield answers

    async def _counted(self, messages: Any) -> AsyncIterator[Any]:
        async for message in messages:
            self.messages += 1
            yield message

    async def has(self, workflow: str) -> None:
        """Returns once a call has arrived."""
        async with asyncio.timeout(10):
            while workflow not in self.arrived:
                await asyncio.sleep(0.005)


class Gateway:
    """Calls it."""

    def __init__(self, port: int, token: str = "ours") -> None:
        self.registry = CollectorRegistry()
        self.client = RpcClient(
            f"127.0.0.1:{port}", service="scheduler", metrics=RpcMetrics(self.registry), token=token
        )
        self.executes = BatchedExecutes(self.client)

    async def ask(self, workflow: str, deadline_s: float = 10.0) -> str:
        request = scheduler_pb2.ExecuteRequest(workflow_name=workflow)
        answer = await self.executes.call(request, deadline_s=deadline_s)
        return str(answer.execution_id)


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    scheduler = Scheduler()
    await scheduler.start()
    yield scheduler
    scheduler.gate.set()
    await scheduler.stop()


@pytest.fixture
async def gateway(scheduler: Scheduler) -> AsyncIterator[Gateway]:
    gateway = Gateway(scheduler.port)
    yield gateway
    await gateway.executes.close()
    await gateway.client.close()


def _counted(registry: CollectorRegistry, code: str, side: str, method: str = "Execute") -> float:
    labels = {"service": "SchedulerService", "method": method, "code": code, "side": side}
    return registry.get_sample_value(_COUNT, labels) or 0.0


async def test_calls_share_messages_and_each_is_counted(scheduler: Scheduler, gateway: Gateway) -> None:
    names = [f"workflow_{number}" for number in range(200)]
    assert await asyncio.gather(*map(gateway.ask, names)) == names
    assert scheduler.messages < 20
    assert _counted(gateway.registry, "OK", "client") == _counted(scheduler.registry, "OK", "server") == 200


async def test_a_call_carries_its_request_id_and_its_deadline(scheduler: Scheduler, gateway: Gateway) -> None:
    with scope.bind(request_id="first-1"):
        first = asyncio.create_task(gateway.ask("first", 7.0))
    with scope.bind(request_id="second-2"):
        second = asyncio.create_task(gateway.ask("second", 3.0))
    await asyncio.gather(first, second)
    assert {name: request_id for name, (request_id, _) in scheduler.arrived.items()} == {
        "first": "first-1",
        "second": "second-2",
    }
    first_s, second_s = scheduler.arrived["first"][1], scheduler.arrived["second"][1]
    assert first_s is not None
    assert second_s is not None
    assert 3.0 < first_s <= 7.0
    assert 0.0 < second_s <= 3.0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no such workflow", code="workflow_not_found"), "NOT_FOUND"),
        (Conflict("it is paused", code="workflow_paused"), "FAILED_PRECONDITION"),
        (RateLimited("too many", code="execution_quota_exceeded"), "RESOURCE_EXHAUSTED"),
        (Unavailable("it stops", code="draining"), "UNAVAILABLE"),
    ],
)
async def test_an_error_of_one_is_that_ones_alone(
    scheduler: Scheduler, gateway: Gateway, error: Any, status: str
) -> None:
    scheduler.errors["bad"] = error
    good, bad = await asyncio.gather(gateway.ask("good"), gateway.ask("bad"), return_exceptions=True)
    assert good == "good"
    assert type(bad) is type(error)
    assert (bad.message, bad.code) == (error.message, error.code)
    assert _counted(gateway.registry, status, "client") == _counted(scheduler.registry, status, "server") == 1


async def test_a_defect_says_nothing_of_itself(scheduler: Scheduler, gateway: Gateway) -> None:
    scheduler.errors["bad"] = ValueError("a secret of the scheduler's")
    with pytest.raises(Internal, match="^internal error$"):
        await gateway.ask("bad")


async def test_a_call_that_takes_too_long_ends_and_others_go_on(scheduler: Scheduler, gateway: Gateway) -> None:
    scheduler.gate.clear()
    with pytest.raises(Unreachable, match="did not answer in time"):
        await gateway.ask("slow", 0.2)
    async with asyncio.timeout(10):
        while not _counted(scheduler.registry, "DEADLINE_EXCEEDED", "server"):
            await asyncio.sleep(0.01)
    scheduler.gate.set()
    assert await gateway.ask("next") == "next"


async def test_a_lost_stream_answers_what_it_carried_and_the_next_call_opens_another(
    scheduler: Scheduler, gateway: Gateway
) -> None:
    scheduler.gate.clear()
    asked = [asyncio.create_task(gateway.ask(name)) for name in ("one", "two")]
    await scheduler.has("two")
    await scheduler.stop()
    for call in asked:
        with pytest.raises(Unreachable):
            await call
    again = Scheduler()
    again.port = scheduler.port
    await again.start()
    async with asyncio.timeout(20):
        while True:
            try:
                assert await gateway.ask("three", 1.0) == "three"
                break
            except Unreachable:  # the channel looks for it
                await asyncio.sleep(0.05)
    await again.stop()


async def test_whatever_ends_the_stream_says_nothing_of_the_calls(scheduler: Scheduler, gateway: Gateway) -> None:
    scheduler.broken = True
    with pytest.raises(Unreachable):
        await gateway.ask("one")
    scheduler.broken = False
    assert await gateway.ask("two") == "two"


async def test_one_that_drains_answers_what_was_asked_and_ends_the_stream(
    scheduler: Scheduler, gateway: Gateway
) -> None:
    scheduler.gate.clear()
    asked = asyncio.create_task(gateway.ask("asked"))
    await scheduler.has("asked")
    scheduler.executes.close()
    late = asyncio.create_task(gateway.ask("late"))
    await asyncio.sleep(0.1)
    scheduler.gate.set()
    assert await asked == "asked"
    with pytest.raises(Unreachable):
        await late
    assert "late" not in scheduler.arrived
    async with asyncio.timeout(5):  # no stream is left that the grace would be waited for
        await scheduler.stop(60.0)


async def test_more_than_it_handles_are_refused() -> None:
    scheduler = Scheduler(most_calls=3)
    await scheduler.start()
    gateway = Gateway(scheduler.port)
    scheduler.gate.clear()
    calls = [asyncio.create_task(gateway.ask(f"workflow_{number}")) for number in range(10)]
    async with asyncio.timeout(10):
        while sum(call.done() for call in calls) < 7:
            await asyncio.sleep(0.01)
    scheduler.gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Unavailable)]
    assert len(refused) == 7
    assert not any(isinstance(error, Unreachable) for error in refused), "the scheduler said so itself"
    await gateway.executes.close()
    await gateway.client.close()
    await scheduler.stop()


async def test_more_than_may_wait_are_refused_here(
    scheduler: Scheduler, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "_MOST_CALLS", 2)
    scheduler.gate.clear()
    waiting = [asyncio.create_task(gateway.ask(name)) for name in ("one", "two")]
    await scheduler.has("two")
    with pytest.raises(Unavailable, match="try again later"):
        await gateway.ask("three")
    scheduler.gate.set()
    assert await asyncio.gather(*waiting) == ["one", "two"]


async def test_large_calls_are_divided_over_messages(
    scheduler: Scheduler, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched, "_MESSAGE_BUDGET", 1 << 20)
    requests = [
        scheduler_pb2.ExecuteRequest(workflow_name=f"workflow_{number}", context=b"x" * 600_000) for number in range(8)
    ]
    answers = await asyncio.gather(*(gateway.executes.call(request, deadline_s=20.0) for request in requests))
    assert [answer.execution_id for answer in answers] == [f"workflow_{number}" for number in range(8)]
    assert scheduler.messages >= 4


def _add_without_the_stream(servicer: Any, server: Any) -> None:
    execute = grpc.unary_unary_rpc_method_handler(
        servicer.Execute,
        request_deserializer=scheduler_pb2.ExecuteRequest.FromString,
        response_serializer=scheduler_pb2.ExecuteResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_NAME, {"Execute": execute}),))


async def test_a_scheduler_without_the_stream_is_called_one_by_one() -> None:
    scheduler = Scheduler()
    await scheduler.start(_add_without_the_stream)
    gateway = Gateway(scheduler.port)
    for names in (["one", "two"], ["three"]):
        assert await asyncio.gather(*map(gateway.ask, names)) == names
    assert _counted(gateway.registry, "OK", "client") == 3
    assert _counted(gateway.registry, "UNIMPLEMENTED", "client", "ExecuteMany") <= 1, "it is not asked each time"
    await gateway.executes.close()
    await gateway.client.close()
    await scheduler.stop()


async def test_without_the_token_it_fails_as_a_call_by_itself(scheduler: Scheduler) -> None:
    gateway = Gateway(scheduler.port, token="another")
    with pytest.raises(Internal, match="refuses this service's token"):
        await gateway.ask("one")
    await gateway.client.close()
