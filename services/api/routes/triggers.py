"""Triggers: the schedules of a tenant, pausing them, firing one by hand."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from aiohttp import web

from cloacina.errors import InvalidRequest, NotFound
from cloacina.rpc.v1 import scheduler_pb2
from services.api.bodies import read_model, read_query
from services.api.call import Call
from services.api.errors import not_found_as
from services.api.replies import reply, timestamp, timestamp_or_none
from services.api.routes.workflows import slot_of
from services.api.routing import Route
from services.api.schemas import (
    PAGE_FIELDS,
    DeclaredSurface,
    FireTriggerRequest,
    FireTriggerResponse,
    ListTriggersQuery,
    TriggerDetailResponse,
    TriggerExecution,
    TriggerList,
    TriggerPauseResponse,
    TriggerScheduleInfo,
)


async def _list(call: Call) -> web.Response:
    scheduler = call.gateway.scheduler
    query = read_query(call.http, ListTriggersQuery, pagination=PAGE_FIELDS)
    request = scheduler_pb2.ListTriggersRequest(tenant_id=call.tenant_id, limit=query.limit, offset=query.offset)
    page: scheduler_pb2.ListTriggersResponse = await call.ask(scheduler, scheduler.stub.ListTriggers, request)
    answer: TriggerList = {
        "tenant_id": call.tenant_id,
        "items": [_schedule(trigger) for trigger in page.triggers],
        "total": page.total,
    }
    return reply(answer)


async def _get(call: Call) -> web.Response:
    found: scheduler_pb2.GetTriggerResponse = await _ask(call, call.gateway.scheduler.stub.GetTrigger, _named(call))
    call.bind(workflow_name=found.trigger.workflow_names[0])
    answer: TriggerDetailResponse = {
        "tenant_id": call.tenant_id,
        "schedule": _schedule(found.trigger),
        "recent_executions": [_firing(firing) for firing in found.firings],
    }
    return reply(answer)


async def _pause(call: Call) -> web.Response:
    return await _changed(call, call.gateway.scheduler.stub.PauseTrigger, "paused")


async def _resume(call: Call) -> web.Response:
    return await _changed(call, call.gateway.scheduler.stub.ResumeTrigger, "resumed")


async def _changed(call: Call, method: Any, status: Literal["paused", "resumed"]) -> web.Response:
    trigger: scheduler_pb2.Trigger = await call.gateway.finisher.finish(_ask(call, method, _named(call)))
    answer: TriggerPauseResponse = {
        "tenant_id": call.tenant_id,
        "id": trigger.id,
        "name": call.path["name"],
        "status": status,
        "paused": trigger.paused,
    }
    return reply(answer)


async def _fire(call: Call) -> web.Response:
    gateway = call.gateway
    body = await read_model(
        call.http,
        FireTriggerRequest,
        timeout_s=gateway.settings.api_body_timeout_s,
        required=False,
        codes={"event": "trigger_event_invalid"},
    )
    try:
        event = b"" if body.event is None else orjson.dumps(body.event)
    except orjson.JSONEncodeError:  # it is read deeper than it is written
        raise InvalidRequest("event: nested too deep", code="trigger_event_invalid") from None
    request = scheduler_pb2.FireTriggerRequest(tenant_id=call.tenant_id, name=call.path["name"], event=event)
    fired: scheduler_pb2.FireTriggerResponse = await gateway.finisher.finish(
        _ask(call, gateway.scheduler.stub.FireTrigger, request)
    )
    answer: FireTriggerResponse = {
        "tenant_id": call.tenant_id,
        "trigger": fired.name,
        "fired": len(fired.executions),
        "executions": [
            {"workflow_name": each.workflow_name, "execution_id": each.execution_id} for each in fired.executions
        ],
    }
    return reply(answer)


async def _interface(call: Call) -> web.Response:
    method = call.gateway.scheduler.stub.GetTriggerInterface
    found: scheduler_pb2.GetTriggerInterfaceResponse = await _ask(call, method, _named(call))
    slots = [slot_of(slot) for slot in found.slots]
    answer: DeclaredSurface = {"kind": "trigger", "name": found.name, "slots": slots}
    return reply(answer)


def _named(call: Call) -> scheduler_pb2.GetTriggerRequest:
    return scheduler_pb2.GetTriggerRequest(tenant_id=call.tenant_id, name=call.path["name"])


async def _ask(call: Call, method: Any, request: Any) -> Any:
    try:
        return await call.ask(call.gateway.scheduler, method, request)
    except NotFound as error:
        raise not_found_as(error, "trigger_not_found") from None


def _schedule(trigger: scheduler_pb2.Trigger) -> TriggerScheduleInfo:
    return {
        "id": trigger.id,
        "schedule_type": trigger.kind,
        "workflow_name": trigger.workflow_names[0],
        "workflows": list(trigger.workflow_names),
        "enabled": True,
        "cron_expression": trigger.cron or None,
        "timezone": trigger.timezone or None,
        "trigger_name": trigger.name,
        "poll_interval_ms": trigger.poll_interval_ms or None,
        "allow_concurrent": trigger.allow_concurrent,
        "paused": trigger.paused,
        "paused_at": timestamp_or_none(trigger.paused_at),
        "next_run_at": timestamp_or_none(trigger.next_run_at),
        "last_run_at": timestamp_or_none(trigger.last_run_at),
        "last_poll_at": timestamp_or_none(trigger.last_poll_at),
        "last_outcome": trigger.last_outcome or None,
        "last_error": trigger.last_error or None,
        "created_at": timestamp(trigger.created_at),
    }


def _firing(firing: scheduler_pb2.TriggerFiring) -> TriggerExecution:
    return {
        "id": firing.id,
        "scheduled_time": timestamp_or_none(firing.scheduled_at),
        "started_at": timestamp(firing.fired_at),
        "completed_at": timestamp_or_none(firing.finished_at),
        "workflow_name": firing.workflow_name,
        "execution_id": firing.execution_id or None,
        "outcome": firing.outcome,
        "error": firing.error or None,
    }


ROUTES = (
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/triggers",
        handler=_list,
        operation="list_triggers",
        tag="triggers",
        summary="Cron schedules and polled triggers of a tenant",
        answers={200: TriggerList},
        query=ListTriggersQuery,
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/triggers/{name}",
        handler=_get,
        operation="get_trigger",
        tag="triggers",
        summary="A schedule and its last firings",
        description="`name` is the trigger's, or else that of a workflow it starts; so on all routes of one trigger.",
        answers={200: TriggerDetailResponse},
    ),
    Route(
        method="POST",
        path="/v1/tenants/{tenant_id}/triggers/{name}/pause",
        handler=_pause,
        operation="pause_trigger",
        tag="triggers",
        summary="Fire nothing until it is resumed",
        answers={200: TriggerPauseResponse},
    ),
    Route(
        method="POST",
        path="/v1/tenants/{tenant_id}/triggers/{name}/resume",
        handler=_resume,
        operation="resume_trigger",
        tag="triggers",
        summary="Go on; what came due in the pause is not caught up",
        answers={200: TriggerPauseResponse},
    ),
    Route(
        method="POST",
        path="/v1/tenants/{tenant_id}/triggers/{name}/fire",
        handler=_fire,
        operation="fire_trigger",
        tag="triggers",
        summary="Start its workflows now",
        description="Also when it is paused. All of its workflows are started, in one transaction, or none.",
        answers={200: FireTriggerResponse},
        body=FireTriggerRequest,
        body_required=False,
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/triggers/{name}/interface",
        handler=_interface,
        operation="get_trigger_interface",
        tag="triggers",
        summary="What an event of it may hold",
        description="The declared params of its workflows; without any, every JSON object fits.",
        answers={200: DeclaredSurface},
    ),
)
