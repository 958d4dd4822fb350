"""Spans as bytes of OTLP's protocol buffers (opentelemetry/proto/trace/v1/trace.proto), without an object a field.

What comes again and again (keys, names, values out of a few) is encoded once and kept; of a span the rest is put
together from its parts. Loaded only where tracing is on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from cloacina.telemetry import scope

SCOPE_ATTRIBUTES = {
    "request_id": "request_id",
    **{name: f"cloacina.{name}" for name in scope.SCOPE_FIELDS if name != "request_id"},
}
"""The attribute of each id of a scope."""

_KEPT = 4096
"""Encoded attributes and names that are kept, of each kind."""
_KEPT_LENGTH = 64
"""Characters of a text that is worth keeping."""
_OFTEN_NEW = frozenset(("request_id", "execution_id"))
"""Ids of a scope that nearly every span has another value of."""
_LENGTHS = 2048

# Tags of fields: number << 3 | wire type
_RESOURCE_ATTRIBUTE = b"\x0a"
_SPAN_ATTRIBUTE = b"\x4a"
_EVENT_ATTRIBUTE = b"\x1a"
_LINK_ATTRIBUTE = b"\x22"
_KIND_AND_TIMES = struct.Struct("<cBcQcQ")
_FLAGS = struct.Struct("<I")
_DOUBLE = struct.Struct("<d")
_FIXED64 = struct.Struct("<Q")
_REMOTE_KNOWN, _REMOTE = 0x100, 0x200
NO_STATUS = b"\x7a\x00"
"""The status of a span that nobody gave one."""


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_LENGTH = tuple(_varint(number) for number in range(_LENGTHS))


def length_of(data: bytes) -> bytes:
    """The length that goes before a field's bytes."""
    length = len(data)
    return _LENGTH[length] if length < _LENGTHS else _varint(length)


def field(tag: bytes, data: bytes) -> bytes:
    """A field of bytes, of text or of a message.

    Args:
        tag: its number and wire type, encoded.
        data: what is in it.
    """
    return tag + length_of(data) + data


def _text(value: str) -> bytes:
    return value.encode("utf-8", "replace")


_SCOPE = field(b"\x0a", field(b"\x0a", b"cloacina"))
"""The InstrumentationScope of a ScopeSpans: who makes the spans."""


class SpanWriter:
    """Encodes the parts of spans. For one thread or many.

    Args:
        longest: characters of a text in an attribute of a span; ``None`` for any number.
    """

    def __init__(self, longest: int | None = None) -> None:
        self._longest = longest
        self._names: dict[str, bytes] = {}
        self._texts: dict[tuple[str, str], bytes] = {}
        self._numbers: dict[tuple[str, int], bytes] = {}
        self._keys: dict[str, bytes] = {}

    def resource(self, attributes: Mapping[str, Any]) -> bytes:
        """A Resource."""
        return b"".join(
            field(_RESOURCE_ATTRIBUTE, self._key_value(key, value, None)) for key, value in attributes.items()
        )

    def ids(self, about: scope.Scope, besides: Mapping[str, Any]) -> list[bytes]:
        """The attributes of a scope.

        Args:
            about: the scope.
            besides: attributes that the span has anyway.
        """
        found = []
        for name, attribute in SCOPE_ATTRIBUTES.items():
            value = getattr(about, name)
            if value is not None and attribute not in besides:
                known = name not in _OFTEN_NEW
                found.append(self.attribute(attribute, value) if known else self._new_attribute(attribute, value))
        return found

    def attribute(self, key: str, value: Any) -> bytes:
        """An attribute of a span."""
        kind = type(value)
        if kind is str and len(value) <= _KEPT_LENGTH:
            known = self._texts.get((key, value))
            if known is None:
                known = self._new_attribute(key, value)
                _keep(self._texts, (key, value), known)
            return known
        if kind is int:
            known = self._numbers.get((key, value))
            if known is None:
                known = self._new_attribute(key, value)
                _keep(self._numbers, (key, value), known)
            return known
        return self._new_attribute(key, value)

    def _new_attribute(self, key: str, value: Any) -> bytes:
        return field(_SPAN_ATTRIBUTE, self._key_value(key, value, self._longest))

    def name(self, name: str) -> bytes:
        """A span's name."""
        known = self._names.get(name)
        if known is None:
            known = field(b"\x2a", _text(name))
            _keep(self._names, name, known)
        return known

    def _key_value(self, key: str, value: Any, longest: int | None) -> bytes:
        known = self._keys.get(key)
        if known is None:
            known = field(b"\x0a", _text(key))
            _keep(self._keys, key, known)
        encoded = _value(value, longest)
        return b"".join((known, b"\x12", length_of(encoded), encoded))

    def event(self, name: str, at_ns: int, attributes: Mapping[str, Any], dropped: int, longest: int | None) -> bytes:
        """An Event of a span.

        Args:
            name: its name.
            at_ns: when it was, in nanoseconds since the epoch.
            attributes: its attributes.
            dropped: how many there were beside these.
            longest: characters of a text in them.
        """
        return b"".join(
            (
                b"\x09",
                _FIXED64.pack(at_ns),
                field(b"\x12", _text(name)),
                *(field(_EVENT_ATTRIBUTE, self._key_value(key, value, longest)) for key, value in attributes.items()),
                b"\x20" + _varint(dropped) if dropped else b"",
            )
        )

    def link(
        self,
        trace_id: bytes,
        span_id: bytes,
        *,
        remote: bool,
        attributes: Mapping[str, Any],
        dropped: int,
        longest: int | None,
    ) -> bytes:
        """A Link of a span.

        Args:
            trace_id, span_id: where it leads.
            remote: whether that is a span of another process.
            attributes, dropped, longest: see `event`.
        """
        return b"".join(
            (
                b"\x0a\x10",
                trace_id,
                b"\x12\x08",
                span_id,
                *(field(_LINK_ATTRIBUTE, self._key_value(key, value, longest)) for key, value in attributes.items()),
                b"\x28" + _varint(dropped) if dropped else b"",
                b"\x35",
                _FLAGS.pack(_REMOTE_KNOWN | _REMOTE if remote else _REMOTE_KNOWN),
            )
        )


