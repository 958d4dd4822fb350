"""The way of spans to the collector: a bounded queue and a thread of its own. Loaded only where tracing is on.

In place of the SDK's batch processor and exporter, for what those cost a request while a collector is away: they encode
a batch of 512 spans anew at each attempt, in one go, and Python runs nothing else meanwhile. Here spans of our own come
encoded, from workers too; those that instrumentation and users make with the SDK are encoded once, a few at a time with
a pause in between.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from cloacina.telemetry import otlp, scope
from cloacina.telemetry.spans import annotate

log = logging.getLogger(__name__)

QUEUE_SPANS = 8192
QUEUE_BYTES = 32 << 20
BATCH_SPANS = 512
BATCH_BYTES = 1 << 20
"""A batch may be larger by its last span. Collectors refuse messages over 4 MiB unless they are told otherwise."""
LARGEST_BYTES = 1 << 20
"""Of what a worker sends at once."""
EXPORT_EVERY_S = 0.5
EXPORT_DEADLINE_S = 5.0
SAY_EVERY_S = 60.0

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_ENCODED_AT_ONCE = 8
"""Spans: about half a millisecond."""
_READ_AT_ONCE = 64
"""Spans of workers: about as long."""
_PAUSE_S = 0.0002
_FIRST_RETRY_S = 0.5
_AFTER_FAILURE_S = 1.0
_CHANNEL_OPTIONS: Any = (("grpc.max_reconnect_backoff_ms", 5000),)  # a collector that comes back is noticed soon
_TRANSIENT = frozenset(
    (
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)
"""What the specification of OTLP/gRPC says may be tried again."""

_Item = bytes | tuple[bytes, bytes] | ReadableSpan
"""A span of this process, encoded; one of a worker, behind what is said once for those of its process; one that the SDK
made."""


class Losses:
    """Counts spans that are gone, and says so at most once a minute.

    Args:
        count: called with the number of spans whenever some are lost.
    """

    def __init__(self, count: Callable[[float], None]) -> None:
        self._count = count
        self._said_at = float("-inf")
        self._lock = threading.Lock()
        self.spans = 0

    def add(self, spans: int, why: str) -> None:
        """Notes spans that are gone."""
        now = time.monotonic()
        with self._lock:
            self.spans += spans
            say = now - self._said_at >= SAY_EVERY_S
            if say:
                self._said_at = now
        self._count(spans)
        if say:
            log.warning(
                "spans are dropped: the trace collector cannot be reached, or is too slow",
                extra={"error": why, "dropped": self.spans},
            )


class ScopeOnEverySpan(SpanProcessor):
    """Spans of instrumentation and of users carry the ids too."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        annotate(span, scope.current())


class Relay(SpanProcessor):
    """Hands each span of the SDK over as it ends.

    Args:
        send: given an encoded ExportTraceServiceRequest, and 0.
    """

    def __init__(self, send: Callable[[bytes, int], None]) -> None:
        self._send = send

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._send(encode_spans([span]).SerializeToString(), 0)


