"""Traces: spans over OTLP/gRPC when ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set, nothing at all when it is not.

Off means off: neither the OpenTelemetry SDK nor its API is imported, and every function here returns at once. On, spans
are exported in the background from a bounded queue: a collector that is slow or gone costs spans, which are counted,
and never a request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from cloacina.telemetry import scope

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

    from cloacina.telemetry.span_export import Losses, SpanQueue

_SCOPE_ATTRIBUTES = {
    "request_id": "request_id",
    **{name: f"cloacina.{name}" for name in scope.SCOPE_FIELDS if name != "request_id"},
}


class Span(Protocol):
    """What code may do with a span."""

    @property
    def traceparent(self) -> str:
        """W3C traceparent of this span; empty when tracing is off."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Adds an attribute."""

    def fail(self, error: BaseException | str) -> None:
        """Sets the status to error, and records the exception."""

    def link(self, traceparent: str) -> None:
        """Adds a link to a span that it has to do with but is no part of; what is no traceparent adds none."""

    def end(self) -> None:
        """Ends it. A second call changes nothing."""


class _NoSpan:
    """The span when tracing is off."""

    __slots__ = ()
    traceparent = ""

    def set_attribute(self, key: str, value: Any) -> None:
        pass

    def fail(self, error: BaseException | str) -> None:
        pass

    def link(self, traceparent: str) -> None:
        pass

    def end(self) -> None:
        pass

    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_NO_SPAN = _NoSpan()


class _State:
    """Set by `configure` and `configure_relay`; everything below asks it first."""

    tracer: Any = None
    provider: Any = None
    queue: SpanQueue | None = None
    losses: Losses | None = None
    count_dropped: Callable[[float], None] = staticmethod(lambda spans: None)


class _RealSpan:
    __slots__ = ("_manager", "_span")

    def __init__(self, span: Any) -> None:
        self._span = span
        self._manager: Any = None

    @property
    def traceparent(self) -> str:
        return _format(self._span.get_span_context())

    def set_attribute(self, key: str, value: Any) -> None:
        self._span.set_attribute(key, value)

    def fail(self, error: BaseException | str) -> None:
        from opentelemetry.trace import Status, StatusCode

        if isinstance(error, BaseException):
            self._span.record_exception(error)
        self._span.set_status(Status(StatusCode.ERROR, str(error)))

    def link(self, traceparent: str) -> None:
        _link(self._span, traceparent)

    def end(self) -> None:
        self._span.end()

    def __enter__(self) -> _RealSpan:
        from opentelemetry.trace import use_span

        self._manager = use_span(self._span, end_on_exit=True, record_exception=False, set_status_on_exception=False)
        self._manager.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            self.fail(error)
        self._manager.__exit__(None, None, None)


