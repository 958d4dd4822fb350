"""WorkflowResult: how an execution ended."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Protocol

from cloacina.authoring.context import Context


class Ended(Protocol):
    """What a result is made from: an execution's state in memory, or its row in the store."""

    @property
    def status(self) -> str: ...
    @property
    def input(self) -> bytes: ...
    @property
    def output(self) -> bytes | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def started_at(self) -> int | None: ...
    @property
    def finished_at(self) -> int | None: ...


class WorkflowResult:
    """The outcome of one execution. Read-only.

    Args:
        execution_id: its id.
        workflow_name: its workflow.
        created_at: microseconds since the epoch.
        ended: its last state.
        failures: each task that failed, and its last error.
    """

    def __init__(
        self,
        execution_id: str,
        workflow_name: str,
        created_at: int,
        ended: Ended,
        failures: Iterable[tuple[str, str | None]],
    ) -> None:
        self._execution_id = execution_id
        self._workflow_name = workflow_name
        self._status = str(ended.status)
        self._start = ended.started_at if ended.started_at is not None else created_at
        self._end = ended.finished_at
        self._context = ended.output if ended.output is not None else ended.input
        self._error = ended.error
        if ended.error is not None:
            self._error = "; ".join([ended.error, *(f"{task}: {error}" for task, error in failures if error)])

    @property
    def status(self) -> str:
        """Completed, Failed or Cancelled."""
        return self._status

    @property
    def start_time(self) -> str:
        """When it began, RFC 3339 in UTC."""
        return _rfc3339(self._start)

    @property
    def end_time(self) -> str | None:
        """When it ended, RFC 3339 in UTC."""
        return None if self._end is None else _rfc3339(self._end)

    @property
    def final_context(self) -> Context:
        """A copy of the context after its end: what its tasks left, merged in topological order."""
        return Context.from_raw(self._context)

    @property
    def error_message(self) -> str | None:
        """Which tasks failed, and with which errors, or why it was cancelled; ``None`` when it completed."""
        return self._error

    @property
    def execution_id(self) -> str:
        """Its id (ours)."""
        return self._execution_id

    @property
    def workflow_name(self) -> str:
        """Its workflow (ours)."""
        return self._workflow_name

    def __repr__(self) -> str:
        return f"WorkflowResult(status={self._status}, error={self._error})"


def _rfc3339(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()
