"""The names, signatures and defaults of the original's embedded runner, as a table, and the errors it raises.

Facts of ``cloaca`` 0.12.0. What is ours alone has a default, so that every call of the original's is a call of ours.
"""

from __future__ import annotations

import inspect
import itertools
from pathlib import Path

import pytest

import cloaca
from cloacina.embedded.urls import store_url
from tests.embedded.conftest import StartRunner

_REQUIRED = inspect.Parameter.empty

RUNNER: dict[str, dict[str, object]] = {
    "__init__": {"database_url": _REQUIRED},
    "with_config": {"database_url": _REQUIRED, "config": _REQUIRED},
    "with_schema": {"database_url": _REQUIRED, "schema": _REQUIRED},
    "execute": {"workflow_name": _REQUIRED, "context": _REQUIRED},
    "shutdown": {},
    "register_workflow_instance": {
        "workflow_name": _REQUIRED,
        "instance_name": _REQUIRED,
        "cron_expression": _REQUIRED,
        "timezone": _REQUIRED,
        "params": _REQUIRED,
    },
    "register_cron_workflow": {"workflow_name": _REQUIRED, "cron_expression": _REQUIRED, "timezone": _REQUIRED},
    "list_cron_schedules": {"enabled_only": None, "limit": None, "offset": None},
    "set_cron_schedule_enabled": {"schedule_id": _REQUIRED, "enabled": _REQUIRED},
    "delete_cron_schedule": {"schedule_id": _REQUIRED},
    "get_cron_schedule": {"schedule_id": _REQUIRED},
    "update_cron_schedule": {"schedule_id": _REQUIRED, "cron_expression": _REQUIRED, "timezone": _REQUIRED},
    "get_cron_execution_history": {"schedule_id": _REQUIRED, "limit": None, "offset": None},
    "get_cron_execution_stats": {"since": _REQUIRED},
    "list_trigger_schedules": {"enabled_only": None, "limit": None, "offset": None},
    "get_trigger_schedule": {"trigger_name": _REQUIRED},
    "set_trigger_enabled": {"trigger_name": _REQUIRED, "enabled": _REQUIRED},
    "get_trigger_execution_history": {"trigger_name": _REQUIRED, "limit": None, "offset": None},
    "subscribe_workflow_to_reactor": {"reactor": _REQUIRED, "workflow": _REQUIRED, "tenant": None, "when": None},
    "unsubscribe_workflow_from_reactor": {"reactor": _REQUIRED, "workflow": _REQUIRED, "tenant": None},
    "list_reactor_subscriptions": {"tenant": None},
}

CONFIG: dict[str, object] = {
    "max_concurrent_tasks": 4,
    "scheduler_poll_interval_ms": 100,
    "task_timeout_seconds": 300,
    "workflow_timeout_seconds": 3600,
    "db_pool_size": 10,
    "enable_recovery": True,
    "enable_cron_scheduling": True,
    "cron_poll_interval_seconds": 30,
    "cron_max_catchup_executions": 100,
    "cron_enable_recovery": True,
    "cron_recovery_interval_seconds": 300,
    "cron_lost_threshold_minutes": 10,
    "cron_max_recovery_age_seconds": 86400,
    "cron_max_recovery_attempts": 3,
}

RESULT = ("status", "start_time", "end_time", "final_context", "error_message")

AUTHORING = (
    "BackoffStrategy",
    "Context",
    "RetryCondition",
    "RetryPolicy",
    "RetryPolicyBuilder",
    "TaskHandle",
    "TaskNamespace",
    "TriggerResult",
    "Workflow",
    "WorkflowBuilder",
    "WorkflowContext",
    "all_of",
    "always",
    "any_of",
    "context_value",
    "none_of",
    "register_workflow_constructor",
    "task",
    "task_failed",
    "task_skipped",
    "task_success",
    "trigger",
    "var",
    "var_or",
    "workflow_params",
    "workflow_secrets",
)


@pytest.mark.parametrize("method", RUNNER)
def test_every_method_takes_the_originals_arguments(method: str) -> None:
    found = inspect.signature(getattr(cloaca.DefaultRunner, method)).parameters.values()
    parameters = [parameter for parameter in found if parameter.name != "self"]
    wanted = RUNNER[method]
    assert {each.name: each.default for each in parameters[: len(wanted)]} == wanted
    assert list(wanted) == [each.name for each in parameters[: len(wanted)]]
    assert all(each.default is not _REQUIRED for each in parameters[len(wanted) :])


