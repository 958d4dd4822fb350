"""What every service exports, in both formats."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from cloacina.telemetry.metrics import RpcMetrics, StoreMetrics, create_registry, expose


def _samples(families) -> dict[tuple[str, frozenset[tuple[str, str]]], object]:
    return {(sample.name, frozenset(sample.labels.items())): sample for family in families for sample in family.samples}


def test_text_0_0_4_is_the_default() -> None:
    registry = create_registry("scheduler", "1.2.3")
    for accept in (None, "*/*", "text/plain", "text/html;q=0.9"):
        body, content_type = expose(registry, accept)
        assert content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert b"# EOF" not in body
    samples = _samples(parse_text(body.decode()))
    assert samples["cloacina_up", frozenset()].value == 1
    labels = frozenset({("version", "1.2.3"), ("service", "scheduler")})
    assert samples["cloacina_build_info", labels].value == 1
    assert ("process_cpu_seconds_total", frozenset()) in samples


def test_openmetrics_has_exemplars_and_is_what_a_scraper_asks_for() -> None:
    registry = CollectorRegistry()
    counter = Counter("jobs_total", "Jobs.", registry=registry)
    seconds = Histogram("job_seconds", "Time.", buckets=(1, 5), registry=registry)
    counter.inc(exemplar={"trace_id": "a" * 32})
    seconds.observe(2, {"trace_id": "b" * 32})
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    body, content_type = expose(registry, accept)
    assert content_type.startswith("application/openmetrics-text; version=1")
    assert body.endswith(b"# EOF\n")
    samples = _samples(parse_openmetrics(body.decode()))
    assert samples["jobs_total", frozenset()].exemplar.labels == {"trace_id": "a" * 32}
    assert samples["job_seconds_bucket", frozenset({("le", "5.0")})].exemplar.labels == {"trace_id": "b" * 32}
    assert not any(name.endswith("_created") for name, _ in samples)
    plain, _ = expose(registry, None)
    assert b"trace_id" not in plain


def test_calls_are_counted_by_short_service_and_method() -> None:
    registry = CollectorRegistry()
    metrics = RpcMetrics(registry)
    for _ in range(2):
        metrics.observe("/cloacina.v1.SchedulerService/Execute", "OK", "client", 0.002)
    labels = {"service": "SchedulerService", "method": "Execute", "code": "OK", "side": "client"}
    assert registry.get_sample_value("cloacina_rpc_requests_total", labels) == 2
    assert registry.get_sample_value("cloacina_rpc_duration_seconds_count", labels) == 2
    assert registry.get_sample_value("cloacina_rpc_duration_seconds_bucket", {**labels, "le": "0.001"}) == 0


def test_commits_are_labelled_with_their_store() -> None:
    registry = CollectorRegistry()
    StoreMetrics(registry, "scheduler").observe_commit(0.003, 7)
    labels = {"store": "scheduler"}
    assert registry.get_sample_value("cloacina_store_commit_batch_size_sum", labels) == 7
    assert registry.get_sample_value("cloacina_store_commit_duration_seconds_count", labels) == 1
