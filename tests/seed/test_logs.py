"""The guide on logs. Each test quotes what it proves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.daemon.running import RunningDaemon
from tests.log_schema import FIELDS, faults
from tests.seed.conftest import ETL, Operated, UsersSystem, prepare
from tests.system.running import wait_until

pytestmark = pytest.mark.xdist_group("seed")

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def test_stderr_has_lines_for_people(operated: Operated) -> None:
    """stderr — human-readable lines, suitable for `journalctl` or Docker logs."""
    lines = operated.system.console.read_text().splitlines()
    begun = [line for line in lines if re.match(r"\S+Z +(TRACE|DEBUG|INFO|WARN|ERROR) \S+: ", line)]
    assert any("execution scheduled" in line for line in begun)
    assert not any(line.startswith("{") or "\x1b" in line for line in lines)


def test_the_file_is_json_and_daily(operated: Operated) -> None:
    """`~/.cloacina/logs/cloacina-server.log` — JSON-structured, daily-rotated."""
    today = operated.log_file.resolve()
    assert operated.log_file.is_symlink()
    assert re.fullmatch(r"cloacina-server\.\d{4}-\d\d-\d\d\.log", today.name)
    assert datetime.fromisoformat(today.name[16:26]).date() <= datetime.now(UTC).date()
    for line in today.read_text().splitlines():
        assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("timestamp", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
        ("level", "TRACE|DEBUG|INFO|WARN|ERROR"),
        ("target", r"[\w.]+"),
        ("message", r"(?s).+"),
    ],
)
def test_what_is_always_present(operated: Operated, name: str, form: str) -> None:
    """`timestamp` yes: RFC 3339 with microsecond precision. `level` yes: … `target` yes: Module path. `message` yes"""
    for line in operated.system.log():
        assert re.fullmatch(form, line[name]), line


def test_request_id_is_there_in_a_request_scope(operated: Operated) -> None:
    """`request_id`, when in a request scope: UUID matching the `x-request-id` response header."""
    started = operated.started["completed"]
    assert UUID.match(started.request_id)
    about = [line for line in operated.system.log() if line.get("execution_id") == started.json["execution_id"]]
    begun = [line for line in about if line.get("method") != "GET"]
    assert {line["request_id"] for line in begun} == {started.request_id}


def test_tenant_id_is_there_when_applicable(operated: Operated) -> None:
    """`tenant_id`, when applicable: Resolved tenant for the request."""
    started = operated.started["completed"]
    mine = [line for line in operated.system.log() if line.get("request_id") == started.request_id]
    # the archive of a package is sent by its digest: that one line of the reconciler is no tenant's
    applicable = [line for line in mine if line["service"] != "reconciler"]
    assert {line["tenant_id"] for line in applicable} == {"acme"}


@pytest.mark.parametrize("name", ["package_id", "workflow_name", "task_name", "execution_id"])
def test_domain_identifiers_are_there_when_applicable(operated: Operated, name: str) -> None:
    """`package_id` / `workflow_name` / `task_name` / `execution_id`, when applicable: Domain identifiers."""
    started = operated.started["completed"]
    mine = [line for line in operated.system.log() if line.get("request_id") == started.request_id]
    task = [line for line in mine if line["target"] == "task.etl.extract"]
    assert task
    expected = {"workflow_name": "etl", "task_name": "extract", "execution_id": started.json["execution_id"]}
    for line in task:
        assert line[name] == expected.get(name, line[name])
        assert line[name]


JQ_ERRORS = """jq 'select(.level == "ERROR")' ~/.cloacina/logs/cloacina-server.log"""
JQ_REQUEST = r"""jq --arg rid "$REQUEST_ID" \
'select(.request_id == $rid)' \
~/.cloacina/logs/cloacina-server.log"""
JQ_EXECUTION = r"""jq --arg eid "$EXEC_ID" \
'select(.execution_id == $eid)' \
~/.cloacina/logs/cloacina-server.log"""


def test_the_recipe_for_errors(operated: Operated) -> None:
    """jq 'select(.level == "ERROR")' ~/.cloacina/logs/cloacina-server.log"""
    refused = operated.request("POST", "/v1/tenants/acme/workflows/etl/execute", {"context": {"log_error": True}})
    operated.end(refused)
    found = operated.jq(JQ_ERRORS)
    assert {line["level"] for line in found} == {"ERROR"}
    assert [line for line in found if line["request_id"] == refused.request_id and line["target"] == "task.etl.extract"]
    assert found == operated.lines(level="ERROR")


def test_the_recipe_for_a_request(operated: Operated) -> None:
    """jq --arg rid "$REQUEST_ID" 'select(.request_id == $rid)' ~/.cloacina/logs/cloacina-server.log"""
    started = operated.started["failed"]
    found = operated.jq(JQ_REQUEST, REQUEST_ID=started.request_id)
    assert {"execution scheduled", "execution failed"} <= {line["message"] for line in found}
    assert {"api", "scheduler", "executor"} <= {line["service"] for line in found}
    assert found == operated.lines(request_id=started.request_id)


def test_the_recipe_for_an_execution(operated: Operated) -> None:
    """jq --arg eid "$EXEC_ID" 'select(.execution_id == $eid)' ~/.cloacina/logs/cloacina-server.log"""
    started = operated.started["completed"]
    execution_id = started.json["execution_id"]
    found = operated.jq(JQ_EXECUTION, EXEC_ID=execution_id)
    assert {"execution scheduled", "rows read", "execution completed"} <= {line["message"] for line in found}
    assert found == operated.lines(execution_id=execution_id)


@pytest.fixture(scope="module", params=["info", "directives", "verbose"])
def levelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """A system with a level of its own; the name of its user says which."""
    folder = tmp_path_factory.mktemp(request.param)
    environment = {
        "info": {"RUST_LOG": "info"},
        "directives": {"RUST_LOG": "cloacina=debug,cloacina_server=debug,axum=info"},
        "verbose": {},
    }[request.param]
    options = ("-v",) if request.param == "verbose" else ()
    with UsersSystem(folder / request.param, environment, options) as system:
        operated = Operated(system)
        prepare(operated, folder)
        yield operated


def test_levels_are_set_by_the_environment_or_verbose(levelled: Operated) -> None:
    """Set the level globally via `RUST_LOG`: RUST_LOG=info …; RUST_LOG=cloacina=debug,cloacina_server=debug,axum=info
    …; Or use … `--verbose` / `-v` shortcut (sets debug level).
    """
    lines = list(levelled.system.log())
    debug = {line["target"].split(".")[0] for line in lines if line["level"] == "DEBUG"}
    name = levelled.system.user.name
    assert {line["level"] for line in lines} >= {"INFO", "WARN"}
    assert "TRACE" not in {line["level"] for line in lines}
    assert debug & {"cloacina", "services"} if name != "info" else not debug
    if name == "directives":
        assert debug <= {"cloacina", "services"}
    assert not [line for line in lines if line["message"] == "a log directive is ignored"]


@pytest.mark.parametrize("shortcut", ["", "-v", "--verbose"])
def test_the_daemon_logs_twice_too_and_at_debug_level_when_told(tmp_path: Path, shortcut: str) -> None:
    """cloacina-server (and cloacina-daemon) emit dual logs. Or use the daemon's `--verbose` / `-v` shortcut (sets debug
    level).
    """
    with RunningDaemon(tmp_path / "home", *filter(None, [shortcut])) as daemon:
        daemon.put("etl", ETL)
        loaded = daemon.line("package loaded", package="etl")
        wait_until(lambda: daemon.health() is not None, "its health pulse")
    lines = list(daemon.lines())
    assert f"{loaded['timestamp']}  INFO {loaded['target']}: package loaded" in daemon.console.read_text()
    assert ("DEBUG" in {line["level"] for line in lines}) is bool(shortcut)
    assert all(faults(line) == [] for line in lines)
    assert {line["service"] for line in lines} == {"daemon"}


def test_the_second_check_of_the_checklist(operated: Operated) -> None:
    """Log lines include `request_id` when emitted from request handlers."""
    lines = [line for line in operated.system.log() if line["target"].startswith("services.api.middleware")]
    assert lines
    assert all("request_id" in line for line in lines)


def test_the_file_is_private(operated: Operated) -> None:
    """Log lines hold what users named things; other users of the machine do not read them."""
    assert Path(operated.log_file).stat().st_mode & 0o077 == 0


def test_the_shape_is_stable(operated: Operated) -> None:
    """The JSON shape is stable across releases."""
    lines = list(operated.system.log())
    assert [(faults(line), line) for line in lines if faults(line)] == []
    seen = {name for line in lines for name in line}
    assert seen >= set(FIELDS) - {"trace_id", "span_id"}
