"""What happened to an execution or a request: where its time went, why it is not done, its log lines."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from cloacina.errors import NotFound
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.telemetry.log_files import Search
from cloacina.telemetry.scope import valid_request_id
from services.api.bodies import read_query
from services.api.call import Call
from services.api.log_reader import as_json
from services.api.replies import reply, timestamp, timestamp_or_none
from services.api.routes.executions import ask_scheduler, execution_id_of, summary_of, trace_id_of
from services.api.routing import Route
from services.api.schemas import (
    PAGE_FIELDS,
    ExecutionCause,
    ExecutionExplanation,
    ExecutionLogs,
    ExecutionTrace,
    LogsQuery,
    RequestDetail,
    RequestQuery,
    TimelineSpan,
)
from services.api.timeline import ENDED, TimedSpan, timeline

_EVENTS_A_CALL = 10_000
_MOST_EVENTS = 50_000
_WRITTEN_LATE_S = 60.0
"""Seconds after an execution's end in which lines about it are still written."""
_EXECUTIONS_A_REQUEST = 50
"""Executions of a request whose lines are among its own; there may be more, which have theirs."""
_BETWEEN_CURSORS = "~"


async def _trace(call: Call) -> web.Response:
    execution_id = execution_id_of(call)
    stub = call.gateway.scheduler.stub
    about = scheduler_pb2.GetExecutionRequest(tenant_id=call.tenant_id, execution_id=execution_id)
    events: list[scheduler_pb2.ExecutionEvent] = []
    more = True
    while more and len(events) < _MOST_EVENTS:
        request = scheduler_pb2.ListEventsRequest(
            tenant_id=call.tenant_id,
            execution_id=execution_id,
            after=events[-1].sequence if events else 0,
            limit=_EVENTS_A_CALL,
        )
        page: scheduler_pb2.ListEventsResponse = await ask_scheduler(call, stub.ListEvents, request)
        events.extend(page.events)
        more = len(page.events) == _EVENTS_A_CALL
    execution: scheduler_pb2.Execution = await ask_scheduler(call, stub.GetExecution, about)
    now = time.time_ns() // 1000
    trace_id = trace_id_of(execution)
    answer: ExecutionTrace = {
        "tenant_id": call.tenant_id,
        "execution_id": execution_id,
        "workflow_name": execution.workflow_name,
        "status": execution.status,
        "request_id": execution.origin.request_id or None,
        "trace_id": trace_id,
        "trace_url": _trace_url(call, trace_id),
        "spans": [_span(span, now) for span in timeline(execution, events)],
        "truncated": more,
    }
    return reply(answer)


def _span(span: TimedSpan, now: int) -> TimelineSpan:
    end = now if span.end is None else span.end
    return {
        "span_id": span.span_id,
        "parent_id": span.parent_id or None,
        "name": span.name,
        "kind": span.kind,
        "start": timestamp(span.start),
        "end": None if span.end is None else timestamp(span.end),
        "duration_ms": max(0, end - span.start) / 1000,
        "status": span.status,
        "ids": span.ids,
    }


def _trace_url(call: Call, trace_id: str | None) -> str | None:
    template = call.gateway.settings.trace_ui_url
    return template.replace("{trace_id}", trace_id) if template and trace_id else None


async def _explain(call: Call) -> web.Response:
    execution_id = execution_id_of(call)
    request = scheduler_pb2.GetExecutionRequest(tenant_id=call.tenant_id, execution_id=execution_id)
    stub = call.gateway.scheduler.stub
    found: scheduler_pb2.ExecutionExplanation = await ask_scheduler(call, stub.ExplainExecution, request)
    call.bind(workflow_name=found.execution.workflow_name)
    trace_id = trace_id_of(found.execution)
    answer: ExecutionExplanation = {
        "tenant_id": call.tenant_id,
        "execution_id": execution_id,
        "workflow_name": found.execution.workflow_name,
        "status": found.execution.status,
        "request_id": found.execution.origin.request_id or None,
        "trace_id": trace_id,
        "trace_url": _trace_url(call, trace_id),
        "at": timestamp(found.at),
        "since": timestamp_or_none(found.since),
        "answer": found.answer,
        "causes": [_cause(cause) for cause in found.causes],
    }
    return reply(answer)


def _cause(cause: scheduler_pb2.ExecutionCause) -> ExecutionCause:
    return {
        "kind": cause.kind,
        "text": cause.text,
        "task_name": cause.task_name or None,
        "since": timestamp_or_none(cause.since),
        "until": timestamp_or_none(cause.until),
        "ids": dict(cause.ids),
    }


async def _logs(call: Call) -> web.Response:
    query = read_query(call.http, LogsQuery, pagination=PAGE_FIELDS)
    execution_id = execution_id_of(call)
    about = scheduler_pb2.Execution(tenant_id=call.tenant_id, execution_id=execution_id)
    page = await _kept_lines(call, about, query, query.cursor or "", query.limit)
    answer: ExecutionLogs = {
        "tenant_id": call.tenant_id,
        "execution_id": execution_id,
        "status": page.status,
        "lines": as_json(page.lines),
        "next_cursor": page.next_cursor,
        "complete": page.complete,
    }
    return reply(answer)


async def _kept_lines(
    call: Call, about: scheduler_pb2.Execution, query: LogsQuery, cursor: str, limit: int
) -> scheduler_pb2.ListLogLinesResponse:
    request = scheduler_pb2.ListLogLinesRequest(
        tenant_id=about.tenant_id,
        execution_id=about.execution_id,
        cursor=cursor,
        limit=limit,
        level=query.level.upper(),
    )
    page: scheduler_pb2.ListLogLinesResponse = await ask_scheduler(
        call, call.gateway.scheduler.stub.ListLogLines, request
    )
    return page


