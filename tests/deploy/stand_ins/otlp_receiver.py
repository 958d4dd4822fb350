"""Stands in for Jaeger: takes spans by OTLP/gRPC on 4317, keeps them, and shows them as JSON on 16686."""

from __future__ import annotations

import json
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

_spans: list[dict[str, Any]] = []
_lock = threading.Lock()


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """The OTLP service."""

    def Export(self, request: Any, context: Any) -> Any:
        with _lock:
            for resource in request.resource_spans:
                of_resource = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        _spans.append(
                            {
                                "service": of_resource.get("service.name", ""),
                                "name": span.name,
                                "trace_id": span.trace_id.hex(),
                                "span_id": span.span_id.hex(),
                                "parent_id": span.parent_span_id.hex(),
                                "attributes": {each.key: each.value.string_value for each in span.attributes},
                            }
                        )
        return trace_service_pb2.ExportTraceServiceResponse()


class Shown(BaseHTTPRequestHandler):
    """GET anything: the spans, as a JSON array."""

    def do_GET(self) -> None:
        with _lock:
            body = json.dumps(_spans).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = grpc.server(ThreadPoolExecutor(4))
trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Receiver(), server)
server.add_insecure_port("0.0.0.0:4317")
server.start()
ThreadingHTTPServer(("", 16686), Shown).serve_forever()
