"""An OTLP/gRPC collector in the test's own process: keeps every span it is sent."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from cloacina.telemetry import otlp


@dataclass(frozen=True)
class CollectedSpan:
    """A span as it came.

    Args:
        service: ``service.name`` of its resource.
        name: its name.
        trace_id, span_id, parent_id: hex; the parent's empty for a root.
        kind: "SPAN_KIND_SERVER", …
        attributes: by key.
        failed: whether its status is error.
        events: names of its events.
        links: trace ids that it links to.
    """

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    attributes: dict[str, Any]
    failed: bool
    events: tuple[str, ...]
    links: tuple[str, ...] = ()


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Use it as a context manager; `endpoint` is what OTEL_EXPORTER_OTLP_ENDPOINT is set to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[CollectedSpan] = []
        self.envelopes = 0
        """ResourceSpans that came."""
        self._server = grpc.server(ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Collector:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def spans(self) -> list[CollectedSpan]:
        """What came so far."""
        with self._lock:
            return list(self._spans)

    def Export(self, request: Any, context: Any) -> Any:
        spans = [
            _collected(span, resource)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans.extend(spans)
            self.envelopes += len(request.resource_spans)
        return trace_service_pb2.ExportTraceServiceResponse()


def relayed(encoded: bytes, about: int) -> trace_service_pb2.ExportTraceServiceRequest:
    """What a collector gets of spans that were handed to another process (`tracing.configure_relay`)."""
    whole = otlp.request(encoded[:about], [encoded[about:]]) if about else encoded
    return trace_service_pb2.ExportTraceServiceRequest.FromString(whole)


def _collected(span: Any, resource: Any) -> CollectedSpan:
    of_resource = {each.key: _value(each.value) for each in resource.resource.attributes}
    return CollectedSpan(
        service=of_resource.get("service.name", ""),
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=type(span).SpanKind.Name(span.kind),
        attributes={each.key: _value(each.value) for each in span.attributes},
        failed=span.status.code == 2,
        events=tuple(event.name for event in span.events),
        links=tuple(link.trace_id.hex() for link in span.links),
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
