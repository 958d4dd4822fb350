"""Where the time of an execution went: spans made of its stored events, so that they are there without a collector.

A pure function of what the scheduler remembers. Of each attempt: `queue`, from ready to claimed; `dispatch`, from
claimed to the start of its code: the commit of the claim, the way to the executor, its package and a worker; `run`,
from there until the end was decided on, which includes the way of the result back. Times are microseconds since the
epoch; starts are those of the executor's clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from cloacina.rpc.v1 import scheduler_pb2

ENDED = frozenset(("Completed", "Failed", "Cancelled"))


@dataclass(slots=True)
class TimedSpan:
    """One piece of time.

    Args:
        span_id: unique among the spans of the execution.
        parent_id: the span it is a part of; "" for the execution itself.
        name: for people.
        kind: execution, task, attempt, queue, dispatch, run, deferred, backoff or paused.
        start, end: microseconds since the epoch; ``end`` ``None`` while it lasts.
        status: ok, error, skipped, cancelled, lost or unfinished.
        ids: what it is about.
    """

    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int | None = None
    status: str = "unfinished"
    ids: dict[str, Any] = field(default_factory=dict)

    def finish(self, at: int, status: str) -> None:
        """It ended. A second call changes nothing."""
        if self.end is None:
            self.end, self.status = max(at, self.start), status


@dataclass(slots=True)
class _Task:
    """What is known of a task so far."""

    span: TimedSpan
    attempts: int = 0
    number: int = 1
    attempt: TimedSpan | None = None
    phase: TimedSpan | None = None
    deferred: TimedSpan | None = None
    backoff: TimedSpan | None = None


def timeline(execution: scheduler_pb2.Execution, events: Iterable[scheduler_pb2.ExecutionEvent]) -> list[TimedSpan]:
    """The spans of an execution, each behind its parent.

    Args:
        execution: which.
        events: all of it, oldest first.
    """
    root = TimedSpan("execution", "", execution.workflow_name, "execution", execution.created_at)
    recorder = _Recorder(root)
    for event in events:
        recorder.record(event)
    if execution.status in ENDED:
        recorder.close(execution.finished_at, execution.status)
    return recorder.spans


class _Recorder:
    def __init__(self, root: TimedSpan) -> None:
        self._root = root
        self.spans = [root]
        self._tasks: dict[str, _Task] = {}
        self._paused: TimedSpan | None = None

    def record(self, event: scheduler_pb2.ExecutionEvent) -> None:
        data = orjson.loads(event.data) if event.data else {}
        handler = getattr(self, f"_{event.event_type}", None)
        if handler is not None:
            handler(event, data)

    def close(self, at: int, status: str) -> None:
        outcome = {"Completed": "ok", "Failed": "error"}.get(status, "cancelled")
        for span in self.spans:
            span.finish(at, outcome if span is self._root else "cancelled")

    def _add(self, parent: TimedSpan, part: str, name: str, kind: str, start: int, **ids: Any) -> TimedSpan:
        span = TimedSpan(f"{parent.span_id}/{part}", parent.span_id, name, kind, start, ids={**parent.ids, **ids})
        self.spans.append(span)
        return span

    def _task(self, event: scheduler_pb2.ExecutionEvent) -> _Task:
        task = self._tasks.get(event.task_name)
        if task is None or task.span.end is not None:  # a task that is run again, after a retry of the execution
            again = sum(span.kind == "task" and span.name == event.task_name for span in self.spans)
            part = f"{event.task_name}~{again + 1}" if again else event.task_name
            span = self._add(self._root, part, event.task_name, "task", event.at, task_name=event.task_name)
            task = self._tasks[event.task_name] = _Task(span)
        return task

    def _attempt(self, task: _Task, at: int) -> TimedSpan:
        if task.attempt is None or task.attempt.end is not None:
            task.attempts += 1
            task.attempt = self._add(
                task.span, str(task.attempts), f"attempt {task.number}", "attempt", at, attempt=task.number
            )
        return task.attempt

    def _begin(self, task: _Task, kind: str, at: int, **ids: Any) -> None:
        if task.phase is not None:
            task.phase.finish(at, "ok")
        attempt = self._attempt(task, at)
        attempt.ids.update(ids)
        task.phase = self._add(attempt, kind, kind, kind, at)

    def _end_attempt(self, event: scheduler_pb2.ExecutionEvent, status: str, **ids: Any) -> _Task:
        task = self._task(event)
        for span in (task.deferred, task.phase, task.attempt):
            if span is not None:
                span.finish(event.at, status)
        if task.attempt is not None:
            task.attempt.ids.update(ids)
        task.phase = task.deferred = None
        return task

    # Events, by their type

    def _task_marked_ready(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        task = self._task(event)
        if task.backoff is not None:
            task.backoff.finish(event.at, "ok")
            task.backoff = None
        self._begin(task, "queue", event.at)

    def _task_claimed(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        ids = {"executor_id": data.get("executor_id"), "claim_id": str(data.get("claim_id"))}
        self._begin(self._task(event), "dispatch", event.at, **ids)

    def _task_started(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        self._begin(self._task(event), "run", event.at, **data)

    def _task_deferred(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        task = self._task(event)
        if task.phase is not None:
            number = sum(span.kind == "deferred" and span.parent_id == task.phase.span_id for span in self.spans)
            task.deferred = self._add(task.phase, f"deferred-{number + 1}", "deferred", "deferred", event.at)

    def _task_resumed(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        task = self._task(event)
        if task.deferred is not None:
            task.deferred.finish(event.at, "ok")
            task.deferred = None

    def _task_completed(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        self._end_attempt(event, "ok").span.finish(event.at, "ok")

    def _task_failed(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        task = self._end_attempt(event, "error", **data)
        task.span.ids.update(data)
        task.span.finish(event.at, "error")

    def _task_skipped(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        task = self._end_attempt(event, "skipped")
        task.span.ids.update(data)
        task.span.finish(event.at, "skipped")

    def _task_retry_scheduled(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        ids = {key: value for key, value in data.items() if key != "due"}
        task = self._end_attempt(event, "error", **ids)
        task.number += 1
        part = f"backoff-{task.attempts}"
        task.backoff = self._add(task.span, part, f"until attempt {task.number}", "backoff", event.at)

    def _task_reset(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        if "lost" not in data:  # the execution is retried: the task begins again when it is ready
            return
        task = self._end_attempt(event, "lost" if data["lost"] else "cancelled")
        self._begin(task, "queue", event.at)

    def _workflow_paused(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        self._paused = self._add(self._root, f"paused-{event.sequence}", "paused", "paused", event.at)

    def _workflow_resumed(self, event: scheduler_pb2.ExecutionEvent, data: dict[str, Any]) -> None:
        if self._paused is not None:
            self._paused.finish(event.at, "ok")
            self._paused = None
