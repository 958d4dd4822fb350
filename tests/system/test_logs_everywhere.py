"""The lines of an execution are there wherever they were logged and whichever gateway is asked, also when the log files
are gone: every service here has a home folder of its own, as on machines of their own.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloacina.cli.client import ApiClient, ApiFailure
from cloacina.packages import archive
from tests.log_schema import faults
from tests.ports import free_ports
from tests.postgres import PostgresServer, postgres_server
from tests.system.running import wait_until, write_package

__all__ = ["postgres_server"]
pytestmark = pytest.mark.xdist_group("machines")
_KEY = "clk_key-of-the-machines-0123456789abcdef"
_SECRET = "correct-horse-battery-staple"

SAYING = f"""
import logging
import sys
import time
from pathlib import Path

import cloaca

log = logging.getLogger("author")


@cloaca.workflow_secrets("vault")
@cloaca.task(id="say", retry_attempts=2, retry_delay_ms=20)
def say(context):
    log.info("begins", extra={{"flavour": "plum"}})
    print("printed {_SECRET} twice", context.secret_field("vault", "token"))
    until = context.get("until")
    while until and not Path(until).exists():
        time.sleep(0.02)
    if context.get("fail"):
        raise ValueError("no more plums")
    return context


@cloaca.task(id="flood", dependencies=["say"])
def flood(context):
    for number in range(context.get("flood", 0)):
        log.info("%d %s", number, "x" * 200)
    log.warning("flooded")
    return context