def test_the_filter_of_a_reactor_is_given_by_name_only() -> None:
    when = inspect.signature(cloaca.DefaultRunner.subscribe_workflow_to_reactor).parameters["when"]
    assert when.kind is inspect.Parameter.KEYWORD_ONLY


def test_the_settings_have_the_originals_names_order_and_defaults() -> None:
    parameters = inspect.signature(cloaca.DefaultRunnerConfig).parameters
    assert list(parameters) == list(CONFIG)
    assert all(parameter.default is None for parameter in parameters.values())
    assert cloaca.DefaultRunnerConfig().to_dict() == CONFIG
    assert cloaca.DefaultRunnerConfig.default().to_dict() == CONFIG
    assert repr(cloaca.DefaultRunnerConfig()) == (
        "DefaultRunnerConfig(max_concurrent_tasks=4, enable_cron_scheduling=True, db_pool_size=10)"
    )


@pytest.mark.parametrize("name", CONFIG)
def test_every_setting_can_be_given_read_and_changed(name: str) -> None:
    default = CONFIG[name]
    other = (not default) if isinstance(default, bool) else int(str(default)) + 1
    config = cloaca.DefaultRunnerConfig(**{name: other})
    assert getattr(config, name) == config.to_dict()[name] == other
    setattr(config, name, default)
    assert config.to_dict() == CONFIG


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("max_concurrent_tasks", 0, ValueError, "max_concurrent_tasks must be > 0"),
        ("db_pool_size", 0, ValueError, "db_pool_size must be > 0"),
        ("scheduler_poll_interval_ms", 9, ValueError, "scheduler_poll_interval_ms must be >= 10ms"),
        ("cron_max_catchup_executions", 1001, ValueError, r"cron_max_catchup_executions \(1001\) must be <= 1000"),
        ("task_timeout_seconds", -1, OverflowError, "task_timeout_seconds must not be negative"),
        ("task_timeout_seconds", "300", TypeError, "task_timeout_seconds must be int, not str"),
        ("enable_recovery", 1, TypeError, "enable_recovery must be bool, not int"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(
    name: str, value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        cloaca.DefaultRunnerConfig(**{name: value})
    with pytest.raises(error, match=message):
        setattr(cloaca.DefaultRunnerConfig(), name, value)


def test_the_workflow_timeout_can_be_switched_off() -> None:
    config = cloaca.DefaultRunnerConfig()
    config.workflow_timeout_seconds = None
    assert config.to_dict()["workflow_timeout_seconds"] is None
    with cloaca.DefaultRunner.with_config(":memory:", config) as runner:
        assert runner._config.workflow_timeout_seconds is None


def test_a_runner_keeps_the_settings_it_was_made_with() -> None:
    config = cloaca.DefaultRunnerConfig(max_concurrent_tasks=2)
    with cloaca.DefaultRunner.with_config(":memory:", config) as runner:
        config.max_concurrent_tasks = 9
        assert runner._config.max_concurrent_tasks == 2


def test_a_result_has_the_originals_attributes_and_they_are_read_only(runner: cloaca.DefaultRunner) -> None:
    with cloaca.WorkflowBuilder("w"):

        @cloaca.task()
        def only(context):
            return context

    result = runner.execute("w", cloaca.Context())
    assert isinstance(result, cloaca.WorkflowResult)
    for name in RESULT:
        getattr(result, name)
        with pytest.raises(AttributeError):
            setattr(result, name, None)


def test_the_authoring_names_are_there_from_one_import() -> None:
    everything: dict[str, object] = {}
    exec("from cloaca import *", everything)
    for name in (*AUTHORING, "DefaultRunner", "DefaultRunnerConfig", "WorkflowResult"):
        assert everything[name] is getattr(cloaca, name)
        assert name in dir(cloaca)


def test_a_workflow_context_names_its_tasks() -> None:
    context = cloaca.WorkflowContext("acme", "shop", "orders")
    task = context.task_namespace("read")
    assert str(task) == "acme::shop::orders::read"
    assert context.resolve_dependency("read") == task
    assert context.contains_namespace(task)
    assert not context.contains_namespace(cloaca.TaskNamespace("acme", "shop", "other", "read"))
    assert str(context) == "acme::shop::orders"
    assert task.is_child_of(context.workflow_namespace())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("node", "computation graphs are not supported"),
        ("ComputationGraphBuilder", "computation graphs are not supported"),
        ("state_accumulator", "computation graphs are not supported"),
        ("constructor", "WASM constructors are not supported"),
        ("nonsense", "module 'cloaca' has no attribute 'nonsense'"),
    ],
)
def test_what_does_not_exist_here_says_why(name: str, reason: str) -> None:
    with pytest.raises(AttributeError, match=reason):
        getattr(cloaca, name)


