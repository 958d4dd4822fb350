"""Decorators, builders, triggers and declarations; and that the engine reads what authors wrote."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cloaca
import cloacina.authoring as authoring
from cloacina.authoring import (
    BackoffStrategy,
    RetryCondition,
    RetryPolicy,
    TaskHandle,
    TaskNamespace,
    TriggerResult,
    Workflow,
    WorkflowBuilder,
    all_of,
    always,
    any_of,
    context_value,
    none_of,
    register_workflow_constructor,
    task,
    task_failed,
    task_skipped,
    task_success,
    trigger,
    var,
    var_or,
    workflow_params,
    workflow_secrets,
)
from cloacina.authoring.registry import Collector, collecting
from cloacina.authoring.task import split_doc
from cloacina.authoring.workflow import registered_workflows
from cloacina.domain.graph import InvalidGraph, TaskSpec, WorkflowSpec
from cloacina.domain.retry import RetryPolicy as EnginePolicy
from cloacina.domain.rules import ContextValue, Operator, rule_from_wire, rule_to_wire


def _collect(declare: Any) -> Collector:
    with collecting(Collector("flow")) as collector:
        declare()
    return collector


def _wire(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


# Tasks


def test_a_task_stays_a_function_and_takes_its_name() -> None:
    @task()
    def clean(context: Any) -> str:
        """Cleans the rows."""
        return f"cleaned {context}"

    assert clean("x") == "cleaned x"
    declared = _collect(lambda: task()(clean)).tasks["clean"]
    assert declared.function is clean
    assert (declared.what, declared.why) == ("Cleans the rows.", "")
    assert declared.is_async is False


def test_dependencies_are_ids_or_task_functions_in_their_order() -> None:
    def declare() -> None:
        @task(id="first-step")
        def first(context: Any) -> None: ...

        @task(dependencies=["other", first])
        async def second(context: Any) -> None: ...

    declared = _collect(declare).tasks["second"]
    assert declared.dependencies == ("other", "first-step")
    assert declared.is_async is True


@pytest.mark.parametrize("name", ["handle", "task_handle"])
def test_a_task_that_asks_for_its_handle_gets_it_under_that_name(name: str) -> None:
    body: dict[str, Any] = {}
    exec(f"def body(context, {name}): ...", body)
    assert _collect(lambda: task()(body["body"])).tasks["body"].handle_parameter == name


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"invokes": object()}, "computation graphs are not supported"),
        ({"post_invocation": print}, "computation graphs are not supported"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": -1.5}, "timeout_s"),
        ({"retry": RetryPolicy.default(), "retry_attempts": 2}, "retry_attempts"),
        ({"trigger_rules": {"type": "Perhaps"}}, "not a trigger rule"),
        ({"dependencies": [5]}, "dependency"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=r"task|trigger rule") as raised:
        task(id="t", **arguments)(lambda context: None)
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("doc", "what", "why"),
    [
        ("", "", ""),
        ("Loads\n  rows.", "Loads rows.", ""),
        ("what: loads\nwhy: needed", "loads", "needed"),
        ("WHAT: loads why: needed by\nall", "loads", "needed by all"),
        ("Loads.\n\nwhy: because", "Loads.", "because"),
    ],
)
def test_docstrings_say_what_and_why(doc: str, what: str, why: str) -> None:
    assert split_doc(doc) == (what, why)


def test_a_handle_passes_on_to_its_runtime() -> None:
    class Runtime:
        asked: Any = None

        def defer_until(self, condition: Any, poll_interval_ms: int) -> None:
            self.asked = (condition(), poll_interval_ms)

        def slot_held(self) -> bool:
            return True

    runtime = Runtime()
    TaskHandle(runtime).defer_until(lambda: True)
    assert runtime.asked == (True, 1000)
    assert TaskHandle(runtime).is_slot_held() is True


# Rules


@pytest.mark.parametrize(
    "rule",
    [
        always(),
        all_of(),
        any_of(task_success("a"), task_failed("b")),
        none_of(task_skipped("a"), all_of(context_value("k", "exists", None))),
    ],
)
def test_the_engine_reads_the_rules_authors_build(rule: dict[str, Any]) -> None:
    assert rule_to_wire(rule_from_wire(_wire(rule))) == rule


@pytest.mark.parametrize(
    ("spelling", "operator"),
    [
        ("==", "Equals"),
        ("eq", "Equals"),
        ("Not_Equals", "NotEquals"),
        ("!=", "NotEquals"),
        (">", "GreaterThan"),
        ("LESS_THAN", "LessThan"),
        ("lt", "LessThan"),
        ("contains", "Contains"),
        ("not_contains", "NotContains"),
        ("exists", "Exists"),
        ("NotExists", "NotExists"),
        ("gt", "GreaterThan"),
        ("ne", "NotEquals"),
    ],
)
def test_operators_have_many_spellings_and_one_meaning(spelling: str, operator: str) -> None:
    read = rule_from_wire(_wire(context_value("k", spelling, [1])))
    assert read == ContextValue("k", Operator(operator), [1])


def test_a_condition_alone_stands_for_all_of_it() -> None:
    declared = _collect(lambda: task(id="t", trigger_rules=task_failed("a"))(lambda c: None)).tasks["t"]
    assert declared.rule == all_of(task_failed("a"))


@pytest.mark.parametrize(
    "build",
    [
        lambda: context_value("k", "like", 1),
        lambda: context_value("k", "==", object()),
        lambda: all_of("x"),
        lambda: any_of({"type": "All"}),
        lambda: none_of(all_of, 1),
    ],  # type: ignore[arg-type]
)
def test_what_is_no_rule_is_refused_where_it_is_written(build: Any) -> None:
    with pytest.raises(ValueError, match=r"operator|JSON|trigger rule"):
        build()


# Retries

_strategies = st.one_of(
    st.just(BackoffStrategy.fixed()),
    st.builds(BackoffStrategy.linear, st.floats(0, 10)),
    st.builds(BackoffStrategy.exponential, st.floats(1, 5), st.none() | st.floats(0, 10)),
)
_conditions = st.one_of(
    st.sampled_from([RetryCondition.never(), RetryCondition.transient_only(), RetryCondition.all_errors()]),
    st.builds(RetryCondition.error_pattern, st.lists(st.text(max_size=5), max_size=2)),
)


@settings(max_examples=200, deadline=None)
@given(
    attempts=st.integers(0, 10),
    delay=st.integers(0, 100_000),
    longest=st.integers(0, 1_000_000),
    strategy=_strategies,
    condition=_conditions,
    jitter=st.booleans(),
    attempt=st.integers(1, 12),
)
def test_the_engine_retries_as_the_authors_policy_says(
    attempts: int,
    delay: int,
    longest: int,
    strategy: BackoffStrategy,
    condition: RetryCondition,
    jitter: bool,
    attempt: int,
) -> None:
    builder = RetryPolicy.builder().max_attempts(attempts).initial_delay(delay / 1000).max_delay(longest / 1000)
    policy = builder.backoff_strategy(strategy).retry_condition(condition).with_jitter(jitter).build()
    engine = EnginePolicy.from_wire(_wire(policy.to_wire()))
    assert engine.max_attempts == max(1, attempts)
    steady_s = engine.delay_us(attempt=attempt, spread=0.5) / 1e6
    assert steady_s == pytest.approx(policy.calculate_delay(attempt), abs=1e-5, rel=1e-6)
    if condition.kind == "all":
        allowed = engine.allows(attempt=attempt, transient=False, error="x")
        assert allowed is policy.should_retry(attempt, "x")


def test_the_defaults_of_authors_and_engine_are_the_same() -> None:
    assert EnginePolicy.from_wire(RetryPolicy.default().to_wire()) == EnginePolicy()
    declared = _collect(lambda: task(id="t")(lambda c: None)).tasks["t"]
    assert TaskSpec.from_wire(_wire(declared.to_wire())) == TaskSpec("t")


def test_a_builder_is_never_changed() -> None:
    builder = RetryPolicy.builder()
    builder.max_attempts(9).with_jitter(False)
    assert builder.build() == RetryPolicy.default()


def test_the_keywords_make_the_same_policy_as_the_builder() -> None:
    declared = _collect(
        lambda: task(
            id="t",
            retry_attempts=5,
            retry_backoff="linear",
            retry_delay_ms=250,
            retry_max_delay_ms=4000,
            retry_condition="transient",
            retry_jitter=False,
        )(lambda c: None)
    ).tasks["t"]
    builder = RetryPolicy.builder().max_attempts(5).initial_delay(0.25).max_delay(4.0).with_jitter(False)
    built = builder.backoff_strategy(BackoffStrategy.linear(1.0)).retry_condition(RetryCondition.transient_only())
    assert declared.retry == built.build()


# Workflows


def _build(name: str = "flow", **dependencies: list[str]) -> Workflow:
    builder = WorkflowBuilder(name)
    for task_id, needs in dependencies.items():
        task(id=task_id, dependencies=needs)(lambda context: None)
        builder.add_task(task_id)
    return builder.build()


def test_a_with_block_collects_its_tasks_and_makes_the_workflow_known() -> None:
    with WorkflowBuilder("etl") as builder:
        builder.description("Loads.")
        builder.tag("team", "data")

        @task(id="extract")
        def extract(context: Any) -> None: ...

        @task(id="load", dependencies=[extract])
        def load(context: Any) -> None: ...

    made = registered_workflows()["etl"]()
    assert made.topological_sort() == ["extract", "load"]
    assert (made.description, made.tags) == ("Loads.", {"team": "data"})


def test_a_block_that_raises_makes_nothing_known() -> None:
    with pytest.raises(RuntimeError, match="oops"), WorkflowBuilder("broken"):
        raise RuntimeError("oops")
    assert "broken" not in registered_workflows()
    assert task(id="after")(print) is print, "and nothing is collected any more"


def test_the_shape_of_a_workflow() -> None:
    made = _build(a=[], b=["a"], c=["a"], d=["b", "c"])
    assert made.get_execution_levels() == [["a"], ["b", "c"], ["d"]]
    assert (made.get_roots(), made.get_leaves()) == (["a"], ["d"])
    assert repr(made) == "Workflow(name='flow', tasks=4)"


@pytest.mark.parametrize(
    ("dependencies", "named"),
    [
        ({}, ["'flow' has no tasks"]),
        ({"a": ["ghost"]}, ["'a'", "'ghost'"]),
        ({"a": ["b"], "b": ["a"], "c": []}, ["cycle", "'a'", "'b'"]),
        ({"a": ["a"]}, ["cycle", "'a'"]),
    ],
)
def test_what_is_no_dag_is_refused_by_authors_builder_and_engine_alike(
    dependencies: dict[str, list[str]], named: list[str]
) -> None:
    with pytest.raises(ValueError, match="Workflow validation failed") as raised:
        _build(**dependencies)
    assert all(each in str(raised.value) for each in named)
    wires = [{"id": name, "dependencies": needs} for name, needs in dependencies.items()]
    with pytest.raises(InvalidGraph) as refused:
        WorkflowSpec.from_wire({"name": "flow", "tasks": wires})
    assert all(each in refused.value.message for each in named)


def test_duplicates_are_named() -> None:
    def declare() -> None:
        with WorkflowBuilder("w"):
            for _ in range(2):
                task(id="twice")(lambda context: None)

    with pytest.raises(ValueError, match=r"duplicate task ids \['twice'\]"):
        declare()


def test_adding_a_task_nobody_declared_is_refused() -> None:
    with pytest.raises(ValueError, match="Task 'ghost' not found"):
        WorkflowBuilder("w").add_task("ghost")
    with pytest.raises(ValueError, match="not found"):
        WorkflowBuilder("w").add_task(lambda context: None)


def test_a_constructor_must_make_a_workflow() -> None:
    with pytest.raises(ValueError, match="must return a Workflow, not int"):
        register_workflow_constructor("w", lambda: 5)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="Failed to call workflow constructor: boom"):
        register_workflow_constructor("w", lambda: (_ for _ in ()).throw(RuntimeError("boom")))
    assert registered_workflows() == {}


def test_a_version_is_of_the_content_only() -> None:
    first, same = _build(a=[], b=["a"]), _build(a=[], b=["a"])
    assert first.version == same.version
    assert first.version != _build(a=[], b=[]).version
    assert first.version != _build("other", a=[], b=["a"]).version


def test_the_engine_reads_what_a_package_declares() -> None:
    def declare() -> None:
        @task(retry_attempts=2, retry_delay_ms=5, timeout_s=1.5)
        def extract(context: Any) -> None: ...

        @task(dependencies=[extract])
        def clean(context: Any) -> None: ...

        @task(dependencies=["extract", clean], trigger_rules=any_of(task_failed("clean"), context_value("n", ">", 1)))
        def report(context: Any) -> None: ...

    manifest = _wire(_collect(declare).manifest())
    spec = WorkflowSpec.from_wire({"name": manifest["workflow_name"], "tasks": manifest["tasks"]})
    assert list(spec.tasks) == ["extract", "clean", "report"]
    assert spec.tasks["report"].dependencies == ("extract", "clean")
    assert spec.tasks["report"].rule == rule_from_wire(manifest["tasks"][2]["trigger_rule"])
    assert spec.tasks["extract"].timeout_s == 1.5
    assert spec.tasks["extract"].retry == EnginePolicy(max_attempts=2, delay_ms=5)


# Triggers and declarations


def _trigger(**arguments: Any) -> dict[str, Any]:
    collector = _collect(lambda: trigger(**arguments)(TriggerResult.skip))
    wire: dict[str, Any] = _wire(collector.manifest())["triggers"][0]
    return wire


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [(None, 30_000), ("250ms", 250), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000), (" 7s ", 7_000)],
)
def test_poll_intervals(text: str | None, milliseconds: int) -> None:
    wire = _trigger(name="t", poll_interval=text)
    assert (wire["kind"], wire["poll_interval_ms"]) == ("poll", milliseconds)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"cron": "* * * * *", "poll_interval": "5s", "on": "w"}, "not both"),
        ({"cron": "* * * * *"}, "'on'"),
        ({"poll_interval": "soon"}, "'soon'"),
        ({"poll_interval": "5"}, "'5'"),
        ({"poll_interval": "-5s"}, "'-5s'"),
        ({"poll_interval": "1.5s"}, "'1.5s'"),
    ],
)
def test_a_trigger_whose_arguments_do_not_fit_is_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=r"trigger|poll_interval") as raised:
        trigger(**arguments)
    assert named in str(raised.value)


def test_a_cron_trigger() -> None:
    assert _trigger(name="nightly", on="flow", cron="0 3 * * *", timezone="Europe/Berlin", allow_concurrent=True) == {
        "name": "nightly",
        "on": "flow",
        "also_on": [],
        "kind": "cron",
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "poll_interval_ms": 30_000,
        "allow_concurrent": True,
        "catch_up": "skip",
        "catch_up_cap": 100,
    }


def test_trigger_results() -> None:
    fired, skipped = TriggerResult.fire(authoring.Context({"a": 1})), TriggerResult.skip()
    assert (fired.is_fire_result(), fired.is_skip_result(), repr(fired)) == (
        True,
        False,
        "TriggerResult.Fire(<context>)",
    )
    assert (skipped.is_fire_result(), skipped.is_skip_result(), repr(skipped)) == (False, True, "TriggerResult.Skip")


def test_params_and_secrets_are_declared() -> None:
    def declare() -> None:
        workflow_params(day=str, limit=(int, 10), flags=(list, None))
        workflow_secrets("db", "s3")

    manifest = _collect(declare).manifest()
    assert manifest["params"] == [
        {"name": "day", "schema": {"type": "string"}, "required": True, "default": None},
        {"name": "limit", "schema": {"type": "integer"}, "required": False, "default": 10},
        {"name": "flags", "schema": {"type": "array"}, "required": False, "default": None},
    ]
    assert manifest["secrets"] == ["db", "s3"]


def test_params_of_other_types_declare_nothing_and_the_first_of_a_name_counts() -> None:
    def declare() -> None:
        with pytest.warns(UserWarning, match=r"workflow_params\(when=\.\.\.\)"):
            workflow_params(when=object, words=list[str], table=(dict[str, int],), day=str)
        workflow_params(day=(int, 3))

    assert _collect(declare).manifest()["params"] == [
        {"name": "words", "schema": {"type": "array"}, "required": True, "default": None},
        {"name": "table", "schema": {"type": "object"}, "required": False, "default": None},
        {"name": "day", "schema": {"type": "string"}, "required": True, "default": None},
    ]


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOACINA_VAR_REGION", "eu")
    monkeypatch.delenv("CLOACINA_VAR_ABSENT", raising=False)
    assert (var("REGION"), var_or("REGION", "x"), var_or("ABSENT", "x")) == ("eu", "eu", "x")
    with pytest.raises(KeyError, match="CLOACINA_VAR_ABSENT"):
        var("ABSENT")


def test_namespaces() -> None:
    name = TaskNamespace.from_string("public::pkg::flow::clean")
    assert str(name) == "public::pkg::flow::clean"
    assert name.is_child_of(name.parent())
    assert not name.parent().is_child_of(name.parent())
    assert name.is_sibling_of(TaskNamespace("public", "pkg", "flow", "load"))
    assert not name.is_sibling_of(name)
    assert not name.is_sibling_of(TaskNamespace("public", "pkg", "other", "load"))
    with pytest.raises(ValueError, match="tenant::package::workflow::task"):
        TaskNamespace.from_string("a::b::c")


def test_import_cloaca_gives_all_of_it() -> None:
    assert set(authoring.__all__) <= set(dir(cloaca))
    assert cloaca.task is task


def test_a_cron_trigger_says_what_becomes_of_missed_firings() -> None:
    wire = _trigger(cron="0 2 * * *", on="w", catch_up="run_all", catch_up_cap=7)
    assert (wire["catch_up"], wire["catch_up_cap"]) == ("run_all", 7)
    assert _trigger(cron="0 2 * * *", on="w")["catch_up"] == "skip"
    for wrong in ({"catch_up": "all"}, {"catch_up_cap": 0}, {"catch_up_cap": 1001}):
        with pytest.raises(ValueError, match="catch_up"):
            _trigger(cron="0 2 * * *", on="w", **wrong)
    with pytest.raises(ValueError, match="needs 'cron'"):
        _trigger(on="w", catch_up="run_all")
