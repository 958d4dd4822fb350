"""The metrics of retention."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class RetentionMetrics:
    """What was deleted, and how the passes of the loop ended.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        deleted = Counter(
            "cloacina_retention_deleted_total",
            "Rows that retention deleted: executions, events, firings that started nothing, idempotency keys of "
            "executions that were deleted before.",
            ["kind"],
            registry=registry,
        )
        passes = Counter("cloacina_retention_passes_total", "Passes of retention.", ["outcome"], registry=registry)
        self.deleted = {kind: deleted.labels(kind) for kind in ("executions", "events", "firings", "keys")}
        self.completed, self.failed = (passes.labels(outcome) for outcome in ("completed", "failed"))
