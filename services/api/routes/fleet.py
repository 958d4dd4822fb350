"""The executors, and how packages are being loaded: what the original calls agents and compiler."""

from __future__ import annotations

from aiohttp import web

from cloacina.rpc.v1 import scheduler_pb2
from services.api.call import Call
from services.api.fleet_schemas import AgentInfo, AgentList, CompilerStatus
from services.api.replies import reply, timestamp_or_none
from services.api.routing import Route

_TAKES = "python"
"""What executors run. Packages are source: no build for a machine is needed, so there is nothing else to tell apart."""


async def _agents(call: Call) -> web.Response:
    scheduler = call.gateway.scheduler
    request = scheduler_pb2.ListExecutorsRequest()
    found: scheduler_pb2.ListExecutorsResponse = await call.ask(scheduler, scheduler.stub.ListExecutors, request)
    items: list[AgentInfo] = [
        {
            "agent_id": executor.executor_id,
            "target_triple": _TAKES,
            "max_concurrency": executor.slots,
            "in_flight": executor.claims,
            "available_capacity": executor.free_slots,
            "seconds_since_heartbeat": int(executor.silent_s),
            "capabilities": [_TAKES],
            "tenant_id": None,
            "connected": executor.connected,
            "version": executor.version,
        }
        for executor in found.executors
    ]
    answer: AgentList = {"items": items, "total": len(items)}
    return reply(answer)


async def _compiler(call: Call) -> web.Response:
    figures = (await call.gateway.reconciler.status()).figures
    building, pending = int(figures["packages_loading"]), int(figures["packages_waiting"])
    answer: CompilerStatus = {
        "status": "building" if building else "backlogged" if pending else "idle",
        "building": building,
        "pending": pending,
        "last_success_at": timestamp_or_none(int(figures["last_loaded_at"])),
        "last_failure_at": timestamp_or_none(int(figures["last_refused_at"])),
        "seconds_since_heartbeat": 0 if building else None,
    }
    return reply(answer)


ROUTES = (
    Route(
        method="GET",
        path="/v1/agents",
        handler=_agents,
        operation="list_agents",
        tag="fleet",
        summary="The executors",
        description="Those that are connected, and those whose lease has not lapsed yet.",
        answers={200: AgentList},
    ),
    Route(
        method="GET",
        path="/v1/compiler/status",
        handler=_compiler,
        operation="compiler_status",
        tag="compiler",
        summary="How packages are being loaded",
        description="Packages are not compiled here; they are verified and inspected, which takes its place.",
        answers={200: CompilerStatus},
    ),
)
