"""Secrets on a running system: they reach the tasks of the workflow that declares them, and nothing else holds them."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloacina.cli.client import ApiFailure, read_bootstrap_key
from tests.otlp_collector import Collector
from tests.system.running import RunningSystem, wait_until, write_package

KEK = base64.b64encode(bytes(range(32))).decode()
TOKEN = "t0ken-of-the-0ncall/&=+ api"
ROTATED = "r0tated-and-altogether-another"
PASSWORD = 'p4ss"word\\with quotes\nand-a-second-line'
VALUES = (TOKEN, ROTATED, PASSWORD, "and-a-second-line", 'p4ss"word')

COURIER = """
import hashlib
import json
import logging
import sys
import urllib.parse

import cloaca

log = logging.getLogger("courier")


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


@cloaca.workflow_secrets("api_token", "db")
@cloaca.workflow_params(channel=(str, "#ops"), fail=(bool, False))
@cloaca.task(id="read", retry_attempts=1, on_success=lambda task, context: log.info(
    "called back with %s", context.secret_field("api_token", "token")))
def read(context):
    token = context.secret_field("api_token", "token")
    print("the token is", token, "of", context.secret("db"))
    print(urllib.parse.quote(token), json.dumps(context.secret("db")))
    print(context.secret_field("db", "password"), file=sys.stderr)
    log.warning("token %s", token, extra={"token": token, "nested": {"token": token}})
    context.set("token", digest(token))
    try:
        context.set("by_its_own_name", digest(context.secret_field("oncall", "token")))
    except PermissionError:
        context.set("by_its_own_name", "bound to another")
    if context.get("fail"):
        raise RuntimeError("refused by https://user:" + token + "@example.org")
    context.set("__cloacina_secret_refs__", {"api_token": "db"})
    return context


@cloaca.task(id="read_later", dependencies=["read"])
async def read_later(context):
    context.set("later", digest(context.secret_field("api_token", "token")))
    context.set("db", sorted(context.secret("db")))
    for name in ("other", "nonsense"):
        try:
            context.secret(name)
        except PermissionError:
            context.set(name, "not granted")
    try:
        context.secret_field("db", "port")
    except KeyError:
        context.set("port", "no such field")
    return context
"""

STRANGER = """
import cloaca


@cloaca.task(id="pry")
def pry(context):
    try:
        context.secret("oncall")
    except PermissionError as refused:
        context.set("refused", str(refused))
    return context
"""

LONELY = """
import cloaca


@cloaca.workflow_secrets("absent")
@cloaca.task(id="look", retry_attempts=1)
def look(context):
    try:
        context.secret("absent")
    except KeyError as missing:
        context.set("missing", str(missing))
    return context
