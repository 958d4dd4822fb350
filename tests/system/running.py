"""A system as a user starts it: `cloacinactl server start` on free ports and a home folder of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil

from cloacina.cli.client import ApiClient, ApiFailure, read_bootstrap_key
from cloacina.cli.supervisor import ports_of
from cloacina.packages import archive
from tests.ports import free_ports

READY_DEADLINE_S = 60.0
ENDED = frozenset(("Completed", "Failed", "Cancelled"))
_Value = TypeVar("_Value")


def wait_until(condition: Callable[[], _Value], what: str, deadline_s: float = 30.0) -> _Value:
    """The first true answer of `condition`.

    Raises:
        AssertionError: there was none within `deadline_s` seconds.
    """
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {deadline_s:g} s"
        time.sleep(0.02)
    return found


def end_of(console: Path) -> str:
    """The end of what processes wrote, for the message of a test."""
    return console.read_text(errors="replace")[-8000:]


def wait_for_start(
    process: subprocess.Popen[bytes],
    is_ready: Callable[[], bool],
    what: str,
    deadline_s: float,
    *,
    console: Path,
    stop: Callable[[], object],
) -> None:
    """Returns once a process that was just started is ready.

    Args:
        process: it.
        is_ready: asked again and again.
        what: is waited for, for the message.
        deadline_s: seconds it may take.
        console: what it writes to.
        stop: ends it when it is late: nobody else does, as there is no block to leave yet.

    Raises:
        AssertionError: it has ended, or is late; with the end of what it wrote.
    """
    try:
        wait_until(lambda: process.poll() is not None or is_ready(), what, deadline_s)
    except AssertionError as late:
        said = end_of(console)
        stop()
        raise AssertionError(f"{late}: {said}") from None
    assert process.poll() is None, end_of(console)


class RunningSystem:
    """The four services under their supervisor.

    Args:
        home: their home folder.
        environment: further environment variables.
        schedulers: how many.
    """

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None, *, schedulers: int = 1) -> None:
        self.home = home
        self._schedulers = schedulers
        variables = [port.variable for port in ports_of(schedulers)]
        self.ports = dict(zip(variables, free_ports(len(variables)), strict=True))
        scheme = "https" if "CLOACINA_API_TLS_CERT" in (environment or {}) else "http"
        self.url = f"{scheme}://127.0.0.1:{self.ports['CLOACINA_API_PORT']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLOACINA_", "OTEL_"))}
        self.environment = {
            **kept,
            **{name: str(port) for name, port in self.ports.items()},
            **(environment or {}),
        }
        self.supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningSystem:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def command(self) -> list[str]:
        """The command line of the supervisor."""
        command = [sys.executable, "-m", "cloacina.cli", "--home", str(self.home), "server", "start"]
        return command if self._schedulers == 1 else [*command, "--schedulers", str(self._schedulers)]

    @property
    def console(self) -> Path:
        """What the processes wrote to stderr."""
        return self.home.with_name(self.home.name + ".console")

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        with self.console.open("ab") as output:
            self.supervisor = subprocess.Popen(
                self.command, env=self.environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        wait_for_start(
            self.supervisor, self._is_ready, "readiness", READY_DEADLINE_S, console=self.console, stop=self.stop
        )

    def _is_ready(self) -> bool:
        return self.answers("/ready") and self._executor_is_connected()

    def _executor_is_connected(self) -> bool:
        return self.console.read_text(errors="replace").count("executor joined") >= self._schedulers

    def answers(self, path: str) -> bool:
        """Whether the API answers 200."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=2) as response:
                return bool(response.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> int:
        """Drains it; returns the exit code."""
        if self.supervisor is None:
            return 0
        supervisor, self.supervisor = self.supervisor, None
        if supervisor.poll() is None:
            supervisor.send_signal(signal.SIGTERM)
        try:
            return supervisor.wait(60)
        except subprocess.TimeoutExpired as late:
            left = ""
            for child in psutil.Process(supervisor.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    left += f"{child.pid} {child.status()} {' '.join(child.cmdline()[:4])}\n"
                    child.kill()
            supervisor.kill()
            supervisor.wait()
            raise AssertionError(f"{late}; there were still\n{left}{end_of(self.console)}") from None

    # What it is made of

    def process(self, service: str) -> psutil.Process:
        """The process of a service, as it is now.

        Args:
            service: its name; of the schedulers beyond the first with its number, ``scheduler-2``.
        """
        assert self.supervisor is not None
        name, _, number = service.partition("-")
        found = [child for child in psutil.Process(self.supervisor.pid).children() if _runs(child, name)]
        if name != "scheduler":
            return next(iter(found))
        port = self.ports[f"CLOACINA_SCHEDULER_{number}_RPC_PORT" if number else "CLOACINA_SCHEDULER_RPC_PORT"]
        return next(child for child in found if child.environ().get("CLOACINA_SCHEDULER_RPC_PORT") == str(port))

    def kill(self, service: str) -> psutil.Process:
        """Ends a service like a crash of its machine does: without a word. Returns what was killed."""
        killed = self.process(service)
        killed.send_signal(signal.SIGKILL)
        return killed

    def wait_for_successor(self, killed: psutil.Process, service: str) -> None:
        """Returns once the supervisor has started the service again and the system is as it was."""

        def is_back() -> bool:
            try:
                return self.process(service).pid != killed.pid and self._is_whole()
            except (StopIteration, psutil.Error, ApiFailure):
                return False

        wait_until(is_back, f"the restart of the {service}")

    def _is_whole(self) -> bool:
        """Whether every service is well, and the scheduler follows the registry."""
        found = self.client.call("GET", "/v1/health/status")
        (scheduler,) = (each for each in found["services"] if each["service"] == "scheduler")
        return bool(found["status"] == "ok" and scheduler["figures"].get("registry_followed"))

    def status(self) -> str:
        """What GET /v1/health/status says in a word."""
        return str(self.client.call("GET", "/v1/health/status")["status"])

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        (server,) = self.process("executor").children()
        return server.children()

    # What it says

    @property
    def client(self) -> ApiClient:
        """A client with the bootstrap key."""
        return ApiClient(self.url, read_bootstrap_key(self.home))

    def metrics(self, service: str) -> str:
        """The text of a service's /metrics."""
        variable = "CLOACINA_API_PORT" if service == "api" else f"CLOACINA_{service.upper()}_METRICS_PORT"
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[variable]}/metrics", timeout=5) as response:
            return str(response.read().decode())

    def metric(self, service: str, sample: str) -> float:
        """One sample of a service's metrics, such as ``cloacina_active_workflows``; 0.0 when it is not there."""
        for line in self.metrics(service).splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    def log(self) -> Iterator[dict[str, Any]]:
        """The lines of the JSON log."""
        with (self.home / "logs" / "cloacina-server.log").open() as file:
            for line in file:
                yield json.loads(line)

    # What users do

    def upload(self, folder: Path, tenant: str = "public") -> Any:
        """Packs a folder and uploads it."""
        return self.client.upload(f"/v1/tenants/{tenant}/workflows", f"{folder.name}.cloacina", archive.pack(folder))

    def execute(self, workflow: str, context: Mapping[str, Any] | None = None) -> str:
        """Executes a workflow; returns the execution's id."""
        path = f"/v1/tenants/public/workflows/{workflow}/execute"
        return str(self.client.call("POST", path, {"context": dict(context or {})})["execution_id"])

    def execution(self, execution_id: str) -> Any:
        """An execution."""
        return self.client.call("GET", f"/v1/tenants/public/executions/{execution_id}")

    def tasks(self, execution_id: str) -> dict[str, Any]:
        """Its tasks by name."""
        found = self.client.call("GET", f"/v1/tenants/public/executions/{execution_id}/tasks")["tasks"]
        return {task["task_name"]: task for task in found}

    def events(self, execution_id: str) -> list[tuple[str, str | None]]:
        """Its events: type and task."""
        found = self.client.call("GET", f"/v1/tenants/public/executions/{execution_id}/events")["events"]
        return [(event["event_type"], event["task_name"]) for event in found]

    def wait_for_end(self, execution_id: str, deadline_s: float = 30.0) -> Any:
        """The execution once it has ended."""

        def ended() -> Any:
            found = self.execution(execution_id)
            return found if found["status"] in ENDED else None

        return wait_until(ended, f"the end of execution {execution_id}", deadline_s)


def _runs(process: psutil.Process, service: str) -> bool:
    """Whether a process, which may have just ended, is one of a service."""
    try:
        return f"services.{service}" in process.cmdline()
    except psutil.Error:
        return False


def write_package(folder: Path, name: str, code: str, version: str = "1.0.0") -> Path:
    """Writes a package whose tasks are `code`; returns its folder."""
    module = name.replace("-", "_")
    inside = folder / name / "workflow" / module
    inside.mkdir(parents=True)
    (folder / name / "package.toml").write_text(
        f'[package]\nname = "{name}"\nversion = "{version}"\n\n[metadata]\nworkflow_name = "{module}"\n'
    )
    (inside / "__init__.py").write_text("")
    (inside / "tasks.py").write_text(code)
    return folder / name
