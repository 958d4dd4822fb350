"""The guide on OpenTelemetry. Each test quotes what it proves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.otlp_collector import CollectedSpan, Collector
from tests.seed.conftest import Operated, UsersSystem, prepare
from tests.system.running import wait_until

pytestmark = pytest.mark.xdist_group("seed")

PROGRAM_SHOWS_IMPORTS = {"PYTHONPROFILEIMPORTTIME": "1"}
"""Python names every module it loads on stderr."""


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> list[CollectedSpan]:
    """What a collector was sent by a system with nothing set but its endpoint, until it had drained."""
    folder = tmp_path_factory.mktemp("exported")
    with Collector() as collector:
        with UsersSystem(folder / "ops", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}) as system:
            operated = Operated(system)
            prepare(operated, folder)
            assert operated.request("GET", "/v1/health/status").status == 200
            assert operated.request("DELETE", "/v1/tenants/acme/workflows/etl/1.0.0").status == 200
        wait_until(lambda: any(span.name == "run load" for span in collector.spans), "the last span")
        return collector.spans


@pytest.fixture(scope="module")
def untraced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """A system without an endpoint that tells what it imports."""
    folder = tmp_path_factory.mktemp("untraced")
    with UsersSystem(folder / "ops", PROGRAM_SHOWS_IMPORTS) as system:
        operated = Operated(system)
        prepare(operated, folder)
        yield operated


def test_spans_are_exported_when_the_endpoint_is_set(spans: list[CollectedSpan]) -> None:
    """If you set `OTEL_EXPORTER_OTLP_ENDPOINT`, cloacina-server exports spans to a gRPC-based OTLP collector"""
    assert spans


def test_the_default_of_the_service_name(spans: list[CollectedSpan]) -> None:
    """export OTEL_SERVICE_NAME="cloacina-prod" # Default: "cloacina" """
    assert {span.service for span in spans} == {
        f"cloacina-{name}" for name in ("api", "scheduler", "reconciler", "executor", "worker")
    }


def test_one_span_for_each_http_request(spans: list[CollectedSpan]) -> None:
    """HTTP request lifecycle (one span per request, named `request POST /v1/...`)."""
    requests = [span for span in spans if span.name == "request POST /v1/tenants/{tenant_id}/workflows/{name}/execute"]
    assert len(requests) == 2
    assert len({span.attributes["request_id"] for span in requests}) == 2


def test_database_transactions_are_spans(spans: list[CollectedSpan]) -> None:
    """Database transactions (when DAL methods are instrumented)."""
    services = {span.service for span in spans if span.name == "store commit"}
    assert services == {"cloacina-api", "cloacina-scheduler", "cloacina-reconciler"}


@pytest.mark.parametrize("name", ["reconcile load etl", "reconcile unload etl"])
def test_load_and_unload_steps_are_spans(spans: list[CollectedSpan], name: str) -> None:
    """Reconciler load/unload steps."""
    (span,) = [span for span in spans if span.name == name]
    assert span.service == "cloacina-reconciler"
    assert [each.name for each in spans if each.parent_id == span.span_id]


def test_the_request_id_is_an_attribute_of_every_span(spans: list[CollectedSpan]) -> None:
    """The `request_id` field is propagated as a span attribute, so you can pivot from logs to traces …"""
    assert sorted({span.name for span in spans if not span.attributes.get("request_id")}) == []


def test_a_request_to_health_status_is_a_span(spans: list[CollectedSpan]) -> None:
    """If using OTel: a request to `/v1/health/status` produces a span in your tracer's UI."""
    assert [span.service for span in spans if span.name == "request GET /v1/health/status"] == ["cloacina-api"]


def test_nothing_of_opentelemetry_is_loaded_without_an_endpoint(untraced: Operated) -> None:
    """If `OTEL_EXPORTER_OTLP_ENDPOINT` is unset, the OTel pipeline is disabled and no spans are exported. There is no
    overhead.
    """
    loaded = [line for line in untraced.system.console.read_text().splitlines() if line.startswith("import time:")]
    assert [line for line in loaded if line.endswith(("grpc", "services.api.service"))], "imports are shown"
    assert [line for line in loaded if "opentelemetry" in line] == []
    found = untraced.lines(request_id=untraced.started["completed"].request_id)
    assert not any("trace_id" in line for line in found)
