"""How the system is, as the gateway tells it; and what it does when a service behind it is gone, slow or ill."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.api.schemas import NotReadyAnswer, ReadyAnswer, StatusAnswer, SystemStatus

from .conftest import StartStand
from .stand import Stand, eventually

_CALLS = [
    ("GET", "/v1/tenants/acme/executions", "scheduler"),
    ("POST", "/v1/tenants/acme/workflows/daily/execute", "scheduler"),
    ("GET", "/v1/tenants/acme/workflows", "reconciler"),
    ("GET", "/v1/tenants/acme/workflows/daily", "reconciler"),
    ("DELETE", "/v1/tenants/acme/workflows/daily/1", "reconciler"),
]


async def test_health_and_ready_when_all_is_well(stand: Stand) -> None:
    assert (await stand.ask("GET", "/health", key=None)).fits(200, StatusAnswer) == {"status": "ok"}
    assert (await stand.ask("GET", "/ready", key=None)).fits(200, ReadyAnswer) == {"status": "ready"}
    head = await stand.ask("HEAD", "/health", key=None)
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize("gone", ["scheduler", "reconciler"])
async def test_not_ready_when_a_service_is_gone(stand: Stand, gone: str) -> None:
    await getattr(stand, gone).stop()
    reply = await stand.ask("GET", "/ready", key=None)
    answer = reply.fits(503, NotReadyAnswer)
    assert gone in answer["reason"]
    assert (answer["error"], answer["code"]) == (answer["reason"], "unavailable")
    assert reply.headers["Retry-After"] == "1"
    assert (await stand.ask("GET", "/health", key=None)).status == 200


async def test_not_ready_when_a_service_says_so(stand: Stand) -> None:
    stand.scheduler.reason = "its store is unavailable"
    assert (
        "its store is unavailable" in (await stand.ask("GET", "/ready", key=None)).fits(503, NotReadyAnswer)["reason"]
    )


async def test_the_state_of_every_service(stand: Stand) -> None:
    answer = (await stand.ask("GET", "/v1/health/status")).fits(200, SystemStatus)
    states = {state["service"]: state for state in answer["services"]}
    assert list(states) == ["api", "scheduler", "reconciler", "executor"]
    assert answer["status"] == "degraded"
    assert [state["status"] for state in states.values()] == ["ok", "ok", "ok", "unreachable"]
    assert states["executor"]["reason"]
    assert states["scheduler"]["figures"] == {"figure": 7}
    assert states["api"]["figures"]["in_flight"] == 1
    assert states["scheduler"]["target"] == stand.settings.scheduler_target


async def test_the_state_when_all_is_well(start_stand: StartStand) -> None:
    stand = await start_stand(executor_target="")
    assert (await stand.ask("GET", "/v1/health/status")).json["status"] == "ok"


@pytest.mark.parametrize(("method", "path", "service"), _CALLS)
async def test_a_service_that_is_gone(stand: Stand, method: str, path: str, service: str) -> None:
    await getattr(stand, service).stop()
    began = time.monotonic()
    reply = await stand.ask(method, path)
    reply.refused(503, "unavailable", f"the {service} cannot be reached")
    assert reply.headers["Retry-After"] == "1"
    assert time.monotonic() - began < stand.settings.api_rpc_deadline_s


@pytest.mark.parametrize(("method", "path", "service"), _CALLS)
async def test_a_service_that_does_not_answer(start_stand: StartStand, method: str, path: str, service: str) -> None:
    stand = await start_stand(api_rpc_deadline_s=0.2)
    await stand.tenant("acme")
    getattr(stand, service).gate.clear()
    began = time.monotonic()
    reply = await stand.ask(method, path)
    reply.refused(503, "unavailable", f"the {service} did not answer in time")
    assert reply.headers["Retry-After"] == "1"
    assert time.monotonic() - began < 2


async def test_more_requests_than_can_be_handled(start_stand: StartStand) -> None:
    stand = await start_stand(api_max_in_flight=1)
    await stand.tenant("acme")
    stand.scheduler.gate.clear()
    held = asyncio.create_task(stand.ask("GET", "/v1/tenants/acme/executions"))
    await eventually(lambda: bool(stand.scheduler.calls("ListExecutions")), "one request is in flight")
    reply = await stand.ask("GET", "/v1/tenants/acme/workflows")
    reply.refused(503, "unavailable", "in flight")
    assert reply.headers["Retry-After"] == "1"
    assert (await stand.ask("GET", "/health")).status == 200
    stand.scheduler.gate.set()
    assert (await held).status == 200


async def test_one_tenant_does_not_take_every_place(start_stand: StartStand) -> None:
    stand = await start_stand(api_max_in_flight=4, tenant_share=0.5)
    for tenant in ("acme", "other"):
        await stand.tenant(tenant)
    stand.scheduler.gate.clear()
    held = [asyncio.create_task(stand.ask("GET", "/v1/tenants/acme/executions")) for _ in range(2)]
    await eventually(lambda: len(stand.scheduler.calls("ListExecutions")) == 2, "two requests are in flight")
    reply = await stand.ask("GET", "/v1/tenants/acme/executions")
    reply.refused(503, "unavailable", "of this tenant")
    assert reply.headers["Retry-After"] == "1"
    assert (await stand.ask("GET", "/v1/tenants/other/workflows")).status == 200
    metrics = (await stand.ask("GET", "/metrics")).body.decode()
    assert 'cloacina_api_refusals_total{limit="tenant"} 1.0' in metrics
    assert "cloacina_api_in_flight 2.0" in metrics
    stand.scheduler.gate.set()
    assert [(await each).status for each in held] == [200, 200]
    assert (await stand.ask("GET", "/v1/tenants/acme/executions")).status == 200


async def test_calls_whose_clients_have_gone_take_places(start_stand: StartStand) -> None:
    stand = await start_stand(api_max_in_flight=2, tenant_share=1.0)
    await stand.tenant("acme")
    stand.scheduler.gate.clear()
    path = "/v1/tenants/acme/workflows/daily/execute"
    for number in (1, 2):
        gone = asyncio.create_task(stand.ask("POST", path, json={"context": {"day": "monday"}}))
        await eventually(lambda number=number: len(stand.scheduler.calls("Execute")) == number, "the call")
        gone.cancel()
    await eventually(lambda: stand.requests("POST", 499) == 2, "the clients have gone")
    (await stand.ask("GET", "/v1/tenants/acme/workflows")).refused(503, "unavailable", "in flight")
    stand.scheduler.gate.set()

    async def goes_on() -> None:
        while (await stand.ask("GET", "/v1/tenants/acme/workflows")).status != 200:
            await asyncio.sleep(0.01)

    async with asyncio.timeout(10):
        await goes_on()


async def test_metrics_of_requests(stand: Stand) -> None:
    await stand.ask("GET", "/health")
    await stand.ask("GET", "/nowhere")
    await stand.ask("PROPFIND", "/health")
    await stand.raw(b"NONSENSE\r\n\r\n")
    assert stand.requests("GET", 200) == 1
    assert stand.requests("GET", 404) == 1
    assert stand.requests("OTHER", 405) == 1
    assert stand.requests("OTHER", 400) == 1
    reply = await stand.ask("GET", "/metrics", key=None)
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = reply.body.decode()
    assert 'cloacina_api_requests_total{method="OTHER",status="405"} 1.0' in text
    assert 'cloacina_api_request_duration_seconds_bucket{le="0.001",method="GET",status="200"}' in text
    assert 'cloacina_rpc_requests_total{code="OK",method="GetStatus"' not in text
    assert "PROPFIND" not in text
    assert "NONSENSE" not in text


async def test_metrics_in_openmetrics(stand: Stand) -> None:
    reply = await stand.ask("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
    assert reply.body.endswith(b"# EOF\n")
