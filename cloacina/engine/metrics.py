"""The engine's metrics: counted from the events of committed transitions, in this one place.

Names, labels and reasons are those of the contract, section 1. Labels are bounded enums; gauges are asked from the
engine's state when they are scraped, so they cannot drift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cloacina.domain.execution import (
    EndReason,
    Event,
    FailureReason,
    SkipReason,
    TaskClaimed,
    TaskCompleted,
    TaskFailed,
    TaskSkipped,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
)
from cloacina.engine.live import LiveExecutions
from cloacina.engine.model import Live

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)

_FAILED_LABEL = {FailureReason.CANCELLED: "unknown"}
_SKIPPED_LABEL = {SkipReason.CANCELLED: "cancelled"}


class EngineMetrics:
    """Counters, histograms and gauges of executions and tasks.

    Args:
        registry: where they are registered.
        exemplar: makes the exemplar labels of a traceparent; ``None`` when tracing is off.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        exemplar: Callable[[str], dict[str, str] | None] | None = None,
    ) -> None:
        self._exemplar = exemplar
        workflows = Counter(
            "cloacina_workflows_total",
            "Executions that ended, by status and reason.",
            ["status", "reason"],
            registry=registry,
        )
        tasks = Counter(
            "cloacina_tasks_total",
            "Tasks that ended, by status and reason; results of claims that were given up count as claim_lost.",
            ["status", "reason"],
            registry=registry,
        )
        self.workflow_completed = workflows.labels("completed", "ok")
        self.workflow_failed = {
            reason: workflows.labels("failed", reason.value)
            for reason in (EndReason.DEPENDENCY_FAILED, EndReason.TIMEOUT)
        }
        self.workflow_cancelled = workflows.labels("cancelled", "cancelled")
        self.task_completed = tasks.labels("completed", "ok")
        self.task_failed = {
            reason: tasks.labels("failed", _FAILED_LABEL.get(reason, reason.value)) for reason in FailureReason
        }
        self.claim_lost = tasks.labels("failed", "claim_lost")
        self.task_skipped = {
            reason: tasks.labels("skipped", _SKIPPED_LABEL.get(reason, "trigger_rule")) for reason in SkipReason
        }
        self.workflow_seconds = _histogram(
            registry, "cloacina_workflow_duration_seconds", "From the start of an execution to its end."
        )
        self.task_seconds = _histogram(registry, "cloacina_task_duration_seconds", "Run time of a task's last attempt.")
        self.queue_seconds = _histogram(registry, "cloacina_task_queue_seconds", "From Ready to Running.")
        claims = Counter(
            "cloacina_scheduler_claim_attempts_total",
            "Rounds of handing ready tasks to free slots: tasks claimed, rounds that ran out of slots (contended), "
            "rounds that found free slots but no ready task (empty).",
            ["outcome"],
            registry=registry,
        )
        self.claimed, self.contended, self.empty = (claims.labels(o) for o in ("claimed", "contended", "empty"))
        self.held_back = Counter(
            "cloacina_scheduler_held_back_total",
            "Rounds that left slots free and tasks ready, so that tenants without a queue wait for less.",
            registry=registry,
        )
        self.shared_claims = Gauge(
            "cloacina_scheduler_shared_claims",
            "Tasks on the way that count towards what may be, while some tenants have a queue and another has none.",
            registry=registry,
        )
        self.heartbeat_writes = Counter(
            "cloacina_scheduler_heartbeat_writes_total", "Lease renewals written to the store.", registry=registry
        )
        self.stale_claims_swept = Counter(
            "cloacina_scheduler_stale_claims_swept_total",
            "Claims voided because their executor's lease lapsed.",
            registry=registry,
        )
        self.adoptions = Counter(
            "cloacina_scheduler_adoptions_total",
            "Executions taken over from schedulers that are gone.",
            registry=registry,
        )
        self.ownership_lost = Counter(
            "cloacina_scheduler_ownership_lost_total",
            "Times this scheduler found that others had taken over what it owned.",
            registry=registry,
        )
        depth = Gauge(
            "cloacina_scheduler_queue_depth",
            "Requests before a commit (waiting), unfinished executions (live), ready tasks without a slot (ready).",
            ["queue"],
            registry=registry,
        )
        self._depth = {queue: depth.labels(queue) for queue in ("waiting", "live", "ready")}
        self._live_bytes = Gauge(
            "cloacina_scheduler_live_bytes", "Bytes that unfinished executions hold, about.", registry=registry
        )
        refused = Counter(
            "cloacina_scheduler_refusals_total",
            "Requests refused with 503 because a queue was at its limit, of all or of one tenant.",
            ["queue"],
            registry=registry,
        )
        self.refused = {queue: refused.labels(queue) for queue in ("waiting", "live")}
        self.active_workflows = Gauge("cloacina_active_workflows", "Executions that have not ended.", registry=registry)
        self.active_tasks = Gauge("cloacina_active_tasks", "Tasks that an executor holds.", registry=registry)
        self._count: dict[type[Any], Callable[[Live, Any], None]] = {
            TaskClaimed: self._task_claimed,
            TaskCompleted: self._task_completed,
            TaskFailed: self._task_failed,
            TaskSkipped: self._task_skipped,
            WorkflowCompleted: self._workflow_completed,
            WorkflowFailed: self._workflow_failed,
            WorkflowCancelled: self._workflow_cancelled,
        }

    def watch(self, waiting: Callable[[], int], live: LiveExecutions, ready: Callable[[], int]) -> None:
        """Has the gauges of queues asked from these."""
        self._depth["waiting"].set_function(waiting)
        self._depth["live"].set_function(lambda: len(live))
        self._depth["ready"].set_function(ready)
        self._live_bytes.set_function(lambda: live.bytes)

    def observe(self, live: Live, event: Event) -> None:
        """Counts one committed event; the execution's state is the one after its whole commit."""
        count = self._count.get(type(event))
        if count is not None:
            count(live, event)

    def _marks(self, live: Live) -> dict[str, str] | None:
        return None if self._exemplar is None else self._exemplar(live.origin.traceparent)

    def _task_claimed(self, live: Live, event: TaskClaimed) -> None:
        ready_at = live.state.tasks[event.task].ready_at
        if ready_at is not None:
            self.queue_seconds.observe(max(0, event.at - ready_at) / 1e6, self._marks(live))

    def _task_completed(self, live: Live, event: TaskCompleted) -> None:
        if live.state.tasks[event.task].instances is not None:
            return  # its instances were counted, and they are what ran
        self.task_completed.inc(exemplar=self._marks(live))
        self._task_duration(live, event.task)

    def _task_failed(self, live: Live, event: TaskFailed) -> None:
        if live.state.tasks[event.task].instances is not None:
            return
        self.task_failed[event.reason].inc(exemplar=self._marks(live))
        self._task_duration(live, event.task)

    def _task_skipped(self, live: Live, event: TaskSkipped) -> None:
        self.task_skipped[event.reason].inc()

    def _task_duration(self, live: Live, name: str) -> None:
        task = live.state.tasks[name]
        if task.started_at is not None and task.finished_at is not None:
            self.task_seconds.observe(max(0, task.finished_at - task.started_at) / 1e6, self._marks(live))

    def _workflow_completed(self, live: Live, event: WorkflowCompleted) -> None:
        self.workflow_completed.inc(exemplar=self._marks(live))
        self._workflow_duration(live)

    def _workflow_failed(self, live: Live, event: WorkflowFailed) -> None:
        self.workflow_failed[event.reason].inc(exemplar=self._marks(live))
        self._workflow_duration(live)

    def _workflow_cancelled(self, live: Live, event: WorkflowCancelled) -> None:
        self.workflow_cancelled.inc(exemplar=self._marks(live))
        self._workflow_duration(live)

    def _workflow_duration(self, live: Live) -> None:
        state = live.state
        if state.started_at is not None and state.finished_at is not None:
            self.workflow_seconds.observe(max(0, state.finished_at - state.started_at) / 1e6, self._marks(live))


def _histogram(registry: CollectorRegistry, name: str, text: str) -> Histogram:
    return Histogram(name, text, buckets=_SECONDS, registry=registry)