"""


class Machines:
    """Services that share nothing but the network.

    Args:
        folder: their homes are in it.
        settings: of all of them.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        names = ("API", "GATEWAY", "API_RPC", "GATEWAY_RPC", "SCHEDULER", "SCHEDULER_METRICS", "RECONCILER")
        more = ("RECONCILER_METRICS", "EXECUTOR", "EXECUTOR_METRICS")
        ports = dict(zip((*names, *more), map(str, free_ports(10)), strict=True))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLOACINA_", "OTEL_"))}
        self.folder = folder
        self.ports = ports
        self.environment = {
            **kept,
            "CLOACINA_RPC_TOKEN": "between machines",
            "CLOACINA_BOOTSTRAP_KEY": _KEY,
            "CLOACINA_API_PORT": ports["API"],
            "CLOACINA_API_RPC_PORT": ports["API_RPC"],
            "CLOACINA_SCHEDULER_RPC_PORT": ports["SCHEDULER"],
            "CLOACINA_SCHEDULER_METRICS_PORT": ports["SCHEDULER_METRICS"],
            "CLOACINA_RECONCILER_RPC_PORT": ports["RECONCILER"],
            "CLOACINA_RECONCILER_METRICS_PORT": ports["RECONCILER_METRICS"],
            "CLOACINA_EXECUTOR_RPC_PORT": ports["EXECUTOR"],
            "CLOACINA_EXECUTOR_METRICS_PORT": ports["EXECUTOR_METRICS"],
            **{
                f"CLOACINA_{name}_TARGET": f"127.0.0.1:{ports[name]}"
                for name in ("SCHEDULER", "RECONCILER", "EXECUTOR")
            },
            **settings,
        }

    @contextmanager
    def service(self, name: str, machine: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """One process, until the end of the block."""
        home = self.folder / machine
        with (self.folder / f"{machine}.console").open("ab") as console:
            process = subprocess.Popen(
                [sys.executable, "-m", f"services.{name}"],
                env={**self.environment, "CLOACINA_HOME": str(home), **settings},
                stdout=console,
                stderr=console,
                stdin=subprocess.DEVNULL,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def client(self, gateway: str) -> ApiClient:
        """A client of one of the gateways."""
        return ApiClient(f"http://127.0.0.1:{self.ports[gateway]}", _KEY)

    def forget_log_files(self) -> None:
        """What was logged is in no file any more."""
        for logs in self.folder.glob("*/logs"):
            shutil.rmtree(logs)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Machines]:
    """Two gateways, a scheduler, a reconciler and an executor, with a package and its secret."""
    folder = tmp_path_factory.mktemp("machines")
    settings = {
        "CLOACINA_DATABASE_URL": postgres_server.new_database(),
        "CLOACINA_SECRET_KEK": base64.b64encode(bytes(range(32))).decode(),
        "CLOACINA_EXECUTION_LOG_KB": "64",
        "CLOACINA_API_TENANT_DRAIN_S": "0.5",
    }
    machines = Machines(folder, settings)
    with ExitStack() as stack:
        for name in ("reconciler", "scheduler", "executor"):
            stack.enter_context(machines.service(name, name))
        stack.enter_context(machines.service("api", "api"))
        wait_until(lambda: _is_ready(machines, "API"), "readiness", 60)
        other = {"CLOACINA_API_PORT": machines.ports["GATEWAY"], "CLOACINA_API_RPC_PORT": machines.ports["GATEWAY_RPC"]}
        stack.enter_context(machines.service("api", "gateway", **other))
        wait_until(lambda: _is_ready(machines, "GATEWAY"), "readiness of the other gateway", 60)
        client = machines.client("API")
        archived = archive.pack(write_package(folder, "saying", SAYING))
        for tenant in ("public", "acme"):
            if tenant != "public":
                client.call("POST", "/v1/tenants", {"name": tenant})
            client.upload(f"/v1/tenants/{tenant}/workflows", "saying.cloacina", archived)
            secret = {"name": "vault", "fields": {"token": _SECRET}}
            client.call("POST", f"/v1/tenants/{tenant}/secrets", secret)
        yield machines


def _is_ready(machines: Machines, gateway: str) -> bool:
    try:
        machines.client(gateway).call("GET", "/ready")
    except ApiFailure:
        return False
    return True


def _execute(machines: Machines, tenant: str = "public", **context: Any) -> tuple[str, str]:
    """An execution and the request that began it."""
    client = machines.client("API")
    begun = client.call("POST", f"/v1/tenants/{tenant}/workflows/saying/execute", {"context": context})
    return str(begun["execution_id"]), client.request_id


def _status(machines: Machines, execution_id: str, tenant: str = "public") -> str:
    return str(machines.client("API").call("GET", f"/v1/tenants/{tenant}/executions/{execution_id}")["status"])


def _lines(machines: Machines, execution_id: str, gateway: str = "GATEWAY", **query: object) -> list[dict[str, Any]]:
    """All lines of an execution, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        path = f"/v1/tenants/public/executions/{execution_id}/logs?{urllib.parse.urlencode(query)}"
        page = machines.client(gateway).call("GET", path)
        found += page["lines"]
        query["cursor"] = page["next_cursor"]
        if page["complete"]:
            return found


def _said(lines: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for line in lines]


def test_they_are_there_while_it_runs_and_at_either_gateway(machines: Machines, tmp_path: Path) -> None:
    until = tmp_path / "until"
    execution_id, request_id = _execute(machines, until=str(until))
    wait_until(lambda: "begins" in _said(_lines(machines, execution_id)), "its line while it runs")
    assert _status(machines, execution_id) == "Running"
    until.touch()
    wait_until(lambda: "flooded" in _said(_lines(machines, execution_id)), "its last line")
    wait_until(lambda: "execution completed" in _said(_lines(machines, execution_id)), "its end")
    lines = _lines(machines, execution_id)
    assert lines == _lines(machines, execution_id, "API") == _lines(machines, execution_id, limit=2)
    assert [line["timestamp"] for line in lines] == sorted(line["timestamp"] for line in lines)
    for line in lines:
        assert faults(line) == []
        assert (line["execution_id"], line["request_id"]) == (execution_id, request_id)
    (begins,) = [line for line in lines if line["message"] == "begins"]
    assert (begins["service"], begins["task_name"], begins["flavour"]) == ("executor", "say", "plum")
    assert {"execution scheduled", "task started", "task completed"} <= set(_said(lines))


def test_they_outlive_the_log_files_and_have_the_tracebacks(machines: Machines) -> None:
    execution_id, request_id = _execute(machines, fail=True)
    wait_until(lambda: _status(machines, execution_id) == "Failed", "its end")
    wait_until(lambda: _said(_lines(machines, execution_id)).count("task attempt failed") == 2, "both tracebacks")
    wait_until(lambda: "execution failed" in _said(_lines(machines, execution_id)), "the line of the end")
    machines.forget_log_files()
    lines = _lines(machines, execution_id, level="warn")
    failed = [line for line in lines if line["message"] == "task attempt failed"]
    assert [line["attempt"] for line in failed] == [1, 2]
    assert all("no more plums" in line["exception"].splitlines()[-1] for line in failed)
    assert _said(lines)[-1] == "execution failed"
    found = machines.client("GATEWAY").call("GET", f"/v1/requests/{request_id}?level=warn")
    assert found["lines"] == lines


def test_values_of_secrets_are_in_none_of_them(machines: Machines) -> None:
    execution_id, _ = _execute(machines)
    printed = "printed [secret vault] twice [secret vault]"
    wait_until(lambda: printed in _said(_lines(machines, execution_id)), "what it printed")
    assert _SECRET not in json.dumps(_lines(machines, execution_id))


def test_one_that_says_more_than_is_kept_is_truncated_and_says_so(machines: Machines) -> None:
    loud, _ = _execute(machines, flood=2000)
    quiet, _ = _execute(machines)
    wait_until(lambda: _status(machines, loud) == "Completed", "its end", 60)
    wait_until(lambda: any("truncated" in said for said in _said(_lines(machines, loud))), "the line that says so", 60)
    lines = _lines(machines, loud)
    numbers = [int(line["message"].split()[0]) for line in lines if line["message"][0].isdigit()]
    assert numbers == list(range(len(numbers)))
    assert 50 < len(numbers) < 1000
    assert "execution completed" in _said(lines), "what its events say is whole"
    wait_until(lambda: "flooded" in _said(_lines(machines, quiet)), "the lines of the quiet one")


def test_who_cancelled_it_is_among_them(machines: Machines, tmp_path: Path) -> None:
    execution_id, _ = _execute(machines, until=str(tmp_path / "never"))
    wait_until(lambda: "begins" in _said(_lines(machines, execution_id)), "its first line")
    client = machines.client("GATEWAY")
    client.call("POST", f"/v1/tenants/public/executions/{execution_id}/cancel")
    route = "POST /v1/tenants/{tenant_id}/executions/{exec_id}/cancel 200"
    wait_until(lambda: route in _said(_lines(machines, execution_id)), "the line of the gateway")
    (cancelled,) = [line for line in _lines(machines, execution_id) if line["message"] == route]
    assert cancelled["request_id"] == client.request_id


def test_they_go_with_their_tenant(machines: Machines, postgres_server: PostgresServer) -> None:
    execution_id, _ = _execute(machines, "acme")
    client = machines.client("API")
    path = f"/v1/tenants/acme/executions/{execution_id}/logs"
    wait_until(lambda: "flooded" in _said(client.call("GET", path)["lines"]), "its last line")
    with pytest.raises(ApiFailure) as refused:
        client.call("GET", f"/v1/tenants/public/executions/{execution_id}/logs")
    assert refused.value.status == 404
    database = machines.environment["CLOACINA_DATABASE_URL"]
    kept = f"SELECT count(*) FROM cloacina_scheduler.execution_logs WHERE execution_id = '{execution_id}'"
    assert int(postgres_server.query(kept, database)) > 0
    client.call("DELETE", "/v1/tenants/acme")
    assert int(postgres_server.query(kept, database)) == 0