@pytest.mark.parametrize(
    ("given", "store"),
    [
        ("sqlite://app.db", "sqlite://app.db"),
        ("sqlite:///srv/app.db", "sqlite:///srv/app.db"),
        ("sqlite:///srv/app.db?journal_mode=WAL", "sqlite:///srv/app.db"),
        ("app.db", "sqlite://app.db"),
        (":memory:", "sqlite://"),
        ("sqlite://:memory:", "sqlite://"),
        ("sqlite::memory:", "sqlite://"),
        ("sqlite:///:memory:", "sqlite://"),
        ("postgresql://u:p@h/d", "postgresql://u:p@h/d"),
    ],
)
def test_database_urls_are_understood_as_the_original_does(given: str, store: str) -> None:
    assert store_url(given) == store


def test_a_relative_path_is_relative_to_the_working_directory(
    start: StartRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start("sqlite://here.db")
    assert (tmp_path / "here.db").exists()


@pytest.mark.parametrize("url", ["invalid://host/database", "sqlite:///proc/no/such/place.db"])
def test_a_database_that_cannot_be_opened_is_a_runtime_error(url: str) -> None:
    with pytest.raises(RuntimeError, match="Failed to create DefaultRunner"):
        cloaca.DefaultRunner(url)


def test_a_password_never_appears_in_messages() -> None:
    with pytest.raises(RuntimeError) as error:
        cloaca.DefaultRunner("mysql://user:hunter2@host/database")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "schema", "message"),
    [
        ("sqlite://app.db", "tenant", "requires PostgreSQL"),
        ("postgresql://host/db", "", "cannot be empty"),
        ("postgresql://host/db", "x" * 64, "at most 63 characters"),
        ("postgresql://host/db", "drop table;", "only alphanumeric characters and underscores"),
    ],
)
def test_a_schema_needs_postgresql_and_a_plain_name(url: str, schema: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cloaca.DefaultRunner.with_schema(url, schema)


def test_an_unknown_workflow_is_a_value_error_that_lists_the_known(runner: cloaca.DefaultRunner) -> None:
    with pytest.raises(ValueError, match=r"Workflow not found: missing; registered in this process: none"):
        runner.execute("missing", cloaca.Context())
    with pytest.raises(ValueError, match="there is no execution"):
        runner.cancel_execution("018f0000-0000-7000-8000-000000000000")


def test_a_context_that_is_no_context_is_a_type_error(runner: cloaca.DefaultRunner) -> None:
    with pytest.raises(TypeError, match="context must be a Context, not dict"):
        runner.execute("any", {"a": 1})


_ID = "018f0000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("register_cron_workflow", ("w", "not cron", "UTC"), "Invalid cron expression or timezone"),
        ("register_cron_workflow", ("w", "0 2 * * *", "Mars/Base"), "Invalid cron expression or timezone"),
        ("update_cron_schedule", (_ID, "61 * * * *", "UTC"), "Invalid cron expression or timezone"),
        ("get_cron_schedule", ("nonsense",), "Invalid schedule ID"),
        ("get_cron_execution_stats", ("yesterday",), "Invalid datetime format"),
        ("subscribe_workflow_to_reactor", ("r", "w"), "computation graphs"),
    ],
)
def test_wrong_arguments_of_schedules_are_value_errors(
    runner: cloaca.DefaultRunner, method: str, arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(runner, method)(*arguments)


def test_the_table_has_every_method_of_the_runner_that_is_not_ours_alone() -> None:
    instances = {f"{verb}_workflow_instance" for verb in ("get", "unregister")} | {"list_workflow_instances"}
    ours = (
        instances
        | {"start", "execute_async", "submit", "result", "execute_instance"}
        | {f"{verb}_execution" for verb in ("cancel", "pause", "resume")}
    )
    public = {name for name in dir(cloaca.DefaultRunner) if not name.startswith("_")}
    assert public == set(itertools.chain(RUNNER, ours)) - {"__init__"}
