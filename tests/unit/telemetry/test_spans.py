"""Spans of our own: on the wire they are what the SDK would have sent, and to users they are spans like any other."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from cloacina.telemetry import otlp, scope, spans, tracing
from tests.otlp_collector import Collector

_PARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
_UNSAMPLED = "00-" + "c" * 32 + "-" + "d" * 16 + "-00"
_REMOTE = SpanContext(int("a" * 32, 16), int("b" * 16, 16), True, TraceFlags(1))
_RESOURCE = Resource({"service.name": "é", "numbers": [1, 2], "ratio": 0.5, "on": True}, "https://schema/1")


class Colour(IntEnum):
    RED = 3


class Made:
    """Spans that were made, each by itself.

    Args:
        provider: of the SDK.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self.encoded: list[bytes] = []
        self._about = spans.about(provider)
        self.maker = spans.SpanMaker(provider, self.encoded.append)

    def request(self) -> ExportTraceServiceRequest:
        return ExportTraceServiceRequest.FromString(otlp.request(self._about, self.encoded))

    def all(self) -> list[Any]:
        return [span for each in self.request().resource_spans for scoped in each.scope_spans for span in scoped.spans]

    def one(self) -> Any:
        (span,) = self.all()
        return span

    def attributes(self) -> dict[str, Any]:
        return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in self.one().attributes}


@pytest.fixture
def made() -> Made:
    return Made(TracerProvider(resource=_RESOURCE, shutdown_on_exit=False))


@pytest.mark.parametrize("kind", list(SpanKind))
def test_the_bytes_mean_what_the_sdk_would_have_sent(made: Made, kind: SpanKind) -> None:
    attributes: dict[str, Any] = {
        "text": "a" * 200,
        "short": "é\n",
        "empty": "",
        "yes": True,
        "no": False,
        "zero": 0,
        "one": 1,
        "negative": -5,
        "large": 2**62,
        "half": 0.5,
        "colour": Colour.RED,
        "bytes": b"\x00\xff",
        "list": ["a", 1, None],
        "map": {"a": {"b": 1.5}},
        "none": None,
    }
    about = scope.Scope("r1", "acme", "p1", "flow", "e" * 300, "t", 3)
    span = made.maker.start(
        "name é " + "x" * 3000, kind.name.lower(), _PARENT, dict(attributes), start_ns=1000, about=about
    )
    span.add_event("happened", {"n": 1}, 1500)
    span.add_event("plain", None, 1600)
    span.add_link(SpanContext(1, 2, False, TraceFlags(1)), {"why": "x"})
    span.link(_UNSAMPLED)
    span.set_status(StatusCode.ERROR, "broke")
    span.end(2**63)
    ids = {attribute: getattr(about, name) for name, attribute in otlp.SCOPE_ATTRIBUTES.items()}
    expected = ReadableSpan(
        name="name é " + "x" * 3000,
        context=span.get_span_context(),
        parent=_REMOTE,
        resource=_RESOURCE,
        attributes={**attributes, **ids},
        events=[Event("happened", {"n": 1}, 1500), Event("plain", {}, 1600)],
        links=[
            Link(SpanContext(1, 2, False, TraceFlags(1)), {"why": "x"}),
            Link(SpanContext(int("c" * 32, 16), int("d" * 16, 16), True, TraceFlags(0)), {}),
        ],
        kind=kind,
        status=Status(StatusCode.ERROR, "broke"),
        start_time=1000,
        end_time=2**63,
        instrumentation_scope=InstrumentationScope("cloacina"),
    )
    assert made.request() == encode_spans([expected])


def test_a_root_without_anything_is_what_the_sdk_would_have_sent(made: Made) -> None:
    span = made.maker.start("root", "internal", None, None, start_ns=1)
    span.end(2)
    plain = ReadableSpan(
        name="root",
        context=span.get_span_context(),
        resource=_RESOURCE,
        start_time=1,
        end_time=2,
        instrumentation_scope=InstrumentationScope("cloacina"),
    )
    assert made.request() == encode_spans([plain])


def test_what_was_encoded_before_is_not_taken_for_something_else(made: Made) -> None:
    """1, 1.0 and True are the same key of a dict."""
    for value in (1, 1.0, True, "1", "1", 1):
        made.maker.start("s", "internal", None, {"a": value}).end()
    kinds = [span.attributes[0].value.WhichOneof("value") for span in made.all()]
    assert kinds == ["int_value", "double_value", "bool_value", "string_value", "string_value", "int_value"]


