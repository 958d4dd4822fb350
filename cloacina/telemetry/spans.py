"""The spans that we make ourselves. Loaded only where tracing is on.

To the API of OpenTelemetry they are spans like any other: what is made below one, by user code or by instrumentation
with the SDK, is its child. They are not the SDK's, which cost ten times as much: a span here is one object, and is
encoded once, when it ends.
"""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from cloacina.telemetry import otlp, scope

log = logging.getLogger(__name__)

SAMPLED, RANDOM = 1, 2
"""Flags of W3C's trace context."""

_TRACEPARENT = re.compile(r"[ \t]*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?[ \t]*")
_MOST_TRACEPARENT = 512
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_NO_ATTRIBUTES: dict[str, Any] = {}
_NONE_DROPPED = (0, 0, 0)
_IDS_AT_ONCE = 256
_SPAN_ID_BYTES = 8
_TRACE_ID_BYTES = 16
_PLAIN = frozenset((str, int, float, bool))
_KINDS = {
    "internal": (1, SpanKind.INTERNAL),
    "server": (2, SpanKind.SERVER),
    "client": (3, SpanKind.CLIENT),
    "producer": (4, SpanKind.PRODUCER),
    "consumer": (5, SpanKind.CONSUMER),
}

Parent = tuple[bytes, bytes, int, bool, TraceState | None]
"""Of a span: trace id, span id, flags, whether it is of another process, tracestate."""


def parse(traceparent: str | None) -> Parent | None:
    """The span that a W3C traceparent names; ``None`` when it is empty or malformed."""
    if not traceparent or len(traceparent) > _MOST_TRACEPARENT:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more):
        return None
    parent = bytes.fromhex(trace_id), bytes.fromhex(span_id), int(flags, 16), True, None
    return None if parent[0] == _NO_TRACE or parent[1] == _NO_SPAN else parent


def _parent_in(context: SpanContext) -> Parent | None:
    if not context.is_valid:
        return None
    return (
        context.trace_id.to_bytes(_TRACE_ID_BYTES, "big"),
        context.span_id.to_bytes(_SPAN_ID_BYTES, "big"),
        int(context.trace_flags),
        context.is_remote,
        context.trace_state or None,
    )


def remote(traceparent: str | None) -> Context | None:
    """OpenTelemetry's context in which the span of a traceparent is current; ``None`` when it is malformed."""
    parent = parse(traceparent)
    return None if parent is None else _context_of(parent)


def _context_of(parent: Parent) -> Context:
    return trace.set_span_in_context(NonRecordingSpan(_span_context(parent)), Context())


def _span_context(of: Parent) -> SpanContext:
    trace_id, span_id, flags, is_remote, trace_state = of
    return SpanContext(
        int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), is_remote, TraceFlags(flags), trace_state
    )


def annotate(span: trace.Span, about: scope.Scope) -> None:
    """Adds the ids that apply to a span of the SDK."""
    for name, attribute in otlp.SCOPE_ATTRIBUTES.items():
        value = getattr(about, name)
        if value is not None:
            span.set_attribute(attribute, value)


