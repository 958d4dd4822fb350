"""Tracing: nothing at all when off; when on, spans that carry the ids, and a collector that may be gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from cloacina.telemetry import scope, tracing
from tests import otlp_collector

_ROOT = Path(__file__).parents[3]
_PARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
_OFF = """
import sys
import cloacina.engine.engine, cloacina.store.sqlite, cloacina.rpc.server, cloacina.rpc.client, cloacina.runtime.service
from cloacina.telemetry import tracing
assert tracing.configure("api") is False
assert not tracing.enabled()
with tracing.span("x", parent="{parent}") as span:
    span.set_attribute("a", 1)
    span.fail(ValueError("x"))
with tracing.child_span("y"), tracing.continue_from("{parent}"):
    pass
tracing.start_span("z").end()
tracing.record_span("w", start_ns=1, end_ns=2, parent="{parent}")
tracing.annotate_current()
assert tracing.current_traceparent() == "" and tracing.current_ids() is None and span.traceparent == ""
tracing.shutdown()
loaded = sorted(name for name in sys.modules if name.startswith("opentelemetry"))
assert loaded == [], loaded
""".replace("{parent}", _PARENT)


@pytest.mark.parametrize(
    "environment",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_SDK_DISABLED": "true"}],
)
def test_off_means_that_no_part_of_opentelemetry_is_loaded(environment: dict[str, str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ran = subprocess.run(
        [sys.executable, "-c", _OFF],
        env={**clean, **environment, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector in this process."""

    def __init__(self) -> None:
        self.received: list[trace_service_pb2.ExportTraceServiceRequest] = []

    def Export(self, request, context):
        self.received.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


def _spans(requests) -> dict[str, tuple[object, dict[str, object], dict[str, object]]]:
    """Span, attributes and resource by span name."""

    def plain(attributes) -> dict[str, object]:
        return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}

    return {
        span.name: (span, plain(span.attributes), plain(resource.resource.attributes))
        for request in requests
        for resource in request.resource_spans
        for scoped in resource.scope_spans
        for span in scoped.spans
    }


@pytest.fixture
def relayed() -> Iterator[list[trace_service_pb2.ExportTraceServiceRequest]]:
    """Tracing as it is in a worker: spans are handed over as they end."""
    sent: list[trace_service_pb2.ExportTraceServiceRequest] = []

    tracing.configure_relay("worker", lambda encoded, about: sent.append(otlp_collector.relayed(encoded, about)))
    return sent


def test_every_span_carries_the_ids_of_its_scope_those_of_users_too(relayed) -> None:
    from opentelemetry import trace  # as user code would

    with (
        scope.bind(request_id="r1", tenant_id="acme", execution_id="e1", task_name="t", attempt=2),
        tracing.span("run t", parent=_PARENT),
        trace.get_tracer("user").start_as_current_span("user's own")
        if trace.get_tracer_provider() is tracing._State.provider
        else tracing.span("user's own"),
    ):
        pass
    spans = _spans(relayed)
    for name in ("run t", "user's own"):
        attributes = spans[name][1]
        assert attributes["request_id"] == "r1"
        assert attributes["cloacina.tenant_id"] == "acme"
        assert attributes["cloacina.execution_id"] == "e1"
        assert attributes["cloacina.task_name"] == "t"
        assert attributes["cloacina.attempt"] == 2
        assert "cloacina.package_id" not in attributes
    outer, inner = spans["run t"][0], spans["user's own"][0]
    assert outer.trace_id.hex() == "a" * 32
    assert outer.parent_span_id.hex() == "b" * 16
    assert inner.parent_span_id == outer.span_id
    assert spans["run t"][2]["service.name"] == "cloacina-worker"


def test_ids_that_become_known_later_are_added(relayed) -> None:
    later = scope.bind(request_id="late", attempt=2, task_name=None)
    with scope.bind(task_name="early", attempt=1), tracing.span("s"), later:
        tracing.annotate_current()
    _, attributes, _ = _spans(relayed)["s"]
    assert attributes == {"request_id": "late", "cloacina.task_name": "early", "cloacina.attempt": 2}


def test_an_error_sets_the_status_and_is_recorded(relayed) -> None:
    with pytest.raises(ValueError, match="boom"), tracing.span("bad"):
        raise ValueError("boom")
    span = _spans(relayed)["bad"][0]
    assert (span.status.code, span.status.message) == (2, "boom")
    assert [event.name for event in span.events] == ["exception"]


def test_a_child_span_never_begins_a_trace(relayed) -> None:
    with tracing.child_span("orphan"):
        pass
    with tracing.continue_from(_PARENT), tracing.child_span("child"):
        assert tracing.current_ids() is not None
    spans = _spans(relayed)
    assert set(spans) == {"child"}
    assert spans["child"][0].parent_span_id.hex() == "b" * 16


def test_what_is_over_is_recorded_with_its_times(relayed) -> None:
    with scope.bind(request_id="r"):
        tracing.record_span("schedule flow", start_ns=1000, end_ns=5000, parent=_PARENT)
    span, attributes, _ = _spans(relayed)["schedule flow"]
    assert (span.start_time_unix_nano, span.end_time_unix_nano, span.kind) == (1000, 5000, 1)
    assert attributes["request_id"] == "r"


@pytest.mark.parametrize("malformed", ["", "x", "00-" + "0" * 32 + "-" + "b" * 16 + "-01", "00-zz-yy-01"])
def test_a_malformed_parent_is_as_none(relayed, malformed: str) -> None:
    with tracing.span("outer"), tracing.span("inner", parent=malformed):
        pass
    spans = _spans(relayed)
    assert spans["inner"][0].parent_span_id == spans["outer"][0].span_id
    assert spans["outer"][0].parent_span_id == b""


def test_a_traceparent_of_a_sampled_span_makes_an_exemplar(relayed) -> None:
    with tracing.span("s") as span:
        traceparent = span.traceparent
        assert tracing.current_traceparent() == traceparent
        ids = tracing.current_ids()
    assert ids is not None
    assert tracing.exemplar(traceparent) == {"trace_id": ids[0], "span_id": ids[1]}
    assert tracing.ids_of(traceparent) == ids


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True), ("zz", False)]
)
def test_only_a_sampled_traceparent_makes_an_exemplar(flags: str, sampled: bool) -> None:
    """Flags are bits; a newer one beside "sampled" changes nothing about it."""
    assert (tracing.exemplar(_PARENT[:-2] + flags) is not None) is sampled
    assert tracing.exemplar("") is None


def test_spans_reach_the_collector_at_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "prod")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    try:
        assert tracing.configure("scheduler") is True
        with scope.bind(request_id="r7"), tracing.span("schedule flow"):
            pass
        tracing.shutdown()
        assert not tracing.enabled()
        _, attributes, resource = _spans(collector.received)["schedule flow"]
    finally:
        server.stop(None)
    assert attributes["request_id"] == "r7"
    assert resource["service.name"] == "prod-scheduler"
    assert resource["deployment.environment"] == "test"
