"""Calls that belong to another scheduler: passed on, waited for while nobody is there, answered by who takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cloacina.errors import Unavailable
from cloacina.rpc.client import RpcClient
from cloacina.rpc.server import RpcServer
from cloacina.rpc.v1 import scheduler_pb2, scheduler_pb2_grpc
from cloacina.telemetry.metrics import RpcMetrics
from services.scheduler.forwarding import Forwarder, ForwardMetrics, NotReached, Preferred, Routed
from tests.ports import free_ports

_NAME = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name
_REQUEST = scheduler_pb2.FireTriggerRequest(tenant_id="public", name="t")


class Handlers(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Handlers of one scheduler, which count what they are asked, and answer unless they hang."""

    def __init__(self) -> None:
        self.asked = 0
        self.hangs = False

    async def FireTrigger(self, request: Any, context: Any) -> scheduler_pb2.FireTriggerResponse:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        return scheduler_pb2.FireTriggerResponse()


class Context:
    """A call with a deadline."""

    def __init__(self, deadline_s: float) -> None:
        self._ends = asyncio.get_running_loop().time() + deadline_s

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> float:
        return self._ends - asyncio.get_running_loop().time()


class Stand:
    """A scheduler whose calls belong to `target`, and another that may listen there."""

    def __init__(self) -> None:
        self.here, self.there = Handlers(), Handlers()
        self.port = free_ports(1)[0]
        self.target: str | None = f"127.0.0.1:{self.port}"
        self.looks = 0
        self.registry = CollectorRegistry()
        self.forwarder = Forwarder(lambda to: RpcClient(to, service="scheduler"), ForwardMetrics(self.registry))
        self._server: RpcServer | None = None
        routes = {"FireTrigger": self._route}
        self.routed = Routed(self.here, scheduler_pb2_grpc.SchedulerServiceStub, routes, self.forwarder, self._look)

    async def _route(self, request: Any, forwarded: bool) -> str | None:
        return self.target

    def _look(self) -> None:
        self.looks += 1

    async def listen(self) -> None:
        """The other one is there from now on."""
        self._server = RpcServer("scheduler", "127.0.0.1", self.port, metrics=RpcMetrics(CollectorRegistry()))
        self._server.add(scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server, self.there, _NAME)
        await self._server.start()

    async def end(self) -> None:
        """The other one is gone."""
        if self._server is not None:
            await self._server.stop(0)

    async def close(self) -> None:
        await self.forwarder.close()
        await self.end()


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    stand = Stand()
    yield stand
    await stand.close()


async def test_a_call_is_answered_by_the_scheduler_that_it_belongs_to(stand: Stand) -> None:
    await stand.listen()
    await stand.routed.FireTrigger(_REQUEST, Context(30.0))
    assert (stand.here.asked, stand.there.asked, stand.looks) == (0, 1, 0)
    answered = stand.registry.get_sample_value("cloacina_scheduler_forwards_total", {"outcome": "answered"})
    assert answered == 1


async def test_a_call_waits_for_one_that_restarts(stand: Stand) -> None:
    call = asyncio.create_task(stand.routed.FireTrigger(_REQUEST, Context(60.0)))
    while not stand.looks:
        await asyncio.sleep(0.01)
    await stand.listen()
    await call
    assert (stand.here.asked, stand.there.asked) == (0, 1)


async def test_a_call_that_waits_is_answered_by_who_takes_over(stand: Stand) -> None:
    call = asyncio.create_task(stand.routed.FireTrigger(_REQUEST, Context(60.0)))
    while not stand.looks:
        await asyncio.sleep(0.01)
    stand.target = None
    await call
    assert stand.here.asked == 1


async def test_a_call_waits_no_longer_than_its_deadline(stand: Stand) -> None:
    with pytest.raises(NotReached):
        await stand.routed.FireTrigger(_REQUEST, Context(0.6))
    assert (stand.here.asked, stand.there.asked) == (0, 0)


async def test_where_another_is_only_preferred_nobody_waits_for_it(stand: Stand) -> None:
    stand.target = Preferred(stand.target or "")
    await stand.routed.FireTrigger(_REQUEST, Context(60.0))
    assert stand.here.asked == 1


async def test_what_may_have_happened_is_not_asked_again(stand: Stand) -> None:
    """The other one was asked, and ended before it answered."""
    stand.there.hangs = True
    await stand.listen()
    call = asyncio.create_task(stand.routed.FireTrigger(_REQUEST, Context(60.0)))
    while not stand.there.asked:
        await asyncio.sleep(0.01)
    await stand.end()
    with pytest.raises(Unavailable) as refused:
        await call
    assert not isinstance(refused.value, NotReached)
    assert stand.here.asked == 0
