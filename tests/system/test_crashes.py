"""Whatever dies, every acknowledged execution completes."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from cloacina.cli.client import ApiFailure
from tests.system.running import RunningSystem, wait_until, write_package

LEASE = {"CLOACINA_LEASE_S": "2", "CLOACINA_HEARTBEAT_S": "0.5"}

SLOW = '''
import os
import time
from pathlib import Path

import cloaca


@cloaca.task(id="mark", retry_attempts=1)
def mark(context):
    """Notes that it began; waits until the test lets it go on."""
    folder = Path(context["folder"])
    with (folder / "began").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    while not (folder / "go").exists():
        time.sleep(0.02)
    context.set("pid", os.getpid())
    return context


@cloaca.task(id="after", dependencies=["mark"])
def after(context):
    context.set("after", True)
    return context
'''

QUICK = """
import cloaca


@cloaca.task(id="a")
def a(context):
    context.set("a", context.get("number"))
    return context


@cloaca.task(id="b", dependencies=["a"])
def b(context):
    context.set("b", context["a"] + 1)
    return context
"""


def begun(folder: Path) -> list[str]:
    """Process ids of the attempts that began."""
    file = folder / "began"
    return file.read_text().split() if file.exists() else []


def test_executor_killed_in_mid_task(folder: Path) -> None:
    """The task is run again once the lease has lapsed, and the execution completes."""
    with RunningSystem(folder / "home", LEASE) as system:
        system.upload(write_package(folder, "slow", SLOW))
        execution_id = system.execute("slow", {"folder": str(folder)})
        wait_until(lambda: begun(folder), "the first attempt")
        (worker,) = (psutil.Process(int(pid)) for pid in begun(folder))
        system.kill("executor")
        wait_until(lambda: len(begun(folder)) == 2, "the second attempt")
        wait_until(lambda: not worker.is_running(), "the end of the first worker")
        (folder / "go").touch()
        found = system.wait_for_end(execution_id)
        assert found["status"] == "Completed"
        assert str(found["output"]["pid"]) == begun(folder)[1]
        events = [event for event, _ in system.events(execution_id)]
        assert "task_reset" in events
        assert system.metric("scheduler", "cloacina_scheduler_stale_claims_swept_total") == 1
        assert system.metric("scheduler", "cloacina_active_workflows") == 0
        assert system.metric("scheduler", "cloacina_active_tasks") == 0


def test_scheduler_killed_in_mid_task(folder: Path) -> None:
    """The executor keeps what it runs, and reports it to the scheduler's successor."""
    with RunningSystem(folder / "home") as system:  # with the usual lease: the successor has to come up within it
        system.upload(write_package(folder, "slow", SLOW))
        execution_id = system.execute("slow", {"folder": str(folder)})
        wait_until(lambda: begun(folder), "the first attempt")
        killed = system.kill("scheduler")
        (folder / "go").touch()
        system.wait_for_successor(killed, "scheduler")
        found = system.wait_for_end(execution_id)
        assert found["status"] == "Completed"
        assert len(begun(folder)) == 1


def test_scheduler_killed_under_load(folder: Path) -> None:
    """Every execution that was acknowledged, and no other, is there after the restart and completes."""
    acknowledged: list[str] = []
    with RunningSystem(folder / "home", LEASE) as system:
        system.upload(write_package(folder, "quick", QUICK))
        stopped = threading.Event()

        def submit() -> None:
            number = 0
            while not stopped.is_set():
                number += 1
                try:
                    acknowledged.append(system.execute("quick", {"number": number}))
                except ApiFailure as failure:
                    assert failure.status == 503, failure

        submitters = [threading.Thread(target=submit) for _ in range(4)]
        for submitter in submitters:
            submitter.start()
        for crash in (1, 2):
            wait_until(lambda crash=crash: len(acknowledged) > 100 * crash, "acknowledged executions")
            system.wait_for_successor(system.kill("scheduler"), "scheduler")
        count = len(acknowledged)
        wait_until(lambda: len(acknowledged) > count + 50, "executions after the crash")
        stopped.set()
        for submitter in submitters:
            submitter.join(30)
        for execution_id in acknowledged:
            assert system.wait_for_end(execution_id, 60)["status"] == "Completed"
        path = "/v1/tenants/public/executions"
        assert system.client.call("GET", f"{path}?status=Failed")["total"] == 0
        # a request whose answer was lost may have been stored; it completes, too
        wait_until(lambda: system.client.call("GET", f"{path}?status=Running")["total"] == 0, "the end of all")
        assert system.client.call("GET", f"{path}?status=Completed")["total"] >= len(acknowledged)


