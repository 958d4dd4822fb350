"""The metrics of schedules."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from cloacina.domain.schedules import FireOutcome, ScheduleKind

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 1800, 7200, 86400)


class ScheduleMetrics:
    """Firings, and how late they were.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        fires = Counter(
            "cloacina_schedule_fires_total",
            "Firings of schedules: started in time (fired) or late (caught_up), given up (skipped), not startable "
            "(failed; also polls that failed).",
            ["kind", "outcome"],
            registry=registry,
        )
        self.fires = {(kind, outcome): fires.labels(kind, outcome) for kind in ScheduleKind for outcome in FireOutcome}
        self.lag = Histogram(
            "cloacina_schedule_lag_seconds",
            "From the instant that a cron firing was for to its decision.",
            buckets=_SECONDS,
            registry=registry,
        )
