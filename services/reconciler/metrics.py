"""The reconciler's metrics (contract, section 1)."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cloacina.catalog.metrics import show_packages
from cloacina.telemetry import tracing

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)


class Outcome(StrEnum):
    """How loading or unloading a package ended."""

    LOADED = "loaded"
    UNCHANGED = "unchanged"
    UNLOADED = "unloaded"
    REFUSED = "refused"
    CONFLICT = "conflict"
    FAILED = "failed"


class Resolution(StrEnum):
    """How an executor's question for secrets ended."""

    RESOLVED = "resolved"
    MISSING = "missing"
    REFUSED = "refused"
    FAILED = "failed"


class SignatureOutcome(StrEnum):
    """What the signature of a package that came was worth."""

    TRUSTED = "trusted"
    UNSIGNED = "unsigned"
    UNKNOWN = "unknown"
    INVALID = "invalid"
    REVOKED = "revoked"


class ReconcilerMetrics:
    """Packages by state, what was done to them, their signatures, and secrets that were asked for.

    Args:
        registry: where they are registered.
        packages: gives the packages in a state, by "loaded", "failed" and "loading"; asked at each scrape.
        paused: gives the workflows that are paused; asked at each scrape.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        packages: dict[str, Callable[[], float]],
        paused: Callable[[], float] = lambda: 0.0,
    ) -> None:
        Gauge(
            "cloacina_reconciler_paused_workflows", "Workflows whose new executions are refused.", registry=registry
        ).set_function(paused)
        show_packages(registry, packages)
        runs = Counter(
            "cloacina_reconciler_runs_total",
            "Loads and unloads of packages that ended.",
            ["outcome"],
            registry=registry,
        )
        seconds = Histogram(
            "cloacina_reconciler_run_duration_seconds",
            "Duration of a load or unload of a package.",
            ["outcome"],
            buckets=_SECONDS,
            registry=registry,
        )
        resolutions = Counter(
            "cloacina_reconciler_secret_resolutions_total",
            "Questions of executors for secrets that were answered.",
            ["outcome"],
            registry=registry,
        )
        signatures = Counter(
            "cloacina_reconciler_signatures_total",
            "Signatures of packages that were judged.",
            ["outcome"],
            registry=registry,
        )
        self._signatures = {outcome: signatures.labels(outcome) for outcome in SignatureOutcome}
        self._resolutions = {outcome: resolutions.labels(outcome) for outcome in Resolution}
        self._children = {outcome: (runs.labels(outcome), seconds.labels(outcome)) for outcome in Outcome}

    def observe(self, outcome: Outcome, seconds: float, traceparent: str = "") -> None:
        """Counts a load or unload.

        Args:
            outcome: how it ended.
            seconds: how long it took.
            traceparent: its span; becomes the exemplar if it is sampled.
        """
        count, duration = self._children[outcome]
        count.inc()
        duration.observe(seconds, tracing.exemplar(traceparent))

    def resolved(self, outcome: Resolution) -> None:
        """Counts a question for secrets."""
        self._resolutions[outcome].inc()

    def judged(self, outcome: SignatureOutcome) -> None:
        """Counts a signature."""
        self._signatures[outcome].inc()
