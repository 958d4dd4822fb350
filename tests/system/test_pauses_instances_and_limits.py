"""Pausing a workflow, executing named instances, seeing a source, and limits of contexts, on a running system."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloacina.cli.client import ApiFailure
from tests.system.running import RunningSystem, wait_until, write_package

pytestmark = pytest.mark.system

SYNC = """
import time

import cloaca


@cloaca.workflow_params(source=str, mode=(str, "copy"), kilobytes=(int, 0), seconds=(float, 0.0))
@cloaca.task(retry_attempts=1)
def plan(context):
    time.sleep(context["seconds"])
    context.set("plan", f"{context['mode']} {context['source']}")
    context.set("blob", "x" * 1024 * context["kilobytes"])
    return context
"""
BASE = "/v1/tenants/public/workflows/sync"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A system whose contexts have at most 64 KiB, with the workflow ``sync``."""
    folder = tmp_path_factory.mktemp("limited")
    with RunningSystem(folder / "home", {"CLOACINA_MAX_CONTEXT_BYTES": "65536"}) as running:
        running.upload(write_package(folder, "sync", SYNC))
        yield running


def refused(system: RunningSystem, path: str, body: Any = None) -> tuple[int, str]:
    with pytest.raises(ApiFailure) as failure:
        system.client.call("POST", path, body)
    return failure.value.status, str(failure.value)


def test_a_paused_workflow_refuses_executions_while_running_ones_go_on(limited: RunningSystem, tmp_path: Path) -> None:
    running = limited.execute("sync", {"source": "/a", "seconds": 1.0})
    paused = limited.client.call("POST", f"{BASE}/pause")
    assert (paused["status"], paused["paused"], paused["name"]) == ("paused", True, "sync")
    status, said = refused(limited, f"{BASE}/execute", {"context": {"source": "/a"}})
    assert status == 409
    assert "workflow_paused" in said
    assert limited.client.call("GET", BASE)["paused"] is True
    assert limited.wait_for_end(running)["status"] == "Completed"

    limited.wait_for_successor(limited.kill("reconciler"), "reconciler")
    limited.upload(write_package(tmp_path, "sync", SYNC + "\n# new\n", version="1.1.0"))
    assert refused(limited, f"{BASE}/execute", {"context": {"source": "/a"}})[0] == 409
    assert limited.metric("reconciler", "cloacina_reconciler_paused_workflows") == 1

    assert limited.client.call("POST", f"{BASE}/resume")["paused"] is False
    assert limited.wait_for_end(limited.execute("sync", {"source": "/a"}))["status"] == "Completed"
    lines = [line for line in limited.log() if line["message"] == "workflow paused"]
    assert lines[-1]["workflow_name"] == "sync"
    assert lines[-1]["service"] == "reconciler"
    assert lines[-1]["request_id"]


def test_a_pause_does_not_change_what_a_key_has_begun(limited: RunningSystem) -> None:
    ask = {"context": {"source": "/a"}}
    begun = limited.client.call("POST", f"{BASE}/execute", ask, headers={"Idempotency-Key": "once"})
    limited.client.call("POST", f"{BASE}/pause")
    try:
        again = limited.client.call("POST", f"{BASE}/execute", ask, headers={"Idempotency-Key": "once"})
        assert again["execution_id"] == begun["execution_id"]
    finally:
        limited.client.call("POST", f"{BASE}/resume")


def test_an_instance_is_executed_with_what_it_binds(limited: RunningSystem) -> None:
    path = f"{BASE}/instances"
    made = limited.client.call("POST", path, {"instance_name": "prod", "params": {"source": "/prod"}})
    assert made["params"] == {"source": "/prod", "mode": "copy", "kilobytes": 0, "seconds": 0.0}
    begun = limited.client.call("POST", f"{path}/prod/execute", {"context": {"note": 1, "schedule_id": "spoofed"}})
    ended = limited.wait_for_end(begun["execution_id"])
    assert ended["status"] == "Completed"
    assert (ended["output"]["plan"], ended["output"]["note"]) == ("copy /prod", 1)
    assert "schedule_id" not in ended["output"]

    status, said = refused(limited, f"{path}/prod/execute", {"context": {"source": "/other", "mode": 5}})
    assert status == 400
    assert "workflow_input_invalid" in said
    assert "'source' is bound" in said
    assert "'mode' is bound" in said
    status, said = refused(limited, path, {"instance_name": "bad", "params": {"mode": 5}})
    assert (status, "instance_params_invalid" in said) == (400, True)
    assert "'source' is required" in said
    assert "'mode' must be of type string" in said
    assert refused(limited, path, {"instance_name": "prod", "params": {"source": "/x"}})[0] == 409
    assert refused(limited, path, {"instance_name": "c", "params": {"source": "/x"}, "cron": "61 * * * *"})[0] == 400
    assert refused(limited, "/v1/tenants/public/workflows/no/instances", {"instance_name": "a"})[0] == 404
    assert refused(limited, f"{path}/absent/execute")[0] == 404

    limited.wait_for_successor(limited.kill("scheduler"), "scheduler")
    assert limited.client.call("GET", f"{path}/prod") == made
    assert limited.client.call("DELETE", f"{path}/prod")["deleted"] is True
    assert limited.client.call("GET", path)["items"] == []