def test_many_different_values_are_not_kept_for_ever(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_KEPT", 16)
    for number in range(100):
        made.maker.start(f"s{number}", "internal", None, {f"k{number}": number, "t": f"v{number}"}).end()
    writer = made.maker.writer
    for kept in (writer._names, writer._texts, writer._numbers, writer._keys):
        assert len(kept) <= 16
    assert [span.name for span in made.all()] == [f"s{number}" for number in range(100)]
    assert [span.attributes[1].value.string_value for span in made.all()] == [f"v{number}" for number in range(100)]


def test_text_that_is_no_unicode_is_replaced(made: Made) -> None:
    made.maker.start("a\ud800", "internal", None, {"k\udfff": "v\ud800"}).end()
    assert made.one().name == "a?"
    assert made.attributes() == {"k?": "v?"}


def test_a_span_is_added_to_each_of_many_traces(made: Made) -> None:
    places = [
        (f"00-{number:032x}-{'b' * 16}-{'01' if number % 2 else '00'}", scope.Scope(request_id=f"r{number}"))
        for number in range(1, 6)
    ]
    made.maker.record_in_each(
        "store commit", "client", [*places, ("nonsense", scope.Scope())], {"rows": 7}, start_ns=5, end_ns=9
    )
    found = made.all()
    assert [int(span.trace_id.hex(), 16) for span in found] == [1, 3, 5]
    assert {span.parent_span_id.hex() for span in found} == {"b" * 16}
    assert len({span.span_id for span in found}) == 3
    assert {(span.name, span.kind, span.start_time_unix_nano, span.end_time_unix_nano) for span in found} == {
        ("store commit", 3, 5, 9)
    }
    assert [[each.key for each in span.attributes] for span in found] == [["rows", "request_id"]] * 3


# Users


def test_user_code_finds_a_span_like_any_other(made: Made) -> None:
    with made.maker.start("run t", "internal", _PARENT, {"a": 1}):
        span = trace.get_current_span()
        assert span.is_recording()
        assert span.get_span_context().trace_id == _REMOTE.trace_id
        span.set_attribute("a", 2)
        values = ["x"]
        span.set_attributes({"list": values, "": "no key"})
        values.append("later")
        span.update_name("renamed")
        span.set_status(StatusCode.OK)
        span.set_status(StatusCode.ERROR, "too late: it is OK")
        try:
            raise KeyError("k")
        except KeyError as error:
            span.record_exception(error, {"more": True}, escaped=True)
    span.set_attribute("after", "its end")
    span.end()
    found = made.one()
    assert (found.name, found.status.code, found.status.message) == ("renamed", 1, "")
    attributes = {each.key: each.value for each in found.attributes}
    assert set(attributes) == {"a", "list"}
    assert attributes["a"].int_value == 2
    assert [each.string_value for each in attributes["list"].array_value.values] == ["x"]
    (event,) = found.events
    said = {each.key: each.value for each in event.attributes}
    assert said["exception.type"].string_value == "KeyError"
    assert "test_spans.py" in said["exception.stacktrace"].string_value
    assert said["exception.escaped"].string_value == "True"
    assert said["more"].bool_value


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class BrokenError(Exception):
    __str__ = Broken.__str__


def test_whatever_user_code_gives_a_span_it_goes_on(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    endless: list[Any] = []
    endless.append(endless)
    odd: list[Any] = [Broken(), endless, {1: Broken()}, 10**30, object]
    with made.maker.start("run t", "internal", None, None) as span:
        for number, value in enumerate(odd):
            span.set_attribute(f"k{number}", value)
            span.add_event("e", {"k": value})
            span.add_link(SpanContext(1, 2, False), {"k": value})
        span.set_attribute(5, "no text")  # type: ignore[arg-type]
        span.add_event(7)  # type: ignore[arg-type]
        span.add_event("e", None, "yesterday")  # type: ignore[arg-type]
        span.update_name(5)  # type: ignore[arg-type]
        span.record_exception(BrokenError())
        span.set_status(StatusCode.ERROR, 9)  # type: ignore[arg-type]
        span.fail(BrokenError())
    found = made.one()
    assert (found.name, found.status.message) == ("5", "BrokenError, whose text cannot be had")
    assert set(made.attributes()) == {"k3", "k4"}
    assert made.attributes()["k3"] == str(10**30)
    assert (found.dropped_attributes_count, found.dropped_events_count, found.dropped_links_count) == (3, 5, 3)
    made.encoded.clear()
    made.maker.start("s", "internal", None, None).end("tomorrow")  # type: ignore[arg-type]
    assert made.encoded == []
    assert "a span could not be encoded" in caplog.text


def test_spans_of_the_sdk_and_ours_hang_below_each_other(made: Made) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("user")
    with made.maker.start("ours", "internal", _PARENT, None) as outer, tracer.start_as_current_span("theirs") as inner:
        assert tracing.ids_of(outer.traceparent) == ("a" * 32, f"{inner.parent.span_id:016x}")  # type: ignore[attr-defined]
        made.maker.start("below", "internal", None, None).end()
        theirs = inner.get_span_context().span_id
    assert [span.parent_span_id.hex() for span in made.all()] == [f"{theirs:016x}", "b" * 16]


def test_an_exception_that_leaves_the_block_is_recorded_and_the_span_before_is_current_again(made: Made) -> None:
    with pytest.raises(ValueError, match="boom"), made.maker.start("s", "internal", None, None):
        raise ValueError("boom")
    assert not trace.get_current_span().get_span_context().is_valid
    assert (made.one().status.code, made.one().status.message) == (2, "boom")
    assert [event.name for event in made.one().events] == ["exception"]


# Ids


def test_what_user_code_seeds_has_no_part_in_ids_nor_has_a_fork(made: Made) -> None:
    def ids() -> list[str]:
        random.seed(1)
        return [made.maker.start("s", "internal", None, None).traceparent for _ in range(50)]

    found = ids() + ids()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "\n".join(ids()).encode())
        os._exit(0)
    found += ids()
    os.close(write)
    with os.fdopen(read) as pipe:
        found += pipe.read().split("\n")
    os.waitpid(child, 0)
    assert len(found) == 200
    assert len({each[3:35] for each in found}) == len({each[36:52] for each in found}) == 200


@pytest.mark.parametrize(
    "accepted",
    [_PARENT, f"  {_PARENT}\t", "cc" + _PARENT[2:] + "-more", _UNSAMPLED[:-2] + "ff"],
)
def test_a_traceparent_is_read_as_the_specification_says(accepted: str) -> None:
    found = spans.parse(accepted)
    assert found is not None
    assert (found[0].hex(), found[1].hex()) in (("a" * 32, "b" * 16), ("c" * 32, "d" * 16))


@pytest.mark.parametrize(
    "refused",
    [
        "",
        None,
        "ff" + _PARENT[2:],
        _PARENT + "-more",
        _PARENT.upper(),
        _PARENT[:-1],
        "00-" + "0" * 32 + _PARENT[35:],
        _PARENT[:36] + "0" * 16 + "-01",
        "01" + _PARENT[2:] + "-" + "x" * 600,
        _PARENT + "\n",
    ],
)
def test_what_is_no_traceparent_is_none(refused: str | None) -> None:
    assert spans.parse(refused) is None


# What the environment says


@pytest.fixture
def under(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Made]]:
    """Spans as they are made under an environment."""

    def make(**environment: str) -> Made:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Made(TracerProvider(shutdown_on_exit=False))

    yield make