def wanted() -> bool:
    """Whether the environment asks for tracing (contract, section 4)."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))


def enabled() -> bool:
    """Whether spans are made."""
    return _State.tracer is not None


def configure(service: str) -> bool:
    """Turns tracing on if the environment asks for it. ``OTEL_*`` variables are honoured.

    Args:
        service: "api", "scheduler", …; the resource's ``service.name`` is ``<OTEL_SERVICE_NAME>-<service>``.

    Returns:
        Whether tracing is on.
    """
    if not wanted():
        return False
    from cloacina.telemetry.span_export import Losses, SpanQueue

    _State.losses = Losses(_count_dropped)
    _State.queue = SpanQueue(_State.losses)
    _install(service, _State.queue)
    return True


def configure_relay(service: str, send: Callable[[bytes], None]) -> None:
    """Turns tracing on in a process without a network: each span that ends is handed to `send`.

    Args:
        service: "worker".
        send: given an OTLP ExportTraceServiceRequest, encoded.
    """
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Relay(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            send(encode_spans(spans).SerializeToString())
            return SpanExportResult.SUCCESS

    _install(service, SimpleSpanProcessor(Relay()))


def _install(service: str, processor: SpanProcessor) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    class ScopeOnEverySpan(SpanProcessor):
        """Spans of instrumentation and of users carry the ids too."""

        def on_start(self, span: Any, parent_context: Context | None = None) -> None:
            _annotate(span)

    family = os.environ.get("OTEL_SERVICE_NAME") or "cloacina"
    resource = Resource.create({"service.name": f"{family}-{service}", "service.namespace": family})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(ScopeOnEverySpan())
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    _State.provider = provider
    _State.tracer = provider.get_tracer("cloacina")


def shutdown(timeout_s: float = 5.0) -> None:
    """Exports what is queued, for at most `timeout_s` seconds, and turns tracing off."""
    provider, _State.tracer, _State.provider, _State.queue = _State.provider, None, None, None
    if provider is None:
        return
    flusher = threading.Thread(target=provider.shutdown, daemon=True, name="flush spans")
    flusher.start()
    flusher.join(timeout_s)


def count_dropped_in(count: Callable[[float], None]) -> None:
    """Has `count` called with the number of spans whenever some are dropped."""
    _State.count_dropped = count


def _count_dropped(spans: float) -> None:
    """Who counts is named after tracing is turned on: it is asked for each time."""
    _State.count_dropped(spans)


def dropped_spans() -> int:
    """Spans that could not be exported since the start."""
    return 0 if _State.losses is None else _State.losses.spans


def forward(encoded: bytes) -> None:
    """Exports a span that a worker process encoded (see `configure_relay`); never waits.

    Args:
        encoded: an ExportTraceServiceRequest.
    """
    if _State.queue is not None:
        _State.queue.put_encoded(encoded)


def span(
    name: str,
    *,
    kind: str = "internal",
    parent: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> AbstractContextManager[Span]:
    """A span around a with-block; current inside it. An exception that leaves the block is recorded.

    Args:
        name: its name.
        kind: "internal", "server", "client", "producer" or "consumer".
        parent: traceparent of its parent; the current span when ``None`` or malformed.
        attributes: its attributes; the scope's ids are added by themselves.
    """
    if _State.tracer is None:
        return _NO_SPAN
    return _RealSpan(_start(name, kind, parent, attributes))


def start_span(
    name: str, *, kind: str = "internal", parent: str | None = None, attributes: Mapping[str, Any] | None = None
) -> Span:
    """Like `span`, for what does not fit in a with-block: never current, ended by `Span.end`."""
    if _State.tracer is None:
        return _NO_SPAN
    return _RealSpan(_start(name, kind, parent, attributes))


def child_span(
    name: str, *, kind: str = "internal", attributes: Mapping[str, Any] | None = None
) -> AbstractContextManager[Span]:
    """Like `span`, but none at all where no span is current: it never begins a trace of its own."""
    if _State.tracer is None or current_ids() is None:
        return _NO_SPAN
    return _RealSpan(_start(name, kind, None, attributes))


def record_span(
    name: str,
    *,
    start_ns: int,
    end_ns: int,
    parent: str,
    kind: str = "internal",
    attributes: Mapping[str, Any] | None = None,
    link: str = "",
) -> str:
    """Adds a span for something that is over.

    Args:
        name, kind, attributes: see `span`.
        start_ns, end_ns: nanoseconds since the epoch.
        parent: traceparent of its parent.
        link: traceparent of a span that it has to do with but is no part of; empty for none.

    Returns:
        Its traceparent; empty when tracing is off.
    """
    if _State.tracer is None:
        return ""
    span = _start(name, kind, parent, attributes, start_ns)
    _link(span, link)
    span.end(end_ns)
    return _format(span.get_span_context())


def _start(
    name: str, kind: str, parent: str | None, attributes: Mapping[str, Any] | None, start_ns: int | None = None
) -> Any:
    from opentelemetry.trace import SpanKind

    return _State.tracer.start_span(
        name, context=_parse(parent), kind=SpanKind[kind.upper()], attributes=attributes, start_time=start_ns
    )


def continue_from(traceparent: str | None) -> AbstractContextManager[object]:
    """Makes a remote span current for a with-block."""
    context = _parse(traceparent) if _State.tracer is not None else None
    if context is None:
        return nullcontext()
    from opentelemetry.trace import get_current_span, use_span

    return use_span(get_current_span(context))


def annotate_current() -> None:
    """Adds the scope's ids to the current span, for ids that became known after it had started."""
    if _State.tracer is None:
        return
    from opentelemetry.trace import get_current_span

    _annotate(get_current_span())


def link_current(traceparent: str) -> None:
    """Links the current span to one of another trace: a request that changes an execution is no part of its trace."""
    if _State.tracer is None:
        return
    from opentelemetry.trace import get_current_span

    _link(get_current_span(), traceparent)


def _link(span: Any, traceparent: str) -> None:
    context = _parse(traceparent)
    if context is None:
        return
    from opentelemetry.trace import get_current_span

    span.add_link(get_current_span(context).get_span_context())


def _annotate(span: Any) -> None:
    now = scope.current()
    for name, attribute in _SCOPE_ATTRIBUTES.items():
        value = getattr(now, name)
        if value is not None:
            span.set_attribute(attribute, value)


def current_traceparent() -> str:
    """The traceparent to send on; empty when tracing is off or no span is current."""
    if _State.tracer is None:
        return ""
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    return _format(context) if context.is_valid else ""


def current_ids() -> tuple[str, str] | None:
    """Trace id and span id (hex) of the current span."""
    if _State.tracer is None:
        return None
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None


def exemplar(traceparent: str) -> dict[str, str] | None:
    """Exemplar labels of a sampled traceparent; ``None`` for one that no backend will have."""
    try:
        sampled = len(traceparent) == 55 and int(traceparent[53:], 16) & 1  # a bit among others
    except ValueError:
        return None
    if not sampled:
        return None
    return {"trace_id": traceparent[3:35], "span_id": traceparent[36:52]}


def current_exemplar() -> dict[str, str] | None:
    """Exemplar labels of the current span, or else of what `as_exemplar` names; ``None`` when tracing is off."""
    return None if _State.tracer is None else exemplar(current_traceparent() or _named.get())


@contextmanager
def as_exemplar(traceparent: str) -> Iterator[None]:
    """Within it, what is measured under no span has this one as its exemplar: one of the many that a commit serves."""
    token = _named.set(traceparent)
    try:
        yield
    finally:
        _named.reset(token)


_named: ContextVar[str] = ContextVar("cloacina_exemplar", default="")


def ids_of(traceparent: str) -> tuple[str, str] | None:
    """Trace id and span id (hex) in a traceparent."""
    return (traceparent[3:35], traceparent[36:52]) if len(traceparent) == 55 else None


def _format(context: Any) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _parse(traceparent: str | None) -> Any:
    """The OTel context of a traceparent; ``None``, which means the current one, when it is empty or malformed."""
    if not traceparent:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())
    return context if context else None
