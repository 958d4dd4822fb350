"""How the system is: the public probes, and the state of every service."""

from __future__ import annotations

from aiohttp import web

from cloacina.telemetry.metrics import expose
from services.api.call import Call
from services.api.errors import RETRY_AFTER_S
from services.api.reference_page import PAGE_HEADERS
from services.api.replies import reply
from services.api.routing import Route
from services.api.schemas import NotReadyAnswer, ReadyAnswer, StatusAnswer, SystemStatus
from services.api.upstream import state_from, states_of


async def _health(call: Call) -> web.Response:
    answer: StatusAnswer = {"status": "ok"}
    return reply(answer)


async def _ready(call: Call) -> web.Response:
    reason = await call.gateway.readiness.reason()
    if not reason:
        ready: ReadyAnswer = {"status": "ready"}
        return reply(ready)
    not_ready: NotReadyAnswer = {"status": "not_ready", "reason": reason, "error": reason, "code": "unavailable"}
    response = reply(not_ready, 503)
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


async def _status(call: Call) -> web.Response:
    gateway = call.gateway
    own = state_from(await gateway.status(), None)
    others = await states_of((gateway.scheduler, gateway.reconciler, *gateway.executors))
    services = [own, *others]
    healthy = all(service["status"] == "ok" for service in services)
    answer: SystemStatus = {"status": "ok" if healthy else "degraded", "services": services}
    return reply(answer)


async def _metrics(call: Call) -> web.Response:
    body, content_type = expose(call.gateway.registry, call.http.headers.get("Accept"))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def _openapi(call: Call) -> web.Response:
    return web.Response(body=call.gateway.openapi, headers={"Content-Type": "application/json"})


async def _docs(call: Call) -> web.Response:
    return web.Response(body=call.gateway.reference_page, headers=PAGE_HEADERS)


ROUTES = (
    Route(
        method="GET",
        path="/health",
        handler=_health,
        operation="health",
        tag="operational",
        summary="Whether the process is alive",
        answers={200: StatusAnswer},
    ),
    Route(
        method="GET",
        path="/ready",
        handler=_ready,
        operation="ready",
        tag="operational",
        summary="Whether requests can be answered",
        description="Not when the identity store, the scheduler or the reconciler cannot be reached.",
        answers={200: ReadyAnswer, 503: NotReadyAnswer},
    ),
    Route(
        method="GET",
        path="/v1/health/status",
        handler=_status,
        operation="system_status",
        tag="operational",
        summary="State of every service",
        description="Always 200: a service that cannot be reached is part of the answer.",
        answers={200: SystemStatus},
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=_metrics,
        operation="metrics",
        tag="operational",
        summary="Metrics of the gateway, for Prometheus",
        description="Text format 0.0.4, or OpenMetrics with exemplars when `Accept` asks for it.",
        answers={200: None},
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=_openapi,
        operation="openapi",
        tag="operational",
        summary="This document",
        answers={200: dict[str, object]},
    ),
    Route(
        method="GET",
        path="/docs",
        handler=_docs,
        operation="docs",
        tag="operational",
        summary="This document as a page to read",
        description="Without scripts, and without anything from another host.",
        answers={200: None},
        media="text/html",
    ),
)
