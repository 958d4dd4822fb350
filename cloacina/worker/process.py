"""A worker process: loads one package and runs its tasks, sync ones on threads, async ones on one event loop.

Threads take turns at waiting for orders, see `cloacina.worker.crew`. Whoever ends a task writes its result. When the
executor's end of the socket closes, the process ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import Context as ContextVars
from functools import partial
from pathlib import Path
from typing import Any

from cloacina.authoring.task import TaskDefinition
from cloacina.authoring.triggers import TriggerDefinition
from cloacina.domain.graph import parent_of
from cloacina.domain.inputs import MAX_CONTEXT_BYTES
from cloacina.telemetry import scope, tracing
from cloacina.worker import confinement, frames
from cloacina.worker.crew import Crew, Job
from cloacina.worker.execution import Outcome, run_async, run_sync
from cloacina.worker.output import CapturedDescriptor, FrameHandler, LineWriter, current_claim, cut, cut_front
from cloacina.worker.polling import PollOutcome, poll_async, poll_sync
from cloacina.worker.redaction import Redactor
from cloacina.worker.secrets import Granted

_READ_BYTES = 1 << 16
"""At most at once: a buffer of this size comes from the heap, a larger one from the kernel, anew for every order."""


def run(connection: socket.socket, order: dict[str, Any]) -> None:
    """The whole life of a worker. Never returns.

    Args:
        connection: the way to the executor.
        order: ``root`` (the extracted package), ``workflow_name``, ``entry_module``, ``folder`` (working directory),
            ``environment``, ``memory_bytes``, ``log_level`` (stdlib), ``tracing``.
    """
    worker = Worker(connection)
    try:
        worker.prepare(order)
        worker.load(order)
    except BaseException as error:
        worker.break_off(_explain_load(error, order["root"]), "".join(traceback.format_exception(error)))
    worker.serve()


class Worker:
    """The worker.

    Args:
        connection: the way to the executor.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection
        self._write_lock = threading.Lock()
        self._held: list[bytes] = []
        self._tasks: dict[str, TaskDefinition] = {}
        self._triggers: dict[str, TriggerDefinition] = {}
        self._decoder = frames.Decoder()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[int, _Attempt] = {}
        self._secrets: dict[int, Granted] = {}
        self._writers: list[LineWriter] = []
        self._captured: list[CapturedDescriptor] = []
        self._traced = False
        self.max_context_bytes = MAX_CONTEXT_BYTES

    # Starting

    def prepare(self, order: dict[str, Any]) -> None:
        """Makes this process a place for user code."""
        os.environ.clear()
        os.environ.update(order["environment"])
        time.tzset()
        os.chdir(order["folder"])
        confinement.limit(order["memory_bytes"])
        self.max_context_bytes = order["max_context_bytes"]
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        for number, level, name in ((1, logging.INFO, "stdout"), (2, logging.WARNING, "stderr")):
            writer = LineWriter(self._log, self._claim, level, name, number)
            self._captured.append(CapturedDescriptor(number, writer))
            setattr(sys, name, writer)
            self._writers.append(writer)
        root = logging.getLogger()
        root.handlers[:] = [FrameHandler(self._log, self._claim)]
        root.setLevel(order["log_level"])
        logging.captureWarnings(True)
        sys.argv = ["cloacina-worker"]
        self._traced = order["tracing"]
        if self._traced:
            tracing.configure_relay("worker", self.relay_span)

    def load(self, order: dict[str, Any]) -> None:
        """Imports the package."""
        from cloacina.packages.loader import load

        collector = load(Path(order["root"]), order["workflow_name"], order["entry_module"])
        self._tasks = collector.tasks
        self._triggers = {trigger.name: trigger for trigger in collector.triggers}
        self.send(frames.READY, {"pid": os.getpid(), "tasks": list(self._tasks)})

    def break_off(self, error: str, details: str) -> None:
        """Says why this worker is of no use, and ends."""
        self.send(frames.BROKEN, {"error": cut(error), "details": cut_front(details)})
        self._connection.shutdown(socket.SHUT_WR)
        os._exit(1)

    # Orders

    def serve(self) -> None:
        """Does what the executor says until it hangs up; then the process ends."""
        Crew(self._connection.fileno(), self._read).serve()

    def _read(self) -> list[Job]:
        """Reads what the executor has sent; returns the plain functions to run."""
        try:
            data = self._connection.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            os._exit(0)
        jobs = []
        for header, body in self._decoder.feed(data):
            kind = header["kind"]
            if kind in (frames.RUN, frames.POLL):
                job = self._start(header, body) if kind == frames.RUN else self._poll(header)
                if job is not None:
                    jobs.append(job)
            elif kind == frames.SECRETS:
                self._secrets[header["claim"]] = Granted.from_body(body)
            elif kind == frames.CANCEL:
                attempt = self._running.get(header["claim"])
                if attempt is not None:
                    attempt.cancel()
        return jobs

    def _start(self, header: dict[str, Any], body: bytes) -> Job | None:
        attempt = _Attempt(self, header, body, self._secrets.pop(header["claim"], Granted()))
        task = self._tasks.get(parent_of(header["task"]))
        self._running[attempt.claim] = attempt
        if task is None:
            known = ", ".join(sorted(self._tasks))
            message = f"the package has no task {header['task']!r}; it has {known}"
            self._end(attempt, Outcome(reason="task_not_found", error=cut(message)))
        elif task.is_async:
            attempt.begin_async(task, self._event_loop())
        else:
            return partial(ContextVars().run, attempt.run_sync, task)
        return None

    def _poll(self, header: dict[str, Any]) -> Job | None:
        attempt = _Attempt(self, header, b"", Granted())
        trigger = self._triggers.get(header["task"])
        self._running[attempt.claim] = attempt
        if trigger is None:
            error = f"the package has no trigger {header['task']!r}; it has {', '.join(sorted(self._triggers))}"
            self._end_poll(attempt, PollOutcome(error=cut(error)))
        elif asyncio.iscoroutinefunction(trigger.function):
            attempt.begin_async_poll(trigger, self._event_loop())
        else:
            return partial(ContextVars().run, attempt.poll_sync, trigger)
        return None

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="async tasks", daemon=True).start()
        return self._loop

    # What attempts say

    def finish(self, attempt: _Attempt, outcome: Outcome) -> None:
        """An attempt ended."""
        self._end(attempt, outcome)

    def send(self, kind: str, fields: dict[str, Any] | None = None, body: bytes = b"") -> None:
        """Sends a frame. Waits while the executor does not read: that slows down a task that logs without end."""
        data = frames.encode(kind, fields, body)
        try:
            with self._write_lock:
                held, self._held = self._held, []
                self._connection.sendall(b"".join((*held, data)) if held else data)
        except OSError:
            os._exit(0)

    def relay_span(self, encoded: bytes, about: int) -> None:
        """Our own are those around attempts: such a one goes along with the attempt's end, which follows."""
        if len(encoded) > frames.MAX_BODY_BYTES:
            logging.getLogger(__name__).warning("a span of %d bytes was dropped", len(encoded))
        elif about:
            frame = frames.encode(frames.SPAN, {"about": about}, encoded)
            with self._write_lock:
                self._held.append(frame)
        else:
            self.send(frames.SPAN, body=encoded)

    def finish_poll(self, attempt: _Attempt, outcome: PollOutcome) -> None:
        """A poll ended."""
        self._end_poll(attempt, outcome)

    def _end_poll(self, attempt: _Attempt, outcome: PollOutcome) -> None:
        self._settle(attempt)
        if outcome.error:
            fields = {"claim": attempt.claim, "reason": "task_error", "error": outcome.error}
            self.send(frames.FAILED, {**fields, "details": outcome.details, "transient": True, "retry": None})
        else:
            self.send(frames.DONE, {"claim": attempt.claim, "fires": outcome.fires}, outcome.context or b"")

    def _settle(self, attempt: _Attempt) -> None:
        """What it said goes out before its end."""
        for captured in self._captured:
            captured.settle()
        for writer in self._writers:
            writer.flush_claim(attempt.claim)
        self._running.pop(attempt.claim, None)

    def _end(self, attempt: _Attempt, outcome: Outcome) -> None:
        self._settle(attempt)
        if outcome.succeeded:
            self.send(
                frames.DONE, {"claim": attempt.claim, "unchanged": outcome.context is None}, outcome.context or b""
            )
        else:
            fields = {
                "claim": attempt.claim,
                "reason": outcome.reason,
                "error": outcome.error,
                "details": outcome.details,
                "transient": outcome.transient,
                "retry": outcome.retry,
            }
            self.send(frames.FAILED, fields)

    def _log(self, fields: dict[str, Any]) -> None:
        self.send(frames.LOG, fields)

    def _claim(self) -> int:
        """The claim of the running code. A thread that a task started has none of its own: if only one task runs, it
        is that one's."""
        claim = current_claim.get()
        if claim:
            return claim
        running = [attempt.claim for attempt in list(self._running.values()) if not attempt.cancelled]
        return running[0] if len(running) == 1 else 0


