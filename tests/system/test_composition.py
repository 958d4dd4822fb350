"""Workflows made of workflows, limits, priorities, and running again what failed: on a running system."""

from __future__ import annotations

from pathlib import Path

from tests.system.running import RunningSystem, wait_until, write_package

INNER = """
import cloaca


@cloaca.task(id="double")
def double(context):
    context.set("number", context["number"] * 2)
    return context
"""

OUTER = """
import cloaca


@cloaca.task(id="begin")
def begin(context):
    context.set("number", context["number"] + 1)
    return context


cloaca.subworkflow("inner", id="doubled", dependencies=["begin"])


@cloaca.task(id="end", dependencies=["doubled"])
def end(context):
    context.set("ended", True)
    return context
"""

CURABLE = """
from pathlib import Path

import cloaca


@cloaca.task(id="first")
def first(context):
    with Path(context["folder"], "runs").open("a") as file:
        file.write("first ")
    return context


@cloaca.task(id="second", dependencies=["first"], retry_attempts=1)
def second(context):
    if not Path(context["folder"], "cure").exists():
        raise ValueError("not cured")
    context.set("cured", True)
    return context
"""

ONE_AT_A_TIME = """
import time
from pathlib import Path

import cloaca

cloaca.workflow_limits(max_executions=1)


@cloaca.task(id="alone")
def alone(context):
    mark = Path(context["folder"], "running")
    mark.touch(exist_ok=False)
    while not Path(context["folder"], "go").exists():
        time.sleep(0.01)
    mark.unlink()
"""


def test_a_task_executes_a_workflow_under_the_same_request_id(system: RunningSystem, folder: Path) -> None:
    system.upload(write_package(folder, "inner", INNER))
    system.upload(write_package(folder, "outer", OUTER))
    execution_id = system.execute("outer", {"number": 3})
    found = system.wait_for_end(execution_id)
    assert found["output"] == {"number": 8, "ended": True}
    listed = system.client.call("GET", "/v1/tenants/public/executions?workflow=inner")["items"]
    child = system.execution(listed[0]["id"])
    assert (child["parent_execution_id"], child["parent_task"]) == (execution_id, "doubled")
    assert child["request_id"] == found["request_id"]
    assert child["trigger_origin"] == "workflow"
    lines = [line for line in system.log() if line.get("request_id") == found["request_id"]]
    assert {line.get("workflow_name") for line in lines} >= {"inner", "outer"}


def test_a_retry_runs_again_what_failed_only(system: RunningSystem, folder: Path) -> None:
    system.upload(write_package(folder, "curable", CURABLE))
    execution_id = system.execute("curable", {"folder": str(folder)})
    assert system.wait_for_end(execution_id)["status"] == "Failed"
    (folder / "cure").touch()
    answer = system.client.call("POST", f"/v1/tenants/public/executions/{execution_id}/retry")
    assert answer["status"] == "Running"
    found = system.wait_for_end(execution_id)
    assert (found["status"], found["output"]["cured"]) == ("Completed", True)
    assert (folder / "runs").read_text() == "first "
    events = [event for event, _ in system.events(execution_id)]
    assert (
        events.count("workflow_failed") == events.count("workflow_resumed") == events.count("workflow_completed") == 1
    )


def test_executions_over_the_limit_of_their_workflow_wait(system: RunningSystem, folder: Path) -> None:
    system.upload(write_package(folder, "alone", ONE_AT_A_TIME))
    executions = [system.execute("alone", {"folder": str(folder)}) for _ in range(3)]
    wait_until(lambda: (folder / "running").exists(), "the first")
    assert sorted(system.execution(each)["status"] for each in executions) == ["Pending", "Pending", "Running"]
    (folder / "go").touch()
    assert {system.wait_for_end(each)["status"] for each in executions} == {"Completed"}


FAN = """
import cloaca


@cloaca.task(id="list")
def list_them(context):
    context.set("numbers", list(range(context["count"])))
    return context


@cloaca.task(id="squared", dependencies=["list"], for_each="numbers", retry_attempts=1)
def squared(context):
    if context["item"] == context.get("poison"):
        raise ValueError("poison")
    print("squaring", context["item"], "at", context["index"])
    context.set("item", context["item"] ** 2)
    return context


@cloaca.task(id="sum", dependencies=["squared"])
def total(context):
    context.set("total", sum(context["squared"]))
    return context
"""

EACH_A_WORKFLOW = """
import cloaca

cloaca.subworkflow("twice_item", id="each", for_each="numbers")
"""

TWICE = """
import cloaca


@cloaca.task(id="twice")
def twice(context):
    context.set("item", context["item"] * 2)
    return context
"""


def test_a_task_runs_for_each_element_of_a_list(system: RunningSystem, folder: Path) -> None:
    system.upload(write_package(folder, "fan", FAN))
    execution_id = system.execute("fan", {"count": 100})
    found = system.wait_for_end(execution_id)
    assert found["output"]["total"] == sum(number**2 for number in range(100))
    tasks = system.tasks(execution_id)
    assert len(tasks) == 103
    assert tasks["squared[42]"]["status"] == "Completed"
    lines = [line for line in system.log() if line.get("execution_id") == execution_id]
    assert any(line["target"] == "task.fan.squared[7]" and line["task_name"] == "squared[7]" for line in lines)


def test_one_bad_element_is_retried_alone(system: RunningSystem, folder: Path) -> None:
    system.upload(write_package(folder, "fan", FAN))
    execution_id = system.execute("fan", {"count": 5, "poison": 3})
    found = system.wait_for_end(execution_id)
    assert found["status"] == "Failed"
    tasks = system.tasks(execution_id)
    assert tasks["squared"]["last_error"] == "1 of 5 instances failed: squared[3]: ValueError: poison"
    system.client.call("POST", f"/v1/tenants/public/executions/{execution_id}/retry")
    system.wait_for_end(execution_id)
    claimed = [task for event, task in system.events(execution_id) if event == "task_claimed"]
    assert claimed.count("squared[3]") == 2
    assert claimed.count("squared[2]") == 1


def test_a_workflow_is_executed_for_each_element(system: RunningSystem, folder: Path) -> None:
    system.upload(write_package(folder, "twice-item", TWICE))
    system.upload(write_package(folder, "each-a-workflow", EACH_A_WORKFLOW))
    found = system.wait_for_end(system.execute("each_a_workflow", {"numbers": [1, 2, 3]}))
    assert found["output"]["each"] == [2, 4, 6]
