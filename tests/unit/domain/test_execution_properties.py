"""What holds for any DAG, any rules, any order of results, duplicates and losses included."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from drawn_workflows import Play, contexts, started, workflows
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cloacina.domain.decisions import (
    Cancel,
    IllegalTransition,
    Pause,
    ReportDeferred,
    ReportFailure,
    ReportStarted,
    ReportSuccess,
    Resume,
    RetryDue,
    RetryFailed,
    Start,
    VoidClaim,
)
from cloacina.domain.execution import ExecutionStatus, FailureReason, SkipReason, TaskClaimed, TaskStatus
from cloacina.domain.graph import WorkflowSpec
from cloacina.domain.rules import Always, Combined, ContextValue, Operator, Rule, TaskEnded, TaskOutcome

_SETTINGS = settings(max_examples=100, deadline=None, report_multiple_bugs=False, phases=set(Phase) - {Phase.explain})
_RUNNING_OR_PAUSED = (ExecutionStatus.RUNNING, ExecutionStatus.PAUSED)


class AnyExecution(RuleBasedStateMachine):
    """Commands in any order against any workflow; `Play` checks after each of them."""

    play: Play

    @initialize(spec=workflows, context=contexts, early=st.sampled_from(["start", "start", "start", "cancel"]))
    def begin(self, spec: WorkflowSpec, context: bytes, early: str) -> None:
        self.play = Play(spec, context)
        if early == "cancel":
            self.play.tell(Cancel("changed my mind"))
            assert self.play.state.status is ExecutionStatus.CANCELLED
        self.play.tell(Start())

    def _draw_task(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(list(self.play.spec.tasks)), "task")

    def _draw_claim(self, data: st.DataObject) -> tuple[str, int]:
        held = list(self.play.held.items())
        return data.draw(st.sampled_from(held + self.play.claims if held else self.play.claims), "claim")

    @precondition(lambda self: self.play.ready())
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.play.ready()), "task")
        allowed = self.play.state.status is ExecutionStatus.RUNNING
        assert self.play.claim(task) is allowed, "a paused execution claims nothing, a running one what is ready"

    @rule(data=st.data())
    def claim_anything(self, data: st.DataObject) -> None:
        task = self._draw_task(data)
        ready = task in self.play.ready() and self.play.state.status is ExecutionStatus.RUNNING
        assert self.play.claim(task) is ready

    @precondition(lambda self: self.play.claims)
    @rule(data=st.data(), output=st.none() | contexts)
    def succeed(self, data: st.DataObject, output: bytes | None) -> None:
        task, claim_id = self._draw_claim(data)
        self.play.report(task, ReportSuccess(task, claim_id, self.play.now, output))

    @precondition(lambda self: self.play.claims)
    @rule(
        data=st.data(),
        reason=st.sampled_from(FailureReason),
        transient=st.booleans(),
        retry=st.none() | st.booleans(),
        spread=st.floats(0, 1, exclude_max=True),
    )
    def fail(self, data: st.DataObject, reason: FailureReason, **verdict: Any) -> None:
        task, claim_id = self._draw_claim(data)
        self.play.report(task, ReportFailure(task, claim_id, None, reason, "boom: connection reset", **verdict))

    @precondition(lambda self: self.play.claims)
    @rule(data=st.data(), lost=st.booleans())
    def void(self, data: st.DataObject, lost: bool) -> None:
        task, claim_id = self._draw_claim(data)
        self.play.report(task, VoidClaim(task, claim_id, lost))

    @precondition(lambda self: self.play.held)
    @rule(data=st.data(), deferred=st.booleans(), skew=st.integers(-5, 5))
    def say_how_it_goes(self, data: st.DataObject, deferred: bool, skew: int) -> None:
        task, claim_id = data.draw(st.sampled_from(list(self.play.held.items())), "claim")
        self.play.tell(ReportStarted(task, claim_id, self.play.now + skew))
        assert self.play.tell(ReportStarted(task, claim_id, self.play.now + skew)) == []
        self.play.tell(ReportDeferred(task, claim_id, deferred))
        assert self.play.state.tasks[task].deferred is deferred

    @rule(data=st.data())
    def wait_over(self, data: st.DataObject) -> None:
        task = self._draw_task(data)
        waited = self.play.state.tasks[task].retry_due is not None
        self.play.tell(RetryDue(task))
        if waited:
            assert self.play.state.tasks[task].status is TaskStatus.READY

    @rule()
    def start_again(self) -> None:
        assert self.play.tell(Start()) == []

    @precondition(lambda self: self.play.state.status in _RUNNING_OR_PAUSED)
    @rule()
    def pause(self) -> None:
        self.play.tell(Pause())
        assert self.play.state.status is ExecutionStatus.PAUSED
        assert self.play.tell(Pause()) == []

    @precondition(lambda self: self.play.state.status in _RUNNING_OR_PAUSED)
    @rule()
    def resume(self) -> None:
        self.play.tell(Resume())
        assert self.play.state.status is ExecutionStatus.RUNNING

    @precondition(lambda self: self.play.state.status in _RUNNING_OR_PAUSED and len(self.play.history) > 12)
    @rule()
    def cancel(self) -> None:
        self.play.tell(Cancel("enough"))
        assert self.play.ready() == []
        assert self.play.state.status.terminal is (self.play.state.running == 0)
        assert self.play.tell(Cancel("enough")) == []

    @precondition(lambda self: self.play.state.status.terminal)
    @rule()
    def change_what_ended(self) -> None:
        for command in (Pause(), Resume(), Cancel("late")):
            try:
                assert self.play.tell(command) == []
            except IllegalTransition:
                continue
            assert isinstance(command, Cancel)
            assert self.play.state.status is ExecutionStatus.CANCELLED

    def teardown(self) -> None:
        if not hasattr(self, "play"):
            return
        play = self.play
        if play.state.status is ExecutionStatus.PAUSED:
            play.tell(Resume())
        cancelling = play.state.cancelling is not None
        play.finish()
        assert (play.state.status is ExecutionStatus.CANCELLED) is cancelling
        play.check_replay()


AnyExecution.TestCase.settings = settings(_SETTINGS, stateful_step_count=40)
TestAnyExecution = AnyExecution.TestCase


@_SETTINGS
@given(spec=workflows, context=contexts, data=st.data())
def test_every_task_ends_as_rules_and_results_say(spec: WorkflowSpec, context: bytes, data: st.DataObject) -> None:
    """The outcome is worked out here once more, from the results alone, in topological order."""
    play = started(spec, context)
    results: dict[str, bytes | None] = {}
    while not play.state.status.terminal:
        for name, task in play.state.tasks.items():
            if task.status is TaskStatus.PENDING and task.retry_due is not None:
                play.tell(RetryDue(name))
        task_name = data.draw(st.sampled_from(play.ready()), "next")
        assert play.claim(task_name)
        claim_id = play.held[task_name]
        if data.draw(st.booleans(), "succeeds"):
            output = results[task_name] = data.draw(contexts, "output")
            play.report(task_name, ReportSuccess(task_name, claim_id, play.now, output))
        else:
            results[task_name] = None
            play.report(
                task_name,
                ReportFailure(task_name, claim_id, None, FailureReason.TASK_ERROR, "boom"),
            )

    outcome: dict[str, TaskOutcome] = {}
    because_failed: set[str] = set()
    passed_on: dict[str, dict[str, Any]] = {}
    for name, task in spec.tasks.items():
        given_context = _merged([passed_on[each] for each in task.dependencies]) if task.dependencies else None
        given_context = orjson.loads(context) if given_context is None else given_context
        runs = True
        if task.rule is not None:
            runs = _holds(task.rule, outcome, given_context)
        elif any(outcome[each] is TaskOutcome.FAILED or each in because_failed for each in task.dependencies):
            runs = False
            because_failed.add(name)
        elif task.dependencies and all(outcome[each] is TaskOutcome.SKIPPED for each in task.dependencies):
            runs = False
        if not runs:
            outcome[name] = TaskOutcome.SKIPPED
        else:
            outcome[name] = TaskOutcome.FAILED if results[name] is None else TaskOutcome.SUCCESS
        produced = results.get(name) if runs else None
        passed_on[name] = given_context if produced is None else orjson.loads(produced)
        found = play.state.tasks[name]
        assert _OUTCOME_OF[found.status] is outcome[name], name
        assert orjson.loads(found.output or b"") == passed_on[name], name
        if name in because_failed:
            assert found.reason == SkipReason.DEPENDENCY_FAILED

    unhandled = [
        name
        for name, ended in outcome.items()
        if ended is TaskOutcome.FAILED
        and not any(
            outcome[after] is TaskOutcome.SUCCESS and _asks_for_failure(spec.tasks[after].rule, name)
            for after in spec.dependents[name]
        )
    ]
    if unhandled:
        assert play.state.status is ExecutionStatus.FAILED
        assert all(name in (play.state.error or "") for name in unhandled)
    else:
        assert play.state.status is ExecutionStatus.COMPLETED
    last = [
        passed_on[name]
        for name, ended in outcome.items()
        if ended is TaskOutcome.SUCCESS
        and not any(outcome[after] is TaskOutcome.SUCCESS for after in spec.dependents[name])
    ]
    assert orjson.loads(play.state.output or b"") == (_merged(last) if last else orjson.loads(context))


_OUTCOME_OF = {
    TaskStatus.COMPLETED: TaskOutcome.SUCCESS,
    TaskStatus.FAILED: TaskOutcome.FAILED,
    TaskStatus.SKIPPED: TaskOutcome.SKIPPED,
}


def _merged(given: list[dict[str, Any]]) -> dict[str, Any]:
    if all(each == given[0] for each in given):
        return given[0]
    together: Any = {}
    for each in given:
        together = _joined(together, each)
    return dict(together)


def _joined(earlier: Any, later: Any) -> Any:
    match earlier, later:
        case dict(), dict():
            both = {key: _joined(earlier[key], later[key]) for key in earlier.keys() & later.keys()}
            return {**earlier, **later, **both}
        case list(), list():
            return [*earlier, *(each for each in later if each not in earlier)]
        case _:
            return later


def _holds(rule: Rule, outcome: dict[str, TaskOutcome], context: dict[str, Any]) -> bool:
    match rule:
        case Always():
            return True
        case TaskEnded():
            return outcome[rule.task] is rule.outcome
        case Combined():
            held = [_holds(each, outcome, context) for each in rule.conditions]
            return {"All": all(held), "Any": any(held), "None": not any(held)}[rule.kind]
        case ContextValue():
            return _compares(rule, context)


def _compares(rule: ContextValue, context: dict[str, Any]) -> bool:
    present = rule.key in context
    have, want = context.get(rule.key), rule.value
    same = present and orjson.dumps(have) == orjson.dumps(want)
    numbers = type(have) is int and type(want) is int
    contains = isinstance(have, str) and isinstance(want, str) and want in have
    answers = {
        Operator.EQUALS: same,
        Operator.NOT_EQUALS: not same,
        Operator.GREATER_THAN: numbers and have > want,
        Operator.LESS_THAN: numbers and have < want,
        Operator.CONTAINS: contains,
        Operator.NOT_CONTAINS: not contains,
        Operator.EXISTS: present,
        Operator.NOT_EXISTS: not present,
    }
    return answers[rule.operator]


def _asks_for_failure(rule: Rule | None, task: str) -> bool:
    match rule:
        case TaskEnded():
            return rule.outcome is TaskOutcome.FAILED and rule.task == task
        case Combined():
            return rule.kind != "None" and any(_asks_for_failure(each, task) for each in rule.conditions)
        case _:
            return False


@_SETTINGS
@given(spec=workflows, context=contexts, fails=st.booleans())
def test_an_execution_ends_even_if_everything_fails(spec: WorkflowSpec, context: bytes, fails: bool) -> None:
    play = started(spec, context)
    play.finish(fails)
    play.check_replay()


@given(spec=workflows, context=contexts, data=st.data())
def test_a_retry_runs_again_what_did_not_succeed_and_nothing_else(
    spec: WorkflowSpec, context: bytes, data: st.DataObject
) -> None:
    play = started(spec, context)
    if not play.state.status.terminal and data.draw(st.booleans(), "cancelled"):
        play.tell(Cancel("on purpose"))
    play.finish(fails=True)
    kept = {name: task for name, task in play.state.tasks.items() if task.status is TaskStatus.COMPLETED}
    failed = {name for name, task in play.state.tasks.items() if task.status is TaskStatus.FAILED}
    stopped = {name for name, task in play.state.tasks.items() if task.reason == SkipReason.CANCELLED}
    before = len(play.history)
    if play.state.status is ExecutionStatus.COMPLETED or not failed | stopped:
        with pytest.raises(IllegalTransition):
            play.tell(RetryFailed())
        return
    play.tell(RetryFailed())
    play.finish(fails=False)
    assert play.state.status is ExecutionStatus.COMPLETED, "no task failed this time"
    claimed = {event.task for event in play.history[before:] if isinstance(event, TaskClaimed)}
    assert not claimed & kept.keys()
    assert failed & stopped <= claimed
    for name, task in kept.items():
        assert play.state.tasks[name].output == task.output
    play.check_replay()