def test_the_source_is_what_was_uploaded(limited: RunningSystem) -> None:
    shown = limited.client.call("GET", f"{BASE}/source")
    files = {file["path"]: file for file in shown["files"]}
    assert files["workflow/sync/tasks.py"]["contents"].startswith(SYNC)
    assert files["workflow/sync/tasks.py"]["language"] == "python"
    assert files["package.toml"]["language"] == "toml"
    assert limited.client.call("GET", f"/v1/tenants/public/workflows/{shown['id']}/source") == shown


def test_a_context_over_the_limit_fails_its_task_by_name_and_size(limited: RunningSystem) -> None:
    failed = limited.wait_for_end(limited.execute("sync", {"source": "/a", "kilobytes": 65}))
    assert failed["status"] == "Failed"
    (task,) = limited.tasks(failed["execution_id"]).values()
    assert task["reason"] == "validation_failed"
    assert "'plan'" in task["last_error"]
    assert "65536" in task["last_error"]
    assert str(65 * 1024)[:2] in task["last_error"]
    fits = limited.wait_for_end(limited.execute("sync", {"source": "/a", "kilobytes": 60}))
    assert fits["status"] == "Completed"
    status, said = refused(limited, f"{BASE}/execute", {"context": {"source": "x" * 65_536}})
    assert (status, "workflow_input_invalid" in said, "65536" in said) == (400, True, True)


def test_a_task_is_never_given_more_than_can_be_sent(tmp_path: Path) -> None:
    """Eleven outputs just under 1 MiB each: merged they are over what one message between services may hold."""
    code = "import cloaca\n\n"
    for number in range(11):
        code += f"@cloaca.task(id='t{number}')\ndef t{number}(context):\n"
        code += f"    context.set('k{number}', 'x' * 1_000_000)\n    return context\n\n"
    names = [f"t{number}" for number in range(11)]
    code += f"@cloaca.task(id='join', dependencies={names})\ndef join(context):\n    return context\n"
    with RunningSystem(tmp_path / "home") as system:
        system.upload(write_package(tmp_path, "wide", code))
        ended = system.wait_for_end(system.execute("wide"), 60)
        assert ended["status"] == "Failed"
        task = system.tasks(ended["execution_id"])["join"]
        assert (task["status"], task["reason"], task["attempt"]) == ("Failed", "context_load_failed", 1)
        assert "'join'" in task["last_error"]
        assert system.metric("scheduler", 'cloacina_tasks_total{reason="context_load_failed",status="failed"}') == 1.0


def test_the_command_line_pauses_and_has_instances(limited: RunningSystem) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cloacina.cli", "--home", str(limited.home), "--server", limited.url]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)

    assert json.loads(run("--json", "workflow", "pause", "sync").stdout)["paused"] is True
    refused_run = run("workflow", "run", "sync", "--context", '{"source": "/a"}')
    assert (refused_run.returncode, "workflow_paused" in refused_run.stderr) == (5, True)
    assert json.loads(run("--json", "workflow", "resume", "sync").stdout)["paused"] is False
    assert run("workflow", "pause", "absent").returncode == 3
    made = run("--json", "instance", "create", "sync", "cli", "--params", '{"mode": "a"}', "--param", "source=/x")
    assert json.loads(made.stdout)["params"]["source"] == "/x", made.stderr
    assert run("-o", "id", "instance", "list", "sync").stdout.split() == ["cli"]
    ran = run("--json", "instance", "run", "sync", "cli", "--wait")
    assert ran.returncode == 0, ran.stderr
    assert '"plan": "a /x"' in ran.stdout
    assert run("instance", "delete", "sync", "cli").returncode == 0
    assert run("instance", "inspect", "sync", "cli").returncode == 3
    assert "import cloaca" in run("workflow", "source", "sync", "workflow/sync/tasks.py").stdout
    wait_until(lambda: limited.status() == "ok", "an unharmed system")