def span(
    *,
    trace_id: bytes,
    span_id: bytes,
    parent_id: bytes,
    remote: bool,
    name: bytes,
    kind: int,
    start_ns: int,
    end_ns: int,
    attributes: Iterable[bytes],
    status: bytes = NO_STATUS,
    more: Sequence[bytes] = (),
) -> bytes:
    """A span, as a field of ScopeSpans.

    Args:
        trace_id, span_id: its ids, 16 and 8 bytes.
        parent_id: its parent's; empty for a root.
        remote: whether its parent is a span of another process.
        name, attributes: of a `SpanWriter`.
        kind: number in the protocol.
        start_ns, end_ns: nanoseconds since the epoch.
        status: of `status_of`.
        more: of `events_and_links`.
    """
    body = b"".join(
        chain(
            (
                b"\x0a\x10",
                trace_id,
                b"\x12\x08",
                span_id,
                b"\x22\x08" if parent_id else b"",
                parent_id,
                name,
                _KIND_AND_TIMES.pack(b"\x30", kind, b"\x39", start_ns, b"\x41", end_ns),
            ),
            attributes,
            more,
            (status, b"\x85\x01", _FLAGS.pack(_REMOTE_KNOWN | _REMOTE if remote else _REMOTE_KNOWN)),
        )
    )
    return b"".join((b"\x12", length_of(body), body))


def status_of(code: int, message: str) -> bytes:
    """A span's status.

    Args:
        code: 1 for OK, 2 for an error.
        message: what is said about it.
    """
    text = field(b"\x12", _text(message)) if message else b""
    return field(b"\x7a", text + b"\x18" + _varint(code))


def events_and_links(
    events: Sequence[bytes], links: Sequence[bytes], dropped: tuple[int, int, int], trace_state: str
) -> list[bytes]:
    """What few spans have.

    Args:
        events, links: of a `SpanWriter`.
        dropped: how many attributes, events and links there were beside those.
        trace_state: W3C tracestate; empty for none.
    """
    more = [field(b"\x5a", event) for event in events]
    more += [field(b"\x6a", link) for link in links]
    more += [tag + _varint(count) for tag, count in zip((b"\x50", b"\x60", b"\x70"), dropped, strict=True) if count]
    if trace_state:
        more.append(field(b"\x1a", _text(trace_state)))
    return more


def of_resource(resource: bytes, schema_url: str) -> bytes:
    """What is said once for the spans of a process, as the beginning of a ResourceSpans.

    Args:
        resource: a Resource, encoded.
        schema_url: of its attributes; empty for none.
    """
    return field(b"\x0a", resource) + (field(b"\x1a", _text(schema_url)) if schema_url else b"")


def request(about: bytes, spans: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest. Several behind each other are their union.

    Args:
        about: see `of_resource`.
        spans: see `span`.
    """
    return field(b"\x0a", about + field(b"\x12", b"".join((_SCOPE, *spans))))


def _value(value: Any, longest: int | None) -> bytes:
    """An AnyValue."""
    if isinstance(value, str):
        return field(b"\x0a", _text(value if longest is None else value[:longest]))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            return b"\x18" + _varint(value & (1 << 64) - 1)
        return field(b"\x0a", _text(str(value)))
    if isinstance(value, float):
        return b"\x21" + _DOUBLE.pack(value)
    if value is None:
        return b""
    if isinstance(value, bytes):
        return field(b"\x3a", value)
    if isinstance(value, Mapping):
        pairs = (
            field(b"\x0a", field(b"\x0a", _text(str(key))) + field(b"\x12", _value(each, longest)))
            for key, each in value.items()
        )
        return field(b"\x32", b"".join(pairs))
    if isinstance(value, Sequence):
        return field(b"\x2a", b"".join(field(b"\x0a", _value(each, longest)) for each in value))
    return _value(str(value), longest)


def _keep(kept: dict[Any, bytes], key: Any, encoded: bytes) -> None:
    if len(kept) >= _KEPT:
        kept.clear()
    kept[key] = encoded
