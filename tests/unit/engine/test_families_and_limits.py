"""Executions that tasks start, limits on what runs at once, priorities, and running again what failed."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from engine_bench import Bench, definition, succeeded, until, with_limits
from engine_bench import failed as failed_with

from cloacina.domain.decisions import Cancel, IllegalTransition, Pause, Resume
from cloacina.domain.execution import FailureReason
from cloacina.domain.graph import TaskSpec
from cloacina.domain.retry import RetryPolicy
from cloacina.engine.model import Assignment, Definition, Failure, Origin, Result
from cloacina.errors import Conflict, NotFound

ONCE = RetryPolicy(max_attempts=1)


def failed(assignment: Assignment) -> Result:
    return failed_with(assignment, Failure(FailureReason.TASK_ERROR, "boom"))


async def idle(bench: Bench) -> None:
    """Everything has ended, and that is stored: a pause of what does not exist waits for the commits before it."""
    await until(lambda: bench.engine.figures()["active_workflows"] == 0)
    with pytest.raises(NotFound):
        await bench.engine.change("acme", "nothing", Pause())


def family(bench: Bench, **children: Definition) -> None:
    """Makes workflows known to tasks that execute them."""
    bench.engine._memory._find_definition = lambda tenant_id, name: children.get(name)


def parent_of(name: str) -> Definition:
    return definition(
        TaskSpec("before"), TaskSpec("child", ("before",), ONCE, workflow=name), TaskSpec("after", ("child",))
    )


async def test_a_task_executes_a_workflow_and_goes_on_with_its_final_context(bench: Bench) -> None:
    executor = await bench.join(slots=4)
    family(bench, inner=definition(TaskSpec("deep"), name="inner"))
    outer_id = await bench.submit(parent_of("inner"))
    await until(lambda: len(executor.assigned) == 1)
    bench.engine.report(executor, succeeded(executor.assigned[0], b'{"n":1}'))
    await until(lambda: len(executor.assigned) == 2)
    deep = executor.assigned[1]
    assert (deep.task, deep.context) == ("deep", b'{"n":1}')
    inner = deep.live
    assert (inner.parent.execution_id, inner.parent.task) == (outer_id, "child")
    assert inner.origin == Origin("r1"), "the request that began it all"
    bench.engine.report(executor, succeeded(deep, b'{"n":2}'))
    await until(lambda: len(executor.assigned) == 3)
    assert (executor.assigned[2].task, executor.assigned[2].context) == ("after", b'{"n":2}')
    bench.engine.report(executor, succeeded(executor.assigned[2]))
    await idle(bench)
    assert (await bench.execution(outer_id)).status == "Completed"
    assert (await bench.execution(inner.execution_id)).parent_execution_id == outer_id


async def test_a_child_that_fails_fails_its_task(bench: Bench) -> None:
    executor = await bench.join(slots=4)
    family(bench, inner=definition(TaskSpec("deep", retry=ONCE), name="inner"))
    outer_id = await bench.submit(definition(TaskSpec("child", retry=ONCE, workflow="inner")))
    await until(lambda: len(executor.assigned) == 1)
    bench.engine.report(executor, failed(executor.assigned[0]))
    await idle(bench)
    outer = await bench.execution(outer_id)
    assert outer.status == "Failed"
    (task,) = await bench.store.list_tasks("acme", outer_id)
    assert executor.assigned[0].live.execution_id in (task.error or "")


@pytest.mark.parametrize("name", ["missing", "flow"])
async def test_a_workflow_that_is_not_there_or_has_no_end_fails_its_task(bench: Bench, name: str) -> None:
    await bench.join()
    itself = definition(TaskSpec("again", retry=ONCE, workflow="flow"))
    family(bench, flow=itself)
    outer_id = await bench.submit(definition(TaskSpec("child", retry=ONCE, workflow=name)))
    await idle(bench)
    assert (await bench.execution(outer_id)).status == "Failed"
    assert (await bench.store.list_executions("acme", limit=100))[1] == (1 if name == "missing" else 17)


async def test_cancel_pause_and_resume_go_down_to_children(bench: Bench) -> None:
    executor = await bench.join(slots=4)
    family(bench, inner=definition(TaskSpec("deep"), TaskSpec("deeper", ("deep",)), name="inner"))
    outer_id = await bench.submit(definition(TaskSpec("child", retry=ONCE, workflow="inner")))
    await until(lambda: len(executor.assigned) == 1)
    inner_id = executor.assigned[0].live.execution_id
    await bench.engine.change("acme", outer_id, Pause())
    assert (await bench.execution(inner_id)).status == "Paused"
    await bench.engine.change("acme", outer_id, Resume())
    assert (await bench.execution(inner_id)).status == "Running"
    await bench.engine.change("acme", outer_id, Cancel("no more"))
    assert executor.stopped == [executor.assigned[0].claim_id]
    bench.engine.report(executor, failed(executor.assigned[0]))
    await idle(bench)
    assert {(await bench.execution(each)).status for each in (outer_id, inner_id)} == {"Cancelled"}


async def test_children_and_what_waits_survive_a_restart(start) -> None:
    bench: Bench = await start()
    before = await bench.join(slots=4)
    inner = definition(TaskSpec("deep"), name="inner")
    family(bench, inner=inner)
    first, second = [await bench.submit(definition(TaskSpec("child", retry=ONCE, workflow="inner"))) for _ in range(2)]
    await before.next(2)
    again: Bench = await start()  # its predecessor died
    family(again, inner=inner)
    after = await again.join(slots=4, held=[each.claim_id for each in before.assigned])
    for assignment in before.assigned:
        again.engine.report(after, succeeded(assignment, b'{"kept":1}'))
    await idle(again)
    for each in (first, second):
        found = await again.execution(each)
        assert (found.status, found.output) == ("Completed", b'{"kept":1}')
    assert (await again.store.list_executions("acme"))[1] == 4


async def test_a_pending_execution_is_admitted_after_a_restart(start) -> None:
    bench: Bench = await start()
    before = await bench.join(slots=4)
    limited = with_limits(definition(), executions=1)
    first, second = await bench.submit(limited), await bench.submit(limited)
    running = await before.next()
    again: Bench = await start()
    assert (await again.execution(second)).status == "Pending"
    after = await again.join(slots=4, held=[running.claim_id])
    again.engine.report(after, succeeded(running))
    again.engine.report(after, succeeded(await after.next()))
    await idle(again)
    assert {(await again.execution(each)).status for each in (first, second)} == {"Completed"}


async def test_executions_over_the_limit_stay_pending_until_one_ends(bench: Bench) -> None:
    executor = await bench.join(slots=10)
    limited = with_limits(definition(), executions=2)
    ids = [await bench.submit(limited) for _ in range(3)]
    urgent = await bench.submit(limited, priority=5)
    await until(lambda: len(executor.assigned) == 2)
    assert [(await bench.execution(each)).status for each in (*ids, urgent)] == [
        "Running",
        "Running",
        "Pending",
        "Pending",
    ]
    bench.engine.report(executor, succeeded(executor.assigned[0]))
    await until(lambda: len(executor.assigned) == 3)
    assert executor.assigned[2].live.execution_id == urgent, "of what waits, the highest priority first"
    await bench.engine.change("acme", ids[2], Cancel("not needed"))
    assert (await bench.execution(ids[2])).status == "Cancelled"
    for assignment in executor.assigned[1:]:
        bench.engine.report(executor, succeeded(assignment))
    await idle(bench)
    assert bench.engine.figures()["held_by_limits"] == 0


async def test_tasks_over_a_limit_stay_ready_until_one_ends(start) -> None:
    bench: Bench = await start(tenant_tasks=3)
    executor = await bench.join(slots=10)
    wide = with_limits(definition(*(TaskSpec(f"t{each}") for each in range(4))), tasks=2)
    free = definition(*(TaskSpec(f"t{each}") for each in range(4)), name="free")
    await bench.submit(wide)
    await until(lambda: len(executor.assigned) == 2)
    await bench.submit(free)
    await until(lambda: len(executor.assigned) == 3)
    assert executor.assigned[2].live.workflow_name == "free", "the tenant's third"
    done = 0
    while bench.engine.figures()["active_workflows"]:
        await until(lambda: len(executor.assigned) > done or not bench.engine.figures()["active_workflows"])
        running = executor.assigned[done:]
        assert len(running) <= 3
        assert sum(each.live.workflow_name == "flow" for each in running) <= 2
        for each in running:
            bench.engine.report(executor, succeeded(each))
            done += 1
    assert done == 8


async def test_what_a_limit_holds_back_goes_on_in_order_and_leaves_others_their_slots(start) -> None:
    bench: Bench = await start(tenant_tasks=1)
    executor = await bench.join(slots=10)
    ids = [await bench.submit(definition(), priority=priority) for priority in (0, 0, -1, 0)]
    await until(lambda: len(executor.assigned) == 1)
    assert bench.engine.figures()["held_by_limits"] == 3
    assert bench.engine.figures()["ready_tasks"] == 0, "no slot would help them"
    other = await bench.submit(definition(tenant_id="globex"))
    await until(lambda: len(executor.assigned) == 2)
    assert executor.assigned[1].live.execution_id == other
    await bench.engine.change("acme", ids[1], Cancel("not needed"))
    bench.engine.report(executor, succeeded(executor.assigned[0]))
    await until(lambda: len(executor.assigned) == 3)
    bench.engine.report(executor, succeeded(executor.assigned[2]))
    await until(lambda: len(executor.assigned) == 4)
    for assignment in (executor.assigned[1], executor.assigned[3]):
        bench.engine.report(executor, succeeded(assignment))
    await idle(bench)
    assert [each.live.execution_id for each in executor.assigned] == [ids[0], other, ids[3], ids[2]]
    assert bench.engine.figures()["held_by_limits"] == 0


async def test_higher_priorities_are_claimed_first(bench: Bench) -> None:
    executor = await bench.join(slots=1)
    await bench.submit(definition())
    await until(lambda: len(executor.assigned) == 1)
    low, high = await bench.submit(definition(), priority=-1), await bench.submit(definition(), priority=1)
    middle = await bench.submit(definition())
    for count in range(1, 4):
        bench.engine.report(executor, succeeded(executor.assigned[-1]))
        await until(lambda: len(executor.assigned) == count + 1)
    assert [each.live.execution_id for each in executor.assigned[1:]] == [high, middle, low]


async def test_a_retry_runs_again_what_failed_and_keeps_what_completed(bench: Bench) -> None:
    executor = await bench.join(slots=4)
    of = definition(TaskSpec("good"), TaskSpec("bad", ("good",), ONCE), TaskSpec("after", ("bad",)))
    execution_id = await bench.submit(of)
    await until(lambda: len(executor.assigned) == 1)
    bench.engine.report(executor, succeeded(executor.assigned[0], b'{"good":1}'))
    await until(lambda: len(executor.assigned) == 2)
    with pytest.raises(Conflict, match="Running"):
        await bench.engine.retry("acme", execution_id)
    bench.engine.report(executor, failed(executor.assigned[1]))
    await idle(bench)
    assert (await bench.execution(execution_id)).status == "Failed"
    with pytest.raises(NotFound):
        await bench.engine.retry("other", execution_id)
    again = await asyncio.gather(*(bench.engine.retry("acme", execution_id) for _ in range(2)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in again) == ["Conflict", "NoneType"], "one of two at the same moment"
    await until(lambda: len(executor.assigned) == 3)
    assert (executor.assigned[2].task, executor.assigned[2].context) == ("bad", b'{"good":1}')
    assert executor.assigned[2].attempt == 1
    bench.engine.report(executor, succeeded(executor.assigned[2], b'{"bad":1}'))
    await until(lambda: len(executor.assigned) == 4)
    bench.engine.report(executor, succeeded(executor.assigned[3]))
    await idle(bench)
    found = await bench.execution(execution_id)
    assert (found.status, orjson.loads(found.output or b"")) == ("Completed", {"bad": 1})
    with pytest.raises(IllegalTransition):
        await bench.engine.retry("acme", execution_id)


async def test_instances_of_a_task_survive_a_restart(start) -> None:
    bench: Bench = await start()
    before = await bench.join(slots=2)
    fan = definition(TaskSpec("each", retry=ONCE, for_each="items"), TaskSpec("after", ("each",)))
    execution_id = await bench.submit(fan, b'{"items":[1,2,3]}')
    await before.next(2)
    bench.engine.report(before, succeeded(before.assigned[0], b'{"item":10}'))
    running = [before.assigned[1].claim_id, (await before.next(3)).claim_id]
    again: Bench = await start()
    after = await again.join(slots=2, held=running)
    for assignment, item in zip(before.assigned[1:], (b'{"item":20}', b'{"item":30}'), strict=True):
        again.engine.report(after, succeeded(assignment, item))
    last = await after.next()
    assert (last.task, orjson.loads(last.context)["each"]) == ("after", [10, 20, 30])
    again.engine.report(after, succeeded(last))
    await idle(again)
    rows = await again.store.list_tasks("acme", execution_id)
    assert [(row.task_name, row.status, row.instances) for row in rows] == [
        ("each", "Completed", 3),
        ("after", "Completed", None),
        ("each[0]", "Completed", None),
        ("each[1]", "Completed", None),
        ("each[2]", "Completed", None),
    ]
