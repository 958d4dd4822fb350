"""The log lines of executions: keeping what the services said of them, and reading it back together with their events.

What the engine says of an execution is among its events already, so those lines are not stored a second time: they are
made of the events when they are read. What tasks log, and what else is said of an execution in any process, is stored.
Both are there on every machine, and for as long as the execution.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from cloacina.engine import narration
from cloacina.errors import InvalidRequest
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.store.execution_logs import AttemptEvent, ExecutionLogStore, LogChunk
from cloacina.store.executions import EventRow, ExecutionRow, ExecutionStore
from cloacina.telemetry import logs, tracing
from cloacina.telemetry.execution_lines import Lines

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR")

_MOST_LINES = 5000
_USUAL_LINES = 500
_CHUNKS_AT_ONCE = 16
_PAGE_BYTES = 4 << 20
_HEAD = re.compile(r'\{"timestamp":"([^"]*)","level":"([A-Z]+)"')
_CURSOR = re.compile(r"(\d{1,18})\.(\d{1,18})\.(\d{1,9})\Z")
_TARGET = narration.__name__


class Position(NamedTuple):
    """Where a page ended: the last event, and the chunk and how many of its lines were passed."""

    event: int = 0
    chunk: int = 1
    line: int = 0

    def __str__(self) -> str:
        return f"{self.event}.{self.chunk}.{self.line}"

    @classmethod
    def parse(cls, cursor: str) -> Position:
        """The position that `str` gave; the beginning for an empty text.

        Raises:
            InvalidRequest: it gave none such.
        """
        if not cursor:
            return cls()
        found = _CURSOR.match(cursor)
        if found is None:
            raise InvalidRequest("cursor: not one of this list", code="invalid_pagination")
        return cls(*map(int, found.groups()))


class _Item(NamedTuple):
    timestamp: str
    level: str
    line: bytes
    """Empty for an event of which nothing is said."""
    event: int
    chunk: int
    place: int


@dataclass(slots=True)
class _Found:
    items: list[_Item] = field(default_factory=list)
    more: bool = False


class LogLines:
    """Keeps and reads.

    Args:
        executions: the store of executions and events.
        store: where lines are kept.
    """

    def __init__(self, executions: ExecutionStore, store: ExecutionLogStore) -> None:
        self._executions = executions
        self._store = store
        self._clock = logs.Clock()

    async def keep_own(self, name: str, batch: list[Lines]) -> Collection[str]:
        """Keeps what this process says (`cloacina.telemetry.execution_lines.HandOn`)."""
        chunks = [LogChunk(each.execution_id, each.tenant_id, each.lines.decode()) for each in batch]
        return await self._store.append(name, chunks, self._closing)

    async def keep(self, request: scheduler_pb2.KeepLogLinesRequest) -> scheduler_pb2.KeepLogLinesResponse:
        """Keeps what another process says.

        Raises:
            InvalidRequest: the batch has no name.
        """
        if not request.batch:
            raise InvalidRequest("'batch' must name the lines")
        chunks = [LogChunk(each.execution_id, each.tenant_id, each.lines) for each in request.executions]
        return scheduler_pb2.KeepLogLinesResponse(full=await self._store.append(request.batch, chunks, self._closing))

    def _closing(self, chunk: LogChunk) -> str:
        entry = {
            "timestamp": self._clock.format(time.time()),
            "level": "WARN",
            "target": __name__,
            "message": "truncated: the execution has as many log lines as are kept; the log files may have more",
            "service": "scheduler",
            **({"tenant_id": chunk.tenant_id} if chunk.tenant_id else {}),
            "execution_id": chunk.execution_id,
        }
        return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE).decode()

    async def page(
        self, execution: ExecutionRow, request: scheduler_pb2.ListLogLinesRequest
    ) -> scheduler_pb2.ListLogLinesResponse:
        """A page of the lines of an execution.

        Raises:
            InvalidRequest: the cursor or the level is none.
        """
        if request.level and request.level not in LEVELS:
            raise InvalidRequest(f"level: one of {', '.join(LEVELS)}")
        lowest = LEVELS.index(request.level or LEVELS[0])
        limit = min(request.limit or _USUAL_LINES, _MOST_LINES)
        position = Position.parse(request.cursor)
        events = await self._events(execution, position, limit)
        kept = await self._kept(execution, position, limit)
        lines: list[bytes] = []
        size, cut = 0, False
        for item in _merged(events, kept):
            wanted = bool(item.line) and item.level in LEVELS and LEVELS.index(item.level) >= lowest
            if wanted and (len(lines) >= limit or size > _PAGE_BYTES):
                cut = True
                break
            if item.event:
                position = position._replace(event=item.event)
            else:
                position = position._replace(chunk=item.chunk, line=item.place + 1)
            if wanted:
                lines.append(item.line)
                size += len(item.line)
        return scheduler_pb2.ListLogLinesResponse(
            lines=lines,
            next_cursor=str(position),
            complete=not (cut or events.more or kept.more),
            status=execution.status,
        )

    async def _events(self, execution: ExecutionRow, after: Position, limit: int) -> _Found:
        rows = await self._executions.list_events(
            execution.tenant_id, execution.execution_id, after=after.event, limit=limit + 1
        )
        attempts = _Attempts()
        if after.event:
            which = execution.tenant_id, execution.execution_id
            for ended in await self._store.attempts_ended(*which, after.event):
                attempts.pass_by(ended)
        found = _Found(more=len(rows) > limit)
        about = _about(execution)
        for row in rows[:limit]:
            found.items.append(self._said(row, execution, about, attempts))
        return found

    def _said(self, row: EventRow, execution: ExecutionRow, about: dict[str, Any], attempts: _Attempts) -> _Item:
        """An event as the line that the engine logged, or would have."""
        data: dict[str, Any] = orjson.loads(row.data) if row.data else {}
        said = narration.spoken(row.event_type, data)
        timestamp = self._clock.format_micros(row.at)
        line, level = b"", ""
        if said is not None:
            level = logs.level_name(said[0])
            entry = {
                "timestamp": timestamp,
                "level": level,
                "target": _TARGET,
                "message": said[1],
                "service": "scheduler",
                **about,
            }
            if row.task_name is not None:
                entry["task_name"] = row.task_name
                entry["attempt"] = attempts.of(row.task_name)
            if "error" in data:
                entry["error"] = str(data["error"])
            entry.update((name, value) for name, value in data.items() if name in _SHOWN)
            if row.event_type in _ENDS:
                entry["status"] = _ENDS[row.event_type]
                entry["duration_ms"] = (row.at - execution.created_at) / 1000
            line = orjson.dumps(entry)
        if row.task_name is not None:
            attempts.pass_by(AttemptEvent(row.task_name, row.event_type, row.data))
        return _Item(timestamp, level, line, row.sequence, 0, 0)

    async def _kept(self, execution: ExecutionRow, after: Position, limit: int) -> _Found:
        found = _Found()
        first, skipped, size = after.chunk, after.line, 0
        while True:
            chunks = await self._store.chunks(
                execution.tenant_id, execution.execution_id, first=first, limit=_CHUNKS_AT_ONCE
            )
            for chunk in chunks:
                skip = skipped if chunk.number == after.chunk else 0
                for index, line in enumerate(chunk.lines.split("\n")[skip:-1], skip):
                    if len(found.items) >= limit or size > _PAGE_BYTES:
                        found.more = True
                        return found
                    head = _HEAD.match(line)
                    timestamp, level = head.groups() if head is not None else ("", "")
                    found.items.append(_Item(timestamp, level, line.encode(), 0, chunk.number, index))
                    size += len(line)
            if len(chunks) < _CHUNKS_AT_ONCE:
                return found
            first = chunks[-1].number + 1


_ENDS = {"workflow_completed": "Completed", "workflow_failed": "Failed", "workflow_cancelled": "Cancelled"}
_SHOWN = ("reason", "executor_id", "claim_id", "lost", "lost_claims")


class _Attempts:
    """The attempt that each task is at."""

    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}

    def of(self, task_name: str) -> int:
        return self._attempts.get(task_name, 1)

    def pass_by(self, event: AttemptEvent) -> None:
        if event.event_type == "task_retry_scheduled":
            self._attempts[event.task_name] = self.of(event.task_name) + 1
        elif event.event_type == "task_reset" and not event.data:  # the execution was retried
            self._attempts.pop(event.task_name, None)


def _merged(events: _Found, kept: _Found) -> Iterator[_Item]:
    """Both by time, up to where one of them is not known any further."""
    left, right = iter(events.items), iter(kept.items)
    event, line = next(left, None), next(right, None)
    while True:
        if (event is None and events.more) or (line is None and kept.more) or (event is None and line is None):
            return
        if line is None or (event is not None and event.timestamp <= line.timestamp):
            assert event is not None
            yield event
            event = next(left, None)
        else:
            yield line
            line = next(right, None)


def _about(execution: ExecutionRow) -> dict[str, Any]:
    """The ids that every line of the execution has, in the order of the log files."""
    about: dict[str, Any] = {}
    if execution.request_id:
        about["request_id"] = execution.request_id
    trace = tracing.ids_of(execution.traceparent)
    if trace is not None:
        about["trace_id"], about["span_id"] = trace
    about["tenant_id"] = execution.tenant_id
    package_id = execution.definition_id.partition("/")[0]
    if package_id:
        about["package_id"] = package_id
    about["workflow_name"] = execution.workflow_name
    about["execution_id"] = execution.execution_id
    return about
