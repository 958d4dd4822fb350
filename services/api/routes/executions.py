"""Executions: starting them, seeing how they go, stopping and pausing them."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
from aiohttp import web

from cloacina.engine.ids import new_execution_id
from cloacina.errors import InvalidRequest, NotFound
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.telemetry import tracing
from services.api.bodies import read_model, read_query
from services.api.call import Call
from services.api.errors import not_found_as
from services.api.replies import reply, timestamp, timestamp_or_none
from services.api.routing import Route
from services.api.schemas import (
    PAGE_FIELDS,
    ChangeExecutionRequest,
    ExecuteRequest,
    ExecuteResponse,
    ExecutionDetail,
    ExecutionEvent,
    ExecutionEventsResponse,
    ExecutionList,
    ExecutionSummary,
    ExecutionTasksResponse,
    ListEventsQuery,
    ListExecutionsQuery,
    TaskExecutionDetail,
)

IDEMPOTENCY_KEY = "Idempotency-Key"
_KEY_FORM = re.compile(r"[\x20-\x7e]{1,255}\Z")
ID_FORM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)
"""A UUID."""

_SHOWN_ID = 100
_Listed = TypeVar("_Listed", scheduler_pb2.ListEventsResponse, scheduler_pb2.ListTasksResponse)


async def _execute(call: Call) -> web.Response:
    return await begin_execution(call)


async def begin_execution(call: Call, instance_name: str = "") -> web.Response:
    """Starts an execution of the workflow in the path.

    Args:
        call: its body is an `ExecuteRequest`.
        instance_name: the instance whose params are added; empty for none.
    """
    gateway, name = call.gateway, call.path["name"]
    call.bind(workflow_name=name)
    gateway.cpu_latency.needed()
    key = _idempotency_key(call)
    body = await read_model(
        call.http,
        ExecuteRequest,
        timeout_s=gateway.settings.api_body_timeout_s,
        required=False,
        codes={"context": "workflow_input_invalid"},
    )
    request = scheduler_pb2.ExecuteRequest(
        tenant_id=call.tenant_id,
        workflow_name=name,
        context=_context(body),
        idempotency_key=key,
        priority=body.priority,
        instance_name=instance_name,
        max_unfinished=call.quotas.executions,
        execution_id=new_execution_id(time.time_ns() // 1000),  # ours, so that the call can be repeated
    )
    try:
        begun: scheduler_pb2.ExecuteResponse = await gateway.finisher.finish(
            call.ask(gateway.scheduler, gateway.scheduler.stub.Execute, request)
        )
    except NotFound as error:
        raise not_found_as(error, "workflow_not_found") from None
    call.bind(execution_id=begun.execution_id)
    answer: ExecuteResponse = {
        "execution_id": begun.execution_id,
        "workflow_name": name,
        "tenant_id": call.tenant_id,
        "status": "scheduled",
    }
    return reply(answer, 202)


def _idempotency_key(call: Call) -> str:
    """The key; empty for none."""
    given = call.http.headers.getall(IDEMPOTENCY_KEY, ())
    if not given:
        return ""
    if len(given) > 1 or not _KEY_FORM.match(given[0]):
        raise InvalidRequest(f"{IDEMPOTENCY_KEY} must be one header of 1 to 255 printable ASCII characters")
    return given[0]


def _context(body: ExecuteRequest) -> bytes:
    try:
        return orjson.dumps(body.context or {})
    except orjson.JSONEncodeError:  # it is read deeper than it is written
        raise InvalidRequest("context: nested too deep", code="workflow_input_invalid") from None


async def _list(call: Call) -> web.Response:
    scheduler = call.gateway.scheduler
    query = read_query(call.http, ListExecutionsQuery, pagination=PAGE_FIELDS)
    if query.workflow and query.workflow_name and query.workflow != query.workflow_name:
        raise InvalidRequest("'workflow' and 'workflow_name' are the same filter; send one of them")
    request = scheduler_pb2.ListExecutionsRequest(
        tenant_id=call.tenant_id,
        status=query.status or "",
        workflow_name=query.workflow or query.workflow_name or "",
        limit=query.limit,
        offset=query.offset,
        cursor=query.cursor or "",
    )
    page: scheduler_pb2.ListExecutionsResponse = await call.ask(scheduler, scheduler.stub.ListExecutions, request)
    answer: ExecutionList = {
        "tenant_id": call.tenant_id,
        "items": [summary_of(execution) for execution in page.executions],
        "total": page.total,
        "next_cursor": page.next_cursor or None,
    }
    return reply(answer)


async def _get(call: Call) -> web.Response:
    scheduler = call.gateway.scheduler
    request = scheduler_pb2.GetExecutionRequest(tenant_id=call.tenant_id, execution_id=execution_id_of(call))
    return _detailed(call, await ask_scheduler(call, scheduler.stub.GetExecution, request))


async def _events(call: Call) -> web.Response:
    execution_id = execution_id_of(call)
    query = read_query(call.http, ListEventsQuery, pagination=PAGE_FIELDS)
    request = scheduler_pb2.ListEventsRequest(
        tenant_id=call.tenant_id, execution_id=execution_id, after=query.after, limit=query.limit
    )
    found = await _ask_or_nothing(
        call, call.gateway.scheduler.stub.ListEvents, request, scheduler_pb2.ListEventsResponse
    )
    answer: ExecutionEventsResponse = {
        "tenant_id": call.tenant_id,
        "execution_id": execution_id,
        "events": [event_of(event) for event in found.events],
    }
    return reply(answer)


async def _tasks(call: Call) -> web.Response:
    execution_id = execution_id_of(call)
    request = scheduler_pb2.GetExecutionRequest(tenant_id=call.tenant_id, execution_id=execution_id)
    found = await _ask_or_nothing(call, call.gateway.scheduler.stub.ListTasks, request, scheduler_pb2.ListTasksResponse)
    answer: ExecutionTasksResponse = {
        "tenant_id": call.tenant_id,
        "execution_id": execution_id,
        "tasks": [_task(task) for task in found.tasks],
    }
    return reply(answer)


def _change(method: str) -> Callable[[Call], Awaitable[web.Response]]:
    """The handler that changes an execution by a method of the scheduler."""

    async def change(call: Call) -> web.Response:
        execution_id = execution_id_of(call)
        timeout_s = call.gateway.settings.api_body_timeout_s
        body = await read_model(call.http, ChangeExecutionRequest, timeout_s=timeout_s, required=False)
        request = scheduler_pb2.ChangeExecutionRequest(
            tenant_id=call.tenant_id, execution_id=execution_id, reason=body.reason
        )
        changed: scheduler_pb2.Execution = await ask_scheduler(
            call, getattr(call.gateway.scheduler.stub, method), request
        )
        tracing.link_current(changed.origin.traceparent)  # this request is no part of the execution's trace
        return _detailed(call, changed)

    return change


def execution_id_of(call: Call) -> str:
    """The id in the path.

    Raises:
        InvalidRequest: it is no UUID.
    """
    given = call.path["exec_id"]
    if not ID_FORM.match(given):
        raise InvalidRequest(f"the execution id in the path is not a UUID: {given[:_SHOWN_ID]!r}")
    execution_id = given.lower()
    call.bind(execution_id=execution_id)
    return execution_id


async def ask_scheduler(call: Call, method: Any, request: Any) -> Any:
    """Calls a method about one execution.

    Raises:
        NotFound: the tenant has no such execution.
    """
    try:
        return await call.ask(call.gateway.scheduler, method, request)
    except NotFound as error:
        raise not_found_as(error, "execution_not_found") from None


async def _ask_or_nothing(call: Call, method: Any, request: Any, nothing: type[_Listed]) -> _Listed:
    """Like `ask_scheduler`; of an execution that is not there, the answer has no entries, as in the original."""
    try:
        listed: _Listed = await ask_scheduler(call, method, request)
    except NotFound:
        return nothing()
    return listed


def _detailed(call: Call, execution: scheduler_pb2.Execution) -> web.Response:
    call.bind(workflow_name=execution.workflow_name)
    answer: ExecutionDetail = {
        "tenant_id": execution.tenant_id,
        "execution_id": execution.execution_id,
        "workflow_name": execution.workflow_name,
        "status": execution.status,
        "reason": execution.reason or None,
        "error": execution.error or None,
        "created_at": timestamp(execution.created_at),
        "started_at": timestamp_or_none(execution.started_at),
        "completed_at": timestamp_or_none(execution.finished_at),
        "trigger_origin": execution.trigger_origin or None,
        "request_id": execution.origin.request_id or None,
        "trace_id": trace_id_of(execution),
        "package_id": execution.package_id or None,
        "package_version": execution.package_version or None,
        "priority": execution.priority,
        "parent_execution_id": execution.parent_execution_id or None,
        "parent_task": execution.parent_task or None,
        "output": orjson.Fragment(execution.output) if execution.output else None,
    }
    return reply(answer)


def trace_id_of(execution: scheduler_pb2.Execution) -> str | None:
    """Its trace; ``None`` when it has none."""
    traceparent = execution.origin.traceparent.split("-")
    return traceparent[1] if len(traceparent) > 1 else None


def summary_of(execution: scheduler_pb2.Execution) -> ExecutionSummary:
    """An execution as lists show it."""
    return {
        "id": execution.execution_id,
        "workflow_name": execution.workflow_name,
        "status": execution.status,
        "created_at": timestamp(execution.created_at),
        "started_at": timestamp(execution.started_at or execution.created_at),  # clients of the original need one
        "completed_at": timestamp_or_none(execution.finished_at),
        "trigger_origin": execution.trigger_origin or None,
        "request_id": execution.origin.request_id or None,
        "reason": execution.reason or None,
        "error": execution.error or None,
    }


def event_of(event: scheduler_pb2.ExecutionEvent) -> ExecutionEvent:
    """An event as clients see it."""
    return {
        "id": event.event_id,
        "event_type": event.event_type,
        "task_name": event.task_name or None,
        "created_at": timestamp(event.at),
        "sequence_num": event.sequence,
        "event_data": event.data or None,
    }


def _task(task: scheduler_pb2.TaskExecution) -> TaskExecutionDetail:
    return {
        "id": task.task_execution_id,
        "task_name": task.task_name,
        "status": task.status,
        "sub_status": task.sub_status or None,
        "attempt": task.attempt,
        "max_attempts": task.max_attempts,
        "reason": task.reason or None,
        "last_error": task.last_error or None,
        "error_details": task.error_details or None,
        "created_at": timestamp(task.created_at),
        "ready_at": timestamp_or_none(task.ready_at),
        "claimed_at": timestamp_or_none(task.claimed_at),
        "started_at": timestamp_or_none(task.started_at),
        "completed_at": timestamp_or_none(task.finished_at),
        "updated_at": timestamp(task.updated_at),
        "executor_id": task.executor_id or None,
    }


def _change_route(verb: str, method: str, summary: str) -> Route:
    return Route(
        method="POST",
        path=f"/v1/tenants/{{tenant_id}}/executions/{{exec_id}}/{verb}",
        handler=_change(method),
        operation=f"{verb}_execution",
        tag="executions",
        summary=summary,
        description="409 when the execution's state does not allow it.",
        answers={200: ExecutionDetail},
        body=ChangeExecutionRequest,
        body_required=False,
        errors=(409,),
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/tenants/{tenant_id}/workflows/{name}/execute",
        handler=_execute,
        operation="execute_workflow",
        tag="executions",
        summary="Start an execution",
        description="Answers when the execution is durable.",
        answers={202: ExecuteResponse},
        body=ExecuteRequest,
        body_required=False,
        errors=(409,),
        headers={
            IDEMPOTENCY_KEY: "1 to 255 printable ASCII characters. Same tenant, workflow and key: same execution."
        },
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/executions",
        handler=_list,
        operation="list_executions",
        tag="executions",
        summary="Executions of a tenant, newest first",
        answers={200: ExecutionList},
        query=ListExecutionsQuery,
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/executions/{exec_id}",
        handler=_get,
        operation="get_execution",
        tag="executions",
        summary="An execution",
        answers={200: ExecutionDetail},
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/executions/{exec_id}/events",
        handler=_events,
        operation="get_execution_events",
        tag="executions",
        summary="Events of an execution, oldest first",
        answers={200: ExecutionEventsResponse},
        query=ListEventsQuery,
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/executions/{exec_id}/tasks",
        handler=_tasks,
        operation="get_execution_tasks",
        tag="executions",
        summary="Tasks of an execution, in topological order",
        answers={200: ExecutionTasksResponse},
    ),
    _change_route("cancel", "CancelExecution", "Stop an execution"),
    _change_route("pause", "PauseExecution", "Start no further task of an execution"),
    _change_route("resume", "ResumeExecution", "Let a paused execution go on"),
    _change_route("retry", "RetryExecution", "Run again what did not succeed; what completed is kept"),
)
