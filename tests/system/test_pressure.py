"""Past its limits the system refuses with 503 and `Retry-After`; it does not grow, and loses nothing it accepted."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp

from cloacina.cli.client import read_bootstrap_key
from tests.system.running import RunningSystem, wait_until, write_package

WAITING = """
import asyncio
from pathlib import Path

import cloaca


@cloaca.task(id="waits", retry_attempts=1)
async def waits(context, handle):
    await handle.defer_until(lambda: Path(context["gate"]).exists(), poll_interval_ms=50)
    return context
"""

_LIVE = 40
_LIVE_MIB = 16
_ENVIRONMENT = {
    "CLOACINA_MAX_LIVE": str(_LIVE),
    "CLOACINA_MAX_LIVE_MB": str(_LIVE_MIB),
    "CLOACINA_SLOTS": "2",
    "CLOACINA_TENANT_SHARE": "0.5",
}


async def _submit(system: RunningSystem, tenant: str, context: dict[str, str], count: int) -> Counter[int]:
    """The answers to so many requests, by status."""
    statuses: Counter[int] = Counter()
    headers = {"Authorization": f"Bearer {read_bootstrap_key(system.home)}"}
    left = iter(range(count))

    async def client(session: aiohttp.ClientSession) -> None:
        for _ in left:
            path = f"/v1/tenants/{tenant}/workflows/waiting/execute"
            async with session.post(path, json={"context": context}) as response:
                answer = await response.json()
                statuses[response.status] += 1
                if response.status == 503:
                    assert answer["code"] == "unavailable"
                    assert response.headers["Retry-After"] == "1"

    async with aiohttp.ClientSession(system.url, headers=headers) as session:
        await asyncio.gather(*(client(session) for _ in range(8)))
    return statuses


def _memory_mib(system: RunningSystem) -> float:
    services = ("api", "scheduler")
    return float(sum(system.process(service).memory_info().rss for service in services)) / 2**20


def test_past_the_limits_it_refuses_and_does_not_grow(folder: Path) -> None:
    gate = folder / "gate"
    with RunningSystem(folder / "home", _ENVIRONMENT) as system:
        package = write_package(folder, "waiting", WAITING)
        system.client.call("POST", "/v1/tenants", {"name": "other"})
        for tenant in ("public", "other"):
            system.upload(package, tenant)
        system.execute("waiting", {"gate": str(gate)})

        small = asyncio.run(_submit(system, "public", {"gate": str(gate)}, 200))
        assert small[202] + 1 == _LIVE // 2, "a tenant gets its share"
        assert small[503] == 200 - small[202]
        other = asyncio.run(_submit(system, "other", {"gate": str(gate)}, 5))
        assert other == {202: 5}, "the other tenant has room"
        refused = system.metric("scheduler", 'cloacina_scheduler_refusals_total{queue="live"}')
        assert refused == small[503]
        assert system.metric("scheduler", 'cloacina_scheduler_queue_depth{queue="live"}') == _LIVE // 2 + 5

        before = _memory_mib(system)
        large = {"gate": str(gate), "text": "x" * 900_000}
        heavy = asyncio.run(_submit(system, "other", large, 300))  # 270 MB
        assert 0 < heavy[202] * 0.9 <= _LIVE_MIB / 2 + 1, "of the bytes, too, a tenant gets its share"
        assert heavy[503] == 300 - heavy[202]
        assert _memory_mib(system) - before < 120

        gate.touch()
        accepted = 1 + small[202] + other[202] + heavy[202]
        completed = 'cloacina_workflows_total{reason="ok",status="completed"}'
        wait_until(lambda: system.metric("scheduler", completed) == accepted, "the end of all that was accepted", 60)
        assert system.metric("scheduler", "cloacina_scheduler_live_bytes") == 0
        wait_until(lambda: asyncio.run(_submit(system, "public", {"gate": str(gate)}, 1)) == {202: 1}, "room again")
