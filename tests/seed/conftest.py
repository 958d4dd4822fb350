"""One running system for all statements, and a real Prometheus that scrapes it as the guide says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.debian import program
from tests.deploy.prometheus_server import PrometheusServer
from tests.ports import free_ports
from tests.system.running import RunningSystem, wait_until, write_package

SERVICES = ("api", "scheduler", "reconciler", "executor")

ETL = """
import logging
import time

import cloaca

log = logging.getLogger("author")


@cloaca.task(id="extract")
def extract(context):
    log.info("rows read")
    if context.get("log_error"):
        log.error("rows are missing")
    time.sleep(context.get("seconds") or 0)
    return context


@cloaca.task(id="load", dependencies=["extract"], retry_attempts=1)
def load(context):
    if context.get("fail"):
        raise ValueError("the table is locked")
    return context
"""


@dataclass(frozen=True)
class Answer:
    """What a request came back with."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class UsersSystem(RunningSystem):
    """``cloacinactl server start`` typed by a user: the home folder is ~/.cloacina, the levels are the environment's.

    Args:
        user: the user's home folder.
        environment: further environment variables.
        options: of cloacinactl, such as ``-v``.
    """

    def __init__(self, user: Path, environment: Mapping[str, str] | None = None, options: tuple[str, ...] = ()) -> None:
        user.mkdir(parents=True, exist_ok=True)
        super().__init__(user / ".cloacina", {"HOME": str(user), **(environment or {})})
        self.user = user
        self.options = options

    @property
    def command(self) -> list[str]:
        return [str(CLOACINACTL), *self.options, "server", "start"]

    @property
    def console(self) -> Path:
        return self.user.with_name(self.user.name + ".console")


CLOACINACTL = Path(sys.executable).with_name("cloacinactl")


@dataclass
class Operated:
    """The system as its operators have it: HTTP, log files, the shell.

    Args:
        system: the processes.
        started: executions by what was asked of them: "completed", "failed".
    """

    system: UsersSystem
    started: dict[str, Answer] = field(default_factory=dict)

    def request(self, method: str, path: str, body: Any = None, *, key: bool = True, **headers: str) -> Answer:
        """Sends an HTTP request; every status is an answer."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            given["Authorization"] = "Bearer " + (self.system.home / "bootstrap-key").read_text().strip()
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.system.url + path, data=data, method=method, headers=given)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return Answer(response.status, _lower(response.headers), response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, _lower(error.headers), error.read())

    def execute(self, **context: Any) -> Answer:
        """Executes the workflow etl of the tenant acme."""
        answer = self.request("POST", "/v1/tenants/acme/workflows/etl/execute", {"context": context})
        assert answer.status == 202, answer.body
        return answer

    def end(self, started: Answer) -> Any:
        """The execution once it has ended and said so in the log."""
        execution_id = started.json["execution_id"]
        path = f"/v1/tenants/acme/executions/{execution_id}"

        def said() -> bool:
            lines = [line for line in self.system.log() if line.get("execution_id") == execution_id]
            return any(line["message"] in ("execution completed", "execution failed") for line in lines)

        wait_until(said, f"the end of {execution_id}")
        return self.request("GET", path).json

    @property
    def log_file(self) -> Path:
        """The path that the guide names, in this home."""
        return self.system.home / "logs" / "cloacina-server.log"

    def shell(self, commands: str, **variables: str) -> str:
        """What the user's shell says to commands that are typed as the guide has them; they must succeed.

        Args:
            commands: as in the guide.
            variables: of the shell, such as REQUEST_ID.
        """
        path = f"{CLOACINACTL.parent}{os.pathsep}{os.environ['PATH']}"
        server = {"CLOACINA_SERVER": self.system.url}  # what is not on the port of the guide
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            env={**self.system.environment, "PATH": path, **server, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def jq(self, commands: str, **variables: str) -> list[Any]:
        """The objects that a recipe with `jq` finds."""
        program("jq", "jq")
        text, found = self.shell(commands, **variables).strip(), []
        while text:
            line, end = json.JSONDecoder().raw_decode(text)
            found.append(line)
            text = text[end:].lstrip()
        return found

    def lines(self, **wanted: Any) -> list[dict[str, Any]]:
        """The lines of the log whose fields have these values."""
        return [line for line in self.system.log() if all(line.get(name) == value for name, value in wanted.items())]

    def cloacinactl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command."""
        command = [str(CLOACINACTL), "--server", self.system.url, *arguments]
        return subprocess.run(
            command, env=self.system.environment, capture_output=True, text=True, check=False, timeout=60
        )


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def prepare(operated: Operated, folder: Path) -> None:
    """Makes the tenant acme with its workflow etl, and lets it complete and fail once."""
    system = operated.system
    assert operated.request("POST", "/v1/tenants", {"name": "acme"}).status == 201
    system.upload(write_package(folder, "etl", ETL), tenant="acme")
    operated.started["completed"] = operated.execute()
    operated.started["failed"] = operated.execute(fail=True)
    for started in operated.started.values():
        operated.end(started)


@pytest.fixture(scope="session")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """A system with work that completed and work that failed."""
    folder = tmp_path_factory.mktemp("seed")
    with UsersSystem(folder / "ops") as system:
        operated = Operated(system)
        prepare(operated, folder)
        yield operated


@pytest.fixture(scope="session")
def prometheus(operated: Operated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """A Prometheus with the guide's scrape configuration, for all four services."""
    folder = tmp_path_factory.mktemp("prometheus")
    ports = operated.system.ports
    variables = ["CLOACINA_API_PORT", *(f"CLOACINA_{each.upper()}_METRICS_PORT" for each in SERVICES[1:])]
    targets = ", ".join(f"'127.0.0.1:{ports[variable]}'" for variable in variables)
    configuration = folder / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: cloacina\n"
        "    static_configs:\n"
        f"      - targets: [{targets}]\n"
        "    metrics_path: /metrics\n"
    )
    executable = program("prometheus", "prometheus")
    with PrometheusServer(executable, configuration, folder, free_ports(1)[0]) as server:
        wait_until(lambda: server.values("count(up == 1)") == [4.0], "four services that are scraped")
        yield server
