"""A system with all kinds of work behind it, and a real Prometheus that watches it."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cloacina.cli.client import ApiClient, ApiFailure
from tests.deploy.debian import program
from tests.deploy.monitoring import DEPLOY, RULES, read_yaml
from tests.deploy.prometheus_server import PrometheusServer
from tests.ports import free_ports
from tests.system.running import RunningSystem, wait_until, write_package

WORK = """
import time

import cloaca

tries = {}


@cloaca.task(id="first", retry_attempts=3, retry_delay_ms=20, retry_jitter=False)
def first(context):
    key = context.get("key")
    tries[key] = tries.get(key, 0) + 1
    if tries[key] == 1:
        raise ConnectionError("the first time is always wrong")
    time.sleep(context.get("seconds") or 0)
    return context


@cloaca.task(id="second", dependencies=["first"], retry_attempts=1)
def second(context):
    if context.get("fail"):
        raise ValueError("as the context asks")
    return context
"""


_PROVE = "CLOACINA_PROVE_COMPOSE"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "docker: runs docker-compose.yml in a Docker Engine of its own (sh deploy/prove.sh)"
    )
    config.addinivalue_line("markers", "longest: takes minutes, so it begins before all others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the containers' tests to the process that test_proof.py starts."""
    if os.environ.get(_PROVE):
        return
    inside = [item for item in items if item.get_closest_marker("docker")]
    config.hook.pytest_deselected(items=inside)
    items[:] = [item for item in items if item not in inside]


@dataclass(frozen=True)
class Observed:
    """The system, and the Prometheus that scrapes it every second."""

    system: RunningSystem
    prometheus: PrometheusServer

    def work(self, **context: object) -> str:
        """Executes the workflow; returns the execution's id."""
        return self.system.execute("observed_work", {"key": str(time.monotonic_ns()), **context})


@pytest.fixture(scope="session")
def promtool() -> str:
    """The program."""
    return program("promtool", "prometheus")


@pytest.fixture(scope="session")
def observed(promtool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A system that has completed, failed and retried work, was refused clients, and has lost its scheduler once."""
    folder = tmp_path_factory.mktemp("observed")
    with RunningSystem(folder / "home") as system:
        port = free_ports(1)[0]
        configuration = _configuration(folder, system, port)
        with PrometheusServer(program("prometheus", "prometheus"), configuration, folder, port) as prometheus:
            observed = Observed(system, prometheus)
            _all_kinds_of_events(observed, write_package(folder, "observed-work", WORK))
            yield observed


def _configuration(folder: Path, system: RunningSystem, own_port: int) -> Path:
    """The configuration in deploy/, but for where the targets are and how often they are asked."""
    configuration = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(RULES)]
    ports = {
        "cloacina-api": system.ports["CLOACINA_API_PORT"],
        "cloacina-scheduler": system.ports["CLOACINA_SCHEDULER_METRICS_PORT"],
        "cloacina-reconciler": system.ports["CLOACINA_RECONCILER_METRICS_PORT"],
        "cloacina-executor": system.ports["CLOACINA_EXECUTOR_METRICS_PORT"],
        "prometheus": own_port,
    }
    for job in configuration["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration))
    return path


def _is_unavailable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30):
            return False
    except urllib.error.HTTPError as error:
        return error.code == 503


def _all_kinds_of_events(observed: Observed, package: Path) -> None:
    system, prometheus = observed.system, observed.prometheus
    wait_until(lambda: len(prometheus.query("up == 1")) == 5, "five targets that are up")
    system.upload(package)
    system.process("scheduler").suspend()  # one that is only killed may be back before the gateway gives it up
    wait_until(lambda: _is_unavailable(f"{system.url}/ready"), "the gateway's 503 without a scheduler", 60)
    killed = system.kill("scheduler")
    system.wait_for_successor(killed, "scheduler")
    with pytest.raises(ApiFailure):
        ApiClient(system.url, "clk_" + "x" * 43).call("GET", "/v1/tenants/public/workflows")

    def both_are_seen() -> bool:
        for fail in (False, True):
            system.wait_for_end(observed.work(fail=fail))
        return bool(
            prometheus.query('rate(cloacina_tasks_total{status="failed"}[1m]) > 0')
            and prometheus.query('rate(cloacina_tasks_total{status="completed"}[1m]) > 0')
            and prometheus.query('rate(cloacina_api_requests_total{status="503"}[1m])')
            and prometheus.query('rate(cloacina_reconciler_runs_total{outcome="loaded"}[1m]) > 0')
        )

    wait_until(both_are_seen, "rates of what was done", 60)
