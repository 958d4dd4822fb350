"""What a workflow does when it is executed in the caller's process."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from datetime import datetime

import pytest

import cloaca
from cloacina.telemetry import scope
from tests.embedded.conftest import StartRunner, wait_for


def test_a_result_says_how_the_execution_ended_and_what_it_left(runner: cloaca.DefaultRunner) -> None:
    with cloaca.WorkflowBuilder("greeting"):

        @cloaca.task()
        def greet(context):
            context.set("greeting", f"hello {context['name']}")
            return context

    result = runner.execute("greeting", cloaca.Context({"name": "Ada"}))
    assert result.status == "Completed"
    assert result.error_message is None
    assert result.final_context.to_dict() == {"name": "Ada", "greeting": "hello Ada"}
    assert repr(result) == "WorkflowResult(status=Completed, error=None)"
    assert datetime.fromisoformat(result.start_time) <= datetime.fromisoformat(result.end_time)
    assert isinstance(result.final_context, cloaca.Context)


def test_a_result_hands_out_a_copy_of_the_context(runner: cloaca.DefaultRunner) -> None:
    with cloaca.WorkflowBuilder("copy"):

        @cloaca.task()
        def nothing(context):
            return None

    result = runner.execute("copy", cloaca.Context({"list": [1]}))
    result.final_context["list"].append(2)
    result.final_context.set("more", 1)
    assert result.final_context.to_dict() == {"list": [1]}


def test_tasks_share_closures_and_globals_with_the_caller(runner: cloaca.DefaultRunner) -> None:
    seen: list[str] = []
    lock = threading.Lock()  # nothing that could be sent to another process

    with cloaca.WorkflowBuilder("shared"):

        @cloaca.task()
        def note(context):
            with lock:
                seen.append(threading.current_thread().name)

    runner.execute("shared", cloaca.Context())
    assert len(seen) == 1
    assert seen[0].startswith("cloacina task")


def test_a_task_that_fails_makes_the_result_failed_and_raises_nothing(runner: cloaca.DefaultRunner) -> None:
    with cloaca.WorkflowBuilder("failing"):

        @cloaca.task(retry_attempts=1)
        def breaks(context):
            raise RuntimeError("the reason")

    result = runner.execute("failing", cloaca.Context({"kept": 1}))
    assert result.status == "Failed"
    assert "breaks" in result.error_message
    assert "the reason" in result.error_message
    assert result.final_context["kept"] == 1


def test_a_failed_attempt_is_tried_again(runner: cloaca.DefaultRunner) -> None:
    attempts: list[int] = []

    with cloaca.WorkflowBuilder("retried"):

        @cloaca.task(retry_attempts=3, retry_delay_ms=1, retry_jitter=False)
        def at_last(context):
            attempts.append(scope.current().attempt)
            if len(attempts) < 3:
                raise ConnectionError("away")

    assert runner.execute("retried", cloaca.Context()).status == "Completed"
    assert attempts == [1, 2, 3]


def test_a_rule_handles_a_failure(runner: cloaca.DefaultRunner) -> None:
    with cloaca.WorkflowBuilder("ruled"):

        @cloaca.task(retry_attempts=1)
        def breaks(context):
            raise RuntimeError("no")

        @cloaca.task(dependencies=[breaks], trigger_rules=cloaca.task_failed("breaks"))
        def mends(context):
            context.set("mended", True)
            return context

        @cloaca.task(dependencies=[breaks], trigger_rules=cloaca.task_success("breaks"))
        def goes_on(context):
            raise AssertionError("must not run")

    result = runner.execute("ruled", cloaca.Context())
    assert result.status == "Completed"
    assert result.final_context["mended"] is True


def test_callbacks_are_called_and_their_errors_change_nothing(runner: cloaca.DefaultRunner) -> None:
    calls: list[tuple[str, ...]] = []

    def succeeded(task_id, context):
        calls.append(("success", task_id))
        raise RuntimeError("a callback that fails")

    def failed(task_id, error, context):
        calls.append(("failure", task_id, error))

    with cloaca.WorkflowBuilder("called"):

        @cloaca.task(on_success=succeeded)
        def good(context):
            return context

        @cloaca.task(on_failure=failed, retry_attempts=1, dependencies=[good])
        def bad(context):
            raise ValueError("wrong")

    assert runner.execute("called", cloaca.Context()).status == "Failed"
    assert calls == [("success", "good"), ("failure", "bad", "ValueError: wrong")]


def test_async_tasks_are_awaited_and_run_side_by_side(start: StartRunner) -> None:
    runner = start(max_concurrent_tasks=10)
    together = {"now": 0, "most": 0}

    with cloaca.WorkflowBuilder("awaited"):
        for number in range(10):

            @cloaca.task(id=f"sleeper_{number}")
            async def sleeper(context):
                together["now"] += 1
                together["most"] = max(together["most"], together["now"])
                for _ in range(1000):
                    if together["most"] == 10:
                        break
                    await asyncio.sleep(0.005)
                together["now"] -= 1

    assert runner.execute("awaited", cloaca.Context()).status == "Completed"
    assert together["most"] == 10


def test_an_async_task_that_blocks_does_not_stop_the_others(runner: cloaca.DefaultRunner) -> None:
    go_on = threading.Event()

    with cloaca.WorkflowBuilder("blocking"):

        @cloaca.task()
        async def blocks(context):
            go_on.wait(20)

    with cloaca.WorkflowBuilder("quick"):

        @cloaca.task()
        def quick(context):
            return context

    blocked = runner.submit("blocking", cloaca.Context())
    assert runner.execute("quick", cloaca.Context()).status == "Completed"
    go_on.set()
    assert runner.result(blocked).status == "Completed"


def test_no_more_tasks_run_at_once_than_configured(start: StartRunner) -> None:
    runner = start(max_concurrent_tasks=2)
    together = {"now": 0, "most": 0}
    lock = threading.Lock()

    with cloaca.WorkflowBuilder("wide"):
        for number in range(8):

            @cloaca.task(id=f"task_{number}")
            def count(context):
                with lock:
                    together["now"] += 1
                    together["most"] = max(together["most"], together["now"])
                time.sleep(0.01)
                with lock:
                    together["now"] -= 1

    assert runner.execute("wide", cloaca.Context()).status == "Completed"
    assert together["most"] == 2


def test_many_callers_share_a_runner(runner: cloaca.DefaultRunner) -> None:
    with cloaca.WorkflowBuilder("doubling"):

        @cloaca.task()
        def double(context):
            context.set("twice", context["number"] * 2)
            return context

    answers: dict[int, int] = {}

    def ask(number: int) -> None:
        answers[number] = runner.execute("doubling", cloaca.Context({"number": number})).final_context["twice"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == {number: number * 2 for number in range(40)}


def test_a_deferred_task_gives_its_slot_to_others(start: StartRunner) -> None:
    runner = start(max_concurrent_tasks=1)
    arrived = threading.Event()
    held: list[bool] = []

    with cloaca.WorkflowBuilder("patient"):

        @cloaca.task()
        def waits(context, handle):
            held.append(handle.is_slot_held())
            handle.defer_until(arrived.is_set, poll_interval_ms=5)
            held.append(handle.is_slot_held())
            context.set("arrived", True)
            return context

    with cloaca.WorkflowBuilder("other"):

        @cloaca.task()
        def runs(context):
            return context

    waiting = runner.submit("patient", cloaca.Context())
    wait_for(lambda: held)
    assert runner.execute("other", cloaca.Context()).status == "Completed"
    arrived.set()
    assert runner.result(waiting, timeout_s=10).final_context["arrived"] is True
    assert held == [True, True]


def test_an_async_task_awaits_its_deferral(start: StartRunner) -> None:
    runner = start(max_concurrent_tasks=1)
    arrived = threading.Event()

    with cloaca.WorkflowBuilder("patient"):

        @cloaca.task()
        async def waits(context, task_handle):
            await task_handle.defer_until(arrived.is_set, poll_interval_ms=5)

    with cloaca.WorkflowBuilder("other"):

        @cloaca.task()
        async def arrives(context):
            arrived.set()

    waiting = runner.submit("patient", cloaca.Context())
    assert runner.execute("other", cloaca.Context()).status == "Completed"
    assert runner.result(waiting, timeout_s=10).status == "Completed"


def test_the_clock_of_a_timeout_stands_still_while_the_task_is_deferred(runner: cloaca.DefaultRunner) -> None:
    asked: list[float] = []

    with cloaca.WorkflowBuilder("patient"):

        @cloaca.task(timeout_s=0.1, retry_attempts=1)
        def waits(context, handle):
            def later() -> bool:
                asked.append(time.monotonic())
                return asked[-1] - asked[0] > 0.3

            handle.defer_until(later, poll_interval_ms=10)

    assert runner.execute("patient", cloaca.Context()).status == "Completed"


def test_a_timeout_holds_again_after_the_deferral(runner: cloaca.DefaultRunner) -> None:
    go_on = threading.Event()

    with cloaca.WorkflowBuilder("patient"):

        @cloaca.task(timeout_s=0.1, retry_attempts=1)
        def waits(context, handle):
            handle.defer_until(lambda: True)
            go_on.wait(20)

    result = runner.execute("patient", cloaca.Context())
    go_on.set()
    assert "ran longer than its timeout of 0.1 s" in result.error_message


def test_a_timeout_is_reported_though_the_thread_goes_on(runner: cloaca.DefaultRunner) -> None:
    go_on = threading.Event()
    ended = threading.Event()

    with cloaca.WorkflowBuilder("slow"):

        @cloaca.task(timeout_s=0.05, retry_attempts=1)
        def stuck(context):
            go_on.wait(20)
            ended.set()
            return context

    result = runner.execute("slow", cloaca.Context())
    assert result.status == "Failed"
    assert "'stuck' ran longer than its timeout of 0.05 s" in result.error_message
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(10)


def test_an_async_task_past_its_timeout_is_cancelled(start: StartRunner) -> None:
    runner = start(task_timeout_seconds=1)
    cancelled = threading.Event()

    with cloaca.WorkflowBuilder("slow"):

        @cloaca.task(retry_attempts=1)
        async def stuck(context):
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

    result = runner.execute("slow", cloaca.Context())
    assert "ran longer than its timeout of 1 s" in result.error_message
    assert cancelled.wait(10)


def test_an_execution_past_the_workflow_timeout_is_cancelled(start: StartRunner) -> None:
    runner = start(workflow_timeout_seconds=1)
    stopped = threading.Event()

    with cloaca.WorkflowBuilder("endless"):

        @cloaca.task()
        async def endless(context):
            try:
                await asyncio.sleep(60)
            finally:
                stopped.set()

    with pytest.raises(ValueError, match="Workflow timeout after 1s"):
        runner.execute("endless", cloaca.Context())
    assert stopped.wait(10)


def test_a_cancelled_execution_ends_as_cancelled(runner: cloaca.DefaultRunner) -> None:
    began = threading.Event()

    with cloaca.WorkflowBuilder("cancelled"):

        @cloaca.task()
        async def sleeps(context):
            began.set()
            await asyncio.sleep(60)

    execution_id = runner.submit("cancelled", cloaca.Context({"kept": 1}))
    assert began.wait(10)
    runner.cancel_execution(execution_id)
    result = runner.result(execution_id, timeout_s=10)
    assert result.status == "Cancelled"
    assert result.final_context["kept"] == 1
    runner.cancel_execution(execution_id)  # again: it is what was wanted


def test_a_paused_execution_begins_no_task_until_it_is_resumed(start: StartRunner) -> None:
    runner = start(max_concurrent_tasks=1)
    began, go_on = threading.Event(), threading.Event()
    ran: list[str] = []

    with cloaca.WorkflowBuilder("two_steps"):

        @cloaca.task()
        def first(context):
            began.set()
            go_on.wait(20)

        @cloaca.task(dependencies=[first])
        def second(context):
            ran.append("second")

    execution_id = runner.submit("two_steps", cloaca.Context())
    assert began.wait(10)
    runner.pause_execution(execution_id)
    go_on.set()
    with pytest.raises(TimeoutError):
        runner.result(execution_id, timeout_s=0.1)
    assert ran == []
    runner.resume_execution(execution_id)
    assert runner.result(execution_id, timeout_s=10).status == "Completed"


def test_the_same_idempotency_key_is_the_same_execution(runner: cloaca.DefaultRunner) -> None:
    ran: list[int] = []

    with cloaca.WorkflowBuilder("once"):

        @cloaca.task()
        def only(context):
            ran.append(1)

    first = runner.submit("once", cloaca.Context(), idempotency_key="order-7")
    assert runner.submit("once", cloaca.Context(), idempotency_key="order-7") == first
    assert runner.result(first).status == "Completed"
    assert runner.submit("once", cloaca.Context(), idempotency_key="order-7") == first
    assert ran == [1]


async def test_callers_on_an_event_loop_await(runner: cloaca.DefaultRunner) -> None:
    with cloaca.WorkflowBuilder("awaited"):

        @cloaca.task()
        async def only(context):
            context.set("done", True)
            return context

    results = await asyncio.gather(*(runner.execute_async("awaited", cloaca.Context()) for _ in range(5)))
    assert [result.final_context["done"] for result in results] == [True] * 5


def test_what_a_task_logs_has_the_ids_of_its_execution(runner: cloaca.DefaultRunner) -> None:
    seen: list[scope.Scope] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(scope.current())

    logger = logging.getLogger("the.task")
    logger.addHandler(Keep())
    with cloaca.WorkflowBuilder("logging"):

        @cloaca.task()
        def says(context):
            logger.warning("something")

        @cloaca.task(dependencies=[says])
        async def says_too(context):
            logger.warning("something")

    with scope.bind(request_id="the-request"):
        execution_id = runner.submit("logging", cloaca.Context())
    runner.result(execution_id)
    assert [(each.request_id, each.execution_id, each.task_name, each.attempt) for each in seen] == [
        ("the-request", execution_id, "says", 1),
        ("the-request", execution_id, "says_too", 1),
    ]


def test_a_workflow_registered_anew_is_used_from_then_on(runner: cloaca.DefaultRunner) -> None:
    for answer in (1, 2):
        with cloaca.WorkflowBuilder("changing"):

            @cloaca.task()
            def say(context, answer=answer):
                context.set("answer", answer)
                return context

        assert runner.execute("changing", cloaca.Context()).final_context["answer"] == answer


def test_a_workflow_whose_rule_skips_everything_completes_at_once(runner: cloaca.DefaultRunner) -> None:
    with cloaca.WorkflowBuilder("skipped"):

        @cloaca.task(trigger_rules=cloaca.context_value("wanted", "equals", True))
        def only(context):
            raise AssertionError("must not run")

    assert runner.execute("skipped", cloaca.Context()).status == "Completed"


def test_an_idle_execution_takes_a_few_milliseconds(runner: cloaca.DefaultRunner) -> None:
    with cloaca.WorkflowBuilder("quick"):

        @cloaca.task()
        def only(context):
            return context

    taken = []
    for _ in range(60):
        began = time.perf_counter()
        runner.execute("quick", cloaca.Context())
        taken.append(time.perf_counter() - began)
    assert sorted(taken)[30] < 0.010  # seconds; bench/embedded.py measures exactly
