"""What a tenant's queue gets beside a tenant that has none."""

from __future__ import annotations

from pathlib import Path

from bench.workloads import GATED
from tests.system.running import RunningSystem, wait_until, write_package

_SLOTS = 8
_COMPLETED = 'cloacina_workflows_total{reason="ok",status="completed"}'


def test_tasks_that_take_their_time_get_every_slot_and_short_ones_all_end(folder: Path) -> None:
    gate = folder / "gate"
    environment = {"CLOACINA_SLOTS": str(_SLOTS), "CLOACINA_SHARED_CLAIMS": "2"}
    with RunningSystem(folder / "home", environment) as system:
        system.client.call("POST", "/v1/tenants", {"name": "light"})
        package = write_package(folder, "gated", GATED)
        for tenant in ("public", "light"):
            system.upload(package, tenant)

        def execute(tenant: str, context: dict[str, str]) -> None:
            path = f"/v1/tenants/{tenant}/workflows/gated/execute"
            system.client.call("POST", path, {"context": context})

        def completed(count: int) -> bool:
            return system.metric("scheduler", _COMPLETED) == count

        execute("light", {})
        wait_until(lambda: completed(1), "the end of a single task")
        for _ in range(2 * _SLOTS):
            execute("public", {"gate": str(gate)})
        wait_until(
            lambda: system.metric("executor", 'cloacina_executor_slots{state="free"}') == 0, "every slot to work"
        )
        gate.touch()
        wait_until(lambda: completed(1 + 2 * _SLOTS), "the end of a queue of long tasks")
        for _ in range(20):
            execute("public", {})
            execute("light", {})
        wait_until(lambda: completed(41 + 2 * _SLOTS), "the end of short tasks of both")
        assert system.metric("scheduler", "cloacina_scheduler_shared_claims") == 0
