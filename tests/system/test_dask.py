"""Tasks on a Dask cluster of two workers: what holds for tasks on the executor's machine holds there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from cloacina import __version__
from cloacina.cluster import wire
from cloacina.worker import frames
from tests.otlp_collector import Collector
from tests.ports import free_ports
from tests.system.running import RunningSystem, wait_until, write_package

pytestmark = pytest.mark.xdist_group("dask")

WORK = """
import asyncio
import logging
import os
import time
from pathlib import Path

import cloaca

log = logging.getLogger("author")
calls = []


@cloaca.task(id="first")
def first(context):
    log.info("on the cluster")
    print("printed there")
    context.set("first", {"pid": os.getpid(), "folder": os.getcwd(), "set": cloaca.var_or("COLOUR", "none")})
    context.set("hidden", sorted(name for name in os.environ if "TOKEN" in name or name.startswith("DASK")))
    return context


@cloaca.task(id="left", dependencies=["first"])
async def left(context):
    await asyncio.sleep(0.01)
    context.set("left", os.getpid())
    return context


@cloaca.task(id="right", dependencies=["first"])
def right(context):
    context.set("right", os.getpid())
    return context


@cloaca.task(id="last", dependencies=["left", "right"])
def last(context):
    return context
"""

FAULTS = """
import os
import signal
import time
from pathlib import Path

import cloaca


@cloaca.task(id="once", retry_attempts=4, retry_delay_ms=20, retry_jitter=False)
def once(context):
    mark = Path(context.get("mark"))
    how = context.get("how")
    with mark.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    if len(mark.read_text().split()) > 1:
        return context
    if how == "raise":
        raise ConnectionError("the first time")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        time.sleep(600)
    return context


@cloaca.task(id="slow", retry_attempts=1, timeout_s=1)
def slow(context):
    if context.get("how") == "timeout":
        Path(context.get("mark") + ".slow").write_text(str(os.getpid()))
        time.sleep(600)
    return context
