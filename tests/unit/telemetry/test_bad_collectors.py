"""Collectors that are away, refuse, are slow or say nothing: what that costs a request, and what is said of it."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from cloacina.telemetry import span_export, tracing
from cloacina.telemetry.metrics import create_registry
from tests.bad_collectors import answering, away, refusing, seconds_of_requests, silent, slow
from tests.system.running import wait_until

_SAID = "spans are dropped: the trace collector cannot be reached, or is too slow"
_BOUND_S = 0.001
REQUESTS = 600


@pytest.mark.parametrize("collector", [away, silent, refusing, slow])
def test_no_request_is_a_millisecond_slower_for_a_bad_collector(
    collector: Callable[[], AbstractContextManager[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_export, "QUEUE_SPANS", 1024)  # full after a few requests
    with collector() as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        tracing.configure("api")
        try:
            rounds = [seconds_of_requests(REQUESTS) for _ in range(5)]
        finally:
            tracing.shutdown(0.01)
    # others use the machine: of the best round, what 95 of 100 spend at most (bench/spans.py measures it all)
    slowest = min(statistics.quantiles(spent, n=20)[18] for spent in rounds)
    assert slowest < _BOUND_S, f"{slowest * 1e6:.0f} µs"


def test_spans_of_the_sdk_are_encoded_a_few_at_a_time_so_that_requests_run_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: dict[threading.Thread, list[int]] = defaultdict(list)  # of each thread: spans it encodes, 0 for a pause
    encode, pause = span_export.encode_spans, time.sleep

    def encode_spans(spans):
        steps[threading.current_thread()].append(len(spans))
        return encode(spans)

    def sleep(seconds: float) -> None:
        steps[threading.current_thread()].append(0)
        pause(seconds)

    received: list[int] = []
    monkeypatch.setattr(span_export, "encode_spans", encode_spans)
    monkeypatch.setattr(span_export, "EXPORT_EVERY_S", 2.0)  # all of them are one batch
    with answering(lambda context: None, received) as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        tracing.configure("api")
        monkeypatch.setattr(span_export.time, "sleep", sleep)
        assert tracing._State.provider is not None
        tracer = tracing._State.provider.get_tracer("instrumentation")
        for _ in range(500):
            tracer.start_span("s").end()
        wait_until(lambda: sum(received) == 500, "the spans")
        monkeypatch.undo()
    (taken,) = [each for each in steps.values() if sum(each) == 500]
    assert max(taken) <= 8
    assert set(taken[1::2]) == {0}


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """What the metric says is lost."""
    registry = create_registry("api", "0")
    return lambda: registry.get_sample_value("cloacina_trace_spans_dropped_total") or 0.0


def end_spans(number: int) -> None:
    for _ in range(number):
        with tracing.span("s"):
            pass


@pytest.mark.parametrize(
    ("collector", "why"),
    [(away, "UNAVAILABLE: "), (refusing, "PERMISSION_DENIED: no key"), (silent, "DEADLINE"), (slow, "DEADLINE")],
)
def test_what_the_collector_does_not_take_is_counted_and_said_once_with_the_reason(
    configure,
    lost: Callable[[], float],
    collector: Callable[[], AbstractContextManager[int]],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged = configure()
    monkeypatch.setattr(span_export, "EXPORT_DEADLINE_S", 0.3)
    monkeypatch.setattr(span_export, "EXPORT_EVERY_S", 0.01)
    with collector() as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        tracing.configure("api")
        try:
            for _ in range(2):
                before = lost()
                end_spans(3)
                wait_until(lambda: lost() >= before + 3, "that they are lost")
        finally:
            tracing.shutdown(0.01)
    assert tracing.dropped_spans() == 6
    assert lost() >= 6  # the queue of a test before may still be counted
    said = [line for line in logged.lines() if line["level"] in ("WARN", "ERROR")]
    assert [line["message"] for line in said] == [_SAID], said
    assert said[0]["error"].startswith(why)


def test_spans_that_find_the_queue_full_are_counted_and_those_in_it_are_not(
    configure, lost: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = configure()
    monkeypatch.setattr(span_export, "QUEUE_SPANS", 64)
    monkeypatch.setattr(span_export, "EXPORT_EVERY_S", 0.01)
    reached, received, over = threading.Event(), [], threading.Event()

    def stuck(context: grpc.ServicerContext) -> None:
        reached.set()
        over.wait(60)

    with answering(stuck, received) as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        tracing.configure("api")
        end_spans(1)
        assert reached.wait(30)
        end_spans(64 + 5)
        assert lost() == 5
        over.set()
        wait_until(lambda: sum(received) == 65, "the spans of the queue")
        over.clear()
        reached.clear()
        end_spans(1)
        assert reached.wait(30)
        monkeypatch.setattr(span_export, "QUEUE_BYTES", 1000)
        for _ in range(3):  # large ones are bounded by their bytes
            tracing.forward(b"x" * 400)
        assert lost() == 6
        over.set()
        tracing.shutdown(10)
    assert [line["dropped"] for line in logged.lines() if line["message"] == _SAID] == [1]


def test_spans_that_a_collector_refuses_in_part_are_counted(
    lost: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = trace_service_pb2.ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    with answering(lambda context: None, partly=refused) as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        tracing.configure("api")
        end_spans(3)
        tracing.shutdown(30)
    assert lost() == 2


def test_a_collector_that_comes_back_gets_what_waited(
    lost: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_export, "EXPORT_EVERY_S", 0.01)
    received: list[int] = []
    with away() as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        tracing.configure("api")
        end_spans(3)
    with answering(lambda context: None, received, port=port):
        wait_until(lambda: sum(received) == 3, "the spans")
    assert lost() == 0
    tracing.shutdown(0.01)


def test_a_minute_later_it_is_said_again(configure, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = configure()
    losses = span_export.Losses(lambda spans: None)
    clock = iter((1000.0, 1030.0, 1059.9, 1060.0, 1061.0))
    monkeypatch.setattr(span_export, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    for _ in range(5):
        losses.add(3, "UNAVAILABLE")
    assert [line["dropped"] for line in logged.lines()] == [3, 12]


def test_losses_are_counted_in_a_registry_that_is_made_after_tracing_was_turned_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As services do it."""
    monkeypatch.setattr(span_export, "EXPORT_DEADLINE_S", 0.3)
    monkeypatch.setattr(span_export, "EXPORT_EVERY_S", 0.01)
    with away() as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        tracing.configure("api")
        registry = create_registry("api", "0")
        end_spans(3)
        wait_until(
            lambda: registry.get_sample_value("cloacina_trace_spans_dropped_total") == 3.0, "that they are counted"
        )
        tracing.shutdown(0.01)
