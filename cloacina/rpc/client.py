"""Calling another service: the request id, the trace and the token go along, and every call has a deadline."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable
from typing import Any

import grpc

from cloacina.rpc.errors import from_rpc_error
from cloacina.rpc.options import CHANNEL_OPTIONS, Tls
from cloacina.telemetry import scope, tracing
from cloacina.telemetry.metrics import RpcMetrics

LONG_LIVED = frozenset(("/cloacina.v1.DispatchService/Work", "/cloacina.v1.ReconcilerService/WatchWorkflows"))
"""Streams that live as long as their processes: a span around one would say nothing, so none is made."""


class RpcClient:
    """A channel to one service.

    There is no client interceptor of ours: metadata and deadline are handed straight to the call, which costs a tenth
    of what an interceptor does (docs/decisions/0001-grpc-instrumentation.md).

    Args:
        target: ``host:port``, or a gRPC target such as ``dns:///scheduler:9201``.
        service: name of the service there, for messages.
        metrics: what calls are counted in.
        token: the shared token between services.
        tls: certificates; plaintext without.
        deadline_s: seconds a call may take unless it says otherwise.
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
    ) -> None:
        self.service = service
        self._metrics = metrics
        self._authorization = (("authorization", f"Bearer {token}"),) if token else ()
        self._deadline_s = deadline_s
        interceptors = _tracing_interceptors() if tracing.enabled() else None
        if tls is None:
            self.channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS, interceptors=interceptors)
        else:
            self.channel = grpc.aio.secure_channel(
                target, tls.channel_credentials(), options=CHANNEL_OPTIONS, interceptors=interceptors
            )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries: x-request-id and the token; the instrumentation adds the traceparent."""
        request_id = scope.current().request_id
        if request_id is None:
            return self._authorization
        return (("x-request-id", request_id), *self._authorization)

    async def call(self, method: Any, request: Any, *, deadline_s: float | None = None) -> Any:
        """A call with one answer.

        Args:
            method: of a stub: unary, or one that takes a stream of requests.
            request: the message, or an async iterable of them.
            deadline_s: seconds it may take.

        Raises:
            CloacinaError: what the service said; `Unavailable` when it cannot be reached or is too slow.
        """
        began = time.perf_counter()
        code = "OK"
        try:
            return await method(request, metadata=self.metadata(), timeout=deadline_s or self._deadline_s)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            raise from_rpc_error(error, self.service) from error
        finally:
            if self._metrics is not None:
                self._metrics.observe(_path(method), code, "client", time.perf_counter() - began)

    def stream(self, method: Any, request: Any | AsyncIterable[Any], *, deadline_s: float | None) -> Any:
        """A call with a stream of answers; errors are grpc's own (`cloacina.rpc.errors.from_rpc_error`).

        Args:
            method: of a stub.
            request: the message, or an async iterable of them.
            deadline_s: seconds it may take; ``None`` only for the streams in `LONG_LIVED`.
        """
        return method(request, metadata=self.metadata(), timeout=deadline_s)

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
    """Whether calls of this method are spans: ours are, health checks and the long-lived streams are not."""
    path = method.decode() if isinstance(method, bytes) else method
    return path.startswith("/cloacina.") and path not in LONG_LIVED
