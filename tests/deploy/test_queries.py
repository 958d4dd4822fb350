"""A real Prometheus scrapes a running system: targets, the guide's recipes, every panel's and every rule's query."""

from __future__ import annotations

import subprocess

import pytest

from tests.deploy.conftest import Observed
from tests.deploy.monitoring import Query, Rule, queries, rules, selectors
from tests.system.running import wait_until

pytestmark = pytest.mark.xdist_group("observed")  # one system and one Prometheus for all of them

SERVICES = ("api", "scheduler", "reconciler", "executor")


def test_all_four_services_are_scraped_without_errors(observed: Observed) -> None:
    targets = wait_until(
        lambda: found if "down" not in str(found := observed.prometheus.targets()) else None, "targets that are all up"
    )
    assert targets == {**{f"cloacina-{service}": ["up"] for service in SERVICES}, "prometheus": ["up"]}


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_pass_promtool(observed: Observed, promtool: str, service: str) -> None:
    text = observed.system.metrics(service)
    result = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_guides_recipe_for_a_spike_of_failures(observed: Observed) -> None:
    found = observed.prometheus.query(
        'rate(cloacina_tasks_total{status="failed"}[5m]) / rate(cloacina_tasks_total[5m]) > 0.05'
    )
    assert [(sample["metric"]["status"], sample["metric"]["reason"]) for sample in found] == [("failed", "task_error")]


def test_the_guides_recipe_for_p99_of_task_duration(observed: Observed) -> None:
    slow = observed.work(seconds=0.3)
    observed.system.wait_for_end(slow)
    recipe = "histogram_quantile(0.99, rate(cloacina_task_duration_seconds_bucket[5m]))"
    # the slowest task took 0.3 s and a little: the bucket it is in goes from 0.25 to 0.5
    wait_until(lambda: [value for value in observed.prometheus.values(recipe) if 0.25 < value <= 0.5], "the true p99")


def test_the_guides_recipe_for_stuck_workflows(observed: Observed) -> None:
    recipe = "cloacina_active_workflows > 0 unless changes(cloacina_workflows_total[30m]) > 0"
    running = observed.work(seconds=6)
    wait_until(lambda: observed.prometheus.values(recipe) == [1.0], "one active execution")
    observed.system.wait_for_end(running)
    wait_until(lambda: observed.prometheus.values(recipe) == [], "no active execution")


@pytest.mark.parametrize("query", queries(), ids=lambda query: f"{query.dashboard}: {query.panel}")
def test_a_panels_query_returns_data(observed: Observed, query: Query) -> None:
    wait_until(lambda: observed.prometheus.query(query.expression), f"data of {query.expression}", 20)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_a_rules_query_is_valid_and_asks_for_what_exists(observed: Observed, rule: Rule) -> None:
    observed.prometheus.query(rule.expression)  # raises when it is not valid
    asked = set(selectors(rule.expression))
    assert asked
    for selector in asked:
        wait_until(lambda selector=selector: observed.prometheus.query(selector), f"series of {selector}", 20)  # type: ignore[misc]


@pytest.mark.parametrize("rule", [rule for rule in rules() if not rule.is_alert], ids=lambda rule: rule.name)
def test_a_recorded_series_has_values(observed: Observed, rule: Rule) -> None:
    wait_until(lambda: observed.prometheus.query(rule.name), f"values of {rule.name}", 20)


def test_prometheus_evaluates_every_rule_without_an_error(observed: Observed) -> None:
    groups = observed.prometheus.get("rules")["groups"]
    evaluated = {
        rule["name"]: (rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]
    }
    assert evaluated == {rule.name: ("ok", "") for rule in rules()}


def test_retries_are_counted_as_they_happened(observed: Observed) -> None:
    # the first task of every execution fails once and is tried again; the counters began at the scheduler's start
    claimed = observed.system.metric("scheduler", 'cloacina_scheduler_claim_attempts_total{outcome="claimed"}')
    ended = sum(
        observed.system.metric("scheduler", f'cloacina_tasks_total{{reason="{reason}",status="{status}"}}')
        for status, reason in (("completed", "ok"), ("failed", "task_error"))
    )
    executions = observed.system.metric("scheduler", "cloacina_workflow_duration_seconds_count")
    assert claimed - ended == executions
