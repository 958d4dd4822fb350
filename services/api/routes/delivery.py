"""The WebSocket that delivers the events of an execution."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

import grpc
import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from cloacina.errors import Forbidden, InvalidRequest, Unavailable
from cloacina.rpc.errors import from_rpc_error
from cloacina.rpc.v1 import scheduler_pb2
from services.api.bodies import read_query
from services.api.call import Call
from services.api.delivery import CLOSE_WAIT_S, HEARTBEAT_S, MAX_FRAME_BYTES, Push
from services.api.middleware import stamp
from services.api.routes.executions import ID_FORM, event_of
from services.api.routing import Route

log = logging.getLogger(__name__)

_EVENTS_OF = "exec_events:"
_KIND = "execution_event"
_RETRY_S = (0.05, 2.0)
"""First and longest pause before a scheduler that is away is asked again."""

_DESCRIPTION = """\
A WebSocket. The server sends `welcome` and then `push` frames; the client sends `hello` with the number of the last
push it has in `since_id` (or null), and an `ack` for each push. Delivery is at least once: after a reconnect, to
whichever gateway, hello's `since_id` says where to go on, and pushes are told apart by `id`. It ends with the event
that ends the execution. Browsers, which cannot send a key, give a ticket from `POST /v1/auth/ws-ticket` in `token`.
docs/concepts/delivery.md has the frames and close codes."""


class DeliveryQuery(BaseModel):
    """How a client without headers says who it is."""

    model_config = ConfigDict(extra="forbid")

    token: str | None = Field(None, description="A ticket from POST /v1/auth/ws-ticket; without an Authorization.")


async def _deliver(call: Call) -> web.StreamResponse:
    gateway, caller = call.gateway, call.caller
    assert caller is not None, "the route asks for a key"
    read_query(call.http, DeliveryQuery)
    recipient = call.path["recipient"]
    execution_id = _followed(recipient)
    if caller.tenant_id is None and not caller.is_admin:
        gateway.deliveries.metrics.refused("tenant_access_denied")
        raise Forbidden("this key belongs to no tenant, so there is nothing for it", code="tenant_access_denied")
    ws = web.WebSocketResponse(
        timeout=CLOSE_WAIT_S, heartbeat=HEARTBEAT_S, max_msg_size=MAX_FRAME_BYTES, compress=False, autoclose=True
    )
    if not ws.can_prepare(call.http):
        raise InvalidRequest("this is a WebSocket; send an upgrade with Sec-WebSocket-Version 13")
    gateway.deliveries.check_room()
    call.bind(execution_id=execution_id)
    stamp(ws)
    await ws.prepare(call.http)
    session = await gateway.deliveries.serve(
        ws,
        call.http.transport,
        recipient,
        lambda position: _events(call, caller.tenant_id or "", execution_id, position),
        lambda: gateway.auth.is_valid(caller),
    )
    log.info(
        "delivery ended",
        extra={
            "close_code": int(session.close.code) if session.close else ws.close_code,
            "close_reason": session.close.reason if session.close else "by the client",
            "sent": session.sent,
        },
    )
    return ws


def _followed(recipient: str) -> str:
    execution_id = recipient.removeprefix(_EVENTS_OF)
    if execution_id == recipient or not ID_FORM.match(execution_id):
        raise InvalidRequest("the recipient in the path must be exec_events:<execution id>")
    return execution_id.lower()


async def _events(call: Call, tenant_id: str, execution_id: str, position: int) -> AsyncGenerator[Push, None]:
    """The events of an execution after a position, across restarts of the scheduler.

    Raises:
        NotFound: there is no such execution for this tenant.
    """
    scheduler = call.gateway.scheduler
    pause_s = _RETRY_S[0]
    while True:
        request = scheduler_pb2.FollowEventsRequest(tenant_id=tenant_id, execution_id=execution_id, after=position)
        stream = scheduler.client.stream(scheduler.stub.FollowEvents, request, deadline_s=None)
        try:
            async for message in stream:
                pause_s = _RETRY_S[0]
                for event in message.events:
                    position = event.sequence
                    yield Push(event.sequence, message.tenant_id, _KIND, _payload(execution_id, event))
            return
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error, scheduler.service)
            if not isinstance(failure, Unavailable):
                raise failure from error
        finally:
            stream.cancel()
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _RETRY_S[1])


def _payload(execution_id: str, event: scheduler_pb2.ExecutionEvent) -> bytes:
    """An event as clients of the original know it, and as ``…/events`` shows it."""
    return orjson.dumps({**event_of(event), "execution_id": execution_id, "workflow_execution_id": execution_id})


ROUTES = (
    Route(
        method="GET",
        path="/v1/ws/delivery/{recipient}",
        handler=_deliver,
        operation="deliver",
        tag="executions",
        summary="Events of an execution as they happen (WebSocket)",
        description=_DESCRIPTION,
        answers={101: None},
        query=DeliveryQuery,
        websocket=True,
    ),
)
