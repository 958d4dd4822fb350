"""The guide on the request id, the daemon's status and the whole loop. Each test quotes what it proves."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloacina.daemon.health import DatabaseHealth, Health, ReconcilerHealth, block
from tests.daemon.running import RunningDaemon
from tests.deploy.monitoring import rules
from tests.deploy.prometheus_server import PrometheusServer
from tests.seed.conftest import ETL, Operated
from tests.seed.test_logs import JQ_REQUEST
from tests.system.running import wait_until

pytestmark = pytest.mark.xdist_group("seed")

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")


def test_every_request_gets_a_unique_uuid(operated: Operated) -> None:
    """Every HTTP request gets a unique UUID assigned by middleware"""
    answers = [
        operated.request("GET", "/health", key=False),
        operated.request("GET", "/metrics", key=False),
        operated.request("GET", "/v1/health/status"),
        operated.request("GET", "/v1/health/status", key=False),
        operated.request("GET", "/no/such/route"),
        operated.request("DELETE", "/health"),
        operated.request("POST", "/v1/tenants/acme/workflows/etl/execute", "no object"),
    ]
    assert [answer.status for answer in answers] == [200, 200, 200, 401, 404, 405, 400]
    assert all(UUID4.match(answer.request_id) for answer in answers)
    assert len({answer.request_id for answer in answers}) == len(answers)


def test_the_example_of_the_guide(operated: Operated) -> None:
    """> POST /v1/tenants/acme/workflows/etl/execute < HTTP/1.1 202 Accepted < x-request-id: 3f6c3dde-…"""
    answer = operated.request("POST", "/v1/tenants/acme/workflows/etl/execute", {})
    assert answer.status == 202
    assert UUID4.match(answer.request_id)
    operated.end(answer)


def test_the_id_is_in_every_line_of_every_process(operated: Operated) -> None:
    """The same UUID appears as the `request_id` field in every log line emitted while handling that request —
    including any internal calls into the reconciler, scheduler, or DAL.
    """
    started = operated.started["completed"]
    found = operated.lines(request_id=started.request_id)
    assert {line["service"] for line in found} >= {"api", "scheduler", "executor"}
    (upload,) = operated.lines(service="api", method="POST", status=201, route="/v1/tenants/{tenant_id}/workflows")
    lines = operated.lines(request_id=upload["request_id"])
    assert {line["service"] for line in lines} >= {"api", "reconciler"}


def test_warnings_with_the_cause_are_found_by_the_id(operated: Operated) -> None:
    """The trace will include any WARN / ERROR lines emitted while the request was being handled, including the
    underlying cause.
    """
    found = operated.jq(JQ_REQUEST, REQUEST_ID=operated.started["failed"].request_id)
    causes = [line for line in found if line["level"] in ("WARN", "ERROR") and "exception" in line]
    assert causes
    assert all(line["error"] == "ValueError: the table is locked" for line in causes)
    assert 'raise ValueError("the table is locked")' in causes[0]["exception"]


def test_a_failed_request_is_found_by_the_header_alone(operated: Operated) -> None:
    """If the request fails, the operations team can use that ID to find the server-side root cause without correlating
    timestamps.
    """
    refused = operated.request("POST", "/v1/tenants/acme/workflows/nothing/execute", {})
    assert refused.status == 404

    def lines() -> list[dict[str, object]]:
        return operated.jq(JQ_REQUEST, REQUEST_ID=refused.request_id)

    assert [line["status"] for line in wait_until(lines, "the line") if "status" in line] == [404]


def test_the_third_check_of_the_checklist(operated: Operated) -> None:
    """An HTTP response includes `x-request-id` in its headers."""
    assert operated.request("GET", "/health", key=False).request_id


def test_an_operator_given_only_an_alert_finds_the_traceback_in_three_commands(
    operated: Operated, prometheus: PrometheusServer
) -> None:
    """A typical incident-response loop is: spot a metric anomaly → grab a `x-request-id` from the affected request →
    search logs by request ID
    """
    rule = {each.name: each for each in rules()}
    alert = rule["CloacinaTaskFailures"]
    recorded, threshold = alert.expression.split(" > ")

    def fires() -> bool:
        operated.end(operated.execute(fail=True))
        return any(value > float(threshold) for value in prometheus.values(rule[recorded].expression))

    wait_until(fires, "the alert")
    # what it says is to be done is all that is typed from here on; ID is copied from the screen each time
    first, second, third = alert.annotations["action"].removesuffix(" (docs/observe.md)").split("; ")
    profile = {"CLOACINA_TENANT": "acme"}
    listed = operated.shell(first, **profile)
    (execution_id, *_) = re.findall(r"^([0-9a-f-]{36}) ", listed, re.MULTILINE)
    explained = operated.shell(second.replace("ID", execution_id), **profile)
    assert "load failed in attempt 1 of 1 (task_error): ValueError: the table is locked" in explained
    (request_id,) = re.findall(r"^request (\S+)$", explained, re.MULTILINE)
    logs = operated.shell(third.replace("ID", request_id), **profile)
    assert re.search(r'File ".*/workflow/etl/tasks\.py", line \d+, in load', logs)
    assert 'raise ValueError("the table is locked")' in logs
    assert "ValueError: the table is locked" in logs


def test_the_status_of_the_daemon(tmp_path: Path) -> None:
    """$ cloacinactl daemon status
    Daemon
    Health: OK
    Uptime: 2d 14h 32m
    Watch directories: 3
    …
    """
    folders = [tmp_path / name for name in ("nightly", "shared")]
    for folder in folders:
        folder.mkdir()
    with RunningDaemon(tmp_path / "home", *(f"--watch={folder}" for folder in folders)) as daemon:
        daemon.put("etl", ETL, folder=folders[0])
        daemon.line("package loaded", package="etl")
        shown = daemon.cloacinactl("daemon", "status")
        assert re.fullmatch(
            r"Daemon\nHealth: OK\nUptime: (\d+m )?\d+s\nWatch directories: 3\nLoaded packages: 1\n"
            r"Last reconciliation: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d \(\d+s ago\)\n"
            r"Workflows ready: 1\nWorkflows running: 0\nTasks running: 0\n",
            shown.stdout,
        ), shown


def test_the_values_come_from_the_health_pulse(tmp_path: Path) -> None:
    """The values come from the Unix-socket health pulse, so this is a local probe — no HTTP, no auth."""
    health = Health(
        status="healthy",
        pid=1,
        version="0",
        uptime_seconds=2 * 86_400 + 14 * 3600 + 32 * 60 + 7,
        database=DatabaseHealth(connected=True),
        reconciler=ReconcilerHealth(packages_loaded=7, last_run_at="2026-04-02T14:31:18+00:00"),
        active_workflows=2,
        watch_directories=["/a", "/b", "/c"],
        workflows_ready=12,
        tasks_running=4,
        tasks_waiting=0,
        workers=1,
        schedules=0,
        problems={},
    )
    assert block(health, datetime(2026, 4, 2, 14, 31, 30, tzinfo=UTC)) == (
        "Daemon\n"
        "Health: OK\n"
        "Uptime: 2d 14h 32m\n"
        "Watch directories: 3\n"
        "Loaded packages: 7\n"
        "Last reconciliation: 2026-04-02T14:31:18 (12s ago)\n"
        "Workflows ready: 12\n"
        "Workflows running: 2\n"
        "Tasks running: 4"
    )
