"""Serving gRPC: health, reflection, the request's scope, the token, errors and metrics, alike in every service."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloacina.errors import CloacinaError, InvalidRequest, Unavailable
from cloacina.rpc.client import is_traced
from cloacina.rpc.errors import CODE_METADATA, to_status
from cloacina.rpc.options import SERVER_OPTIONS, Tls
from cloacina.telemetry import scope, tracing
from cloacina.telemetry.metrics import RpcMetrics

log = logging.getLogger(__name__)

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
"""The one service that asks for no token: probes have none, and it says no more than whether the process serves."""

_REFUSALS_LOGGED_EVERY_S = 10.0

MOST_CALLS = 4096
"""Calls handled at once; more are refused as unavailable. Streams that live as long as their processes do not count."""
"""A caller without the token can call as often as it likes; the log shall not grow by that."""


class ListenError(InvalidRequest):
    """A port cannot be listened on."""

    default_code = "listen"


class RpcServer:
    """A gRPC server with everything that each of ours has.

    Args:
        service: name of the service.
        host, port: where it listens; port 0 for any.
        metrics: what calls are counted in.
        token: the shared token; calls without it are refused.
        tls: certificates; plaintext without.
        setting: environment variable that sets the port, for messages.
    """

    def __init__(
        self,
        service: str,
        host: str,
        port: int,
        *,
        metrics: RpcMetrics,
        token: str | None = None,
        tls: Tls | None = None,
        setting: str = "the port's setting",
        most_calls: int = MOST_CALLS,
    ) -> None:
        self._service = service
        self._host = host
        self._port = port
        self._token = token
        self._tls = tls
        self._setting = setting
        interceptors: list[Any] = [_Edge(metrics, token, most_calls)]
        if tracing.enabled():
            from opentelemetry.instrumentation.grpc import aio_server_interceptor

            # outermost, so that its span sees the status that the edge aborts with
            interceptors.insert(
                0,
                aio_server_interceptor(  # type: ignore[no-untyped-call]
                    filter_=lambda details: is_traced(details.method)
                ),
            )
        self._server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=interceptors)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._names: list[str] = []

    def add(self, adder: Callable[[Any, Any], None], servicer: Any, name: str) -> None:
        """Serves a service.

        Args:
            adder: the generated ``add_…Servicer_to_server``.
            servicer: the handlers.
            name: full name, as in ``DESCRIPTOR.services_by_name[…].full_name``.
        """
        adder(servicer, self._server)
        self._names.append(name)

    async def start(self) -> int:
        """Listens.

        Returns:
            The port.

        Raises:
            ListenError: the port is taken, or the address is not this machine's own and nothing protects it.
        """
        if self._token is None and self._tls is None and not is_loopback(self._host):
            raise ListenError(
                f"the {self._service} would serve gRPC on {self._host} to anyone: set CLOACINA_RPC_TOKEN or "
                "CLOACINA_TLS_CERT, CLOACINA_TLS_KEY and CLOACINA_TLS_CA, or listen on 127.0.0.1"
            )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*self._names, _HEALTH, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server)
        address = f"{self._host}:{self._port}"
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._tls.server_credentials())
        except RuntimeError as error:
            raise ListenError(
                f"the {self._service} cannot listen on {address} (gRPC): the port is in use; stop what uses it or set "
                f"{self._setting} to a free port"
            ) from error
        await self._server.start()
        return int(port)

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers, for the server and for each service on it."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """Takes no further calls, and cancels after `grace_s` seconds what still runs."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host in ("localhost", ""):
        return host == "localhost"
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _Edge(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """What every call goes through: token, scope, errors, metrics."""

    def __init__(self, metrics: RpcMetrics, token: str | None, most_calls: int) -> None:
        self._metrics = metrics
        self._most_calls = most_calls
        self._running = 0
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._refusals = 0
        self._refusal_logged_at = float("-inf")

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        method: str = details.method
        if method.startswith(f"/{_HEALTH}/"):
            return handler
        request_id = authorization = None
        metadata: Any = details.invocation_metadata or ()
        for key, value in metadata:
            if key == "x-request-id":
                request_id = value
            elif key == "authorization":
                authorization = value
        ours = handler is not None and method.startswith("/cloacina.")
        if self._expected is not None and not hmac.compare_digest((authorization or "").encode(), self._expected):
            # alike for every method, known or not: without the token nobody learns what there is
            return grpc.stream_stream_rpc_method_handler(self._refusal(method if ours else None))
        return self._wrap(handler, method, scope.accept_request_id(request_id)) if ours else handler

    def _refusal(self, method: str | None) -> Any:
        """Refuses a call whatever its shape is.

        Args:
            method: for the metrics; ``None`` when it is none of ours, whose name could be anything.
        """

        async def refuse(_: Any, context: Any) -> AsyncIterator[bytes]:
            if method is not None:
                self._metrics.observe(method, grpc.StatusCode.UNAUTHENTICATED.name, "server", 0.0)
            self._log_refusal(context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, _TOKEN_REFUSED)
            yield b""  # never: abort raises; it makes this a stream

        return refuse

    def _log_refusal(self, peer: str) -> None:
        self._refusals += 1
        now = time.monotonic()
        if now - self._refusal_logged_at < _REFUSALS_LOGGED_EVERY_S:
            return
        self._refusal_logged_at = now
        log.warning(
            "calls without the services' token were refused; if the caller is one of ours, set the same "
            "CLOACINA_RPC_TOKEN for both",
            extra={"peer": peer, "refused": self._refusals},
        )
        self._refusals = 0

    def _wrap(self, handler: Any, method: str, request_id: str) -> Any:
        shape = (handler.request_streaming, handler.response_streaming)
        if handler.response_streaming:
            behaviour = self._around_stream(handler.stream_stream or handler.unary_stream, method, request_id)
        else:
            behaviour = self._around_unary(handler.stream_unary or handler.unary_unary, method, request_id)
        return _MAKE[shape](behaviour, handler.request_deserializer, handler.response_serializer)

    def _around_unary(self, inner: Any, method: str, request_id: str) -> Any:
        async def unary(request: Any, context: Any) -> Any:
            began = time.perf_counter()
            code = "OK"
            self._running += 1
            try:
                if self._running > self._most_calls:
                    raise Unavailable(f"{self._most_calls} calls are being handled; try again later")
                with scope.bind(request_id=request_id):
                    tracing.annotate_current()
                    return await inner(request, context)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:
                status, message, machine_code = judge(error, method)
                code = status.name
                let_go(error)
                request = None
                await context.abort(status, message, ((CODE_METADATA, machine_code),))
            finally:
                self._running -= 1
                self._metrics.observe(method, code, "server", time.perf_counter() - began)

        return unary

    def _around_stream(self, inner: Any, method: str, request_id: str) -> Any:
        async def stream(request: Any, context: Any) -> Any:
            began = time.perf_counter()
            code = "OK"
            try:
                # not for a with-block: a generator may be closed from another task than the one that ran it
                scope.attach(scope.Scope(request_id=request_id))
                tracing.annotate_current()
                async for response in inner(request, context):
                    yield response
            except (asyncio.CancelledError, GeneratorExit):
                code = "CANCELLED"
                raise
            except Exception as error:
                status, message, machine_code = judge(error, method)
                code = status.name
                let_go(error)
                request = None
                await context.abort(status, message, ((CODE_METADATA, machine_code),))
            finally:
                self._metrics.observe(method, code, "server", time.perf_counter() - began)

        return stream


_MAKE = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def judge(error: Exception, method: str) -> tuple[grpc.StatusCode, str, str]:
    """The status, message and machine code that a call ends with. What is not ours is logged: it is a defect.

    Args:
        error: what its handler raised.
        method: full name of the method.
    """
    if not isinstance(error, CloacinaError):
        log.error("a call failed unexpectedly", exc_info=error, extra={"rpc_method": method})
    return to_status(error)


def let_go(error: BaseException | None) -> None:
    """Drops the frames of an error and of those behind it: they hold the request for as long as grpc keeps the error,
    and in cycles for longer."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


_TOKEN_REFUSED = "the call's token is missing or wrong"  # noqa: S105 - a message
