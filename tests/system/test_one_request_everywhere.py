"""One execute call, seen through logs, metrics and the API: the same request id in every process."""

from __future__ import annotations

import pytest

from tests.log_schema import faults
from tests.system.running import RunningSystem, wait_until

REQUEST_ID = "incident-3.am_7"


@pytest.fixture(scope="module")
def executed(system: RunningSystem) -> dict[str, str]:
    """An execution that was asked for under `REQUEST_ID`."""
    started = system.client.call(
        "POST",
        "/v1/tenants/public/workflows/mixed/execute",
        {"context": {"name": "ada"}},
        headers={"x-request-id": REQUEST_ID},
    )
    system.wait_for_end(started["execution_id"])
    return dict(started)


def test_execution_completes_with_the_merged_context(system: RunningSystem, executed: dict[str, str]) -> None:
    found = system.execution(executed["execution_id"])
    assert found["status"] == "Completed"
    assert found["reason"] == "ok"
    assert found["output"]["greeting"] == "hello ada"
    assert found["output"]["waited"] is True
    assert found["output"]["attempts"] == 3
    assert found["output"]["joined"] == ["attempts", "greeting", "name", "waited"]


def test_request_id_of_the_client_is_stored_with_the_execution(system: RunningSystem, executed: dict[str, str]) -> None:
    assert system.execution(executed["execution_id"])["request_id"] == REQUEST_ID


def test_every_process_logs_under_the_request_id(system: RunningSystem, executed: dict[str, str]) -> None:
    request_id = system.execution(executed["execution_id"])["request_id"]

    def lines() -> list[dict[str, object]]:
        return [line for line in system.log() if line.get("request_id") == request_id]

    wait_until(lambda: any(line["message"] == "execution completed" for line in lines()), "the last line")
    found = lines()
    targets = {str(line["target"]) for line in found}
    assert {line["service"] for line in found} >= {"api", "scheduler", "executor"}
    assert any(target.startswith("services.api") for target in targets)
    assert "task.mixed.greet" in targets
    assert {line["execution_id"] for line in found if "execution_id" in line} == {executed["execution_id"]}
    said = {line["message"]: line for line in found if line["target"] == "task.mixed.greet"}
    assert set(said) == {"printed by ada", "logged", "written past Python"}
    assert said["logged"]["flavour"] == "plum"
    assert said["logged"]["task_name"] == "greet"
    assert said["logged"]["attempt"] == 1


def test_every_line_has_the_published_shape(system: RunningSystem, executed: dict[str, str]) -> None:
    assert [(found, line) for line in system.log() if (found := faults(line))] == []


def test_neither_keys_nor_context_values_are_logged(system: RunningSystem, executed: dict[str, str]) -> None:
    text = (system.home / "logs" / "cloacina-server.log").read_text() + system.console.read_text()
    key = (system.home / "bootstrap-key").read_text().strip()
    token = (system.home / "rpc-token").read_text().strip()
    assert key not in text
    assert token not in text
    assert "hello ada" not in text


def test_failed_attempts_are_events_and_the_retry_keeps_its_globals(
    system: RunningSystem, executed: dict[str, str]
) -> None:
    events = [event for event, task in system.events(executed["execution_id"]) if task == "flaky"]
    assert events.count("task_claimed") == 3
    assert events.count("task_retry_scheduled") == 2
    assert events[-1] == "task_completed"
    assert system.tasks(executed["execution_id"])["flaky"]["attempt"] == 3


def test_metrics_of_the_seed_are_on_their_services(system: RunningSystem, executed: dict[str, str]) -> None:
    assert system.metric("scheduler", 'cloacina_workflows_total{reason="ok",status="completed"}') >= 1
    assert system.metric("scheduler", 'cloacina_tasks_total{reason="ok",status="completed"}') >= 4
    assert system.metric("api", 'cloacina_api_requests_total{method="POST",status="202"}') >= 1
    assert system.metric("executor", 'cloacina_executor_slots{state="free"}') == 128
    assert system.metric("reconciler", 'cloacina_reconciler_packages{state="loaded"}') >= 1
    for service in ("api", "scheduler", "reconciler", "executor"):
        text = system.metrics(service)
        assert "cloacina_up 1.0" in text
        assert f'service="{service}"' in text
        assert "cloacina_rpc_requests_total" in text


def test_status_names_every_service(system: RunningSystem, executed: dict[str, str]) -> None:
    found = system.client.call("GET", "/v1/health/status")
    assert found["status"] == "ok"
    assert {each["service"]: each["status"] for each in found["services"]} == {
        "api": "ok",
        "scheduler": "ok",
        "reconciler": "ok",
        "executor": "ok",
    }