async def _request(call: Call) -> web.Response:
    gateway, request_id = call.gateway, call.path["request_id"]
    query = read_query(call.http, RequestQuery, pagination=PAGE_FIELDS)
    if not valid_request_id(request_id):
        raise _no_request(request_id)
    assert call.caller is not None
    tenant_id = call.caller.tenant_id
    if tenant_id is None and not call.caller.is_admin:
        raise _no_request(request_id)
    request = scheduler_pb2.FindByRequestRequest(request_id=request_id, tenant_id=tenant_id or "")
    begun: scheduler_pb2.FindByRequestResponse = await call.ask(
        gateway.scheduler, gateway.scheduler.stub.FindByRequest, request
    )
    page = await _lines_of_request(call, request_id, query, tenant_id, list(begun.executions))
    if not begun.executions and not page.lines and page.complete and query.cursor is None:
        raise _no_request(request_id)
    trace_id = next(filter(None, map(trace_id_of, begun.executions)), None) or _trace_id_in(page.lines)
    answer: RequestDetail = {
        "request_id": request_id,
        "trace_id": trace_id,
        "trace_url": _trace_url(call, trace_id),
        "executions": [summary_of(execution) for execution in begun.executions],
        "host": gateway.logs.host,
        "lines": as_json(page.lines),
        "next_cursor": page.end,
        "complete": page.complete,
    }
    return reply(answer)


class _RequestPage(NamedTuple):
    lines: list[bytes]
    end: str
    complete: bool


async def _lines_of_request(
    call: Call, request_id: str, query: RequestQuery, tenant_id: str | None, begun: list[scheduler_pb2.Execution]
) -> _RequestPage:
    """What the gateway's machine has of the request itself, and what is kept with the executions that it began.

    The cursor is the place in the files, then in the lines of each execution.
    """
    cursors = (query.cursor or "").split(_BETWEEN_CURSORS)
    page = await call.gateway.logs.read(_search_for(request_id, query, begun), tenant_id, cursors[0], query.limit)
    lines, ends, complete = list(page.lines), [str(page.end)], page.complete
    for number, execution in enumerate(begun[:_EXECUTIONS_A_REQUEST], 1):
        cursor = cursors[number] if number < len(cursors) else ""
        if len(lines) < query.limit:
            kept = await _kept_lines(call, execution, query, cursor, query.limit - len(lines))
            lines += kept.lines
            cursor, complete = kept.next_cursor, complete and kept.complete
        else:
            complete = False
        ends.append(cursor)
    lines.sort(key=lambda line: line[: len('{"timestamp":"2026-01-01T00:00:00.000000Z')])
    return _RequestPage(lines, _BETWEEN_CURSORS.join(ends), complete)


def _search_for(request_id: str, query: RequestQuery, begun: list[scheduler_pb2.Execution]) -> Search:
    since, until = time.time() - query.hours * 3600, None
    if begun:
        since = begun[0].created_at / 1e6 - _WRITTEN_LATE_S
        if all(execution.status in ENDED for execution in begun):
            until = max(execution.finished_at for execution in begun) / 1e6 + _WRITTEN_LATE_S
    kept = {execution.execution_id for execution in begun[:_EXECUTIONS_A_REQUEST]}

    def accept(line: dict[str, Any]) -> bool:
        return line.get("service") == "api" or line.get("execution_id") not in kept

    return Search("request_id", request_id, accept=accept, level=query.level.upper(), since=since, until=until)


def _trace_id_in(lines: list[bytes]) -> str | None:
    for line in lines:
        trace_id = orjson.loads(line).get("trace_id")
        if isinstance(trace_id, str):
            return trace_id
    return None


def _no_request(request_id: str) -> NotFound:
    return NotFound(
        f"nothing is known of a request {request_id[:128]!r} that this key may see", code="request_not_found"
    )


def _look(what: str, handler: Any, operation: str, summary: str, answer: Any, **more: Any) -> Route:
    return Route(
        method="GET",
        path=f"/v1/tenants/{{tenant_id}}/executions/{{exec_id}}/{what}",
        handler=handler,
        operation=operation,
        tag="executions",
        summary=summary,
        answers={200: answer},
        **more,
    )


ROUTES = (
    _look(
        "trace",
        _trace,
        "get_execution_trace",
        "Where the time of an execution went",
        ExecutionTrace,
        description="From what is stored; the distributed trace, where tracing is on, is at `trace_url`.",
    ),
    _look(
        "explain", _explain, "explain_execution", "Why an execution is not done, or how it ended", ExecutionExplanation
    ),
    _look(
        "logs",
        _logs,
        "get_execution_logs",
        "Log lines of an execution, oldest first",
        ExecutionLogs,
        query=LogsQuery,
        description="What its tasks logged, and what the services said of it, in whichever process and on whichever "
        "machine; kept for as long as the execution. Lines are there a moment after they were logged. A page may be "
        "empty though more follow: go on from `next_cursor` until `complete`, and from there later for what is new.",
    ),
    Route(
        method="GET",
        path="/v1/requests/{request_id}",
        handler=_request,
        operation="get_request",
        tag="requests",
        summary="What became of a request: its executions, trace and log lines",
        description="Of what the key may see. Lines are those of its executions (the first 50), as in their logs, and "
        "those about the request itself that are in the log files of the gateway's machine.",
        answers={200: RequestDetail},
        query=RequestQuery,
    ),
)
