"""What a task may do, and what becomes of it, on a running system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloacina.cli.client import ApiFailure
from tests.system.running import RunningSystem, wait_until, write_package

CODE = '''
import asyncio
import os
import subprocess
import sys
import threading
import time

import cloaca


def declare(name):
    """Each behaviour is a task that runs when the context asks for it."""
    def decorate(function):
        timeout_s = (function.__kwdefaults__ or {}).get("timeout_s")
        asked_for = cloaca.context_value("behaviour", "==", name)

        @cloaca.task(id=name, retry_attempts=1, timeout_s=timeout_s, trigger_rules=asked_for)
        def run(context):
            return function(context)
        return function
    return decorate


@declare("raise")
def raises(context):
    raise RuntimeError("the reason why")


@declare("exit")
def exits(context):
    sys.exit(3)


@declare("crash")
def crashes(context):
    os._exit(9)


@declare("hang")
def hangs(context, *, timeout_s=0.3):
    time.sleep(600)


@declare("large")
def large(context):
    context.set("large", "x" * (1 << 20))
    return context


@declare("wrong")
def wrong(context):
    return {"not": "a context"}


@declare("environment")
def environment(context):
    context.set("environment", dict(os.environ))
    context.set("folder", os.getcwd())
    context.set("files", sorted(os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                                if os.path.exists(f"/proc/self/fd/{n}")))
    context.set("written", open("scratch", "w").write("x"))
    return context


@declare("chatter")
def chatter(context):
    print("to stderr", file=sys.stderr)
    subprocess.run(["sh", "-c", "echo from a child"], check=True)
    thread = threading.Thread(target=lambda: print("from a thread"))
    thread.start()
    thread.join()
    print("evil \\x1b[31m red\\r\\nsecond line")
    print("no line break", end="")


@declare("leave")
def leaves(context):
    """Leaves a process behind."""
    child = subprocess.Popen(["sleep", "600"])
    context.set("child", child.pid)
    return context


@cloaca.task(id="hang_async", retry_attempts=1, timeout_s=0.3,
             trigger_rules=cloaca.context_value("behaviour", "==", "hang_async"))
async def hang_async(context):
    await asyncio.sleep(600)
'''


@pytest.fixture(scope="module")
def behaving(system: RunningSystem, tmp_path_factory: pytest.TempPathFactory) -> RunningSystem:
    """The shared system with the package ``behave``."""
    system.upload(write_package(tmp_path_factory.mktemp("packages"), "behave", CODE))
    return system


def run(system: RunningSystem, behaviour: str) -> tuple[Any, Any]:
    """The execution and the one task that ran in it."""
    execution_id = system.execute("behave", {"behaviour": behaviour})
    return system.wait_for_end(execution_id), system.tasks(execution_id)[behaviour]


@pytest.mark.parametrize(
    ("behaviour", "reason", "said"),
    [
        ("raise", "task_error", "RuntimeError: the reason why"),
        ("exit", "task_error", "SystemExit: 3"),
        ("crash", "infrastructure", "exited with status 9"),
        ("hang", "timeout", "timeout of 0.3 s"),
        ("hang_async", "timeout", "timeout of 0.3 s"),
        ("large", "validation_failed", "the limit is 1048576"),
        ("wrong", "validation_failed", "returned dict"),
    ],
)
def test_a_task_that_fails_says_why(behaving: RunningSystem, behaviour: str, reason: str, said: str) -> None:
    before = behaving.metric("scheduler", f'cloacina_tasks_total{{reason="{reason}",status="failed"}}')
    execution, task = run(behaving, behaviour)
    assert (execution["status"], execution["reason"]) == ("Failed", "dependency_failed")
    assert (task["status"], task["reason"]) == ("Failed", reason)
    assert said in task["last_error"]
    after = behaving.metric("scheduler", f'cloacina_tasks_total{{reason="{reason}",status="failed"}}')
    assert after == before + 1


def test_the_traceback_is_kept_and_begins_in_the_authors_code(behaving: RunningSystem) -> None:
    _, task = run(behaving, "raise")
    assert "in raises" in task["error_details"]
    assert "RuntimeError: the reason why" in task["error_details"]
    assert "cloacina/worker" not in task["error_details"]


def test_a_task_that_cannot_be_stopped_costs_its_worker_only(behaving: RunningSystem) -> None:
    """After a hang the package still works, and no worker is left that hangs."""
    run(behaving, "hang")
    assert run(behaving, "chatter")[0]["status"] == "Completed"
    wait_until(lambda: behaving.metric("executor", 'cloacina_executor_workers{state="retired"}') == 0, "the end of it")


def test_the_surroundings_of_a_task_hold_nothing_of_the_system(behaving: RunningSystem) -> None:
    execution, _ = run(behaving, "environment")
    output = execution["output"]
    assert {name for name in output["environment"] if name.startswith(("CLOACINA", "OTEL"))} == set()
    assert output["environment"]["HOME"] == output["folder"]
    assert str(behaving.home) in output["folder"]
    assert [file for file in output["files"] if file.startswith(str(behaving.home))] == []
    for worker in behaving.workers():
        assert worker.net_connections("inet") == []


def test_everything_a_task_says_is_logged_with_its_ids(behaving: RunningSystem) -> None:
    execution, _ = run(behaving, "chatter")

    def said() -> list[dict[str, Any]]:
        lines = [line for line in behaving.log() if line.get("execution_id") == execution["execution_id"]]
        return [line for line in lines if line["target"] == "task.behave.chatter"]

    expected = {"no line break", "to stderr", "from a child", "from a thread", "evil \x1b[31m red", "second line"}
    wait_until(lambda: {line["message"] for line in said()} >= expected, "the lines")
    assert {line["task_name"] for line in said()} == {"chatter"}
    assert {line["level"] for line in said() if line["message"] == "to stderr"} == {"WARN"}
    assert "\x1b" not in behaving.console.read_text()


def test_what_a_worker_left_behind_ends_with_it(folder: Path) -> None:
    with RunningSystem(folder / "home") as system:
        system.upload(write_package(folder, "behave", CODE))
        execution, _ = run(system, "leave")
        child = psutil.Process(execution["output"]["child"])
        assert child.is_running()
        workers = system.workers()
        system.stop()
        wait_until(lambda: not child.is_running(), "the end of the child")
        assert [worker for worker in workers if worker.is_running()] == []
        assert os.listdir(system.home / "run") == []


def test_a_cancelled_execution_stops_what_runs_and_starts_nothing_more(folder: Path) -> None:
    code = """
