"""Tickets for WebSockets."""

from __future__ import annotations

from aiohttp import web

from services.api.account_schemas import WsTicketResponse
from services.api.call import Call
from services.api.replies import reply
from services.api.routing import Route
from services.api.tickets import TICKET_TTL_S


async def _issue(call: Call) -> web.Response:
    assert call.caller is not None, "the route asks for a key"
    answer: WsTicketResponse = {
        "ticket": await call.gateway.tickets.issue(call.caller),
        "expires_in_seconds": TICKET_TTL_S,
    }
    return reply(answer)


ROUTES = (
    Route(
        method="POST",
        path="/v1/auth/ws-ticket",
        handler=_issue,
        operation="create_ws_ticket",
        tag="auth",
        summary="A ticket that opens one WebSocket",
        description="It is good for one upgrade, at any gateway, within a minute, and ends with the key it stands for.",
        answers={200: WsTicketResponse},
    ),
)
