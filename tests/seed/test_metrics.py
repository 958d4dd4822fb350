"""The guide on metrics. Each test quotes what it proves."""

from __future__ import annotations

import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.debian import program
from tests.deploy.prometheus_server import PrometheusServer
from tests.seed.conftest import SERVICES, Operated
from tests.system.running import wait_until

pytestmark = pytest.mark.xdist_group("seed")

OWNER = {"cloacina_api": "api"}
"""Who shows a metric, by the beginning of its name; the scheduler shows the others of the guide."""


def owner(metric: str) -> str:
    return next((service for beginning, service in OWNER.items() if metric.startswith(beginning)), "scheduler")


def samples(operated: Operated, service: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(operated.system.metrics(service))
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def types(operated: Operated, service: str) -> dict[str, str]:
    lines = operated.system.metrics(service).splitlines()
    return dict(line.split(" ")[2:4] for line in lines if line.startswith("# TYPE "))


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_are_at_get_metrics_without_a_key(operated: Operated, service: str) -> None:
    """exposes Prometheus metrics at `GET /metrics` (unauthenticated)"""
    assert "cloacina_up 1.0" in operated.system.metrics(service)  # it sends no key


def test_the_format_is_text_0_0_4(operated: Operated) -> None:
    """The format is `text/plain; version=0.0.4` — parseable by any Prometheus-compatible scraper."""
    answer = operated.request("GET", "/metrics", key=False)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert list(text_string_to_metric_families(answer.body.decode()))


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        ("cloacina_workflows_total", {"status": "completed", "reason": "ok"}),
        ("cloacina_workflows_total", {"status": "failed", "reason": "dependency_failed"}),
        ("cloacina_tasks_total", {"status": "completed", "reason": "ok"}),
        ("cloacina_tasks_total", {"status": "failed", "reason": "task_error"}),
        ("cloacina_tasks_total", {"status": "failed", "reason": "claim_lost"}),
        ("cloacina_api_requests_total", {"method": "POST", "status": "201"}),
    ],
)
def test_the_guides_counters_are_there(operated: Operated, metric: str, labels: dict[str, str]) -> None:
    """cloacina_workflows_total{status="completed",reason="ok"}, …"""
    value = samples(operated, owner(metric))[metric, frozenset(labels.items())]
    assert value >= (labels.get("reason") != "claim_lost")
    assert types(operated, owner(metric))[metric] == "counter"


@pytest.mark.parametrize(
    "reason",
    ["task_error", "timeout", "validation_failed", "infrastructure", "task_not_found", "claim_lost", "unknown"],
)
def test_the_failure_reasons_of_tasks(operated: Operated, reason: str) -> None:
    """Failure-reason labels for `cloacina_tasks_total`: task_error, timeout, validation_failed, infrastructure, …"""
    assert ("cloacina_tasks_total", frozenset({("status", "failed"), ("reason", reason)})) in samples(
        operated, "scheduler"
    )


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        ("cloacina_api_request_duration_seconds", {"method", "status", "le"}),
        ("cloacina_workflow_duration_seconds", {"le"}),
        ("cloacina_task_duration_seconds", {"le"}),
    ],
)
def test_the_guides_histograms_are_there(operated: Operated, metric: str, labels: set[str]) -> None:
    """cloacina_api_request_duration_seconds_bucket{method,status,le}, …_workflow_…{le}, …_task_…{le}"""
    found = [key for name, key in samples(operated, owner(metric)) if name == f"{metric}_bucket"]
    assert {frozenset(dict(key)) for key in found} == {frozenset(labels)}
    assert types(operated, owner(metric))[metric] == "histogram"


CONTRACT = {
    "scheduler": """
        cloacina_workflows_total counter status reason
        cloacina_tasks_total counter status reason
        cloacina_active_workflows gauge
        cloacina_active_tasks gauge
        cloacina_workflow_duration_seconds histogram
        cloacina_task_duration_seconds histogram
        cloacina_task_queue_seconds histogram
        cloacina_scheduler_claim_attempts_total counter outcome
        cloacina_scheduler_heartbeat_writes_total counter
        cloacina_scheduler_stale_claims_swept_total counter
        cloacina_schedule_fires_total counter kind outcome
        cloacina_schedule_lag_seconds histogram
        cloacina_store_commit_duration_seconds histogram store
        cloacina_store_commit_batch_size histogram store
    """,
    "api": """
        cloacina_api_requests_total counter method status
        cloacina_api_request_duration_seconds histogram method status
        cloacina_ws_connections_active gauge endpoint
        cloacina_ws_messages_total counter endpoint direction
        cloacina_ws_auth_failures_total counter endpoint reason
        cloacina_store_commit_duration_seconds histogram store
        cloacina_store_commit_batch_size histogram store
    """,
    "reconciler": """
        cloacina_reconciler_packages gauge state
        cloacina_reconciler_runs_total counter outcome
        cloacina_reconciler_run_duration_seconds histogram outcome
        cloacina_store_commit_duration_seconds histogram store
        cloacina_store_commit_batch_size histogram store
    """,
    "executor": """
        cloacina_executor_slots gauge state
        cloacina_executor_workers gauge state
    """,
}
"""What else each service shows, behind the guide: name, type, labels."""
OF_EVERY_SERVICE = """
    cloacina_rpc_requests_total counter service method code side
    cloacina_rpc_duration_seconds histogram service method code side
    cloacina_build_info gauge version service
    cloacina_up gauge
"""


