"""What one tenant's long queue does to another's latency.

Two tenants share a system. First the patient one alone executes a workflow, one execution after the other: its idle
latency. Then the greedy one fills its queue with executions of the same workflow, behind a gate so that none ends, and
when the gate opens the patient one executes again, while the greedy one's tasks have every slot and its queue is long.

    python bench/fairness.py                                     tasks of 0, 20 and 100 ms, 20,000 executions queued
    python bench/fairness.py --queued 100000 --task-ms 100       the long one
    python bench/fairness.py --database postgres                 on PostgreSQL
    python bench/fairness.py --setting CLOACINA_SLOTS=32         with other settings than the defaults
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.figures import percentile
from bench.http_client import Connection, encode
from bench.system import Measured
from bench.workloads import GATED
from cloacina.cli.client import read_bootstrap_key
from cloacina.packages import archive
from tests.postgres import running_postgres
from tests.system.running import write_package

_GREEDY, _PATIENT = "greedy", "patient"
_CONNECTIONS = 64


class Tenants:
    """Executions of both tenants.

    Args:
        system: where they run.
    """

    def __init__(self, system: Measured) -> None:
        self._system = system
        self._headers = {
            "Host": "127.0.0.1",
            "Authorization": f"Bearer {read_bootstrap_key(system.home)}",
        }

    async def connect(self) -> Connection:
        """A connection to the API."""
        return await Connection.open("127.0.0.1", self._system.ports["CLOACINA_API_PORT"])

    def execute(self, tenant: str, context: dict[str, Any]) -> bytes:
        """The request that starts an execution."""
        path = f"/v1/tenants/{tenant}/workflows/fairness/execute"
        return encode("POST", path, self._headers, {"context": context})

    async def queue(self, count: int, context: dict[str, Any]) -> None:
        """Queues so many executions of the greedy tenant."""
        left = iter(range(count))
        request = self.execute(_GREEDY, context)

        async def submit() -> None:
            connection = await self.connect()
            for _ in left:
                status, body = await connection.send(request)
                if status != 202:
                    raise SystemExit(f"an execution was refused: {status} {body.decode(errors='replace')}")
            connection.close()

        await asyncio.gather(*(submit() for _ in range(_CONNECTIONS)))

    async def latencies_ms(self, samples: int, seconds: float) -> list[float]:
        """From before the patient tenant's request until the commit that ends its execution, one at a time."""
        connection, found = await self.connect(), []
        request = self.execute(_PATIENT, {"seconds": seconds})
        for _ in range(samples):
            sent = time.time()
            status, body = await connection.send(request)
            if status != 202:
                raise SystemExit(f"an execution was refused: {status} {body.decode(errors='replace')}")
            path = f"/v1/tenants/{_PATIENT}/executions/{orjson.loads(body)['execution_id']}"
            while True:
                await asyncio.sleep(0.02 + seconds)
                _, body = await connection.send(encode("GET", path, self._headers))
                execution = orjson.loads(body)
                if execution["status"] == "Completed":
                    break
            found.append((datetime.fromisoformat(execution["completed_at"]).timestamp() - sent) * 1000)
        connection.close()
        return found

    def queued(self) -> float:
        """Executions that have not ended."""
        return self._system.metric("scheduler", "cloacina_active_workflows")


async def measure(system: Measured, folder: Path, options: argparse.Namespace, seconds: float) -> None:
    """One length of task: idle, and beside the queue."""
    tenants = Tenants(system)
    await tenants.latencies_ms(10, seconds)
    idle = await tenants.latencies_ms(options.samples, seconds)
    gate = folder / f"gate-{seconds}"
    await tenants.queue(options.queued, {"seconds": seconds, "gate": str(gate)})
    gate.touch()
    await asyncio.sleep(1)
    before, began = await asyncio.to_thread(tenants.queued), time.perf_counter()
    beside = await tenants.latencies_ms(options.samples, seconds)
    after, ended = await asyncio.to_thread(tenants.queued), time.perf_counter()
    delay = statistics.median(beside) - statistics.median(idle)
    print(
        f"{seconds * 1000:>8.0f} ms {statistics.median(idle):>8.1f} ms {percentile(idle, 0.99):>8.1f} ms "
        f"{statistics.median(beside):>8.1f} ms {percentile(beside, 0.99):>8.1f} ms "
        f"{delay / statistics.median(idle):>8.2f} x   {before:,.0f} to {after:,.0f}, "
        f"{(before - after) / (ended - began):,.0f} a second",
        flush=True,
    )
    if after == 0:
        raise SystemExit("the queue ran empty while it was measured: queue more, or take fewer samples")


def main() -> None:
    parser = argparse.ArgumentParser(description="One tenant's long queue beside another's executions.")
    parser.add_argument("--queued", type=int, default=20_000, help="executions of the greedy tenant")
    parser.add_argument("--samples", type=int, default=50, help="executions of the patient tenant")
    parser.add_argument("--task-ms", type=float, action="append", help="length of a task; may be given again")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--setting", action="append", default=[], help="NAME=VALUE for the services; may be repeated")
    options = parser.parse_args()
    environment = dict(setting.split("=", 1) for setting in options.setting)
    print(f"{'task':>11} {'idle p50':>11} {'p99':>11} {'beside p50':>11} {'p99':>11} {'delay':>10}   queue meanwhile")
    with running_postgres() if options.database == "postgres" else nullcontext() as server:
        for milliseconds in options.task_ms or (0.0, 20.0, 100.0):
            if server is not None:
                environment["CLOACINA_DATABASE_URL"] = server.new_database()
            with tempfile.TemporaryDirectory(prefix="cloacina-bench-") as name:
                folder = Path(name)
                with Measured(folder / "home", environment) as system:
                    content = archive.pack(write_package(folder, "fairness", GATED))
                    for tenant in (_GREEDY, _PATIENT):
                        system.client.call("POST", "/v1/tenants", {"name": tenant})
                        system.client.upload(f"/v1/tenants/{tenant}/workflows", "fairness.cloacina", content)
                    uvloop.run(measure(system, folder, options, milliseconds / 1000))


if __name__ == "__main__":
    main()