class _Attempt:
    """One attempt of a task in this process (also its `cloacina.authoring.task.HandleRuntime`)."""

    def __init__(self, worker: Worker, header: dict[str, Any], raw: bytes, secrets: Granted) -> None:
        self.claim: int = header["claim"]
        self._worker = worker
        self._raw = raw
        self._secrets = secrets
        self._scope = scope.Scope(**header["scope"])
        self._traceparent: str = header["traceparent"]
        self._slot_held = True
        self._cancelled = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run_sync(self, task: TaskDefinition) -> None:
        """Runs on a thread, in a context of its own."""
        limit = self._worker.max_context_bytes
        self._around(lambda: run_sync(task, self._raw, self, self._secrets, limit_bytes=limit))

    def begin_async(self, task: TaskDefinition, loop: asyncio.AbstractEventLoop) -> None:
        """Starts on the event loop."""
        self._loop = loop

        def create() -> None:
            self._task = loop.create_task(self._run_async(task), context=ContextVars())
            if self._cancelled.is_set():
                self._task.cancel()

        loop.call_soon_threadsafe(create)

    async def _run_async(self, task: TaskDefinition) -> None:
        self._enter()
        with tracing.span(f"run {self._scope.task_name}", parent=self._traceparent) as span:
            try:
                limit = self._worker.max_context_bytes
                outcome = await run_async(task, self._raw, self, self._secrets, limit_bytes=limit)
            except asyncio.CancelledError:
                outcome = Outcome(reason="cancelled", error="the task was stopped")
            _mark(span, outcome, self._secrets)
        self._worker.finish(self, outcome)

    def poll_sync(self, trigger: TriggerDefinition) -> None:
        """Polls on a thread, in a context of its own."""
        self._enter()
        with tracing.span(f"run {trigger.name}", parent=self._traceparent) as span:
            outcome = poll_sync(trigger, limit_bytes=self._worker.max_context_bytes)
            _mark_poll(span, outcome)
        self._worker.finish_poll(self, outcome)

    def begin_async_poll(self, trigger: TriggerDefinition, loop: asyncio.AbstractEventLoop) -> None:
        """Polls on the event loop."""
        self._loop = loop

        def create() -> None:
            self._task = loop.create_task(self._poll_async(trigger), context=ContextVars())

        loop.call_soon_threadsafe(create)

    async def _poll_async(self, trigger: TriggerDefinition) -> None:
        self._enter()
        with tracing.span(f"run {trigger.name}", parent=self._traceparent) as span:
            try:
                outcome = await poll_async(trigger, limit_bytes=self._worker.max_context_bytes)
            except asyncio.CancelledError:
                outcome = PollOutcome(error="the trigger was stopped")
            _mark_poll(span, outcome)
        self._worker.finish_poll(self, outcome)

    def _around(self, body: Callable[[], Outcome]) -> None:
        self._enter()
        with tracing.span(f"run {self._scope.task_name}", parent=self._traceparent) as span:
            outcome = body()
            _mark(span, outcome, self._secrets)
        self._worker.finish(self, outcome)

    def _enter(self) -> None:
        current_claim.set(self.claim)
        scope.attach(self._scope)

    def cancel(self) -> None:
        """Stops an async task, and the waiting of a deferred one. A running plain function cannot be stopped."""
        self._cancelled.set()
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(lambda: self._task.cancel() if self._task is not None else None)

    @property
    def cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self._cancelled.is_set()

    def defer_until(self, condition: Callable[[], bool], poll_interval_ms: int) -> Any:
        """Waits without a slot; see `cloacina.authoring.task.TaskHandle.defer_until`. In an async task the answer is to
        be awaited: the other tasks of the event loop go on."""
        if self._loop is not None:
            return self._defer_async(condition, poll_interval_ms)
        self._defer(condition, poll_interval_ms)
        return None

    async def _defer_async(self, condition: Callable[[], bool], poll_interval_ms: int) -> None:
        self._give_slot_back()
        try:
            while not self._holds(condition):  # noqa: ASYNC110 - the condition is the author's, it can only be polled
                await asyncio.sleep(max(poll_interval_ms, 1) / 1000)
        finally:
            self._take_slot()

    def _defer(self, condition: Callable[[], bool], poll_interval_ms: int) -> None:
        self._give_slot_back()
        try:
            while not self._holds(condition):
                if self._cancelled.wait(max(poll_interval_ms, 1) / 1000):
                    raise RuntimeError("the task was stopped while it waited")
        finally:
            self._take_slot()

    def _give_slot_back(self) -> None:
        self._worker.send(frames.DEFERRED, {"claim": self.claim, "deferred": True})
        self._slot_held = False

    def _take_slot(self) -> None:
        self._slot_held = True
        self._worker.send(frames.DEFERRED, {"claim": self.claim, "deferred": False})

    def slot_held(self) -> bool:
        """Whether a slot is held."""
        return self._slot_held

    def _holds(self, condition: Callable[[], bool]) -> bool:
        try:
            return bool(condition())
        except Exception:
            logging.getLogger("cloacina.worker").exception(
                "the condition of a deferred task failed; it counts as false"
            )
            return False


def _mark(span: tracing.Span, outcome: Outcome, secrets: Granted) -> None:
    """The exception of a task that had secrets is not recorded: its text and its traceback may show them."""
    if outcome.succeeded:
        return
    if secrets:
        redactor = Redactor()
        redactor.add(secrets.values())
        span.fail(redactor.text(outcome.error))
    else:
        span.fail(outcome.exception or outcome.error)


def _mark_poll(span: tracing.Span, outcome: PollOutcome) -> None:
    if outcome.error:
        span.fail(outcome.exception or outcome.error)


def _explain_load(error: BaseException, root: str) -> str:
    """The exception and the line of the author's code that it came from."""
    place = ""
    for entry in traceback.extract_tb(error.__traceback__):
        if entry.filename.startswith(root):
            place = f"{os.path.relpath(entry.filename, root)}, line {entry.lineno}: "
    return f"the package cannot be loaded: {place}{type(error).__name__}: {error}"
