"""Computation graphs in the shapes of the original, the executors, and how packages are being loaded."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.fleet_schemas import AgentList, CompilerStatus
from services.api.graph_schemas import AccumulatorList, GraphList, ReactorList
from services.api.schemas import DeclaredSurface

from .conftest import SHARED
from .stand import Stand


@pytest.mark.parametrize(
    ("what", "shape"), [("accumulators", AccumulatorList), ("graphs", GraphList), ("reactors", ReactorList)]
)
@SHARED
async def test_there_are_none(shared_stand: Stand, what: str, shape: Any) -> None:
    answer = (await shared_stand.ask("GET", f"/v1/health/{what}")).fits(200, shape)
    assert answer == {"items": [], "total": 0}


@pytest.mark.parametrize(
    ("method", "path", "code", "body"),
    [
        ("GET", "graphs/prices", "graph_not_found", None),
        ("GET", "reactors/prices/fires", "reactor_not_found", None),
        ("GET", "reactors/prices/fires/timeseries", "reactor_not_found", None),
        ("POST", "reactors/prices/fire", "reactor_not_found", {"mode": "force_fire"}),
        ("POST", "accumulators/prices/inject", "accumulator_not_found", {"event": {"bid": 1}}),
    ],
)
@SHARED
async def test_names_are_unknown(shared_stand: Stand, method: str, path: str, code: str, body: Any) -> None:
    sent = {} if body is None else {"json": body}
    reply = await shared_stand.ask(method, f"/v1/health/{path}", **sent)
    reply.refused(404, code, "'prices'")


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("reactors/prices/fire", {"mode": "gently"}, "mode"),
        ("accumulators/prices/inject", {}, "event"),
    ],
)
@SHARED
async def test_what_is_sent_is_looked_at_first(shared_stand: Stand, path: str, body: Any, message: str) -> None:
    reply = await shared_stand.ask("POST", f"/v1/health/{path}", json=body)
    reply.refused(400, "invalid_request", message)


@pytest.mark.parametrize("kind", ["accumulator", "reactor"])
@SHARED
async def test_nothing_is_declared(shared_stand: Stand, kind: str) -> None:
    answer = (await shared_stand.ask("GET", f"/v1/health/{kind}s/prices/interface")).fits(200, DeclaredSurface)
    assert answer == {"kind": kind, "name": "prices", "slots": []}


@SHARED
async def test_the_executors(shared_stand: Stand) -> None:
    answer = (await shared_stand.ask("GET", "/v1/agents")).fits(200, AgentList)
    (agent,) = answer["items"]
    assert (agent["agent_id"], agent["max_concurrency"], agent["in_flight"]) == ("executor-1", 4, 1)
    assert (agent["available_capacity"], agent["seconds_since_heartbeat"]) == (3, 2)


@SHARED
async def test_how_packages_are_loaded(shared_stand: Stand) -> None:
    answer = (await shared_stand.ask("GET", "/v1/compiler/status")).fits(200, CompilerStatus)
    assert (answer["status"], answer["building"], answer["pending"]) == ("building", 1, 2)
    assert answer["last_success_at"].startswith("2026-")
    assert answer["last_failure_at"] is None
