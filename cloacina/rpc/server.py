"""Serving gRPC: health, reflection, the request's scope, the token, errors and metrics, alike in every service."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from cloacina.errors import CloacinaError, InvalidRequest
from cloacina.rpc.client import is_traced
from cloacina.rpc.errors import CODE_METADATA, to_status
from cloacina.rpc.options import SERVER_OPTIONS, Tls
from cloacina.telemetry import scope, tracing
from cloacina.telemetry.metrics import RpcMetrics

log = logging.getLogger(__name__)


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
    ) -> None:
        self._service = service
        self._host = host
        self._port = port
        self._token = token
        self._tls = tls
        self._setting = setting
        interceptors: list[Any] = [_Edge(metrics, token)]
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
        self._health = health_aio.HealthServicer()
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
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection([*self._names, health_name, reflection.SERVICE_NAME], self._server)
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


class _Edge(grpc.aio.ServerInterceptor):
    """What every call goes through: token, scope, errors, metrics."""

    def __init__(self, metrics: RpcMetrics, token: str | None) -> None:
        self._metrics = metrics
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        method: str = details.method
        if handler is None or not method.startswith("/cloacina."):
            return handler
        request_id = authorization = None
        metadata: Any = details.invocation_metadata or ()
        for key, value in metadata:
            if key == "x-request-id":
                request_id = value
            elif key == "authorization":
                authorization = value
        if self._expected is not None and not hmac.compare_digest((authorization or "").encode(), self._expected):
            refusal = _refuse_stream if handler.response_streaming else _refuse
            return _MAKE[handler.request_streaming, handler.response_streaming](refusal)
        return self._wrap(handler, method, scope.accept_request_id(request_id))

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
            try:
                with scope.bind(request_id=request_id):
                    tracing.annotate_current()
                    return await inner(request, context)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:
                code, abort = _explain(error, method)
                await context.abort(*abort)
            finally:
                self._metrics.observe(method, code, "server", time.perf_counter() - began)

        return unary

    def _around_stream(self, inner: Any, method: str, request_id: str) -> Any:
        async def stream(request: Any, context: Any) -> Any:
            began = time.perf_counter()
            code = "OK"
            try:
                with scope.bind(request_id=request_id):
                    tracing.annotate_current()
                    async for response in inner(request, context):
                        yield response
            except (asyncio.CancelledError, GeneratorExit):
                code = "CANCELLED"
                raise
            except Exception as error:
                code, abort = _explain(error, method)
                await context.abort(*abort)
            finally:
                self._metrics.observe(method, code, "server", time.perf_counter() - began)

        return stream


_MAKE = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _explain(error: Exception, method: str) -> tuple[str, tuple[Any, ...]]:
    """The status' name, for metrics, and what to abort the call with."""
    status, message, code = to_status(error)
    if not isinstance(error, CloacinaError):
        log.error("a call failed unexpectedly", exc_info=error, extra={"rpc_method": method})
    return status.name, (status, message, ((CODE_METADATA, code),))


_TOKEN_REFUSED = "the call's token is missing or wrong"  # noqa: S105 - a message


async def _refuse(_: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, _TOKEN_REFUSED)


async def _refuse_stream(_: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, _TOKEN_REFUSED)
    yield
