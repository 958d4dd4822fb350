"""The files that Prometheus, Grafana and the OpenTelemetry Collector read are valid, and say what an operator needs."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.monitoring import (
    DASHBOARDS,
    DEPLOY,
    ROOT,
    RULE_TESTS,
    RULES,
    Rule,
    dashboard,
    queries,
    read_yaml,
    rules,
)

ALERTS = [rule for rule in rules() if rule.is_alert]


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_scrape_configuration_is_valid(promtool: str) -> None:
    assert "SUCCESS" in _run(promtool, "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))


def test_the_rules_are_valid(promtool: str) -> None:
    assert f"SUCCESS: {len(rules())} rules found" in _run(promtool, "check", "rules", str(RULES))


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_rules_fire_when_they_should_and_only_then(promtool: str, file: Path) -> None:
    assert "SUCCESS" in _run(promtool, "test", "rules", str(file))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_is_proven_both_to_fire_and_to_be_silent(alert: Rule) -> None:
    cases = [
        case
        for file in RULE_TESTS
        for test in read_yaml(file)["tests"]
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert.name
    ]
    assert any(case.get("exp_alerts") for case in cases)
    assert any(not case.get("exp_alerts") for case in cases)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_how_bad_it_is_what_it_means_and_what_to_do(alert: Rule) -> None:
    assert alert.name.startswith("Cloacina")
    assert alert.labels["severity"] in ("page", "ticket")
    assert set(alert.annotations) == {"summary", "description", "action"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_provisioned(path: Path) -> None:
    board = dashboard(path)
    sources = {
        source["uid"]
        for source in read_yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "cloacina.yml")["datasources"]
    }
    panels = board["panels"]
    assert board["uid"].startswith("cloacina-")
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} <= sources
    assert not [pair for pair in pairwise(sorted(map(_rectangle, panels))) if _overlap(*pair)]


def _rectangle(panel: Any) -> tuple[int, int, int, int]:
    place = panel["gridPos"]
    return place["y"], place["x"], place["h"], place["w"]


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    (y, x, h, w), (other_y, other_x, other_h, other_w) = one, other
    return x < other_x + other_w and other_x < x + w and y < other_y + other_h and other_y < y + h


def test_the_dashboards_are_three_and_their_ids_differ() -> None:
    boards = [dashboard(path) for path in DASHBOARDS]
    assert [board["title"] for board in boards] == [
        "Cloacina / Executions",
        "Cloacina / Services",
        "Cloacina / System",
    ]
    assert len({board["uid"] for board in boards}) == 3
    assert len(queries()) > 50


def test_the_collector_uses_only_what_it_defines() -> None:
    collector = read_yaml(DEPLOY / "otel" / "collector.yml")
    service = collector["service"]
    used: dict[str, set[str]] = {"extensions": set(service["extensions"])}
    for pipeline in service["pipelines"].values():
        for kind, names in pipeline.items():
            used.setdefault(kind, set()).update(names)
    for kind in ("receivers", "processors", "exporters", "extensions"):
        assert used[kind] == set(collector[kind]), kind
    assert service["pipelines"]["traces"]["processors"][0] == "memory_limiter"


def test_jaeger_uses_only_what_it_defines() -> None:
    jaeger = read_yaml(DEPLOY / "jaeger" / "jaeger.yml")
    pipeline = jaeger["service"]["pipelines"]["traces"]
    assert set(pipeline["receivers"]) == set(jaeger["receivers"])
    assert set(pipeline["processors"]) == set(jaeger["processors"])
    assert set(pipeline["exporters"]) == set(jaeger["exporters"])
    assert set(jaeger["service"]["extensions"]) == set(jaeger["extensions"])
    backends = set(jaeger["extensions"]["jaeger_storage"]["backends"])
    assert jaeger["extensions"]["jaeger_query"]["storage"]["traces"] in backends
    assert jaeger["exporters"]["jaeger_storage_exporter"]["trace_storage"] in backends
