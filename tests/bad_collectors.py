"""Collectors that are away, refuse, are slow or say nothing, and what a request does of spans meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from cloacina.telemetry import scope, tracing
from tests.ports import free_ports


@contextmanager
def away() -> Iterator[int]:
    """Nothing listens."""
    yield free_ports(1)[0]


@contextmanager
def silent() -> Iterator[int]:
    """Connections are taken, and nothing is ever said on them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@dataclass
class _Answers(trace_service_pb2_grpc.TraceServiceServicer):
    answer: Callable[[grpc.ServicerContext], None]
    received: list[int]
    partly: trace_service_pb2.ExportTracePartialSuccess | None

    def Export(self, request: Any, context: Any) -> Any:
        self.answer(context)
        self.received.append(sum(len(scoped.spans) for each in request.resource_spans for scoped in each.scope_spans))
        return trace_service_pb2.ExportTraceServiceResponse(partial_success=self.partly)


@contextmanager
def answering(
    answer: Callable[[grpc.ServicerContext], None],
    received: list[int] | None = None,
    partly: trace_service_pb2.ExportTracePartialSuccess | None = None,
    port: int = 0,
) -> Iterator[int]:
    """A collector. `answer` is called before each answer; the numbers of spans it got are in `received`."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    answers = _Answers(answer, [] if received is None else received, partly)
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(answers, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextmanager
def refusing() -> Iterator[int]:
    """Every export is refused."""
    with answering(lambda context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "no key")) as port:
        yield port


@contextmanager
def slow() -> Iterator[int]:
    """Every export takes long."""
    over = threading.Event()
    with answering(lambda context: (over.wait(2), None)[1]) as port:
        try:
            yield port
        finally:
            over.set()


def seconds_of_requests(number: int) -> list[float]:
    """Seconds that each of some requests spends on its spans: those of a request, a call and two commits."""
    spent = []
    for each in range(number):
        began = time.perf_counter()
        with scope.bind(request_id=f"r{each}"), tracing.span("request POST /", kind="server") as span:
            with tracing.span("/cloacina.v1.SchedulerService/Execute", kind="client"):
                tracing.current_traceparent()
            tracing.annotate_current()
            for _ in range(2):
                tracing.record_span("store commit", start_ns=1, end_ns=2, parent=span.traceparent)
        spent.append(time.perf_counter() - began)
    return spent
