"""What happened to an execution or a request: where its time went, why it is not done, its log lines."""

from __future__ import annotations

import time
from typing import Any

import orjson
from aiohttp import web

from cloacina.errors import NotFound
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.telemetry.log_files import Page, Search
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
    request = scheduler_pb2.GetExecutionRequest(tenant_id=call.tenant_id, execution_id=execution_id)
    execution: scheduler_pb2.Execution = await ask_scheduler(call, call.gateway.scheduler.stub.GetExecution, request)
    ended = execution.status in ENDED
    search = Search(
        "execution_id",
        execution_id,
        accept=_is_no_look,
        level=query.level.upper(),
        since=execution.created_at / 1e6,
        until=execution.finished_at / 1e6 + _WRITTEN_LATE_S if ended else None,
    )
    page = await call.gateway.logs.read(search, call.tenant_id, query.cursor, query.limit)
    answer: ExecutionLogs = {
        "tenant_id": call.tenant_id,
        "execution_id": execution_id,
        "status": execution.status,
        "host": call.gateway.logs.host,
        "lines": as_json(page),
        "next_cursor": str(page.end),
        "complete": page.complete,
    }
    return reply(answer)


def _is_no_look(line: dict[str, Any]) -> bool:
    """That somebody looked at an execution is no part of what happened to it; reading its lines would add to them."""
    return not (line.get("service") == "api" and line.get("method") in ("GET", "HEAD"))


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
    page = await gateway.logs.read(
        _lines_of_request(request_id, query, list(begun.executions)), tenant_id, query.cursor, query.limit
    )
    if not begun.executions and not page.lines and page.complete and query.cursor is None:
        raise _no_request(request_id)
    trace_id = next(filter(None, map(trace_id_of, begun.executions)), None) or _trace_id_in(page)
    answer: RequestDetail = {
        "request_id": request_id,
        "trace_id": trace_id,
        "trace_url": _trace_url(call, trace_id),
        "executions": [summary_of(execution) for execution in begun.executions],
        "host": gateway.logs.host,
        "lines": as_json(page),
        "next_cursor": str(page.end),
        "complete": page.complete,
    }
    return reply(answer)


def _lines_of_request(request_id: str, query: RequestQuery, begun: list[scheduler_pb2.Execution]) -> Search:
    since, until = time.time() - query.hours * 3600, None
    if begun:
        since = begun[0].created_at / 1e6 - _WRITTEN_LATE_S
        if all(execution.status in ENDED for execution in begun):
            until = max(execution.finished_at for execution in begun) / 1e6 + _WRITTEN_LATE_S
    return Search("request_id", request_id, level=query.level.upper(), since=since, until=until)


def _trace_id_in(page: Page) -> str | None:
    for line in page.lines:
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
        description="Those in the log files of the gateway's machine. A page may be empty though more follow: go on "
        "from `next_cursor` until `complete`, and from there later for what was written since.",
    ),
    Route(
        method="GET",
        path="/v1/requests/{request_id}",
        handler=_request,
        operation="get_request",
        tag="requests",
        summary="What became of a request: its executions, trace and log lines",
        description="Of what the key may see. Lines as in the logs of an execution.",
        answers={200: RequestDetail},
        query=RequestQuery,
    ),
)
