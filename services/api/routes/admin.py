"""What the operator of the platform does by hand: deleting old history."""

from __future__ import annotations

import time

from aiohttp import web

from cloacina.rpc.v1 import scheduler_pb2
from services.api.bodies import read_model
from services.api.call import Call
from services.api.replies import reply, timestamp
from services.api.routing import Route
from services.api.schemas import CleanupEventsRequest, CleanupEventsResponse

_DEADLINE_S = 60.0
"""Counting a long history takes longer than other calls."""


async def _cleanup_events(call: Call) -> web.Response:
    gateway = call.gateway
    body = await read_model(call.http, CleanupEventsRequest, timeout_s=gateway.settings.api_body_timeout_s)
    before = time.time_ns() // 1000 - int(body.older_than_s * 1e6)
    request = scheduler_pb2.CleanUpRequest(
        ended_before=max(0, before), executions=body.executions, dry_run=body.dry_run
    )
    found: scheduler_pb2.CleanUpResponse = await gateway.scheduler.client.call(
        gateway.scheduler.stub.CleanUp, request, deadline_s=_DEADLINE_S
    )
    answer: CleanupEventsResponse = {
        "ended_before": timestamp(request.ended_before),
        "dry_run": body.dry_run,
        "executions": found.executions,
        "events": found.events,
        "complete": found.complete,
    }
    return reply(answer)


ROUTES = (
    Route(
        method="POST",
        path="/v1/admin/cleanup-events",
        handler=_cleanup_events,
        operation="cleanup_events",
        tag="operational",
        summary="Delete the events of executions that ended long ago",
        description="Of all tenants, in small batches, for about two seconds at a time: repeat it until `complete`. "
        "With `executions` the executions go too, with their tasks and outputs; an `Idempotency-Key` stays taken "
        "for as long as it was to be. What has not ended is never touched.",
        answers={200: CleanupEventsResponse},
        body=CleanupEventsRequest,
    ),
)