class _Ids:
    """Random ids from the system's source, a block at a time: what user code seeds has no part in them."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        os.register_at_fork(after_in_child=self._blocks.clear)

    def span_id(self) -> bytes:
        while True:
            try:
                found = self._blocks.pop()
            except IndexError:
                block = os.urandom(_IDS_AT_ONCE * _SPAN_ID_BYTES)
                self._blocks.extend(block[at : at + _SPAN_ID_BYTES] for at in range(0, len(block), _SPAN_ID_BYTES))
            else:
                if found != _NO_SPAN:
                    return found

    def trace_id(self) -> bytes:
        return self.span_id() + self.span_id()


_ids = _Ids()


class LightSpan(trace.Span):
    """A span; see `cloacina.telemetry.tracing.Span` for what our code does with it, and `opentelemetry.trace.Span` for
    what others may.

    Args:
        maker: who takes it when it ends.
        name, kind, attributes, start_ns: see `SpanMaker.start`.
        ids: its trace id and its own.
        flags: its trace flags.
        parent: what it hangs below; ``None`` for a root.
        recording: whether it is kept at all.
        about: the ids that apply.
    """

    __slots__ = (
        "_about",
        "_attributes",
        "_dropped",
        "_events",
        "_flags",
        "_kind",
        "_links",
        "_maker",
        "_name",
        "_own_attributes",
        "_parent",
        "_recording",
        "_span_id",
        "_start_ns",
        "_status",
        "_token",
        "_trace_id",
        "_trace_state",
        "traceparent",
    )

    def __init__(
        self,
        maker: SpanMaker,
        *,
        name: str,
        kind: int,
        ids: tuple[bytes, bytes],
        flags: int,
        parent: Parent | None,
        recording: bool,
        about: scope.Scope,
        attributes: dict[str, Any],
        start_ns: int,
        trace_state: TraceState | None,
    ) -> None:
        self._maker = maker
        self._name = name
        self._kind = kind
        self._trace_id, self._span_id = ids
        self._flags = flags
        self._parent = parent
        self._recording = recording
        self._about = about
        self._attributes = attributes
        self._own_attributes = False
        self._start_ns = start_ns
        self._trace_state = trace_state
        self._status: tuple[int, str] | None = None
        self._events: list[bytes] | None = None
        self._links: list[bytes] | None = None
        self._dropped = _NONE_DROPPED
        self._token: Any = None
        self.traceparent = f"00-{ids[0].hex()}-{ids[1].hex()}-{flags:02x}"

    # What our code does with it

    def fail(self, error: BaseException | str) -> None:
        """Sets the status to error, and records the exception."""
        if isinstance(error, BaseException):
            self.record_exception(error)
        self.set_status(StatusCode.ERROR, _said_by(error))

    def link(self, traceparent: str) -> None:
        """Adds a link; what is no traceparent adds none."""
        found = parse(traceparent)
        if found is not None:
            self._add_link(found, None)

    def annotate(self, about: scope.Scope) -> None:
        """Adds ids that became known since it began."""
        before = self._about
        kept = {
            name: getattr(before, name)
            for name in scope.SCOPE_FIELDS
            if getattr(about, name) is None and getattr(before, name) is not None
        }
        self._about = replace(about, **kept) if kept else about

    def as_parent(self) -> Parent:
        """What a span below it is told."""
        return self._trace_id, self._span_id, self._flags, False, self._trace_state

    def __enter__(self) -> LightSpan:
        self._token = otel_context.attach(trace.set_span_in_context(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, raised_at: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            self.fail(error)
        if self._token is not None:
            otel_context.detach(self._token)
            self._token = None
        self.end()

    # OpenTelemetry's API. User code may call it with anything: nothing raises, and what cannot be encoded is dropped.

    def end(self, end_time: int | None = None) -> None:
        if self._recording:
            self._recording = False
            if self._flags & SAMPLED:
                self._maker.take(self, time.time_ns() if end_time is None else end_time)

    def get_span_context(self) -> SpanContext:
        return _span_context(self.as_parent())

    def is_recording(self) -> bool:
        return self._recording

    def update_name(self, name: str) -> None:
        if self._recording:
            self._name = str(name)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: Any) -> None:
        if not self._recording or not key or not isinstance(key, str):
            return
        if not self._own_attributes:
            self._attributes, self._own_attributes = dict(self._attributes), True
        attributes, most = self._attributes, self._maker.limits.max_span_attributes
        try:
            kept = value if type(value) in _PLAIN else _frozen(value)
        except Exception:
            self._drop(0)
            return
        attributes.pop(key, None)
        attributes[key] = kept
        if most is not None and len(attributes) > most:
            del attributes[next(iter(attributes))]
            self._drop(0)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        if not self._recording:
            return
        limits, writer = self._maker.limits, self._maker.writer
        kept, dropped = _bounded(attributes, limits.max_event_attributes)
        at_ns = time.time_ns() if timestamp is None else timestamp
        try:
            event = writer.event(name, at_ns, kept, dropped, limits.max_attribute_length)
        except Exception:
            self._drop(1)
        else:
            self._events = self._with(self._events, event, limits.max_events, 1)

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        found = _parent_in(context)
        if found is not None:
            self._add_link(found, attributes)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if isinstance(status, Status):
            code, description = status.status_code, status.description
        else:
            code = status
        settled = self._status is not None and self._status[0] == StatusCode.OK.value
        if self._recording and not settled and code is not StatusCode.UNSET:
            self._status = code.value, str(description or "") if code is StatusCode.ERROR else ""

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        kind = type(exception)
        module = "" if kind.__module__ in (None, "builtins") else f"{kind.__module__}."
        said = {
            "exception.type": f"{module}{kind.__qualname__}",
            "exception.message": _said_by(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**said, **(attributes or {})}, timestamp)

    # Its end

    def encoded(self, end_ns: int) -> bytes:
        """Itself, as a field of ScopeSpans.

        Args:
            end_ns: nanoseconds since the epoch.
        """
        writer = self._maker.writer
        parent = self._parent
        attributes = self._attributes
        parts = [writer.attribute(key, value) for key, value in attributes.items()]
        parts += writer.ids(self._about, attributes)
        most = self._maker.limits.max_span_attributes
        while most is not None and len(parts) > most:
            del parts[0]
            self._drop(0)
        more: Sequence[bytes] = ()
        if self._events or self._links or self._dropped is not _NONE_DROPPED or self._trace_state:
            state = self._trace_state.to_header() if self._trace_state else ""
            more = otlp.events_and_links(self._events or (), self._links or (), self._dropped, state)
        return otlp.span(
            trace_id=self._trace_id,
            span_id=self._span_id,
            parent_id=b"" if parent is None else parent[1],
            remote=parent is not None and parent[3],
            name=writer.name(self._name),
            kind=self._kind,
            start_ns=self._start_ns,
            end_ns=end_ns,
            attributes=parts,
            status=otlp.NO_STATUS if self._status is None else otlp.status_of(*self._status),
            more=more,
        )

    def _add_link(self, to: Parent, attributes: Mapping[str, Any] | None) -> None:
        if not self._recording:
            return
        limits = self._maker.limits
        kept, dropped = _bounded(attributes, limits.max_link_attributes)
        try:
            link = self._maker.writer.link(
                to[0], to[1], remote=to[3], attributes=kept, dropped=dropped, longest=limits.max_attribute_length
            )
        except Exception:
            self._drop(2)
        else:
            self._links = self._with(self._links, link, limits.max_links, 2)

    def _with(self, held: list[bytes] | None, added: bytes, most: int | None, which: int) -> list[bytes]:
        """The newest ones are held."""
        held = held or []
        held.append(added)
        if most is not None and len(held) > most:
            del held[0]
            self._drop(which)
        return held

    def _drop(self, which: int) -> None:
        """Counts an attribute (0), event (1) or link (2) that there is no room for."""
        attributes, events, links = self._dropped
        self._dropped = attributes + (which == 0), events + (which == 1), links + (which == 2)


def about(provider: TracerProvider) -> bytes:
    """What is said once for all spans of this process (`otlp.of_resource`)."""
    resource = provider.resource
    return otlp.of_resource(otlp.SpanWriter().resource(resource.attributes), resource.schema_url)


class SpanMaker:
    """Makes spans, as the environment says: sampler and limits are the SDK's.

    Args:
        provider: of the SDK, whose sampler decides.
        put: takes a span that has ended, encoded as a field of ScopeSpans.
    """

    def __init__(self, provider: TracerProvider, put: Callable[[bytes], None]) -> None:
        self.limits = SpanLimits()
        self.writer = otlp.SpanWriter(self.limits.max_span_attribute_length)
        self._put = put
        self._sampler: Sampler = provider.sampler
        self._follows, self._samples_roots = _habits(provider.sampler)

    def start(
        self,
        name: str,
        kind: str,
        traceparent: str | None,
        attributes: dict[str, Any] | None,
        *,
        start_ns: int | None = None,
        about: scope.Scope | None = None,
    ) -> LightSpan:
        """Begins a span.

        Args:
            name, kind, attributes: see `cloacina.telemetry.tracing.span`.
            traceparent: of its parent; the current span when ``None`` or malformed.
            start_ns: when it began, in nanoseconds since the epoch; now when ``None``.
            about: the ids that apply; those of the current scope when ``None``.
        """
        parent = parse(traceparent) if traceparent else None
        if parent is None:
            parent = _current_parent()
        number, _ = _KINDS[kind]
        attributes = attributes or _NO_ATTRIBUTES
        if parent is None:
            trace_id, inherited, state = _ids.trace_id(), RANDOM, None
        else:
            trace_id, inherited, state = parent[0], parent[2] & RANDOM, parent[4]
        if self._follows and parent is not None:
            recording = sampled = parent[2] & SAMPLED != 0
        elif self._samples_roots and parent is None:
            recording = sampled = True
        else:
            recording, sampled, attributes, state = self._ask(parent, trace_id, name, kind, attributes)
        return LightSpan(
            self,
            name=name,
            kind=number,
            ids=(trace_id, _ids.span_id()),
            flags=inherited | sampled,
            parent=parent,
            recording=recording,
            about=scope.current() if about is None else about,
            attributes=attributes,
            start_ns=time.time_ns() if start_ns is None else start_ns,
            trace_state=state,
        )

    def record_in_each(
        self,
        name: str,
        kind: str,
        places: Iterable[tuple[str, scope.Scope]],
        attributes: dict[str, Any],
        *,
        start_ns: int,
        end_ns: int,
    ) -> None:
        """Adds a span to each of many traces, for what was done once for all of them.

        Args:
            name, kind, attributes: see `cloacina.telemetry.tracing.span`.
            places: traceparents of the parents, and the ids that apply.
            start_ns, end_ns: nanoseconds since the epoch.
        """
        most = self.limits.max_span_attributes
        if not self._follows or (most is not None and most < len(attributes) + len(scope.SCOPE_FIELDS)):
            for traceparent, about in places:
                self.start(name, kind, traceparent, attributes, start_ns=start_ns, about=about).end(end_ns)
            return
        writer = self.writer
        named, number = writer.name(name), _KINDS[kind][0]
        shared = [writer.attribute(key, value) for key, value in attributes.items()]
        for traceparent, about in places:
            parent = parse(traceparent)
            if parent is not None and parent[2] & SAMPLED:
                self._put(
                    otlp.span(
                        trace_id=parent[0],
                        span_id=_ids.span_id(),
                        parent_id=parent[1],
                        remote=True,
                        name=named,
                        kind=number,
                        start_ns=start_ns,
                        end_ns=end_ns,
                        attributes=shared + writer.ids(about, attributes),
                    )
                )

    def annotate_current(self) -> None:
        """Adds the scope's ids to the current span."""
        span, about = trace.get_current_span(), scope.current()
        if type(span) is LightSpan:
            span.annotate(about)
        else:
            annotate(span, about)

    def link_current(self, traceparent: str) -> None:
        """Adds a link to the current span; what is no traceparent adds none."""
        found = parse(traceparent)
        if found is not None:
            trace.get_current_span().add_link(_span_context(found))

    def current_traceparent(self) -> str:
        """Of the current span; empty when there is none."""
        span = trace.get_current_span()
        if type(span) is LightSpan:
            return span.traceparent
        of = span.get_span_context()
        return f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags:02x}" if of.is_valid else ""

    def take(self, span: LightSpan, end_ns: int) -> None:
        """A span that is wanted has ended."""
        try:
            encoded = span.encoded(end_ns)
        except Exception as error:  # whoever ends a span goes on
            log.warning("a span could not be encoded", extra={"error": f"{type(error).__name__}: {error}"})
        else:
            self._put(encoded)

    def _ask(
        self, parent: Parent | None, trace_id: bytes, name: str, kind: str, attributes: dict[str, Any]
    ) -> tuple[bool, bool, dict[str, Any], TraceState | None]:
        context = Context() if parent is None else _context_of(parent)
        number = int.from_bytes(trace_id, "big")
        answer = self._sampler.should_sample(context, number, name, _KINDS[kind][1], attributes, None)
        sampled = answer.decision is Decision.RECORD_AND_SAMPLE
        recording = answer.decision is not Decision.DROP
        return recording, sampled, dict(answer.attributes), answer.trace_state


