"""Declared params and named instances in an embedded runner."""

from __future__ import annotations

from pathlib import Path

import pytest

import cloaca
from tests.embedded.conftest import StartRunner


def define(name: str = "sync") -> None:
    with cloaca.WorkflowBuilder(name):

        @cloaca.workflow_params(source=str, mode=(str, "copy"), limit=(int, 10))
        @cloaca.task()
        def plan(context):
            context.set("plan", f"{context['mode']} {context['limit']} of {context['source']}")
            return context


def test_defaults_fill_what_is_left_out(runner: cloaca.DefaultRunner) -> None:
    define()
    result = runner.execute("sync", cloaca.Context({"source": "/a", "besides": True}))
    assert result.final_context.get("plan") == "copy 10 of /a"
    assert result.final_context.get("besides") is True


def test_every_faulty_param_is_named_before_anything_runs(runner: cloaca.DefaultRunner) -> None:
    define()
    for begin in (runner.execute, runner.submit):
        with pytest.raises(ValueError, match="Workflow execution failed") as refused:
            begin("sync", cloaca.Context({"mode": 5, "limit": "many"}))
        for name in ("'source' is required", "'mode' must be of type string", "'limit' must be of type integer"):
            assert name in str(refused.value)


def test_an_instance_is_executed_by_its_name(runner: cloaca.DefaultRunner) -> None:
    define()
    runner.register_workflow_instance("sync", "prod", None, "UTC", cloaca.Context({"source": "/prod"}))
    runner.register_workflow_instance("sync", "cold", None, "UTC", cloaca.Context({"source": "/a", "mode": "move"}))
    assert runner.execute_instance("sync", "prod").final_context.get("plan") == "copy 10 of /prod"
    result = runner.execute_instance("sync", "cold", cloaca.Context({"note": 1, "mode": "move"}))
    assert result.final_context.get("plan") == "move 10 of /a"
    assert result.final_context.get("note") == 1
    with pytest.raises(ValueError, match="'mode' is bound by the instance"):
        runner.execute_instance("sync", "cold", cloaca.Context({"mode": "copy"}))
    with pytest.raises(ValueError, match="has no instance 'absent'"):
        runner.execute_instance("sync", "absent")


def test_an_instance_outlives_the_process_with_the_defaults_of_its_day(url: str, start: StartRunner) -> None:
    define()
    first = start(url)
    made = first.register_workflow_instance(
        "sync", "prod", "0 6 * * *", "Europe/Berlin", cloaca.Context({"source": "/prod"})
    )
    first.shutdown()

    with cloaca.WorkflowBuilder("sync"):

        @cloaca.workflow_params(source=str, mode=(str, "move"), limit=(int, 99))
        @cloaca.task()
        def plan(context):
            context.set("plan", f"{context['mode']} {context['limit']}")
            return context

    second = start(url)
    kept = second.get_workflow_instance("sync", "prod")
    assert kept["id"] == made
    assert kept["params"] == {"source": "/prod", "mode": "copy", "limit": 10}
    assert (kept["cron_expression"], kept["timezone"], kept["enabled"]) == ("0 6 * * *", "Europe/Berlin", True)
    assert kept["next_run_at"] is not None
    assert second.list_workflow_instances("sync") == [kept]
    assert second.execute_instance("sync", "prod").final_context.get("plan") == "copy 10"
    second.unregister_workflow_instance("sync", "prod")
    assert second.list_workflow_instances("sync") == []
    with pytest.raises(ValueError, match="has no instance 'prod'"):
        second.unregister_workflow_instance("sync", "prod")


@pytest.mark.parametrize(
    ("name", "cron", "timezone", "params", "message"),
    [
        ("prod", "not cron", "UTC", {"source": "/a"}, "the schedule is not valid"),
        ("prod", "0 2 * * *", "Mars/Base", {"source": "/a"}, "the schedule is not valid"),
        ("prod", "0 0 30 2 *", "UTC", {"source": "/a"}, "never"),
        ("prod", "0 2 * * *", "UTC", {}, "'source' is required"),
        ("prod", "0 2 * * *", "UTC", {"source": 5}, "'source' must be of type string"),
        ("prod", "0 2 * * *", "UTC", {"source": "/a", "scheduled_time": "now"}, "set by schedules"),
        (" ", "0 2 * * *", "UTC", {"source": "/a"}, "instance_name"),
        ("a\nb", "0 2 * * *", "UTC", {"source": "/a"}, "instance_name"),
    ],
)
def test_an_instance_that_could_never_run_is_refused(
    runner: cloaca.DefaultRunner, name: str, cron: str, timezone: str, params: dict[str, object], message: str
) -> None:
    define()
    with pytest.raises(ValueError, match=message):
        runner.register_workflow_instance("sync", name, cron, timezone, cloaca.Context(params))
    assert runner.list_workflow_instances("sync") == []


def test_a_name_is_taken_once_for_each_workflow(runner: cloaca.DefaultRunner) -> None:
    for name in ("sync", "other"):
        define(name)
        runner.register_workflow_instance(name, "prod", None, "UTC", cloaca.Context({"source": "/a"}))
    with pytest.raises(ValueError, match="has an instance 'prod' already"):
        runner.register_workflow_instance("sync", "prod", None, "UTC", cloaca.Context({"source": "/b"}))
    assert runner.get_workflow_instance("sync", "prod")["params"]["source"] == "/a"


def test_params_are_a_context(runner: cloaca.DefaultRunner, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="params must be a Context, not dict"):
        runner.register_workflow_instance("sync", "prod", None, "UTC", {"source": "/a"})  # type: ignore[arg-type]


def test_a_workflow_that_is_not_registered_yet_takes_the_params_as_they_are(runner: cloaca.DefaultRunner) -> None:
    runner.register_workflow_instance("later", "prod", "0 2 * * *", "UTC", cloaca.Context({"a": 1}))
    assert runner.get_workflow_instance("later", "prod")["params"] == {"a": 1}
