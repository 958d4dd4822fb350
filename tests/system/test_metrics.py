"""Metrics of a running system: bounded whatever clients send, right after a crash, with a way to the trace."""

from __future__ import annotations

import http.client
import itertools
import re
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.otlp_collector import Collector
from tests.system.running import RunningSystem, wait_until, write_package

SLEEPER = """
import time

import cloaca


@cloaca.task(id="sleep")
def sleep(context):
    time.sleep(context.get("seconds") or 0)
    return context
"""

TICKING = """
import cloaca


@cloaca.trigger(on="ticking", cron="* * * * * *")
def every_second():
    pass


@cloaca.task(id="tick")
def tick(context):
    return context
"""

EACH = 2_500
"""Hostile requests of each of four kinds."""


def series(system: RunningSystem, service: str) -> set[str]:
    """Names and labels of all samples."""
    lines = system.metrics(service).splitlines()
    return {line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")}


def hostile(number: int) -> Iterator[tuple[str, str, dict[str, str]]]:
    """One request of each kind: a path, a method, an id and a name that nobody has sent before."""
    yield "GET", f"/v1/p{number}/x{number}", {}
    yield f"M{number}", "/health", {}
    yield "GET", "/health", {"x-request-id": f"id-{number}"}
    yield "POST", f"/v1/tenants/t{number}/workflows/w{number}/execute", {"Idempotency-Key": f"k{number}"}


def send(system: RunningSystem, numbers: range) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", system.ports["CLOACINA_API_PORT"], timeout=20)
    key = (system.home / "bootstrap-key").read_text().strip()
    for method, path, headers in itertools.chain.from_iterable(map(hostile, numbers)):
        connection.request(method, path, headers={"Authorization": f"Bearer {key}", **headers})
        connection.getresponse().read()
    connection.close()


def test_ten_thousand_hostile_requests_add_no_series(folder: Path) -> None:
    with RunningSystem(folder / "home", {"CLOACINA_LOG": "executor=info,warn,cloacina.engine=info"}) as system:
        send(system, range(50))
        before = {service: series(system, service) for service in ("api", "scheduler", "reconciler", "executor")}
        send(system, range(50, 50 + EACH))
        for service, known in before.items():
            assert series(system, service) - known == set(), service
        assert any('method="OTHER"' in known for known in before["api"]), "unknown methods are one series"


def first_answer(read: Callable[[], float]) -> float:
    """What `read` returns as soon as it can."""

    def attempt() -> list[float]:
        try:
            return [read()]
        except OSError:
            return []

    return wait_until(attempt, "an answer")[0]


def test_gauges_are_right_in_the_first_answer_after_a_crash(folder: Path) -> None:
    with RunningSystem(folder / "home") as system:
        system.upload(write_package(folder, "sleeper", SLEEPER))
        running = [system.execute("sleeper", {"seconds": 6}) for _ in range(3)]
        wait_until(lambda: system.metric("scheduler", "cloacina_active_tasks") == 3.0, "three tasks that run")
        killed = system.kill("scheduler")
        wait_until(lambda: not killed.is_running() or killed.status() == "zombie", "the end of the scheduler")
        text = {}

        def scraped() -> float:
            text["metrics"] = system.metrics("scheduler")
            return 1.0

        first_answer(scraped)
        assert "\ncloacina_active_workflows 3.0\n" in text["metrics"]
        assert "\ncloacina_active_tasks 3.0\n" in text["metrics"]
        for execution_id in running:
            assert system.wait_for_end(execution_id, 60)["status"] == "Completed"
        assert system.metric("scheduler", "cloacina_active_workflows") == 0.0
        assert system.metric("scheduler", "cloacina_active_tasks") == 0.0


def openmetrics(system: RunningSystem, service: str) -> str:
    variable = "CLOACINA_API_PORT" if service == "api" else f"CLOACINA_{service.upper()}_METRICS_PORT"
    request = urllib.request.Request(
        f"http://127.0.0.1:{system.ports[variable]}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        text = str(response.read().decode())
    assert text.endswith("# EOF\n")
    return text


@pytest.mark.parametrize(
    ("service", "metric"),
    [
        ("scheduler", "cloacina_workflow_duration_seconds_bucket"),
        ("scheduler", "cloacina_task_duration_seconds_bucket"),
        ("scheduler", "cloacina_task_queue_seconds_bucket"),
        ("scheduler", "cloacina_workflows_total"),
        ("scheduler", "cloacina_store_commit_duration_seconds_bucket"),
        ("scheduler", "cloacina_store_commit_batch_size_bucket"),
        ("scheduler", "cloacina_rpc_duration_seconds_bucket"),
        ("api", "cloacina_rpc_duration_seconds_bucket"),
        ("api", "cloacina_api_request_duration_seconds_bucket"),
    ],
)
def test_exemplars_lead_to_the_trace(traced: tuple[RunningSystem, str], service: str, metric: str) -> None:
    system, trace_id = traced
    assert trace_id in exemplars(system, service, metric)


def exemplars(system: RunningSystem, service: str, metric: str) -> list[str]:
    """The traces that the exemplars of a metric lead to."""
    shown = openmetrics(system, service)
    return re.findall(rf'^{metric}(?:{{[^}}]*}})? \S+ # {{[^}}]*trace_id="([0-9a-f]{{32}})"', shown, re.MULTILINE)


def test_exemplars_of_loads_and_of_late_schedules_lead_to_their_traces(folder: Path) -> None:
    with (
        Collector() as collector,
        RunningSystem(folder / "home", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}) as system,
    ):
        system.upload(write_package(folder, "ticking", TICKING))
        for service, metric, name in (
            ("reconciler", "cloacina_reconciler_run_duration_seconds_bucket", "reconcile load ticking"),
            ("scheduler", "cloacina_schedule_lag_seconds_bucket", "cron fire"),
        ):
            found = wait_until(partial(exemplars, system, service, metric), f"an exemplar of {metric}")

            def exported(name: str = name) -> set[str]:
                return {span.trace_id for span in collector.spans if span.name == name}

            wait_until(lambda found=found, exported=exported: set(found) & exported(), f"the trace of {name}")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningSystem, str]]:
    """A system that exports spans, and the trace of the one execution it has had."""
    folder = tmp_path_factory.mktemp("traced")
    with (
        Collector() as collector,
        RunningSystem(folder / "home", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}) as system,
    ):
        system.upload(write_package(folder, "sleeper", SLEEPER))
        execution_id = system.execute("sleeper")
        trace_id = system.wait_for_end(execution_id)["trace_id"]
        assert trace_id
        yield system, trace_id


def test_dropped_spans_are_counted_by_the_service_that_dropped_them_and_said_once(folder: Path) -> None:
    with RunningSystem(folder / "home", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}) as system:
        system.upload(write_package(folder, "sleeper", SLEEPER))
        system.wait_for_end(system.execute("sleeper"))
        for service in ("api", "scheduler", "executor"):
            wait_until(
                lambda service=service: system.metric(service, "cloacina_trace_spans_dropped_total") > 0,  # type: ignore[misc]
                f"dropped spans of the {service}",
                60,
            )
        said = [line for line in system.log() if line["target"].startswith(("opentelemetry", "cloacina.telemetry"))]
        assert {line["message"] for line in said} == {
            "spans are dropped: the trace collector cannot be reached, or is too slow"
        }
        assert all(line["error"].startswith("UNAVAILABLE") for line in said)
        services = [line["service"] for line in said]
        assert sorted(services) == sorted(set(services))