"""


class Cluster:
    """Dask's scheduler and two workers of two threads each, in processes of their own.

    Args:
        folder: for their files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port = free_ports(1)[0]
        self.address = f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts what does not run."""
        if not self._runs("scheduler"):
            arguments = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard", "--no-show"]
            self._start("scheduler", "dask_scheduler", *arguments)
        for name in ("worker-1", "worker-2"):
            if not self._runs(name):
                arguments = ["--host", "127.0.0.1", "--nthreads", "2", "--no-dashboard", "--no-nanny", "--name", name]
                self._start(
                    name, "dask_worker", self.address, *arguments, "--local-directory", str(self._folder / name)
                )

    def _runs(self, name: str) -> bool:
        return name in self._processes and self._processes[name].poll() is None

    def _start(self, name: str, module: str, *arguments: str) -> None:
        with (self._folder / f"{name}.console").open("ab") as console:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
                env={
                    **os.environ,
                    "DASK_SECRET_TOKEN": "not for tasks",
                    "DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "false",
                },
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )

    def process(self, name: str) -> psutil.Process:
        """One of its processes."""
        return psutil.Process(self._processes[name].pid)

    def worker_of(self, pid: int) -> str:
        """The name of the Dask worker under which a process is."""
        ancestors = {parent.pid for parent in psutil.Process(pid).parents()}
        return next(name for name, process in self._processes.items() if process.pid in ancestors)

    def stop(self) -> None:
        """Ends it."""
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def tasks(self) -> dict[str, str]:
        """What Dask's scheduler knows of, by key: in which state."""

        async def ask() -> dict[str, str]:
            async with Client(self.address, asynchronous=True, timeout=10, set_as_default=False) as client:
                found = await client.run_on_scheduler(
                    lambda dask_scheduler: {str(key): task.state for key, task in dask_scheduler.tasks.items()}
                )
                return dict(found)

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("dask"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def running(
    cluster: Cluster, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningSystem]:
    folder = tmp_path_factory.mktemp("on-dask")
    environment = {
        "CLOACINA_EXECUTOR_BACKEND": "dask",
        "CLOACINA_DASK_SCHEDULER": cluster.address,
        "CLOACINA_VAR_COLOUR": "blue",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with RunningSystem(folder / "home", environment) as system:
        system.upload(write_package(folder, "work", WORK))
        system.upload(write_package(folder, "faults", FAULTS))
        wait_until(lambda: system.status() == "ok", "an executor that has reached the cluster")
        yield system


def _faulty(running: RunningSystem, tmp_path: Path, how: str) -> str:
    return running.execute("faults", {"how": how, "mark": str(tmp_path / "mark")})


def test_an_execution_runs_on_the_cluster_and_is_seen_everywhere(
    running: RunningSystem, cluster: Cluster, collector: Collector
) -> None:
    answer = running.client.call("POST", "/v1/tenants/public/workflows/work/execute", {"context": {}})
    execution = running.wait_for_end(answer["execution_id"], 60)
    assert execution["status"] == "Completed", running.tasks(execution["execution_id"])
    output = execution["output"]
    assert cluster.worker_of(output["first"]["pid"]).startswith("worker-")
    assert output["first"]["set"] == "blue"
    assert output["hidden"] == []
    assert "worker-" in output["first"]["folder"]

    of_request = [line for line in running.log() if line.get("request_id") == execution["request_id"]]
    said = {line["message"]: line for line in of_request if line["target"] == "task.work.first"}
    assert set(said) == {"on the cluster", "printed there"}
    assert said["on the cluster"]["execution_id"] == execution["execution_id"]
    assert said["on the cluster"]["trace_id"] == execution["trace_id"]
    ended = next(line for line in of_request if line["message"] == "task succeeded")
    assert ended["worker_machine"] == socket.gethostname()

    def runs() -> list[Any]:
        spans = [span for span in collector.spans if span.trace_id == execution["trace_id"]]
        parents = {span.span_id for span in spans if span.service == "cloacina-executor"}
        return [span for span in spans if span.service == "cloacina-worker" and span.parent_id in parents]

    wait_until(lambda: len(runs()) == 4, "a span of each task's run, below the executor's")
    assert {span.attributes["request_id"] for span in runs()} == {execution["request_id"]}


def test_processes_stay_warm_over_there(running: RunningSystem) -> None:
    def pids() -> set[int]:
        output = running.wait_for_end(running.execute("work"), 60)["output"]
        return {output["first"]["pid"], output["left"], output["right"]}

    known = pids()
    for _ in range(5):
        known |= pids()
    assert len(known) <= 4, "two workers of two threads need no more processes than that"


@pytest.mark.parametrize("how", ["raise", "die"])
def test_what_goes_wrong_is_tried_again_by_our_rules(running: RunningSystem, tmp_path: Path, how: str) -> None:
    ended = running.wait_for_end(_faulty(running, tmp_path, how), 60)
    assert ended["status"] == "Completed"
    assert running.tasks(ended["execution_id"])["once"]["attempt"] == 2
    assert len((tmp_path / "mark").read_text().split()) == 2, "the cluster itself must not try again"


def test_a_timeout_is_reported_at_once_and_ends_the_process(running: RunningSystem, tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("0\n")
    began = time.monotonic()
    ended = running.wait_for_end(_faulty(running, tmp_path, "timeout"), 60)
    assert time.monotonic() - began < 20
    task = running.tasks(ended["execution_id"])["slow"]
    assert (task["status"], task["reason"]) == ("Failed", "timeout")
    pid = int((tmp_path / "mark.slow").read_text())
    wait_until(lambda: not psutil.pid_exists(pid), "the end of what cannot be stopped")


def test_what_is_cancelled_ends_over_there(running: RunningSystem, cluster: Cluster, tmp_path: Path) -> None:
    execution_id = _faulty(running, tmp_path, "hang")
    wait_until((tmp_path / "mark").exists, "the beginning")
    assert any(state == "processing" for state in cluster.tasks().values())
    running.client.call("POST", f"/v1/tenants/public/executions/{execution_id}/cancel", {})
    assert running.wait_for_end(execution_id, 60)["status"] == "Cancelled"
    pid = int((tmp_path / "mark").read_text())
    wait_until(lambda: not psutil.pid_exists(pid), "the end of the process")
    wait_until(lambda: "processing" not in cluster.tasks().values(), "a cluster with nothing to do")


def test_more_than_the_cluster_holds_waits_there_and_is_all_done(running: RunningSystem) -> None:
    ids = [running.execute("work") for _ in range(20)]
    assert {running.wait_for_end(execution_id, 90)["status"] for execution_id in ids} == {"Completed"}
    assert running.metric("executor", 'cloacina_executor_slots{state="busy"}') == 0


def test_a_lost_worker_of_the_cluster_costs_an_attempt(
    running: RunningSystem, cluster: Cluster, tmp_path: Path
) -> None:
    execution_id = _faulty(running, tmp_path, "hang")
    wait_until(lambda: (tmp_path / "mark").exists() and (tmp_path / "mark").read_text().strip(), "the beginning")
    pid = int((tmp_path / "mark").read_text())
    cluster.process(cluster.worker_of(pid)).send_signal(signal.SIGKILL)
    ended = running.wait_for_end(execution_id, 60)
    assert ended["status"] == "Completed"
    assert running.tasks(execution_id)["once"]["attempt"] == 2
    wait_until(lambda: not psutil.pid_exists(pid), "the end of the process with its host")
    lost = [line for line in running.log() if line.get("execution_id") == execution_id and "error" in line]
    assert any("was lost with its host" in line["error"] for line in lost), lost
    cluster.start()


def test_without_a_cluster_tasks_wait_and_the_reason_is_shown(running: RunningSystem, cluster: Cluster) -> None:
    cluster.stop()
    wait_until(lambda: running.status() != "ok", "the loss")
    (executor,) = [
        each for each in running.client.call("GET", "/v1/health/status")["services"] if each["service"] == "executor"
    ]
    assert f"Dask's scheduler at {cluster.address}" in json.dumps(executor)
    execution_id = running.execute("work")
    cluster.start()
    wait_until(lambda: running.status() == "ok", "the cluster's return", 60)
    ended = running.wait_for_end(execution_id, 60)
    assert ended["status"] == "Completed"
    assert running.tasks(execution_id)["first"]["attempt"] == 1


def test_a_stranger_reaches_nothing(running: RunningSystem) -> None:
    line = next(line for line in running.log() if line["message"] == "workers of the cluster are listened for")
    host, _, port = line["address"].rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((host, int(port)), 5) as plain, context.wrap_socket(plain) as connection:
        hello = {"token": "guessed", "version": __version__, "has_archive": True}
        connection.sendall(frames.encode(wire.HELLO, hello))
        connection.settimeout(10)
        assert connection.recv(100) == b""
    wait_until(lambda: any("was refused" in line["message"] for line in running.log()), "the line about it")
    assert running.wait_for_end(running.execute("work"), 60)["status"] == "Completed"
