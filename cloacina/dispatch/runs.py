"""One attempt of a task on this executor: its clocks, its span, its log line, and what is reported of it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Protocol

import orjson

from cloacina.domain.explanation import Preparation
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.telemetry import logs, scope, tracing
from cloacina.telemetry.turns import once_sent
from cloacina.worker import frames
from cloacina.worker.hosting import WorkerHandle
from cloacina.worker.secrets import Granted

log = logging.getLogger(__name__)

_SAID_TO_RUN_AFTER_S = 0.1
"""Tasks that end within this time are never reported as started: their result says when they were."""

_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)


class Reports(Protocol):
    """Where what happens here is told: the link to the scheduler."""

    def started(self, claim_id: int, started_at: int) -> None:
        """A task has run for a while."""

    def preparing(self, claim_id: int, stage: Preparation, since: int) -> None:
        """A task has not begun for a while: what for, and since when, in microseconds since the epoch."""

    def deferred(self, claim_id: int, deferred: bool) -> None:
        """A task waits without a slot, or goes on."""

    def ended(self, result: scheduler_pb2.TaskResult) -> None:
        """An attempt ended."""


class Run:
    """An attempt under a claim.

    Args:
        assignment: what to run.
        reports: where it is told.
    """

    noun = "task"
    """What it runs, for messages."""

    def __init__(self, assignment: Any, reports: Reports) -> None:
        self.assignment = assignment
        self.claim_id: int = assignment.claim_id
        self.scope = scope.Scope(
            request_id=assignment.origin.request_id or None,
            tenant_id=assignment.tenant_id,
            package_id=assignment.package_id or None,
            workflow_name=assignment.workflow_name,
            execution_id=assignment.execution_id or None,
            task_name=assignment.task_name,
            attempt=assignment.attempt or None,
        )
        self.worker: WorkerHandle | None = None
        self.secrets: Granted | None = None
        self.started_at = 0
        self.deferred = False
        self.stopping = False
        self.over = False
        self._reports = reports
        self._stage: tuple[Preparation, int] | None = None
        self._stage_said = False
        self._clocks: list[asyncio.TimerHandle] = []
        self._span = tracing.start_span(
            self._span_name(), kind="consumer", parent=assignment.origin.traceparent or None, about=self.scope
        )

    def _span_name(self) -> str:
        return f"task {self.assignment.workflow_name}/{self.assignment.task_name}"

    def order(self) -> tuple[str, dict[str, Any], bytes]:
        """The frame that has a worker run it: kind, header and body."""
        header = {
            "claim": self.claim_id,
            "task": self.assignment.task_name,
            "traceparent": self.traceparent,
            "scope": {name: getattr(self.scope, name) for name in scope.SCOPE_FIELDS},
        }
        return frames.RUN, header, self.assignment.context

    @property
    def traceparent(self) -> str:
        """Of its span; the worker's hangs below."""
        return self._span.traceparent

    def waits_with(self, traceparent: str) -> None:
        """The package or the worker that it waits for is fetched or started in the trace of another run."""
        if traceparent != self.traceparent:
            self._span.link(traceparent)

    @property
    def pool_key(self) -> tuple[str, str]:
        """Tenant and package digest: whose workers may run it."""
        return self.assignment.tenant_id, self.assignment.package_digest

    def prepare(self, stage: Preparation) -> None:
        """What it waits for from now on, before it can begin; said if that lasts."""
        if self._stage is not None and self._stage[0] is stage:
            return
        first, self._stage = self._stage is None, (stage, time.time_ns() // 1000)
        if self._stage_said:
            self._say_preparing()
        elif first:
            self._clocks.append(asyncio.get_running_loop().call_later(_SAID_TO_RUN_AFTER_S, self._say_preparing))

    def _say_preparing(self) -> None:
        self._stage_said = True
        if self._stage is not None and not self.started_at:
            self._reports.preparing(self.claim_id, *self._stage)

    def begin(self, worker: WorkerHandle, on_timeout: Any) -> None:
        """Its worker has it now: its clocks begin.

        Args:
            worker: which runs it.
            on_timeout: called with this run when its time is up.
        """
        loop = asyncio.get_running_loop()
        self.worker = worker
        self.started_at = time.time_ns() // 1000
        self._clocks.append(loop.call_later(_SAID_TO_RUN_AFTER_S, self._say_started))
        if self.assignment.timeout_ms:
            self._clocks.append(loop.call_later(self.assignment.timeout_ms / 1000, on_timeout, self))

    def _say_started(self) -> None:
        self._reports.started(self.claim_id, self.started_at)

    def defer(self, deferred: bool) -> None:
        """It gave its slot back to wait, or goes on."""
        if deferred != self.deferred:
            self.deferred = deferred
            self._reports.deferred(self.claim_id, deferred)

    def done(self, header: dict[str, Any], body: bytes, limit_bytes: int) -> None:
        """Its worker says that it succeeded.

        Args:
            header, body: what it sent.
            limit_bytes: most bytes of a context.
        """
        context = None if header.get("unchanged") else body
        try:
            if context is not None:
                check_context(context, limit_bytes)
        except ValueError as error:
            self.fail("validation_failed", str(error))
        else:
            self.succeed(context)

    def succeed(self, context: bytes | None) -> None:
        """It succeeded; ``None`` for a context left as it was."""
        success = scheduler_pb2.TaskSuccess(context=context or b"", unchanged=context is None)
        self._end(scheduler_pb2.TaskResult(success=success), "task succeeded", logging.INFO, {"_told": True})

    def fail(
        self,
        reason: str,
        error: str,
        *,
        details: str = "",
        transient: bool = True,
        retry: bool | None = None,
    ) -> None:
        """It failed; see `scheduler_pb2.TaskFailure`."""
        failure = scheduler_pb2.TaskFailure(reason=reason, error=error, details=details, transient=transient)
        if retry is not None:
            failure.retry = retry
        self._span.fail(error)
        said: dict[str, object] = {"reason": reason, "error": error}
        if details:
            said["_exception"] = details
        self._end(scheduler_pb2.TaskResult(failure=failure), "task attempt failed", logging.WARNING, said)

    def give_back(self) -> None:
        """It is handed back to the scheduler unfinished."""
        self._close()
        self._span.set_attribute("cloacina.released", True)
        self._span.end()

    def _end(self, result: scheduler_pb2.TaskResult, message: str, level: int, said: dict[str, object]) -> None:
        if self.over:
            return
        self._close()
        self._span.end()
        result.claim_id = self.claim_id
        result.execution_id = self.assignment.execution_id
        result.task_name = self.assignment.task_name
        result.started_at = self.started_at
        run_us = max(0, time.time_ns() // 1000 - self.started_at) if self.started_at else 0
        if self.started_at:
            result.run_us = run_us
        extra = {
            **said,
            "duration_ms": run_us / 1000,
            "worker_pid": self.worker.pid if self.worker is not None else 0,
            "_trace": tracing.ids_of(self.traceparent),
        }
        if self.worker is not None and self.worker.machine:
            extra["worker_machine"] = self.worker.machine
        self._reports.ended(result)
        if log.isEnabledFor(level):
            record = log.makeRecord(log.name, level, "", 0, message, (), None, extra=extra)
            once_sent(self._write, record)

    def _write(self, record: logging.LogRecord) -> None:
        with scope.within(self.scope):
            log.handle(record)

    def _close(self) -> None:
        self.over = True
        for clock in self._clocks:
            clock.cancel()
        self._clocks.clear()

    def relay_log(self, header: dict[str, Any]) -> None:
        """Writes what the task logged or printed, with its ids."""
        assignment = self.assignment
        fields = dict(header.get("fields") or {})
        logger = str(header["logger"])
        if logger not in ("root", assignment.task_name):
            fields["logger"] = logger
        trace = header.get("trace")
        logs.emit_foreign(
            created=float(header["created"]),
            level=int(header["level"]),
            target=f"{self.noun}.{assignment.workflow_name}.{assignment.task_name}",
            message=str(header["message"]),
            about=self.scope,
            exception=header.get("exception"),
            fields=fields,
            trace=(str(trace[0]), str(trace[1])) if trace else tracing.ids_of(self.traceparent),
        )


def check_context(context: bytes, limit_bytes: int) -> None:
    """Code of a package may write to the worker's socket itself: what becomes state is looked at here.

    Raises:
        ValueError: it is no JSON object, or has more than `limit_bytes`.
    """
    fault = ""
    try:
        if not isinstance(orjson.loads(context), dict):
            fault = "not an object"
        elif len(context) > limit_bytes:
            fault = f"{len(context)} bytes, the limit is {limit_bytes}"
    except ValueError as error:
        fault = str(error)
    if fault:
        raise ValueError(f"the worker process sent a context that cannot be kept: {fault}")


def task_log_level() -> int:
    """The lowest level at which anything a task logs would be written."""
    return logging.getLogger("task").getEffectiveLevel()