"""

BIND = {"api_token": {"$secret": "oncall"}, "db": {"$secret": "db"}}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    folder = tmp_path_factory.mktemp("secrets")
    with RunningSystem(folder / "home", {"CLOACINA_SECRET_KEK": KEK, "CLOACINA_LOG": "debug"}) as running:
        for name, code in (("courier", COURIER), ("stranger", STRANGER), ("lonely", LONELY)):
            running.upload(write_package(folder, name, code))
        _create(running, "oncall", {"token": TOKEN})
        _create(running, "db", {"user": "svc-user", "password": PASSWORD})
        _create(running, "other", {"x": "other-value-nobody-reads"})
        yield running


def _create(system: RunningSystem, name: str, fields: dict[str, str]) -> Any:
    return system.client.call("POST", "/v1/tenants/public/secrets", {"name": name, "fields": fields})


def _rotate(system: RunningSystem, name: str, fields: dict[str, str]) -> Any:
    return system.client.call("PUT", f"/v1/tenants/public/secrets/{name}", {"fields": fields})


def _run(system: RunningSystem, workflow: str, context: dict[str, Any]) -> Any:
    return system.wait_for_end(system.execute(workflow, context))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _holding(system: RunningSystem, value: str) -> list[str]:
    """The files of the system that hold a value, as it is or as it looks in JSON."""
    forms = {value.encode(), value.encode("unicode_escape"), base64.b64encode(value.encode())}
    files = [path for path in (*system.home.rglob("*"), system.console) if path.is_file()]
    assert any(path.name == "registry.db" for path in files)
    found = []
    for path in files:
        content = path.read_bytes()
        found += [str(path) for form in forms if form in content]
    return found


def test_every_task_of_the_declaring_workflow_reads_what_the_execution_bound(system: RunningSystem) -> None:
    ended = _run(system, "courier", BIND)
    assert ended["status"] == "Completed", system.tasks(ended["execution_id"])
    output = ended["output"]
    assert output["token"] == output["later"] == output["by_its_own_name"] == _digest(TOKEN)
    assert output["db"] == ["password", "user"]
    assert (output["other"], output["nonsense"]) == ("not granted", "not granted")
    assert output["port"] == "no such field"


def test_a_secret_that_is_not_bound_is_the_one_of_the_declared_name(system: RunningSystem) -> None:
    ended = _run(system, "courier", {"api_token": {"$secret": "oncall"}})
    assert ended["output"]["db"] == ["password", "user"]


def test_a_workflow_that_declares_none_gets_none(system: RunningSystem) -> None:
    ended = _run(system, "stranger", {})
    assert "not granted" in ended["output"]["refused"]


def test_what_is_declared_and_not_there_is_a_key_error_to_who_reads_it(system: RunningSystem) -> None:
    ended = _run(system, "lonely", {})
    assert ended["status"] == "Completed"
    assert "secret not found: 'absent'" in ended["output"]["missing"]


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({"api_token": "a-plain-text-token"}, "never as a plain value"),
        ({"api_token": {"$secret": "oncall", "x": 1}}, "and nothing else"),
        ({"api_token": {"$secret": ""}}, "and nothing else"),
        ({"channel": {"$secret": "oncall"}}, "declares no secret 'channel'"),
        ({"__cloacina_secret_refs__": {"api_token": "db"}}, "reserved"),
    ],
)
def test_bindings_are_checked_before_anything_runs(system: RunningSystem, context: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiFailure, match=said) as refused:
        system.execute("courier", context)
    assert "workflow_input_invalid" in str(refused.value)
    assert "a-plain-text-token" not in str(refused.value)


def test_the_error_of_a_task_is_kept_without_the_value(system: RunningSystem) -> None:
    ended = _run(system, "courier", {**BIND, "fail": True})
    assert ended["status"] == "Failed"
    read = system.tasks(ended["execution_id"])["read"]
    assert read["last_error"] == "RuntimeError: refused by https://user:[secret oncall]@example.org"
    assert "[secret oncall]" in read["error_details"]
    assert TOKEN not in read["error_details"]


def test_what_tasks_print_and_log_is_written_without_the_values(system: RunningSystem) -> None:
    ended = _run(system, "courier", BIND)

    def lines() -> list[dict[str, Any]]:
        mine = [line for line in system.log() if line.get("execution_id") == ended["execution_id"]]
        return [line for line in mine if line["target"] == "task.courier.read"]

    wait_until(lambda: any("called back" in line["message"] for line in lines()), "the last line of the task")
    said = " ".join(line["message"] for line in lines())
    assert "the token is [secret oncall] of" in said
    assert "called back with [secret oncall]" in said
    assert any(line.get("token") == "[secret oncall]" for line in lines())


def test_a_rotated_secret_is_what_the_next_run_reads(system: RunningSystem) -> None:
    rotated = _rotate(system, "oncall", {"token": ROTATED})
    assert rotated["version"] == 2
    assert _run(system, "courier", BIND)["output"]["token"] == _digest(ROTATED)
    _rotate(system, "oncall", {"token": TOKEN})
    assert _run(system, "courier", BIND)["output"]["token"] == _digest(TOKEN)


def test_a_deleted_secret_fails_the_task_with_its_name(system: RunningSystem) -> None:
    _create(system, "short_lived", {"token": TOKEN})
    system.client.call("DELETE", "/v1/tenants/public/secrets/short_lived")
    ended = _run(system, "courier", {"api_token": {"$secret": "short_lived"}})
    assert ended["status"] == "Failed"
    read = system.tasks(ended["execution_id"])["read"]
    assert read["reason"] == "validation_failed"
    assert read["last_error"] == "the tenant has no secret 'short_lived' (bound to 'api_token')"


def test_what_was_given_to_whom_is_in_the_log_under_the_request(system: RunningSystem) -> None:
    started = system.client.call(
        "POST",
        "/v1/tenants/public/workflows/courier/execute",
        {"context": BIND},
        headers={"x-request-id": "who-read-the-token"},
    )
    system.wait_for_end(started["execution_id"])

    def given() -> list[dict[str, Any]]:
        mine = [line for line in system.log() if line.get("request_id") == "who-read-the-token"]
        return [line for line in mine if line["message"] == "secrets given to a task"]

    wait_until(lambda: len(given()) == 2, "the audit lines")
    line = given()[0]
    assert (line["service"], line["workflow_name"], line["task_name"]) == ("reconciler", "courier", "read")
    assert line["execution_id"] == started["execution_id"]
    assert line["secrets"] == ["oncall", "db"]
    assert system.metric("reconciler", 'cloacina_reconciler_secret_resolutions_total{outcome="resolved"}') >= 2


def test_the_key_is_in_the_environment_of_the_reconciler_only(system: RunningSystem) -> None:
    assert system.process("reconciler").environ()["CLOACINA_SECRET_KEK"] == KEK
    for service in ("api", "scheduler", "executor"):
        assert "CLOACINA_SECRET_KEK" not in system.process(service).environ()
    for worker in system.workers():
        assert KEK not in worker.environ().values()


def _command(system: RunningSystem, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cloacina.cli", "--server", system.url, *arguments]
    environment = {**os.environ, "CLOACINA_API_KEY": read_bootstrap_key(system.home)}
    return subprocess.run(
        command, env=environment, input=given, capture_output=True, text=True, timeout=30, check=False
    )


def test_the_command_takes_values_from_files_and_standard_input(system: RunningSystem, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    made = _command(
        system, "secret", "create", "by_hand", "-f", f"password=@{file}", "-f", "token=-", given=TOKEN + "\n"
    )
    assert made.returncode == 0, made.stderr
    assert TOKEN not in made.stdout + made.stderr
    bound = {"api_token": {"$secret": "by_hand"}}
    assert _run(system, "courier", bound)["output"]["token"] == _digest(TOKEN)

    assert "by_hand" in _command(system, "-o", "id", "secret", "list").stdout.split()
    rotated = _command(system, "secret", "rotate", "by_hand", "-f", "token", given=ROTATED + "\n")
    assert rotated.returncode == 0, rotated.stderr
    assert _run(system, "courier", bound)["output"]["token"] == _digest(ROTATED)
    shown = _command(system, "--json", "secret", "get", "by_hand")
    assert '"version": 2' in shown.stdout

    assert _command(system, "secret", "delete", "by_hand", given="n\n").returncode != 0
    assert _command(system, "secret", "delete", "by_hand", "--force").returncode == 0
    assert _command(system, "secret", "get", "by_hand").returncode == 3
    refused = _command(system, "secret", "create", "x", "-f", "token=visible-to-all")
    assert refused.returncode == 1
    assert "can be seen by others" in refused.stderr
    assert _command(system, "secret", "create", "x", "--literal", "token=knowingly-visible").returncode == 0


def test_a_reconciler_that_does_not_answer_holds_up_nothing_else(system: RunningSystem) -> None:
    for workflow, context in (("stranger", {}), ("courier", BIND)):  # their packages are on the executor's disk
        _run(system, workflow, context)
    reconciler = system.process("reconciler")
    reconciler.suspend()
    try:
        cancelled, waiting = system.execute("courier", BIND), system.execute("courier", BIND)
        for each in (cancelled, waiting):
            wait_until(lambda each=each: ("task_claimed", "read") in system.events(each), "the claim")
        system.client.call("POST", f"/v1/tenants/public/executions/{cancelled}/cancel", {})
        assert system.wait_for_end(cancelled, 4.0)["status"] == "Cancelled"
        assert _run(system, "stranger", {})["status"] == "Completed"
        assert system.wait_for_end(waiting)["status"] == "Failed"
    finally:
        reconciler.resume()
    read = system.tasks(waiting)["read"]
    assert read["reason"] == "infrastructure"
    assert "the reconciler did not answer in time" in read["last_error"]
    assert _run(system, "courier", BIND)["status"] == "Completed"


def test_no_file_holds_a_value_or_the_key(system: RunningSystem) -> None:
    """Last of those that use the running system: whatever they did is in its files."""
    assert _run(system, "courier", BIND)["status"] == "Completed"
    assert _holding(system, _digest(TOKEN)), "what a task puts into its context is found"
    for value in (*VALUES, "svc-user", "other-value-nobody-reads", KEK):
        assert _holding(system, value) == [], value


def test_another_key_opens_nothing_and_both_put_all_under_the_new(system: RunningSystem) -> None:
    """The last: it restarts the system."""
    other = base64.b64encode(bytes(32)).decode()
    system.stop()
    system.environment["CLOACINA_SECRET_KEK"] = other
    system.start()
    ended = _run(system, "courier", BIND)
    read = system.tasks(ended["execution_id"])["read"]
    assert (ended["status"], read["reason"]) == ("Failed", "infrastructure")
    assert "was encrypted with another key" in read["last_error"]

    for former in (KEK, ""):  # with the former key once; then it can be taken away
        system.stop()
        system.environment["CLOACINA_SECRET_KEK_OLD"] = former
        system.start()
        assert _run(system, "courier", BIND)["output"]["token"] == _digest(TOKEN)


def test_without_a_key_there_are_no_secrets(tmp_path: Path) -> None:
    with RunningSystem(tmp_path / "home") as bare:
        with pytest.raises(ApiFailure, match="secrets_not_configured") as refused:
            _create(bare, "any", {"x": "y"})
        assert refused.value.status == 503
        bare.upload(write_package(tmp_path, "lonely", LONELY))
        bound = _run(bare, "lonely", {"absent": {"$secret": "any"}})
        assert bare.tasks(bound["execution_id"])["look"]["reason"] == "infrastructure"
        unbound = _run(bare, "lonely", {})
        assert "secrets are not configured" in bare.tasks(unbound["execution_id"])["look"]["last_error"]


class RawCollector(Collector):
    """Keeps what came as it came: messages of errors and tracebacks included."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = b""

    def Export(self, request: Any, context: Any) -> Any:
        self.raw += request.SerializeToString()
        return super().Export(request, context)


def test_no_span_holds_a_value(tmp_path: Path) -> None:
    with RawCollector() as collector:
        variables = {"CLOACINA_SECRET_KEK": KEK, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        with RunningSystem(tmp_path / "home", variables) as traced:
            traced.upload(write_package(tmp_path, "courier", COURIER))
            _create(traced, "oncall", {"token": TOKEN})
            _create(traced, "db", {"password": PASSWORD})
            for fail in (False, True):
                _run(traced, "courier", {**BIND, "fail": fail})
        wait_until(lambda: any(span.name == "run read_later" for span in collector.spans), "the last span")
        spans = collector.spans
    assert b"refused by https://user:[secret oncall]@example.org" in collector.raw
    for value in VALUES:
        assert value.encode() not in collector.raw
        assert repr(value)[1:-1].encode() not in collector.raw
    by_name = {span.name: span for span in spans}
    assert {"resolve secrets", "run read"} <= by_name.keys()
    task = next(span for span in spans if span.name == "task courier/read")
    asked = next(span for span in spans if span.name == "resolve secrets" and span.parent_id == task.span_id)
    assert any(span.name.endswith("SecretService/ResolveSecrets") and span.parent_id == asked.span_id for span in spans)
