"""One execution is one trace through all processes, every span of it with the request id."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from tests.otlp_collector import CollectedSpan, Collector
from tests.system.running import RunningSystem, wait_until, write_package

REQUEST_ID = "traced-1"
CODE = """
import cloaca
from opentelemetry import trace


@cloaca.task(id="first")
def first(context):
    with trace.get_tracer("author").start_as_current_span("author's own"):
        context.set("first", True)
    return context


@cloaca.task(id="second", dependencies=["first"], retry_attempts=1)
async def second(context):
    raise ValueError("on purpose")
"""


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> list[CollectedSpan]:
    """The spans of one execution that fails in its second task, and of what the system does beside it."""
    folder = tmp_path_factory.mktemp("traced")
    with Collector() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_SERVICE_NAME": "acme"}
        with RunningSystem(folder / "home", environment) as system:
            system.upload(write_package(folder, "traced", CODE))
            started = system.client.call(
                "POST",
                "/v1/tenants/public/workflows/traced/execute",
                {},
                headers={"x-request-id": REQUEST_ID},
            )
            assert system.wait_for_end(started["execution_id"])["status"] == "Failed"
            system.client.call("GET", "/v1/health/status")
        # all processes have drained: whatever they had was flushed
        wait_until(lambda: any(span.name == "run second" for span in collector.spans), "the last span")
        return collector.spans


def of_request(spans: list[CollectedSpan]) -> list[CollectedSpan]:
    return [span for span in spans if span.attributes.get("request_id") == REQUEST_ID]


def test_one_trace_has_spans_of_every_process(spans: list[CollectedSpan]) -> None:
    mine = of_request(spans)
    assert len({span.trace_id for span in mine}) == 1
    assert {span.service for span in mine} >= {"acme-api", "acme-scheduler", "acme-executor", "acme-worker"}
    (trace_id,) = {span.trace_id for span in mine}
    assert [span.name for span in spans if span.trace_id == trace_id and span not in mine] == []


def test_every_span_has_its_parent_in_the_trace(spans: list[CollectedSpan]) -> None:
    mine = of_request(spans)
    ids = {span.span_id for span in mine}
    roots = [span for span in mine if not span.parent_id]
    assert [root.name for root in roots] == ["request POST /v1/tenants/{tenant_id}/workflows/{name}/execute"]
    assert [span.name for span in mine if span.parent_id and span.parent_id not in ids] == []


def test_names_and_nesting_are_those_of_the_contract(spans: list[CollectedSpan]) -> None:
    mine = of_request(spans)
    by_name = {span.name: span for span in mine}
    assert {"schedule traced", "store commit", "task traced/first", "task traced/second"} <= set(by_name)
    assert by_name["run first"].parent_id == by_name["task traced/first"].span_id
    assert by_name["run second"].parent_id == by_name["task traced/second"].span_id
    assert by_name["author's own"].parent_id == by_name["run first"].span_id
    assert by_name["author's own"].service == "acme-worker"


def test_attributes_name_the_domain(spans: list[CollectedSpan]) -> None:
    task = next(span for span in of_request(spans) if span.name == "task traced/first")
    assert task.attributes["cloacina.tenant_id"] == "public"
    assert task.attributes["cloacina.workflow_name"] == "traced"
    assert task.attributes["cloacina.task_name"] == "first"
    assert task.attributes["cloacina.attempt"] == 1
    assert task.attributes["cloacina.execution_id"]
    assert task.attributes["cloacina.package_id"]
    request = next(span for span in of_request(spans) if span.name.startswith("request POST"))
    assert request.attributes["http.request.method"] == "POST"
    assert request.attributes["http.response.status_code"] == 202
    assert request.attributes["http.route"] == "/v1/tenants/{tenant_id}/workflows/{name}/execute"


def test_errors_set_the_status_and_record_the_exception(spans: list[CollectedSpan]) -> None:
    run = next(span for span in of_request(spans) if span.name == "run second")
    assert run.failed
    assert "exception" in run.events
    assert not next(span for span in of_request(spans) if span.name == "run first").failed


def test_calls_between_services_are_client_and_server_spans(spans: list[CollectedSpan]) -> None:
    calls = [span for span in of_request(spans) if span.name.endswith("SchedulerService/Execute")]
    assert {(span.service, span.kind) for span in calls} == {
        ("acme-api", "SPAN_KIND_CLIENT"),
        ("acme-scheduler", "SPAN_KIND_SERVER"),
    }


def test_loading_a_package_is_a_trace_with_a_span_for_each_step(spans: list[CollectedSpan]) -> None:
    load = next(span for span in spans if span.name == "reconcile load traced")
    assert load.service == "acme-reconciler"
    assert load.attributes["request_id"]
    steps = {span.name for span in spans if span.parent_id == load.span_id}
    assert {"verify", "extract", "inspect", "store"} <= {step.split()[-1] for step in steps}


def test_a_health_status_request_is_a_span(spans: list[CollectedSpan]) -> None:
    assert any(span.name == "request GET /v1/health/status" for span in spans)


def test_every_span_has_a_request_id(spans: list[CollectedSpan]) -> None:
    assert sorted({span.name for span in spans if "request_id" not in span.attributes}) == []


def test_a_collector_that_is_gone_costs_nothing_but_spans(folder: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with RunningSystem(folder / "home", environment) as system:
        system.upload(write_package(folder, "traced", CODE))
        assert system.wait_for_end(system.execute("traced"))["status"] == "Failed"
        with urllib.request.urlopen(system.url + "/health", timeout=5) as response:
            assert response.status == 200
        assert system.stop() == 0