def _habits(sampler: Sampler) -> tuple[bool, bool]:
    """Whether it always does what the parent's flag says, and whether it takes every root: it is not asked then."""
    usual, root = _described(DEFAULT_ON), "root:AlwaysOnSampler"
    described = _described(sampler)
    head, tail = usual.split(root)
    follows = described.startswith(head) and described.endswith(tail)
    return follows, described == usual


def _described(sampler: Any) -> str:
    return str(sampler.get_description())


def _current_parent() -> Parent | None:
    span = trace.get_current_span()
    if type(span) is LightSpan:
        return span.as_parent()
    return _parent_in(span.get_span_context())


def _said_by(error: BaseException | str) -> str:
    try:
        return str(error)
    except Exception:
        return f"{type(error).__name__}, whose text cannot be had"


def _frozen(value: Any) -> Any:
    """What it is now, whatever becomes of it until the span ends."""
    if isinstance(value, Mapping):
        return {str(key): _frozen(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(_frozen(each) for each in value)
    return value if value is None or isinstance(value, str | bytes | int | float) else str(value)


def _bounded(attributes: Mapping[str, Any] | None, most: int | None) -> tuple[Mapping[str, Any], int]:
    if not attributes or most is None or len(attributes) <= most:
        return attributes or _NO_ATTRIBUTES, 0
    newest = list(attributes.items())[len(attributes) - most :]
    return dict(newest), len(attributes) - most