def test_worker_killed_in_mid_task(folder: Path) -> None:
    """Only what it ran fails, with a reason of its own, and is tried again as its retry policy says."""
    code = SLOW.replace('id="mark", retry_attempts=1', 'id="mark", retry_attempts=2, retry_delay_ms=10')
    with RunningSystem(folder / "home") as system:
        system.upload(write_package(folder, "slow", code))
        execution_id = system.execute("slow", {"folder": str(folder)})
        wait_until(lambda: begun(folder), "the first attempt")
        psutil.Process(int(begun(folder)[0])).kill()
        wait_until(lambda: len(begun(folder)) == 2, "the second attempt")
        (folder / "go").touch()
        assert system.wait_for_end(execution_id)["status"] == "Completed"
        task = system.tasks(execution_id)["mark"]
        assert task["attempt"] == 2
        assert "SIGKILL" in task["last_error"]


@pytest.mark.parametrize("service", ["reconciler", "api"])
def test_other_services_killed(folder: Path, service: str) -> None:
    """What they own is there again after their restart."""
    with RunningSystem(folder / "home") as system:
        system.upload(write_package(folder, "quick", QUICK))
        before = system.wait_for_end(system.execute("quick", {"number": 1}))
        system.wait_for_successor(system.kill(service), service)
        assert system.execution(before["execution_id"]) == before
        found = system.wait_for_end(system.execute("quick", {"number": 2}))
        assert found["output"] == {"number": 2, "a": 2, "b": 3}


def test_drain_hands_back_what_does_not_end_in_time(folder: Path) -> None:
    """A task that outlives the grace is Ready again at once, and runs after the next start."""
    environment = {"CLOACINA_GRACE_S": "1"}
    with RunningSystem(folder / "home", environment) as system:
        system.upload(write_package(folder, "slow", SLOW))
        execution_id = system.execute("slow", {"folder": str(folder)})
        wait_until(lambda: begun(folder), "the first attempt")
        assert system.stop() == 0
        (folder / "go").touch()
        system.start()
        assert system.wait_for_end(execution_id)["status"] == "Completed"
        assert len(begun(folder)) == 2
        assert system.tasks(execution_id)["mark"]["attempt"] == 1


def test_drain_lets_running_tasks_end(folder: Path) -> None:
    """Within the grace a task ends, and its result is kept."""
    with RunningSystem(folder / "home") as system:
        system.upload(write_package(folder, "slow", SLOW))
        execution_id = system.execute("slow", {"folder": str(folder)})
        wait_until(lambda: begun(folder), "the first attempt")
        stopping = threading.Thread(target=system.stop)
        stopping.start()
        wait_until(lambda: not system.answers("/health"), "the end of intake")
        (folder / "go").touch()
        stopping.join(60)
        system.start()
        assert system.wait_for_end(execution_id)["status"] == "Completed"
        assert len(begun(folder)) == 1


def test_known_workflows_run_while_the_reconciler_is_away(folder: Path) -> None:
    """What was loaded goes on: the scheduler knows the workflow and the executor has the package."""
    with RunningSystem(folder / "home") as system:
        system.upload(write_package(folder, "quick", QUICK))
        system.wait_for_end(system.execute("quick", {"number": 1}))
        system.process("reconciler").suspend()  # silent, which is worse than gone
        assert system.wait_for_end(system.execute("quick", {"number": 2}))["status"] == "Completed"
        system.process("reconciler").resume()
        killed = system.kill("reconciler")
        assert system.wait_for_end(system.execute("quick", {"number": 3}))["status"] == "Completed"
        system.wait_for_successor(killed, "reconciler")


DEFERRING = """
from pathlib import Path

import cloaca


@cloaca.task(id="waits", retry_attempts=1)
async def waits(context, handle):
    await handle.defer_until(lambda: Path(context["folder"], "go").exists(), poll_interval_ms=20)
    context.set("held", handle.is_slot_held())
    return context
"""


def test_a_deferred_task_outlives_the_scheduler(folder: Path) -> None:
    """It waits on in its worker without a slot, and the successor knows that it does."""
    with RunningSystem(folder / "home", {"CLOACINA_SLOTS": "1"}) as system:
        system.upload(write_package(folder, "deferring", DEFERRING))
        system.upload(write_package(folder, "quick", QUICK))
        execution_id = system.execute("deferring", {"folder": str(folder)})
        wait_until(lambda: system.tasks(execution_id)["waits"]["sub_status"] == "Deferred", "the deferral")
        system.wait_for_successor(system.kill("scheduler"), "scheduler")
        assert system.tasks(execution_id)["waits"]["sub_status"] == "Deferred"
        assert system.wait_for_end(system.execute("quick", {"number": 1}))["status"] == "Completed"
        (folder / "go").touch()
        found = system.wait_for_end(execution_id)
        assert (found["status"], found["output"]["held"]) == ("Completed", True)
        assert system.tasks(execution_id)["waits"]["attempt"] == 1
