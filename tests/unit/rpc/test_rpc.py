"""Server and client over real gRPC: health, reflection, deadlines, errors, the token, the request id, metrics."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

import cloacina.errors
from cloacina.errors import CloacinaError, Internal, PayloadTooLarge, Unavailable
from cloacina.rpc.client import LONG_LIVED, RpcClient, is_traced
from cloacina.rpc.errors import to_status
from cloacina.rpc.options import MAX_MESSAGE_BYTES
from cloacina.rpc.server import ListenError, RpcServer, is_loopback
from cloacina.rpc.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc
from cloacina.telemetry import scope
from cloacina.telemetry.metrics import RpcMetrics

_NAME = gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"].full_name
_METHOD = {"service": "GatewayService", "method": "GetStatus"}
Answer = Callable[[], Awaitable[common_pb2.ServiceStatus]]


class Gateway(gateway_pb2_grpc.GatewayServiceServicer):
    """Answers as the test says, and notes the request id of each call."""

    def __init__(self) -> None:
        self.answer: Answer = self._fine
        self.request_ids: list[str | None] = []

    async def GetStatus(self, request: Any, context: Any) -> common_pb2.ServiceStatus:
        self.request_ids.append(scope.current().request_id)
        return await self.answer()

    @staticmethod
    async def _fine() -> common_pb2.ServiceStatus:
        return common_pb2.ServiceStatus(service="api", ready=True)


class Dispatch(scheduler_pb2_grpc.DispatchServiceServicer):
    """A stream that ends with an error."""

    async def Work(self, request_iterator: Any, context: Any) -> AsyncIterator[scheduler_pb2.SchedulerMessage]:
        async for _ in request_iterator:
            yield scheduler_pb2.SchedulerMessage(heartbeat=True)
        raise cloacina.errors.Conflict("no more", code="drained")


class Pair:
    """A server on a free port and a client of it.

    Args:
        token: the server's token.
        shown: the client's.
    """

    def __init__(self, token: str | None = None, shown: str | None = None, **more: Any) -> None:
        self.registry = CollectorRegistry()
        metrics = RpcMetrics(self.registry)
        self.gateway = Gateway()
        self.server = RpcServer("api", "127.0.0.1", 0, metrics=metrics, token=token, **more)
        self.server.add(gateway_pb2_grpc.add_GatewayServiceServicer_to_server, self.gateway, _NAME)
        dispatch = scheduler_pb2.DESCRIPTOR.services_by_name["DispatchService"].full_name
        self.server.add(scheduler_pb2_grpc.add_DispatchServiceServicer_to_server, Dispatch(), dispatch)
        self.metrics, self.shown = metrics, shown

    async def __aenter__(self) -> Pair:
        self.port = await self.server.start()
        self.client = RpcClient(f"127.0.0.1:{self.port}", service="api", metrics=self.metrics, token=self.shown)
        self.stub = gateway_pb2_grpc.GatewayServiceStub(self.client.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.server.stop(0)

    async def call(self, **options: Any) -> Any:
        return await self.client.call(self.stub.GetStatus, common_pb2.GetStatusRequest(), **options)

    async def counted(self, code: str, side: str, calls: int) -> None:
        """Returns once so many calls are counted; the server counts a call after it has answered."""
        async with asyncio.timeout(5):
            while self.calls(code, side) != calls:
                await asyncio.sleep(0.001)

    def calls(self, code: str, side: str) -> float:
        labels = {**_METHOD, "code": code, "side": side}
        return self.registry.get_sample_value("cloacina_rpc_requests_total", labels) or 0.0


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with Pair() as made:
        yield made


async def _health(pair: Pair, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(pair.client.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status


@pytest.mark.parametrize("service", ["", _NAME])
async def test_health_says_whether_it_serves_for_the_server_and_each_service(pair: Pair, service: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _health(pair, _NAME)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND, "nothing is said before it is known"
    await pair.server.set_serving(True)
    assert await _health(pair, service) == health_pb2.HealthCheckResponse.SERVING
    await pair.server.set_serving(False)
    assert await _health(pair, service) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_reflection_lists_every_service(pair: Pair) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(pair.client.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]), timeout=5)]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {_NAME, "cloacina.v1.DispatchService", "grpc.health.v1.Health"} <= names


async def test_health_needs_no_token_and_all_else_does() -> None:
    async with Pair(token="secret") as pair:
        await pair.server.set_serving(True)
        assert await _health(pair, "") == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(pair.client.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        for call in (
            stub.ServerReflectionInfo(iter([request]), timeout=5),
            pair.client.channel.stream_stream("/cloacina.v1.NoService/NoMethod")(iter([b""]), timeout=5),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                async for _ in call:
                    pytest.fail("answered")
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_call_over_its_deadline_is_unavailable_and_stopped_at_the_service(pair: Pair) -> None:
    stopped = asyncio.Event()

    async def never() -> common_pb2.ServiceStatus:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    pair.gateway.answer = never
    with pytest.raises(Unavailable, match="the api did not answer in time"):
        await pair.call(deadline_s=1.0)
    async with asyncio.timeout(5):
        await stopped.wait()
    assert pair.calls("DEADLINE_EXCEEDED", "client") == 1


async def test_more_calls_than_a_server_handles_are_unavailable() -> None:
    async with Pair(most_calls=2) as pair:
        gate, fine = asyncio.Event(), pair.gateway.answer

        async def wait() -> common_pb2.ServiceStatus:
            await gate.wait()
            return await fine()

        pair.gateway.answer = wait
        ask = lambda: pair.client.call(pair.stub.GetStatus, common_pb2.GetStatusRequest())  # noqa: E731
        held = [asyncio.create_task(ask()) for _ in range(2)]
        async with asyncio.timeout(10):
            while len(pair.gateway.request_ids) < 2:
                await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="2 calls are being handled"):
            await ask()
        gate.set()
        assert all(answer.ready for answer in await asyncio.gather(*held))
        assert (await ask()).ready


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = RpcClient(f"127.0.0.1:{free.getsockname()[1]}", service="scheduler")
        stub = gateway_pb2_grpc.GatewayServiceStub(client.channel)
        with pytest.raises(Unavailable, match="the scheduler cannot be reached"):
            await client.call(stub.GetStatus, common_pb2.GetStatusRequest())
        await client.close()


def _tree(kind: type[CloacinaError]) -> list[type[CloacinaError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _tree(child))]


_KINDS = [kind for kind in _tree(CloacinaError) if kind.__module__ == "cloacina.errors" and kind is not CloacinaError]


def test_the_tree_of_errors_is_all_here() -> None:
    assert {kind.__name__ for kind in _KINDS} == {
        "InvalidRequest",
        "Unauthorized",
        "Forbidden",
        "NotFound",
        "Conflict",
        "PayloadTooLarge",
        "RateLimited",
        "Unavailable",
        "Internal",
    }


@pytest.mark.parametrize("code", [None, "a_code_of_its_own"])
@pytest.mark.parametrize("kind", _KINDS)
async def test_an_error_arrives_as_it_was_raised(pair: Pair, kind: type[CloacinaError], code: str | None) -> None:
    message = "wrong: “élan”\nand more %41"

    async def refuse() -> common_pb2.ServiceStatus:
        raise kind(message, code=code)

    pair.gateway.answer = refuse
    with pytest.raises(CloacinaError) as raised:
        await pair.call()
    assert type(raised.value) is kind
    assert (raised.value.message, raised.value.code) == (message, code or kind.default_code)
    name = to_status(kind(message))[0].name
    for side in ("server", "client"):
        await pair.counted(name, side, 1)


_SPECIAL = [
    each
    for each in _tree(CloacinaError)
    if each not in (*_KINDS, CloacinaError) and each.__module__.startswith("cloacina.")
]


@pytest.mark.parametrize("kind", _SPECIAL)
def test_a_more_special_error_travels_as_its_family(kind: type[CloacinaError]) -> None:
    family = next(each for each in kind.__mro__ if each in _KINDS)
    status, message, code = to_status(kind("m"))
    assert (status, message, code) == (to_status(family("m"))[0], "m", kind.default_code)


async def test_a_defect_says_nothing_of_itself(pair: Pair) -> None:
    async def defect() -> common_pb2.ServiceStatus:
        raise RuntimeError("password=hunter2")

    pair.gateway.answer = defect
    with pytest.raises(Internal) as raised:
        await pair.call()
    assert (raised.value.message, raised.value.code) == ("internal error", "internal_error")
    await pair.counted("INTERNAL", "server", 1)


async def test_a_message_over_the_limit_is_refused_as_too_large(pair: Pair) -> None:
    async def huge() -> common_pb2.ServiceStatus:
        return common_pb2.ServiceStatus(reason="x" * (MAX_MESSAGE_BYTES + 1))

    usual = pair.gateway.answer
    pair.gateway.answer = huge
    with pytest.raises(PayloadTooLarge, match="a message to or from the api is over the limit of 32 MiB"):
        await pair.call(deadline_s=30)
    pair.gateway.answer = usual
    assert (await pair.call()).ready, "the channel is as it was"


async def test_a_request_over_the_limit_is_refused_by_the_server_too_and_the_next_call_is_served(pair: Pair) -> None:
    request = common_pb2.ServiceStatus(reason="x" * (MAX_MESSAGE_BYTES + 1)).SerializeToString()
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{pair.port}", options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(f"/{_NAME}/GetStatus")(request, timeout=30)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MAX_MESSAGE_BYTES) in (raised.value.details() or "")
    assert pair.gateway.request_ids == []
    assert (await pair.call()).ready


async def test_an_error_in_the_midst_of_a_stream_keeps_its_code(pair: Pair) -> None:
    from cloacina.rpc.errors import from_rpc_error

    async def messages() -> AsyncIterator[scheduler_pb2.ExecutorMessage]:
        yield scheduler_pb2.ExecutorMessage()

    stub = scheduler_pb2_grpc.DispatchServiceStub(pair.client.channel)
    received = []

    async def read() -> None:
        async for message in pair.client.stream(stub.Work, messages(), deadline_s=5):
            received.append(message)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await read()
    error = from_rpc_error(raised.value, "scheduler")
    assert len(received) == 1
    assert (type(error), error.code, error.message) == (cloacina.errors.Conflict, "drained", "no more")


# The token


@pytest.mark.parametrize("shown", [None, "wrong", "Secret", "secret2"])
async def test_a_call_without_the_token_is_refused_before_it_reaches_a_handler(shown: str | None) -> None:
    async with Pair(token="secret", shown=shown) as pair:
        with pytest.raises(Internal, match="check CLOACINA_RPC_TOKEN") as raised:
            await pair.call()
        assert pair.gateway.request_ids == []
        assert "secret" not in raised.value.message.lower().replace("token", "")
        stub = scheduler_pb2_grpc.DispatchServiceStub(pair.client.channel)
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            async for _ in pair.client.stream(stub.Work, iter(()), deadline_s=5):
                pass
        assert streamed.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_call_with_the_token_is_served() -> None:
    async with Pair(token="secret", shown="secret") as pair:
        assert (await pair.call()).ready


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "[::]", "", "example.org"])
async def test_without_a_token_only_this_machine_is_listened_to(host: str) -> None:
    server = RpcServer("scheduler", host, 0, metrics=RpcMetrics(CollectorRegistry()))
    with pytest.raises(ListenError, match=r"set CLOACINA_RPC_TOKEN or CLOACINA_TLS_CERT.*or listen on 127\.0\.0\.1"):
        await server.start()


async def test_with_a_token_any_address_may_be_listened_on() -> None:
    server = RpcServer("scheduler", "0.0.0.0", 0, metrics=RpcMetrics(CollectorRegistry()), token="secret")
    assert await server.start() > 0
    await server.stop(0)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("::1", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
    ],
)
def test_which_addresses_are_this_machine_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


async def test_a_busy_port_names_itself_and_the_setting() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        server = RpcServer(
            "executor",
            "127.0.0.1",
            port,
            metrics=RpcMetrics(CollectorRegistry()),
            setting="CLOACINA_EXECUTOR_RPC_PORT",
        )
        with pytest.raises(ListenError) as raised:
            await server.start()
    for part in ("executor", f"127.0.0.1:{port}", "in use", "CLOACINA_EXECUTOR_RPC_PORT"):
        assert part in raised.value.message


async def test_two_servers_do_not_share_a_port(pair: Pair) -> None:
    second = RpcServer("api", "127.0.0.1", pair.port, metrics=RpcMetrics(CollectorRegistry()))
    with pytest.raises(ListenError):
        await second.start()


# The request id


async def test_the_request_id_goes_along(pair: Pair) -> None:
    with scope.bind(request_id="r-1"):
        await pair.call()
    assert pair.gateway.request_ids == ["r-1"]
    assert scope.current().request_id is None


async def test_a_call_without_a_request_id_or_with_a_bad_one_gets_a_fresh_one(pair: Pair) -> None:
    await pair.call()
    await pair.stub.GetStatus(common_pb2.GetStatusRequest(), metadata=(("x-request-id", "two words"),), timeout=5)
    assert len(set(pair.gateway.request_ids)) == 2
    assert all(UUID(each).version == 4 for each in pair.gateway.request_ids if each)


async def test_the_request_id_reaches_the_second_hop(pair: Pair) -> None:
    async with Pair() as behind:

        async def ask_behind() -> common_pb2.ServiceStatus:
            answer: common_pb2.ServiceStatus = await behind.call()
            return answer

        pair.gateway.answer = ask_behind
        with scope.bind(request_id="deep"):
            await pair.call()
        assert behind.gateway.request_ids == ["deep"]


async def test_calls_at_the_same_time_keep_their_ids_apart(pair: Pair) -> None:
    async def one(number: int) -> None:
        with scope.bind(request_id=f"r{number}"):
            await pair.call()

    await asyncio.gather(*(one(number) for number in range(30)))
    assert sorted(filter(None, pair.gateway.request_ids)) == sorted(f"r{number}" for number in range(30))
    for side in ("server", "client"):
        await pair.counted("OK", side, 30)


def test_only_our_own_short_calls_are_spans() -> None:
    assert is_traced("/cloacina.v1.SchedulerService/Execute")
    assert is_traced(b"/cloacina.v1.SchedulerService/Execute")
    assert not is_traced("/grpc.health.v1.Health/Check")
    assert not any(is_traced(method) for method in LONG_LIVED)
