"""What all services measure alike, and how it is shown: ``GET /metrics`` (contract, section 1)."""

from __future__ import annotations

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)
from prometheus_client.openmetrics import exposition as openmetrics

from cloacina.telemetry import tracing

_RPC_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_COMMIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_BATCH_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)

disable_created_metrics()  # type: ignore[no-untyped-call]


def create_registry(service: str, version: str) -> CollectorRegistry:
    """A registry with what every service exports: that it is up, its build, its process.

    Args:
        service: "api", "scheduler", "reconciler" or "executor".
        version: of the program.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(PLATFORM_COLLECTOR)
    registry.register(GC_COLLECTOR)
    Gauge("cloacina_up", "1 while the service runs.", registry=registry).set(1)
    build = Gauge(
        "cloacina_build_info", "Always 1; the labels say what runs.", ["version", "service"], registry=registry
    )
    build.labels(version, service).set(1)
    dropped = Counter(
        "cloacina_trace_spans_dropped_total",
        "Spans that were not exported: the collector was away or too slow.",
        registry=registry,
    )
    tracing.count_dropped_in(dropped.inc)
    return registry


def expose(registry: CollectorRegistry, accept: str | None) -> tuple[bytes, str]:
    """The metrics as text, and its content type.

    Args:
        registry: what to show.
        accept: the scraper's ``Accept`` header; OpenMetrics (with exemplars) when it asks for it, else text 0.0.4.
    """
    if accept is not None and "application/openmetrics-text" in accept:
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]
    return exposition.generate_latest(registry), "text/plain; version=0.0.4; charset=utf-8"


class RpcMetrics:
    """Calls between services, seen from either side."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["service", "method", "code", "side"]
        self._requests = Counter("cloacina_rpc_requests_total", "gRPC calls that ended.", labels, registry=registry)
        self._seconds = Histogram(
            "cloacina_rpc_duration_seconds", "Duration of gRPC calls.", labels, buckets=_RPC_SECONDS, registry=registry
        )
        self._children: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}

    def observe(self, path: str, code: str, side: str, seconds: float) -> None:
        """Counts a call.

        Args:
            path: full method, ``/package.Service/Method``; only those a service registered, so they are bounded.
            code: name of the gRPC status.
            side: "client" or "server".
            seconds: how long it took.
        """
        key = (path, code, side)
        children = self._children.get(key)
        if children is None:
            service, method = path.lstrip("/").split("/", 1)
            labels = (service.rsplit(".", 1)[-1], method, code, side)
            children = self._children[key] = (self._requests.labels(*labels), self._seconds.labels(*labels))
        children[0].inc()
        children[1].observe(seconds, tracing.current_exemplar())


class StoreMetrics:
    """Commits of one store.

    Args:
        registry: where they are registered.
        store: value of the label ``store``.
    """

    def __init__(self, registry: CollectorRegistry, store: str) -> None:
        self._seconds = Histogram(
            "cloacina_store_commit_duration_seconds",
            "From handing a transaction over to its being durable.",
            ["store"],
            buckets=_COMMIT_SECONDS,
            registry=registry,
        ).labels(store)
        self._rows = Histogram(
            "cloacina_store_commit_batch_size", "Rows in a commit.", ["store"], buckets=_BATCH_ROWS, registry=registry
        ).labels(store)

    def observe_commit(self, seconds: float, rows: int) -> None:
        """Counts a commit."""
        exemplar = tracing.current_exemplar()
        self._seconds.observe(seconds, exemplar)
        self._rows.observe(rows, exemplar)