class SpanQueue(SpanProcessor):
    """Takes spans that have ended, from any thread and without waiting, and exports them in the background.

    Args:
        losses: told of spans that find the queue full, and of those that the collector does not take.
        about: what is said once for the spans of this process (`otlp.of_resource`).
    """

    def __init__(self, losses: Losses, about: bytes) -> None:
        self._losses = losses
        self._about = about
        self._items: deque[_Item] = deque()
        self._bytes = 0
        self._counting = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        exporter: Any = OTLPSpanExporter(channel_options=_CHANNEL_OPTIONS)  # it reads the OTEL_* variables
        self._metadata = exporter._headers
        self._channel: grpc.Channel = exporter._channel
        self._export = self._channel.unary_unary(_EXPORT)  # no serializer: what is sent is encoded already
        self._thread = threading.Thread(target=self._run, name="export spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._put(span)

    def put(self, span: bytes) -> None:
        """Takes a span of this process, encoded as a field of ScopeSpans."""
        self._put(span)

    def put_of_worker(self, encoded: bytes, about: int) -> None:
        """Takes what a worker encoded; see `cloacina.telemetry.tracing.forward`."""
        if len(encoded) > LARGEST_BYTES:
            self._losses.add(1, f"a worker sent a span of {len(encoded)} bytes")
        else:
            self._put((encoded[:about], encoded[about:]))

    def shutdown(self) -> None:
        """Exports what is queued; waits for that."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Has what is queued exported soon. Returns whether it was within the time."""
        self._wake.set()
        deadline = time.monotonic() + timeout_millis / 1000
        while self._items and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._items

    def _put(self, item: _Item) -> None:
        waiting = len(self._items)
        size = _size(item)
        if waiting >= QUEUE_SPANS or self._bytes + size > QUEUE_BYTES:
            self._losses.add(1, f"{waiting} spans wait for it, {self._bytes} bytes of them encoded")
            return
        with self._counting:
            self._bytes += size
        self._items.append(item)
        if waiting + 1 >= BATCH_SPANS and not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(EXPORT_EVERY_S)
            self._wake.clear()
            while self._items:
                batch = self._take()
                try:
                    delivered = self._deliver(self._encoded(batch), len(batch))
                except Exception as error:  # a span that cannot be encoded, say: the others go on
                    self._losses.add(len(batch), f"{type(error).__name__}: {error}")
                    continue
                if not delivered:  # what would be encoded in vain is better dropped at the queue, which costs nothing
                    self._closing.wait(_AFTER_FAILURE_S)
            if self._closing.is_set():
                self._channel.close()
                return

    def _take(self) -> list[_Item]:
        batch: list[_Item] = []
        size = 0
        while self._items and len(batch) < BATCH_SPANS and size < BATCH_BYTES:
            batch.append(self._items.popleft())
            size += _size(batch[-1])
        with self._counting:
            self._bytes -= size
        return batch

    def _encoded(self, batch: Sequence[_Item]) -> bytes:
        """The batch as one request: encoded ones behind each other are their union."""
        own: list[bytes] = []
        of_workers: dict[bytes, list[bytes]] = {}
        of_sdk: list[ReadableSpan] = []
        for item in batch:
            if isinstance(item, bytes):
                own.append(item)
            elif isinstance(item, tuple):
                of_workers.setdefault(item[0], []).append(item[1])
            else:
                of_sdk.append(item)
        parts = [otlp.request(self._about, own)] if own else []
        for about, encoded in of_workers.items():
            for first in range(0, len(encoded), _READ_AT_ONCE):
                parts += self._of_worker(about, encoded[first : first + _READ_AT_ONCE])
                self._let_go()
        for first in range(0, len(of_sdk), _ENCODED_AT_ONCE):
            parts.append(encode_spans(of_sdk[first : first + _ENCODED_AT_ONCE]).SerializeToString())
            self._let_go()
        return b"".join(parts)

    def _let_go(self) -> None:
        """Of the interpreter, for whoever waits for it."""
        if not self._closing.is_set():
            time.sleep(_PAUSE_S)

    def _of_worker(self, about: bytes, encoded: list[bytes]) -> list[bytes]:
        """What of this may be sent with the spans of others. A worker runs the code of one tenant, which may write
        whatever it likes to its socket, and a collector refuses a whole request for a byte of it."""
        together = [otlp.request(about, encoded)] if about else encoded
        if all(map(_is_sound, together)):
            return together
        each = [otlp.request(about, [span]) for span in encoded] if about else encoded
        sound = [request for request in each if _is_sound(request)]
        self._losses.add(len(each) - len(sound), "a worker sent what is no span")
        return sound

    def _deliver(self, encoded: bytes, spans: int) -> bool:
        """Sends a request, again where that may help. Returns whether the collector answered it."""
        deadline, pause = time.monotonic() + EXPORT_DEADLINE_S, _FIRST_RETRY_S
        while True:
            left = deadline - time.monotonic()
            try:
                answer = ExportTraceServiceResponse.FromString(
                    self._export(encoded, metadata=self._metadata, timeout=left)
                )
            except grpc.RpcError as error:
                status: Any = error
                if (
                    status.code() not in _TRANSIENT
                    or pause >= deadline - time.monotonic()
                    or self._closing.wait(pause)  # there is no time left for another attempt
                ):
                    self._losses.add(spans, f"{status.code().name}: {status.details()}")
                    return False
                pause *= 2
            else:
                refused = answer.partial_success
                if refused.rejected_spans:
                    self._losses.add(refused.rejected_spans, refused.error_message)
                return True


def _is_sound(request: bytes) -> bool:
    """Whether a collector can read it."""
    try:
        read = ExportTraceServiceRequest.FromString(request)
    except DecodeError:
        return False
    spans = [span for each in read.resource_spans for scoped in each.scope_spans for span in scoped.spans]
    return all(
        len(span.trace_id) == 16 and len(span.span_id) == 8 and len(span.parent_span_id) in (0, 8) for span in spans
    ) and all(len(link.trace_id) == 16 and len(link.span_id) == 8 for span in spans for link in span.links)


def _size(item: _Item) -> int:
    """Bytes of what is encoded; a span of the SDK counts as none."""
    if isinstance(item, bytes):
        return len(item)
    return len(item[0]) + len(item[1]) if isinstance(item, tuple) else 0
