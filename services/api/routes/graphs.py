"""Computation graphs, in the shapes of the original. None runs here: lists are empty, names are unknown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from cloacina.errors import NotFound
from services.api.bodies import read_model
from services.api.call import Call
from services.api.graph_schemas import (
    AccumulatorList,
    FireReactorRequest,
    FireReactorResponse,
    GraphList,
    GraphStatus,
    InjectAccumulatorRequest,
    InjectAccumulatorResponse,
    ReactorFireList,
    ReactorFireTimeseries,
    ReactorList,
)
from services.api.replies import reply
from services.api.routing import Route
from services.api.schemas import DeclaredSurface

if TYPE_CHECKING:
    from services.api.routing import Handler

_NONE_RUNS = "No computation graph runs here."
_SHOWN_NAME = 128


async def _none(call: Call) -> web.Response:
    return reply({"items": [], "total": 0})


def _unknown(kind: str, code: str, body: Any = None) -> Callable[[Call], Awaitable[web.Response]]:
    """The handler that knows nothing of the name in the path; a body is looked at first."""

    async def refuse(call: Call) -> web.Response:
        if body is not None:
            await read_model(call.http, body, timeout_s=call.gateway.settings.api_body_timeout_s)
        raise NotFound(f"there is no {kind} {call.path['name'][:_SHOWN_NAME]!r}", code=code)

    return refuse


def _undeclared(kind: Literal["accumulator", "reactor"]) -> Callable[[Call], Awaitable[web.Response]]:
    """The handler that answers as for anything that declares no inputs."""

    async def answer(call: Call) -> web.Response:
        surface: DeclaredSurface = {"kind": kind, "name": call.path["name"], "slots": []}
        return reply(surface)

    return answer


def _route(place: str, handler: Handler, operation: str, summary: str, shape: Any, *, body: Any = None) -> Route:
    method, _, path = place.partition(" ")
    return Route(
        method=method,
        path=f"/v1/health/{path}",
        handler=handler,
        operation=operation,
        tag="graph-health",
        summary=summary,
        description=_NONE_RUNS,
        answers={200: shape},
        body=body,
    )


ROUTES = (
    _route("GET accumulators", _none, "list_accumulators", "Accumulators", AccumulatorList),
    _route(
        "POST accumulators/{name}/inject",
        _unknown("accumulator", "accumulator_not_found", InjectAccumulatorRequest),
        "inject_accumulator",
        "Give an accumulator an event",
        InjectAccumulatorResponse,
        body=InjectAccumulatorRequest,
    ),
    _route(
        "GET accumulators/{name}/interface",
        _undeclared("accumulator"),
        "get_accumulator_interface",
        "What an accumulator takes",
        DeclaredSurface,
    ),
    _route("GET graphs", _none, "list_graphs", "Computation graphs", GraphList),
    _route("GET graphs/{name}", _unknown("graph", "graph_not_found"), "get_graph", "A computation graph", GraphStatus),
    _route("GET reactors", _none, "list_reactors", "Reactors", ReactorList),
    _route(
        "POST reactors/{name}/fire",
        _unknown("reactor", "reactor_not_found", FireReactorRequest),
        "fire_reactor",
        "Fire a reactor",
        FireReactorResponse,
        body=FireReactorRequest,
    ),
    _route(
        "GET reactors/{name}/fires",
        _unknown("reactor", "reactor_not_found"),
        "list_reactor_fires",
        "Firings of a reactor, newest first",
        ReactorFireList,
    ),
    _route(
        "GET reactors/{name}/fires/timeseries",
        _unknown("reactor", "reactor_not_found"),
        "reactor_fire_timeseries",
        "Firings of a reactor by minute",
        ReactorFireTimeseries,
    ),
    _route(
        "GET reactors/{name}/interface",
        _undeclared("reactor"),
        "get_reactor_interface",
        "What a reactor takes",
        DeclaredSurface,
    ),
)
