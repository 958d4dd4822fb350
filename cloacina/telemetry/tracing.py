"""Traces: spans over OTLP/gRPC when ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set, nothing at all when it is not.

Off means off: neither the OpenTelemetry SDK nor its API is imported, and every function here returns at once. On, spans
are exported in the background from a bounded queue: a collector that is slow or gone costs spans, which are counted,
and never a request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from cloacina.telemetry import scope

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from cloacina.telemetry.span_export import Losses, SpanQueue
    from cloacina.telemetry.spans import SpanMaker


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

    maker: SpanMaker | None = None
    provider: TracerProvider | None = None
    queue: SpanQueue | None = None
    losses: Losses | None = None
    count_dropped: Callable[[float], None] = staticmethod(lambda spans: None)


def wanted() -> bool:
    """Whether the environment asks for tracing (contract, section 4)."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))


def enabled() -> bool:
    """Whether spans are made."""
    return _State.maker is not None


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
    from cloacina.telemetry.spans import SpanMaker, about

    provider = _provider(service)
    _State.losses = Losses(_count_dropped)
    queue = SpanQueue(_State.losses, about(provider))
    provider.add_span_processor(queue)
    _State.queue, _State.provider, _State.maker = queue, provider, SpanMaker(provider, queue.put)
    return True


def configure_relay(service: str, send: Callable[[bytes, int], None]) -> None:
    """Turns tracing on in a process without a network: each span that ends is handed to `send`.

    Args:
        service: "worker".
        send: given what `forward` takes in another process.
    """
    from cloacina.telemetry.span_export import Relay
    from cloacina.telemetry.spans import SpanMaker, about

    provider = _provider(service)
    provider.add_span_processor(Relay(send))
    once = about(provider)
    _State.provider, _State.maker = provider, SpanMaker(provider, lambda span: send(once + span, len(once)))


def _provider(service: str) -> TracerProvider:
    """The SDK's, for spans of instrumentation and of users."""
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from cloacina.telemetry.span_export import ScopeOnEverySpan

    family = os.environ.get("OTEL_SERVICE_NAME") or "cloacina"
    resource = Resource.create({"service.name": f"{family}-{service}", "service.namespace": family})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(ScopeOnEverySpan())
    trace.set_tracer_provider(provider)
    return provider


def shutdown(timeout_s: float = 5.0) -> None:
    """Exports what is queued, for at most `timeout_s` seconds, and turns tracing off."""
    provider, _State.maker, _State.provider, _State.queue = _State.provider, None, None, None
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


def forward(encoded: bytes, about: int = 0) -> None:
    """Exports what a worker process encoded (see `configure_relay`); never waits.

    Args:
        encoded: an ExportTraceServiceRequest; or, if `about` is given, the beginning of a ResourceSpans and a span that
            belongs into it.
        about: bytes of that beginning.
    """
    if _State.queue is not None:
        _State.queue.put_of_worker(encoded, about)


def span(
    name: str,
    *,
    kind: str = "internal",
    parent: str | None = None,
    attributes: dict[str, Any] | None = None,
) -> AbstractContextManager[Span]:
    """A span around a with-block; current inside it. An exception that leaves the block is recorded.

    Args:
        name: its name.
        kind: "internal", "server", "client", "producer" or "consumer".
        parent: traceparent of its parent; the current span when ``None`` or malformed.
        attributes: its attributes, not to be changed afterwards; the scope's ids are added by themselves.
    """
    maker = _State.maker
    return _NO_SPAN if maker is None else maker.start(name, kind, parent, attributes)


def start_span(
    name: str,
    *,
    kind: str = "internal",
    parent: str | None = None,
    attributes: dict[str, Any] | None = None,
    about: scope.Scope | None = None,
) -> Span:
    """Like `span`, for what does not fit in a with-block: never current, ended by `Span.end`.

    Args:
        name, kind, parent, attributes: see `span`.
        about: the ids that apply, in place of the current scope's.
    """
    maker = _State.maker
    return _NO_SPAN if maker is None else maker.start(name, kind, parent, attributes, about=about)


def child_span(
    name: str, *, kind: str = "internal", attributes: dict[str, Any] | None = None
) -> AbstractContextManager[Span]:
    """Like `span`, but none at all where no span is current: it never begins a trace of its own."""
    maker = _State.maker
    return _NO_SPAN if maker is None or current_ids() is None else maker.start(name, kind, None, attributes)


def record_span(
    name: str, *, start_ns: int, end_ns: int, parent: str, about: scope.Scope | None = None, link: str = ""
) -> str:
    """Adds a span for something that is over.

    Args:
        name: see `span`.
        start_ns, end_ns: nanoseconds since the epoch.
        parent: traceparent of its parent.
        about: the ids that apply, in place of the current scope's.
        link: traceparent of a span that it has to do with but is no part of; empty for none.

    Returns:
        Its traceparent; empty when tracing is off.
    """
    maker = _State.maker
    if maker is None:
        return ""
    span = maker.start(name, "internal", parent, None, start_ns=start_ns, about=about)
    span.link(link)
    span.end(end_ns)
    return span.traceparent


def record_in_each(
    name: str,
    *,
    start_ns: int,
    end_ns: int,
    kind: str,
    attributes: dict[str, Any],
    places: Iterable[tuple[str, scope.Scope]],
) -> None:
    """Adds a span to each of many traces, for something that was done once for all of them.

    Args:
        name, kind, attributes: see `span`.
        start_ns, end_ns: nanoseconds since the epoch.
        places: traceparents of the parents, and the ids that apply.
    """
    maker = _State.maker
    if maker is not None:
        maker.record_in_each(name, kind, places, attributes, start_ns=start_ns, end_ns=end_ns)


def continue_from(traceparent: str | None) -> AbstractContextManager[object]:
    """Makes a remote span current for a with-block."""
    if _State.maker is None:
        return nullcontext()
    from opentelemetry.trace import get_current_span, use_span

    from cloacina.telemetry.spans import remote

    context = remote(traceparent)
    return nullcontext() if context is None else use_span(get_current_span(context))


def annotate_current() -> None:
    """Adds the scope's ids to the current span, for ids that became known after it had started."""
    if _State.maker is not None:
        _State.maker.annotate_current()


def link_current(traceparent: str) -> None:
    """Links the current span to one of another trace: a request that changes an execution is no part of its trace."""
    if _State.maker is not None:
        _State.maker.link_current(traceparent)


def current_traceparent() -> str:
    """The traceparent to send on; empty when tracing is off or no span is current."""
    return "" if _State.maker is None else _State.maker.current_traceparent()


def current_ids() -> tuple[str, str] | None:
    """Trace id and span id (hex) of the current span."""
    return None if _State.maker is None else ids_of(_State.maker.current_traceparent())


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
    return None if _State.maker is None else exemplar(current_traceparent() or _named.get())


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
