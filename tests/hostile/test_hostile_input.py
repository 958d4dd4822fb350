"""Hostile and senseless input against a system started as a user starts it: Schemathesis over the whole OpenAPI
document, stateful too, and attempts to forge log lines."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloacina.cli.client import ApiFailure, read_bootstrap_key
from tests.system.running import RunningSystem, wait_until, write_package

HERE = Path(__file__).parent
BUDGET_S = int(os.environ.get("FUZZ_SECONDS", "45"))
"""Seconds of requests; more finds more: the figures in docs/security.md are those of 600."""

CASES_AT_LEAST = 100
KEK = base64.b64encode(bytes(range(32))).decode()

CODE = """
import cloaca


@cloaca.workflow_params(size=(int, 1))
@cloaca.task(id="work", retry_attempts=0)
def work(context):
    return context


@cloaca.trigger(poll_interval="1h")
def inbox():
    return cloaca.TriggerResult.skip()
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    folder = tmp_path_factory.mktemp("hostile")
    with RunningSystem(folder / "home", {"CLOACINA_SECRET_KEK": KEK}) as running:
        yield running


def _make_what_is_known(system: RunningSystem, folder: Path) -> dict[str, Any]:
    client = system.client
    client.call("POST", "/v1/tenants", {"name": "fuzz"})
    system.upload(write_package(folder, "fuzzed", CODE), "fuzz")
    base = "/v1/tenants/fuzz/workflows/fuzzed"
    client.call("POST", f"{base}/instances", {"instance_name": "one", "params": {"size": 2}})
    client.call("POST", "/v1/tenants/fuzz/secrets", {"name": "token", "fields": {"value": "x"}})
    executions = [client.call("POST", f"{base}/execute", {})["execution_id"] for _ in range(5)]
    (own,) = (key for key in client.call("GET", "/v1/auth/keys")["items"] if key["is_admin"])
    return {
        "tenant": "fuzz",
        "workflow": "fuzzed",
        "instance": "one",
        "trigger": "inbox",
        "secret": "token",
        "executions": executions,
        "key_id": own["id"],
    }


def _schemathesis(system: RunningSystem, known: dict[str, Any], phases: str, seconds: int) -> int:
    """Runs it; returns how many cases it tried."""
    command = [
        *(str(Path(sys.executable).with_name("st")), f"--config-file={HERE / 'schemathesis.toml'}", "--no-color"),
        *("run", f"{system.url}/openapi.json", "--header", f"Authorization: Bearer {read_bootstrap_key(system.home)}"),
        *("--phases", phases, "--max-examples", "20", "--max-time", str(seconds), "--seed", "1"),
        *("--continue-on-failure", "--request-timeout", "20", "--warnings", "off"),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "SCHEMATHESIS_HOOKS": "tests.hostile.schemathesis_hooks",
        "FUZZ_KNOWN": json.dumps(known),
    }
    run = subprocess.run(
        command,
        cwd=system.home.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds + 100,
        check=False,
    )
    print(run.stdout[-4000:])
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    for phase in phases.split(","):
        assert re.search(rf"✅ +{phase.capitalize()}", run.stdout), f"{phase}: {run.stdout[-4000:]}"
    cases = re.search(r"(\d+) generated", run.stdout)
    assert cases is not None, run.stdout[-2000:]
    return int(cases[1])


@pytest.mark.system
@pytest.mark.timeout(360)
def test_no_request_breaks_it_or_its_contract(system: RunningSystem, tmp_path: Path) -> None:
    known = _make_what_is_known(system, tmp_path)
    before = {service: system.process(service).pid for service in ("api", "scheduler", "reconciler", "executor")}
    assert _schemathesis(system, known, "coverage,fuzzing", 2 * BUDGET_S // 3) > CASES_AT_LEAST
    assert _schemathesis(system, known, "stateful", BUDGET_S // 3) > 0
    assert not re.search(r'cloacina_api_requests_total{[^}]*status="5', system.metrics("api"))
    after = {service: system.process(service).pid for service in before}
    assert after == before, "a service died"
    unexpected = [line for line in system.log() if "unexpectedly" in line["message"]]
    assert not unexpected


FORGED = '{"timestamp":"2026-01-01T00:00:00.000000Z","level":"ERROR","target":"forged","message":"forged line"}'


def _send(system: RunningSystem, path: str, headers: dict[str, str]) -> None:
    """Sends a request as it is, and reads the answer to its end."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", system.ports["CLOACINA_API_PORT"]), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
        while connection.recv(65536):
            pass


@pytest.mark.system
def test_no_log_line_is_forged(system: RunningSystem) -> None:
    key = {"Authorization": f"Bearer {read_bootstrap_key(system.home)}", "Host": "h"}
    for text in (f"x\n{FORGED}", f"x\r\n{FORGED}", "\x1b[2J\x1b[31mred", "\u2028\x85" + FORGED, "x\x00y"):
        quoted = urllib.parse.quote(text)
        for path in (f"/v1/tenants/public/workflows/{quoted}", f"/{quoted}", f"/v1/requests/{quoted}"):
            _send(system, path, key)
        for header in ("x-request-id", "traceparent", "User-Agent"):
            _send(system, "/v1/tenants/public/workflows/x", {**key, header: text})
        with contextlib.suppress(ApiFailure):
            system.client.call("POST", "/v1/tenants", {"name": text})
        with contextlib.suppress(ApiFailure):
            system.client.call("POST", "/v1/tenants/public/keys", {"name": text})
        with contextlib.suppress(ApiFailure):
            system.client.call("POST", "/v1/tenants/public/secrets", {"name": text, "fields": {text: text}})
    last = system.client
    last.call("GET", "/v1/auth/whoami")
    wait_until(lambda: any(line.get("request_id") == last.request_id for line in system.log()), "the last line")
    lines = (system.home / "logs" / "cloacina-server.log").read_bytes().split(b"\n")
    assert lines.pop() == b""
    for line in lines:
        entry = json.loads(line)
        assert list(entry)[:4] == ["timestamp", "level", "target", "message"]
        assert entry["target"] != "forged"
        assert not re.search(rb"[\x00-\x1f\x7f]", line)
    console = system.console.read_bytes()
    assert b"\x1b" not in console
    assert not re.search(rb"(?m)^" + re.escape(FORGED[:30].encode()), console)