@pytest.mark.parametrize(
    ("service", "metric"),
    [
        (service, row.strip())
        for service, rows in CONTRACT.items()
        for row in (rows + OF_EVERY_SERVICE).splitlines()
        if row.strip()
    ],
)
def test_each_service_shows_its_metrics_with_their_types_and_labels(
    operated: Operated, service: str, metric: str
) -> None:
    """Production-ready. Includes counters, histograms, gauges."""
    name, kind, *labels = metric.split(" ")
    assert types(operated, service)[name] == kind
    suffix, own = ("_bucket", {"le"}) if kind == "histogram" else ("", set())
    found = {frozenset(dict(key)) for sample, key in samples(operated, service) if sample == name + suffix}
    assert found == {frozenset({*labels, *own})}


@pytest.mark.parametrize("metric", ["cloacina_active_workflows", "cloacina_active_tasks"])
def test_the_guides_gauges_are_there(operated: Operated, metric: str) -> None:
    """cloacina_active_workflows, cloacina_active_tasks"""
    assert (metric, frozenset()) in samples(operated, "scheduler")
    assert types(operated, "scheduler")[metric] == "gauge"


def test_the_question_how_many_workflows_are_running_is_answered(operated: Operated) -> None:
    """“How many workflows are running? What's p99 task duration?”"""
    running = operated.execute(seconds=2)
    wait_until(lambda: operated.system.metric("scheduler", "cloacina_active_tasks") == 1.0, "an active task")
    assert operated.system.metric("scheduler", "cloacina_active_workflows") == 1.0
    operated.end(running)
    wait_until(lambda: operated.system.metric("scheduler", "cloacina_active_workflows") == 0.0, "none")


def test_the_recipe_for_a_spike_of_failures(operated: Operated, prometheus: PrometheusServer) -> None:
    """rate(cloacina_tasks_total{status="failed"}[5m]) / rate(cloacina_tasks_total[5m]) > 0.05"""
    recipe = 'rate(cloacina_tasks_total{status="failed"}[5m])\n/ rate(cloacina_tasks_total[5m]) > 0.05'

    def found() -> list[str]:
        operated.end(operated.execute(fail=True))
        return [each["metric"]["reason"] for each in prometheus.query(recipe)]

    assert wait_until(found, "the failures") == ["task_error"]


def test_the_recipe_for_p99_of_task_duration(operated: Operated, prometheus: PrometheusServer) -> None:
    """histogram_quantile(0.99, rate(cloacina_task_duration_seconds_bucket[5m]))"""
    recipe = "histogram_quantile(0.99,\nrate(cloacina_task_duration_seconds_bucket[5m]))"
    operated.end(operated.execute(seconds=0.3))
    # the slowest task that Prometheus saw end took 0.3 s (or the 2 s of another test): above 0.25 s, at most 2.5 s
    wait_until(lambda: [value for value in prometheus.values(recipe) if 0.25 < value <= 2.5], "the true p99")


def test_the_recipe_for_stuck_workflows(operated: Operated, prometheus: PrometheusServer) -> None:
    """cloacina_active_workflows > 0 unless changes(cloacina_workflows_total[30m]) > 0"""
    recipe = "cloacina_active_workflows > 0\nunless changes(cloacina_workflows_total[30m]) > 0"
    wait_until(lambda: prometheus.query(recipe) == [], "that nothing is active")
    operated.end(operated.execute())
    changed = "sum(changes(cloacina_workflows_total[30m])) > 0"
    wait_until(lambda: prometheus.query(changed), "that Prometheus saw an execution end")
    running = operated.execute(seconds=4)
    # the two metrics differ in their labels (status and reason), so `unless` leaves the gauge as it is
    wait_until(lambda: prometheus.values(recipe) == [1.0], "the active execution")
    # what docs/telemetry.md advises beside it is silenced by the execution that has ended
    assert prometheus.query(f"cloacina_active_workflows > 0 unless on() {changed}") == []
    operated.end(running)
    wait_until(lambda: prometheus.query(recipe) == [], "that nothing is active")


def test_prometheus_scrapes_all_four_services_without_errors(prometheus: PrometheusServer) -> None:
    """Prometheus scrapes `cloacina-server` without errors."""
    targets = prometheus.get("targets", state="active")["activeTargets"]
    assert [(each["health"], each["lastError"]) for each in targets] == [("up", "")] * 4
    assert sorted(
        each["metric"]["service"] for each in prometheus.query('cloacina_build_info{job="cloacina"}')
    ) == sorted(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_promtool_has_nothing_to_say(operated: Operated, service: str) -> None:
    """parseable by any Prometheus-compatible scraper"""
    command = [program("promtool", "prometheus"), "check", "metrics"]
    text = operated.system.metrics(service)
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_first_check_of_the_checklist(operated: Operated) -> None:
    """`curl http://localhost:8080/metrics | grep cloacina_` returns metric output."""
    program("curl", "curl")
    checked = "curl http://localhost:8080/metrics | grep cloacina_"
    shown = operated.shell(checked.replace("http://localhost:8080", operated.system.url))
    assert "cloacina_build_info" in shown
