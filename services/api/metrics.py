"""What the gateway measures of requests (contract, section 1)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cloacina.telemetry import tracing

KNOWN_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
OTHER = "OTHER"
"""Stands for every method that HTTP does not know, so that clients cannot make labels."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class ApiMetrics:
    """Requests by method and status.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["method", "status"]
        self._requests = Counter(
            "cloacina_api_requests_total",
            "HTTP requests that were answered; 499 where the client had gone.",
            labels,
            registry=registry,
        )
        self._seconds = Histogram(
            "cloacina_api_request_duration_seconds",
            "From a request's head to the end of its handling.",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("cloacina_api_in_flight", "HTTP requests that are being handled.", registry=registry)
        refused = Counter(
            "cloacina_api_refusals_total",
            "HTTP requests refused because too many were in flight, of all clients or of one tenant.",
            ["limit"],
            registry=registry,
        )
        self.refused = {limit: refused.labels(limit) for limit in ("all", "tenant")}
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, status: int, seconds: float, traceparent: str = "") -> None:
        """Counts a request.

        Args:
            method: of the request, whatever it is.
            status: of the answer.
            seconds: how long it took.
            traceparent: its span; becomes the exemplar if it is sampled.
        """
        known = method if method in KNOWN_METHODS else OTHER
        children = self._children.get((known, status))
        if children is None:
            labels = (known, str(status))
            children = self._children[known, status] = (self._requests.labels(*labels), self._seconds.labels(*labels))
        exemplar = tracing.exemplar(traceparent) if traceparent else None
        children[0].inc(exemplar=exemplar)
        children[1].observe(seconds, exemplar=exemplar)
