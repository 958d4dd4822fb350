"""Our system as it is measured: the four services under their supervisor, and load through its HTTP API."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import psutil

from bench.http_client import Connection, encode
from bench.workloads import PACKAGES
from cloacina.cli.client import read_bootstrap_key
from tests.system.running import RunningSystem, write_package

SERVICES = ("api", "scheduler", "reconciler", "executor")
_COMPLETED = 'cloacina_workflows_total{reason="ok",status="completed"}'
_ROUND_DEADLINE_S = 120.0
_POLL_S = 0.02


class Measured(RunningSystem):
    """The system, with the packages of the benchmark."""

    def upload_packages(self, folder: Path) -> None:
        """Uploads every workload."""
        for name, code in PACKAGES.items():
            self.upload(write_package(folder, name, code))

    def completed(self) -> float:
        """Executions that completed since its start."""
        further = [f"scheduler_{number}" for number in range(2, self._schedulers + 1)]
        return sum(self.metric(service, _COMPLETED) for service in ("scheduler", *further))

    def commits(self) -> tuple[float, float]:
        """Seconds that the scheduler's commits have taken in all, and how many there were."""
        name = "cloacina_store_commit_duration_seconds"
        return self.metric("scheduler", f'{name}_sum{{store="scheduler"}}'), self.metric(
            "scheduler", f'{name}_count{{store="scheduler"}}'
        )

    def every_process(self) -> list[psutil.Process]:
        """The supervisor, the services, the fork server and the workers."""
        assert self.supervisor is not None
        supervisor = psutil.Process(self.supervisor.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def cpu_s(self) -> float:
        """Seconds of CPU that all its processes have used."""
        return sum(sum(process.cpu_times()[:2]) for process in self.every_process())

    def memory_mib(self) -> float:
        """Resident memory of the four services."""
        return float(sum(self.process(service).memory_info().rss for service in SERVICES)) / 2**20


class Load:
    """Requests over a number of connections, each of which sends its next one when its last one is answered.

    Args:
        system: whose API is called.
        connections: how many.
    """

    def __init__(self, system: Measured, connections: int) -> None:
        self._system = system
        self._connections = connections
        self._headers = {
            "Host": f"127.0.0.1:{system.ports['CLOACINA_API_PORT']}",
            "Authorization": f"Bearer {read_bootstrap_key(system.home)}",
        }

    async def _connect(self) -> Connection:
        return await Connection.open("127.0.0.1", self._system.ports["CLOACINA_API_PORT"])

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for as long as the block lasts."""
        connection = await self._connect()
        try:
            yield connection
        finally:
            connection.close()

    def execute_request(self, workflow: str) -> bytes:
        """The request that executes a workflow."""
        path = f"/v1/tenants/public/workflows/{workflow}/execute"
        return encode("POST", path, self._headers, {"context": {}})

    def _get(self, path: str) -> bytes:
        return encode("GET", path, self._headers)

    async def throughput(self, workflow: str, executions: int) -> float:
        """Executions completed a second, from the first request until the last execution has completed.

        Raises:
            SystemExit: one was refused, or they did not all complete in time.
        """
        before = await asyncio.to_thread(self._system.completed)
        left = iter(range(executions))
        request = self.execute_request(workflow)

        async def submit() -> None:
            async with self.connection() as connection:
                for _ in left:
                    status, body = await connection.send(request)
                    if status != 202:
                        raise SystemExit(f"an execution was refused: {status} {body.decode(errors='replace')}")

        began = time.perf_counter()
        await asyncio.gather(*(submit() for _ in range(self._connections)))
        while (done := await asyncio.to_thread(self._system.completed) - before) < executions:
            taken = time.perf_counter() - began
            if taken > _ROUND_DEADLINE_S:
                raise SystemExit(f"{done:.0f} of {executions} executions of {workflow} completed in time")
            # rarely while much is left: what is asked for costs the scheduler time
            left_s = (executions - done) * taken / (done + 1)
            await asyncio.sleep(min(max(left_s / 2, _POLL_S), 0.5))
        return executions / (time.perf_counter() - began)

    async def latencies_ms(self, workflow: str, samples: int) -> list[float]:
        """From before the request is sent until the execution's end is durable, one at a time.

        The end is the ``completed_at`` of the answer (one machine, one clock), which is the time of the decision, and
        the mean duration of the commits of these executions, because a commit follows the decision.
        """
        before = await asyncio.to_thread(self._system.commits)
        decided = [taken async for taken in self._until_decided_ms(workflow, samples)]
        after = await asyncio.to_thread(self._system.commits)
        commit_ms = (after[0] - before[0]) / max(1.0, after[1] - before[1]) * 1000
        return [taken + commit_ms for taken in decided]

    async def _until_decided_ms(self, workflow: str, samples: int) -> AsyncIterator[float]:
        request = self.execute_request(workflow)
        async with self.connection() as connection:
            for _ in range(samples):
                sent = time.time()
                _, body = await connection.send(request)
                path = f"/v1/tenants/public/executions/{orjson.loads(body)['execution_id']}"
                execution = await self._ended(connection, self._get(path), workflow)
                yield (datetime.fromisoformat(execution["completed_at"]).timestamp() - sent) * 1000

    async def _ended(self, connection: Connection, request: bytes, workflow: str) -> Any:
        deadline = time.monotonic() + _ROUND_DEADLINE_S
        while time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)  # not asked while it runs: that would be measured, too
            _, body = await connection.send(request)
            execution = orjson.loads(body)
            if execution["status"] in ("Completed", "Failed"):
                if execution["status"] == "Failed":
                    raise SystemExit(f"an execution of {workflow} failed: {execution['error']}")
                return execution
        raise SystemExit(f"an execution of {workflow} did not end")

    async def reads_ms(self, paths: list[str]) -> list[float]:
        """How long each GET takes, one at a time."""
        taken = []
        async with self.connection() as connection:
            for path in paths:
                request = self._get(path)
                began = time.perf_counter()
                status, body = await connection.send(request)
                taken.append((time.perf_counter() - began) * 1000)
                if status != 200:
                    raise SystemExit(f"GET {path}: {status} {body.decode(errors='replace')}")
        return taken

    async def list_ids(self, query: str) -> tuple[list[str], str]:
        """Ids of a page of executions, and the cursor of the next page."""
        async with self.connection() as connection:
            _, body = await connection.send(self._get(f"/v1/tenants/public/executions?{query}"))
            page = orjson.loads(body)
            return [item["id"] for item in page["items"]], page["next_cursor"] or ""


@contextmanager
def collector() -> Iterator[str]:
    """A collector of spans in a process of its own; gives its endpoint."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("collector.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        counted, _ = process.communicate(timeout=30)
        print(f"  the collector took {counted.strip()} spans", flush=True)