import time
import cloaca

@cloaca.task(id="endless", retry_attempts=1)
def endless(context):
    while True:
        time.sleep(0.05)

@cloaca.task(id="after", dependencies=["endless"])
def after(context):
    pass
"""
    with RunningSystem(folder / "home", {"CLOACINA_STOP_GRACE_S": "0.2", "CLOACINA_RETIRE_GRACE_S": "0.2"}) as system:
        system.upload(write_package(folder, "endless", code))
        execution_id = system.execute("endless")
        wait_until(lambda: system.tasks(execution_id)["endless"]["started_at"], "the task")
        system.client.call("POST", f"/v1/tenants/public/executions/{execution_id}/cancel", {"reason": "by a test"})
        assert system.wait_for_end(execution_id)["status"] == "Cancelled"
        assert system.tasks(execution_id)["after"]["status"] != "Completed"
        wait_until(lambda: system.workers() == [], "the end of the worker")
        with pytest.raises(ApiFailure, match="Cancelled"):
            system.client.call("POST", f"/v1/tenants/public/executions/{execution_id}/pause")


def test_a_paused_execution_goes_on_when_resumed(system: RunningSystem, folder: Path) -> None:
    code = """
import time
from pathlib import Path
import cloaca

@cloaca.task(id="first")
def first(context):
    while not Path(context["go"]).exists():
        time.sleep(0.01)

@cloaca.task(id="second", dependencies=["first"])
def second(context):
    context.set("second", True)
    return context
"""
    system.upload(write_package(folder, "pausing", code))
    go = folder / "go"
    execution_id = system.execute("pausing", {"go": str(go)})
    wait_until(lambda: system.tasks(execution_id)["first"]["status"] == "Running", "the first task")
    system.client.call("POST", f"/v1/tenants/public/executions/{execution_id}/pause")
    go.touch()
    wait_until(lambda: system.tasks(execution_id)["first"]["status"] == "Completed", "the end of the first task")
    assert system.execution(execution_id)["status"] == "Paused"
    assert system.tasks(execution_id)["second"]["status"] == "Ready"
    system.client.call("POST", f"/v1/tenants/public/executions/{execution_id}/resume")
    assert system.wait_for_end(execution_id)["output"]["second"] is True


def test_the_same_idempotency_key_is_the_same_execution(system: RunningSystem) -> None:
    def execute(name: str) -> str:
        path = "/v1/tenants/public/workflows/mixed/execute"
        headers = {"Idempotency-Key": "nightly-2026-04-01"}
        return str(system.client.call("POST", path, {"context": {"name": name}}, headers=headers)["execution_id"])

    first = execute("once")
    assert execute("twice") == first
    system.wait_for_end(first)
    assert execute("thrice") == first


def test_a_deferred_task_holds_no_slot(folder: Path) -> None:
    code = """
from pathlib import Path
import cloaca

@cloaca.task(id="waits")
def waits(context, handle):
    handle.defer_until(lambda: Path(context["go"]).exists(), poll_interval_ms=20)
    context.set("held", handle.is_slot_held())
    return context
"""
    other = "import cloaca\n\n@cloaca.task(id='other')\ndef other(context):\n    pass\n"
    with RunningSystem(folder / "home", {"CLOACINA_SLOTS": "1"}) as system:
        system.upload(write_package(folder, "waits", code))
        system.upload(write_package(folder, "other", other))
        go = folder / "go"
        execution_id = system.execute("waits", {"go": str(go)})
        wait_until(lambda: system.tasks(execution_id)["waits"]["sub_status"] == "Deferred", "the deferral")
        assert system.wait_for_end(system.execute("other"))["status"] == "Completed"
        go.touch()
        assert system.wait_for_end(execution_id)["output"]["held"] is True
        events = [event for event, _ in system.events(execution_id)]
        assert events.index("task_deferred") < events.index("task_resumed")


def test_a_new_version_supersedes_and_running_executions_keep_theirs(system: RunningSystem, folder: Path) -> None:
    code = """
import time
from pathlib import Path
import cloaca

@cloaca.task(id="first")
def first(context):
    while not Path(context["go"]).exists():
        time.sleep(0.01)

@cloaca.task(id="second", dependencies=["first"])
def second(context):
    context.set("version", "VERSION")
    return context
"""
    system.upload(write_package(folder / "1", "versions", code.replace("VERSION", "one")))
    old = system.execute("versions", {"go": str(folder / "go")})
    system.upload(write_package(folder / "2", "versions", code.replace("VERSION", "two"), version="2.0.0"))
    new = system.execute("versions", {"go": str(folder / "go")})
    (folder / "go").touch()
    assert system.wait_for_end(old)["output"]["version"] == "one"
    assert system.wait_for_end(new)["output"]["version"] == "two"
    assert (system.execution(old)["package_version"], system.execution(new)["package_version"]) == ("1.0.0", "2.0.0")
