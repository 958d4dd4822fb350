"""Schedules of an embedded runner: cron, named instances and triggers, in the original's words, and over restarts."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import cloaca

from .conftest import StartRunner, wait_for


@pytest.fixture
def seen() -> list[dict[str, Any]]:
    """The contexts of what ran."""
    return []


@pytest.fixture
def report(seen: list[dict[str, Any]]) -> str:
    """A workflow that notes its context."""
    with cloaca.WorkflowBuilder("report"):

        @cloaca.task()
        def note(context):
            seen.append(context.to_dict())
            return context

    return "report"


def test_a_cron_workflow_runs_every_second(runner: cloaca.DefaultRunner, report: str, seen: list[Any]) -> None:
    schedule_id = runner.register_cron_workflow(report, "* * * * * *", "UTC")
    wait_for(lambda: len(seen) >= 2)
    assert seen[0]["schedule_id"] == schedule_id
    assert seen[0]["schedule_expression"] == "* * * * * *"
    assert seen[0]["scheduled_time"] < seen[1]["scheduled_time"]
    (listed,) = runner.list_cron_schedules()
    assert (listed["id"], listed["workflow_name"], listed["enabled"]) == (schedule_id, report, True)
    assert (listed["timezone"], listed["catchup_policy"]) == ("UTC", "skip")
    assert runner.get_cron_schedule(schedule_id)["last_run_at"] is not None
    first = runner.get_cron_execution_history(schedule_id)[-1]
    assert first["schedule_id"] == schedule_id
    assert runner.result(first["workflow_execution_id"]).status == "Completed"
    stats = runner.get_cron_execution_stats("2020-01-01T00:00:00Z")
    assert stats["total_executions"] == stats["successful_executions"] >= 2
    assert (stats["lost_executions"], stats["success_rate"]) == (0, 100.0)
    assert runner.get_cron_execution_stats("2999-01-01T00:00:00Z")["total_executions"] == 0


def test_a_schedule_outlives_its_process(start: StartRunner, report: str, seen: list[Any]) -> None:
    first = start()
    schedule_id = first.register_workflow_instance(
        report, "berlin", "* * * * * *", "Europe/Berlin", cloaca.Context({"city": "Berlin"})
    )
    first.shutdown()
    second = start()
    wait_for(lambda: seen)
    assert (seen[-1]["city"], seen[-1]["schedule_id"]) == ("Berlin", schedule_id)
    with pytest.raises(ValueError, match="already"):
        second.register_workflow_instance(report, "berlin", "0 3 * * *", "UTC", cloaca.Context({}))


def test_an_instance_and_its_schedule_are_one(start: StartRunner, report: str, seen: list[Any]) -> None:
    runner = start()
    params = cloaca.Context({"city": "Berlin"})
    instance_id = runner.register_workflow_instance(report, "berlin", "* * * * * *", "UTC", params)
    assert runner.register_workflow_instance(report, "by hand", None, "UTC", params)
    wait_for(lambda: runner.get_workflow_instance(report, "berlin")["last_run_at"] is not None)
    assert [each["id"] for each in runner.list_cron_schedules()] == [instance_id]
    runner.update_cron_schedule(instance_id, "0 3 * * *", "Europe/Berlin")
    runner.set_cron_schedule_enabled(instance_id, False)
    runner.shutdown()
    runner = start()
    shown = runner.get_workflow_instance(report, "berlin")
    assert (shown["cron_expression"], shown["timezone"], shown["paused"]) == ("0 3 * * *", "Europe/Berlin", True)
    runner.unregister_workflow_instance(report, "berlin")
    assert runner.list_cron_schedules() == []
    other = runner.register_workflow_instance(report, "berlin", "0 3 * * *", "UTC", params)
    runner.delete_cron_schedule(other)
    assert [each["instance_name"] for each in runner.list_workflow_instances(report)] == ["by hand"]


def test_an_instance_whose_schedule_was_not_stored_gets_it_at_the_next_start(
    start: StartRunner, report: str, seen: list[Any]
) -> None:
    runner = start()
    params = cloaca.Context({"city": "Berlin"})
    instance_id = runner.register_workflow_instance(report, "berlin", "* * * * * *", "UTC", params)
    runner._ask(lambda service: service.schedules.remove(instance_id))  # as after a crash between the two
    runner.shutdown()
    before = len(seen)
    runner = start()
    wait_for(lambda: len(seen) > before)
    assert (seen[-1]["city"], seen[-1]["schedule_id"]) == ("Berlin", instance_id)


def test_a_firing_waits_until_its_workflow_is_registered(runner: cloaca.DefaultRunner) -> None:
    runner.register_cron_workflow("late", "* * * * * *", "UTC")
    wait_for(lambda: runner.list_cron_schedules()[0]["next_run_at"] is not None)
    ran = []
    with cloaca.WorkflowBuilder("late"):

        @cloaca.task()
        def note(context):
            ran.append(context["scheduled_time"])

    wait_for(lambda: ran)


def test_a_disabled_schedule_rests(runner: cloaca.DefaultRunner, report: str) -> None:
    schedule_id = runner.register_cron_workflow(report, "0 3 * * *", "UTC")
    runner.set_cron_schedule_enabled(schedule_id, False)
    assert runner.list_cron_schedules(enabled_only=True) == []
    assert runner.get_cron_schedule(schedule_id)["enabled"] is False
    runner.set_cron_schedule_enabled(schedule_id, True)
    runner.update_cron_schedule(schedule_id, "30 4 * * *", "Europe/Berlin")
    changed = runner.get_cron_schedule(schedule_id)
    assert (changed["cron_expression"], changed["timezone"], changed["enabled"]) == (
        "30 4 * * *",
        "Europe/Berlin",
        True,
    )
    with pytest.raises(ValueError, match="never fires"):
        runner.update_cron_schedule(schedule_id, "0 0 30 2 *", "UTC")
    assert runner.get_cron_schedule(schedule_id) == changed
    runner.delete_cron_schedule(schedule_id)
    assert runner.list_cron_schedules() == []
    with pytest.raises(ValueError, match="there is no cron schedule"):
        runner.get_cron_schedule(schedule_id)


def test_pages_of_schedules(runner: cloaca.DefaultRunner, report: str) -> None:
    ids = [runner.register_cron_workflow(report, "0 3 * * *", "UTC") for _ in range(3)]
    assert [each["id"] for each in runner.list_cron_schedules(None, 2, 1)] == ids[1:]


def test_cron_scheduling_can_be_off(start: StartRunner, report: str) -> None:
    runner = start(enable_cron_scheduling=False)
    with pytest.raises(ValueError, match="Cron scheduling not enabled"):
        runner.register_cron_workflow(report, "0 3 * * *", "UTC")


def test_a_trigger_starts_its_workflow(start: StartRunner, report: str, seen: list[Any]) -> None:
    files = ["a.csv", "b.csv"]

    @cloaca.trigger(name="inbox", on=report, poll_interval="20ms")
    def inbox():
        if not files:
            return cloaca.TriggerResult.skip()
        return cloaca.TriggerResult.fire(cloaca.Context({"file": files.pop(0)}))

    runner = start()
    wait_for(lambda: len(seen) == 2)
    assert [each["file"] for each in seen] == ["a.csv", "b.csv"]
    assert seen[0]["trigger_name"] == "inbox"
    (listed,) = runner.list_trigger_schedules()
    assert (listed["trigger_name"], listed["workflow_name"], listed["poll_interval_ms"]) == ("inbox", report, 20)
    wait_for(lambda: runner.get_trigger_schedule("inbox")["last_poll_at"] is not None)
    history = runner.get_trigger_execution_history("inbox")
    assert [runner.result(each["workflow_execution_id"]).status for each in history] == ["Completed"] * 2
    assert len({each["context_hash"] for each in history}) == 2
    runner.set_trigger_enabled("inbox", False)
    assert runner.get_trigger_schedule("inbox")["enabled"] is False
    assert runner.get_trigger_schedule("nothing") is None
    assert runner.get_trigger_execution_history("nothing") == []


def test_an_async_trigger_a_bool_and_one_that_is_declared_late(
    runner: cloaca.DefaultRunner, report: str, seen: list[Any]
) -> None:
    asked = []

    @cloaca.trigger(on=report, poll_interval="20ms")
    async def once():
        asked.append(1)
        return len(asked) == 1

    wait_for(lambda: len(asked) >= 3)
    assert [each["trigger_name"] for each in seen] == ["once"]


def test_a_trigger_that_raises_is_asked_again(
    runner: cloaca.DefaultRunner, report: str, seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    @cloaca.trigger(on=report, poll_interval="20ms")
    def moody():
        asked.append(1)
        if len(asked) == 1:
            raise OSError("not today")
        return len(asked) == 3

    wait_for(lambda: seen)
    (line,) = [record for record in caplog.records if record.getMessage() == "a trigger could not be polled"]
    assert (line.levelno, line.__dict__["error"]) == (logging.WARNING, "OSError: not today")


def test_a_cron_trigger_of_a_builder_starts_that_workflow(start: StartRunner) -> None:
    ran = []
    with cloaca.WorkflowBuilder("ticking"):

        @cloaca.task()
        def tick(context):
            ran.append(context["schedule_timezone"])

        @cloaca.trigger(on="ticking", cron="* * * * * *")
        def every_second():
            pass

    start()
    wait_for(lambda: ran)
    assert ran[0] == "UTC"
