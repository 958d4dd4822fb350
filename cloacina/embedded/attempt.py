"""One attempt of a task in this process: on a thread, or on the event loop of the async tasks."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from contextvars import Context as ContextVariables
from typing import Protocol

from cloacina.authoring.task import TaskDefinition
from cloacina.engine.model import Assignment
from cloacina.telemetry import scope, tracing
from cloacina.worker.execution import Outcome, run_async, run_sync

log = logging.getLogger(__name__)


class Reports(Protocol):
    """Where an attempt tells what happens; called from the thread that it happens on."""

    def deferred(self, attempt: Attempt, deferred: bool) -> None:
        """It gave its slot back to wait, or goes on."""

    def ended(self, attempt: Attempt, outcome: Outcome) -> None:
        """Its body and its callbacks have ended."""


class Attempt:
    """An attempt under a claim (also the `cloacina.authoring.task.HandleRuntime` behind its handle).

    Args:
        assignment: what to run.
        task: its code.
        reports: where it tells.

    Attributes:
        started_at: microseconds since the epoch; set by who starts it.
        reported: its end was told to the engine; what its body still does is of no consequence. Used by the executor.
    """

    def __init__(self, assignment: Assignment, task: TaskDefinition, reports: Reports) -> None:
        self.assignment = assignment
        self.claim_id = assignment.claim_id
        self.task = task
        self.started_at = 0
        self.reported = False
        self._reports = reports
        self._slot_held = True
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Runs a plain function to its end; called on a thread, in context variables of its own."""
        with self._enter() as span:
            outcome = run_sync(self.task, self.assignment.context, self)
            _mark(span, outcome)
        self._reports.ended(self, outcome)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts a coroutine function on `loop`; called from another thread."""
        self._loop = loop

        def create() -> None:
            self._running = loop.create_task(self._run_async(), context=ContextVariables())
            if self._stopped.is_set():
                self._running.cancel()

        loop.call_soon_threadsafe(create)

    async def _run_async(self) -> None:
        with self._enter() as span:
            try:
                outcome = await run_async(self.task, self.assignment.context, self)
            except asyncio.CancelledError:
                outcome = Outcome(reason="cancelled", error="the task was stopped")
            _mark(span, outcome)
        self._reports.ended(self, outcome)

    def _enter(self) -> AbstractContextManager[tracing.Span]:
        live = self.assignment.live
        scope.attach(
            scope.Scope(
                request_id=live.origin.request_id or None,
                tenant_id=live.tenant_id,
                workflow_name=live.workflow_name,
                execution_id=live.execution_id,
                task_name=self.assignment.task,
                attempt=self.assignment.attempt,
            )
        )
        return tracing.span(f"task {live.workflow_name}/{self.assignment.task}", parent=live.origin.traceparent or None)

    def stop(self) -> None:
        """Cancels a coroutine, and ends the waiting of a deferred task. A plain function that runs cannot be
        stopped: Python has no way to end a thread."""
        self._stopped.set()
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(lambda: self._running.cancel() if self._running is not None else None)

    # What is behind its TaskHandle

    def defer_until(self, condition: Callable[[], bool], poll_interval_ms: int) -> Awaitable[None] | None:
        """Waits without a slot; see `cloacina.authoring.task.TaskHandle.defer_until`."""
        interval_s = max(poll_interval_ms, 1) / 1000
        if self.task.is_async:
            return self._defer_async(condition, interval_s)
        self._give_slot_back()
        try:
            while not _holds(condition):
                if self._stopped.wait(interval_s):
                    raise RuntimeError("the task was stopped while it waited")
        finally:
            self._take_slot()
        return None

    async def _defer_async(self, condition: Callable[[], bool], interval_s: float) -> None:
        self._give_slot_back()
        try:
            while not _holds(condition):  # noqa: ASYNC110 - the condition is the author's, and only to be asked
                await asyncio.sleep(interval_s)
        finally:
            self._take_slot()

    def slot_held(self) -> bool:
        """Whether a slot is held."""
        return self._slot_held

    def _give_slot_back(self) -> None:
        self._slot_held = False
        self._reports.deferred(self, True)

    def _take_slot(self) -> None:
        self._slot_held = True
        self._reports.deferred(self, False)


def _mark(span: tracing.Span, outcome: Outcome) -> None:
    if not outcome.succeeded:
        span.fail(outcome.exception or outcome.error)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return bool(condition())
    except Exception:
        log.exception("the condition of a deferred task failed; it counts as false")
        return False