@pytest.mark.parametrize(
    ("sampler", "argument"),
    [
        ("always_on", ""),
        ("always_off", ""),
        ("traceidratio", "0.5"),
        ("parentbased_always_on", ""),
        ("parentbased_always_off", ""),
        ("parentbased_traceidratio", "0.5"),
    ],
)
def test_a_sampler_decides_as_it_does_for_the_sdk(under: Callable[..., Made], sampler: str, argument: str) -> None:
    made = under(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("sdk")
    source = random.Random(1)
    expected, of_many = [], []
    for number in range(200):
        traceparent = f"00-{source.getrandbits(128):032x}-{'b' * 16}-{'01' if number % 3 else '00'}"
        context = spans.remote(traceparent)
        theirs = tracer.start_span("s", context=context).get_span_context()
        ours = made.maker.start("s", "internal", traceparent, None)
        assert int(ours.traceparent[-2:], 16) == theirs.trace_flags
        assert ours.is_recording() == bool(theirs.trace_flags & 1)
        ours.end()
        made.maker.record_in_each("m", "client", [(traceparent, scope.Scope())], {}, start_ns=1, end_ns=2)
        expected += [traceparent[3:35]] * bool(theirs.trace_flags & 1)
    names = [(span.name, span.trace_id.hex()) for span in made.all()]
    of_many = [trace_id for name, trace_id in names if name == "m"]
    assert [trace_id for name, trace_id in names if name == "s"] == expected == of_many


@pytest.mark.parametrize(
    ("sampler", "least", "most"),
    [("parentbased_always_on", 200, 200), ("parentbased_always_off", 0, 0), ("parentbased_traceidratio", 40, 160)],
)
def test_a_sampler_decides_about_roots(under: Callable[..., Made], sampler: str, least: int, most: int) -> None:
    made = under(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG="0.5")
    for _ in range(200):
        with made.maker.start("root", "internal", None, None):
            made.maker.start("child", "internal", None, None).end()
    by_trace: dict[bytes, list[str]] = {}
    for span in made.all():
        by_trace.setdefault(span.trace_id, []).append(span.name)
    assert least <= len(by_trace) <= most
    assert all(names == ["child", "root"] for names in by_trace.values())


def test_limits_of_the_environment_hold(under: Callable[..., Made]) -> None:
    made = under(
        OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="3",
        OTEL_SPAN_EVENT_COUNT_LIMIT="2",
        OTEL_SPAN_LINK_COUNT_LIMIT="1",
        OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT="4",
        OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT="1",
    )
    span = made.maker.start("s", "internal", _PARENT, {"a": "123456"}, about=scope.Scope(request_id="r" * 9))
    for number in range(4):
        span.set_attribute(f"b{number}", number)
        span.add_event(f"e{number}", {"x": 1, "y": 2})
        span.link(f"00-{number + 1:032x}-{'b' * 16}-01")
    span.end()
    found = made.one()
    assert made.attributes() == {"b2": 2, "b3": 3, "request_id": "rrrr"}
    assert found.dropped_attributes_count == 3
    assert [event.name for event in found.events] == ["e2", "e3"]
    assert [(event.attributes[0].key, event.dropped_attributes_count) for event in found.events] == [("y", 1)] * 2
    assert (found.dropped_events_count, found.dropped_links_count) == (2, 3)
    assert [int(link.trace_id.hex(), 16) for link in found.links] == [4]
    made.encoded.clear()
    made.maker.record_in_each(
        "m", "client", [(_PARENT, scope.Scope("r1", "t1"))], {"a": 1, "b": 2}, start_ns=1, end_ns=2
    )
    assert made.attributes() == {"b": 2, "request_id": "r1", "cloacina.tenant_id": "t1"}
    assert made.one().dropped_attributes_count == 1


def test_spans_of_one_process_go_into_one_envelope_whoever_relays_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay sends each with what is said once about its process."""
    relayed: list[tuple[bytes, int]] = []
    tracing.configure_relay("worker", lambda encoded, about: relayed.append((encoded, about)))
    for name in ("run a", "run b"):
        tracing.start_span(name).end()
    tracing._State.provider.get_tracer("author").start_span("author's own").end()  # type: ignore[union-attr]
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        tracing.configure("executor")
        tracing.start_span("task a").end()
        for encoded, about in relayed:
            tracing.forward(encoded, about)
        tracing.start_span("task b").end()
        tracing.shutdown(30)
        assert {(span.service, span.name) for span in collector.spans} == {
            ("cloacina-worker", "run a"),
            ("cloacina-worker", "run b"),
            ("cloacina-worker", "author's own"),
            ("cloacina-executor", "task a"),
            ("cloacina-executor", "task b"),
        }
        assert collector.envelopes == 3  # of the executor, of the worker, and the request of the author's span


def _request(**fields: bytes) -> bytes:
    span = {"trace_id": b"t" * 16, "span_id": b"s" * 8, "name": b"sound", **fields}
    return ExportTraceServiceRequest(
        resource_spans=[{"scope_spans": [{"spans": [{**span, "name": span["name"].decode()}]}]}]
    ).SerializeToString()


@pytest.mark.parametrize(
    ("encoded", "about"),
    [
        (b"garbage", 0),
        (b"garbage", 4),
        (b"\x0a\x00\x12\x05", 2),
        (_request(name=b"bad", trace_id=b"short"), 0),
        (_request(name=b"bad", span_id=b""), 0),
        (_request(name=b"bad", parent_span_id=b"x"), 0),
        (_request(name=b"bad").replace(b"bad", b"\xff\xff\xff"), 0),
        (_request(name=b"large" * 300_000), 0),
    ],
)
def test_what_a_worker_sends_in_place_of_spans_costs_nobody_else_a_span(
    encoded: bytes, about: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    relayed: list[tuple[bytes, int]] = []
    tracing.configure_relay("worker", lambda encoded, about: relayed.append((encoded, about)))
    tracing.start_span("run").end()
    ((once_and_span, length),) = relayed
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        tracing.configure("executor")
        tracing.forward(once_and_span, length)
        tracing.forward(encoded, about)
        tracing.forward(once_and_span[:length] + b"no span", length)
        tracing.forward(_request(), 0)
        tracing.start_span("task").end()
        tracing.shutdown(30)
        assert sorted(span.name for span in collector.spans) == ["run", "sound", "task"]
    assert tracing.dropped_spans() == 2
