"""One poll of a trigger on this executor. It takes no slot, and its outcome is told once."""

from __future__ import annotations

from typing import Any, Protocol

from cloacina.dispatch.runs import Reports, Run, check_context
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.worker import frames


class PollReports(Protocol):
    """Where the outcome of a poll is told."""

    def polled(self, result: scheduler_pb2.PollResult) -> None:
        """A poll ended."""


class PollRun(Run):
    """The call of a trigger's function; to a worker's pool it is a run like others.

    Args:
        poll: what to call.
        reports: of runs; a poll tells nothing there.
        poll_reports: where its outcome is told.
    """

    noun = "trigger"

    def __init__(self, poll: Any, reports: Reports, poll_reports: PollReports) -> None:
        super().__init__(
            scheduler_pb2.Assignment(
                claim_id=poll.poll_id,
                tenant_id=poll.tenant_id,
                workflow_name=poll.workflow_name,
                task_name=poll.trigger_name,
                timeout_ms=poll.timeout_ms,
                package_id=poll.package_id,
                package_digest=poll.package_digest,
                origin=poll.origin,
            ),
            reports,
        )
        self._poll_reports = poll_reports

    def _span_name(self) -> str:
        return f"poll {self.assignment.task_name}"

    def order(self) -> tuple[str, dict[str, Any], bytes]:
        _, header, body = super().order()
        return frames.POLL, header, body

    def _say_started(self) -> None:
        """Nobody waits for it."""

    def _say_preparing(self) -> None:
        """Nor for this."""

    def defer(self, deferred: bool) -> None:
        """A trigger has no slot to give back."""

    def done(self, header: dict[str, Any], body: bytes, limit_bytes: int) -> None:
        fires = bool(header.get("fires"))
        try:
            if body:
                check_context(body, limit_bytes)
        except ValueError as error:
            self.fail("validation_failed", str(error))
            return
        answer = scheduler_pb2.PollAnswer(fires=fires, context=body if fires else b"")
        self._tell(scheduler_pb2.PollResult(answer=answer))

    def fail(
        self,
        reason: str,
        error: str,
        *,
        details: str = "",
        transient: bool = True,
        retry: bool | None = None,
    ) -> None:
        """There is no answer. The scheduler, which knows the schedule, writes the log line."""
        self._span.fail(error)
        self._tell(scheduler_pb2.PollResult(failure=scheduler_pb2.PollFailure(error=error, details=details)))

    def _tell(self, result: scheduler_pb2.PollResult) -> None:
        if self.over:
            return
        self._close()
        self._span.end()
        result.poll_id = self.claim_id
        self._poll_reports.polled(result)
