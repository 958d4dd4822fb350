"""Calling another service: the request id, the trace and the token go along, and every call has a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable
from typing import Any

import grpc

from cloacina.rpc.errors import from_rpc_error
from cloacina.rpc.options import CHANNEL_OPTIONS, Tls
from cloacina.rpc.refusals import Sending
from cloacina.telemetry import scope, tracing
from cloacina.telemetry.metrics import RpcMetrics

LONG_LIVED = frozenset(
    (
        "/cloacina.v1.DispatchService/Work",
        "/cloacina.v1.ReconcilerService/WatchWorkflows",
        "/cloacina.v1.SchedulerService/FollowEvents",
        "/cloacina.v1.SchedulerService/ExecuteMany",
    )
)
"""Streams that live as long as their processes, or as someone looks: a span around one would say nothing, so none is
made. The calls that `ExecuteMany` carries have spans of their own (`cloacina.rpc.batched`)."""
_UNTRACED = LONG_LIVED | {"/cloacina.v1.SchedulerService/KeepLogLines"}
"""Nor is one around the lines of many executions, which come several times a second."""


class RpcClient:
    """A channel to one service.

    There is no client interceptor of ours: metadata and deadline are handed straight to the call, which costs less
    than half of what an interceptor does (docs/decisions/0001-grpc-instrumentation.md).

    Args:
        target: ``host:port``, or a gRPC target such as ``dns:///scheduler:9201``.
        service: name of the service there, for messages.
        metrics: what calls are counted in.
        token: the shared token between services.
        tls: certificates; plaintext without.
        deadline_s: seconds a call may take unless it says otherwise.
        host: the name that the service's certificate is for; empty for the target's own.
    """

    def __init__(
        self,
        target: str,
        *,
        service: str,
        metrics: RpcMetrics | None = None,
        token: str | None = None,
        tls: Tls | None = None,
        deadline_s: float = 5.0,
        host: str = "",
    ) -> None:
        self.service = service
        self.metrics = metrics
        self._authorization = (("authorization", f"Bearer {token}"),) if token else ()
        self._deadline_s = deadline_s
        self._counting: set[asyncio.Future[None]] = set()
        interceptors = _tracing_interceptors() if tracing.enabled() else None
        if tls is None:
            self.channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS, interceptors=interceptors)
        else:
            options: list[tuple[str, Any]] = [*CHANNEL_OPTIONS]
            if host:
                options += [("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)]
            self.channel = grpc.aio.secure_channel(
                target, tls.channel_credentials(), options=options, interceptors=interceptors
            )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries: x-request-id and the token; the instrumentation adds the traceparent."""
        request_id = scope.current().request_id
        if request_id is None:
            return self._authorization
        return (("x-request-id", request_id), *self._authorization)

    async def call(
        self,
        method: Any,
        request: Any,
        *,
        deadline_s: float | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        """A call with one answer.

        Args:
            method: of a stub: unary, or one that takes a stream of requests.
            request: the message, or an async iterable of them; those end early if the service refuses the call.
            deadline_s: seconds it may take.
            metadata: what goes along beside what every call carries.

        Raises:
            CloacinaError: what the service said; `Unavailable` when it cannot be reached or is too slow.
        """
        began = time.perf_counter()
        code = "OK"
        watching: asyncio.Task[None] | None = None
        sending = Sending(request) if isinstance(request, AsyncIterable) else None
        try:
            timeout = deadline_s or self._deadline_s
            call = method(sending or request, metadata=(*self.metadata(), *metadata), timeout=timeout)
            if sending is not None:
                watching = asyncio.create_task(sending.watch(call))
            return await call
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            raise from_rpc_error(error, self.service) from error
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            if watching is not None:
                watching.cancel()
            if self.metrics is not None:
                self.metrics.observe(_path(method), code, "client", time.perf_counter() - began)

    def stream(
        self,
        method: Any,
        request: Any | AsyncIterable[Any],
        *,
        deadline_s: float | None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        """A call with a stream of answers; errors are grpc's own (`cloacina.rpc.errors.from_rpc_error`).

        Args:
            method: of a stub.
            request: the message, or an async iterable of them.
            deadline_s: seconds it may take; ``None`` only for the streams in `LONG_LIVED`.
            metadata: what goes along beside what every call carries.
        """
        began = time.perf_counter()
        call = method(request, metadata=(*self.metadata(), *metadata), timeout=deadline_s)
        if self.metrics is not None:
            call.add_done_callback(lambda done: self._count_stream(method, done, began))
        return call

    def _count_stream(self, method: Any, call: Any, began: float) -> None:
        async def count() -> None:
            assert self.metrics is not None
            self.metrics.observe(_path(method), (await call.code()).name, "client", time.perf_counter() - began)

        task = asyncio.ensure_future(count())
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    async def close(self) -> None:
        """Ends the channel and what is still being called on it."""
        await self.channel.close(None)


def _path(method: Any) -> str:
    path = method._method
    return path.decode() if isinstance(path, bytes) else str(path)


def _tracing_interceptors() -> list[Any]:
    from opentelemetry.instrumentation.grpc import aio_client_interceptors

    interceptors: Any = aio_client_interceptors(  # type: ignore[no-untyped-call]
        filter_=lambda details: is_traced(details.method)
    )
    return list(interceptors)


def is_traced(method: str | bytes) -> bool:
    """Whether calls of this method are spans: ours are, with few exceptions; health checks are not."""
    path = method.decode() if isinstance(method, bytes) else method
    return path.startswith("/cloacina.") and path not in _UNTRACED
