"""The engine explains executions: from its own state while they are unfinished, from the store once they have ended."""

from __future__ import annotations

import asyncio

import pytest
from engine_bench import Bench, definition, disk_full, failed, succeeded, until, with_limits

from cloacina.domain.decisions import Pause
from cloacina.domain.execution import FailureReason
from cloacina.domain.explanation import CauseKind, Explanation
from cloacina.domain.graph import TaskSpec
from cloacina.domain.retry import RetryPolicy
from cloacina.engine.model import Failure
from cloacina.errors import Unavailable

ONCE = RetryPolicy(max_attempts=1)


async def told(bench: Bench, execution_id: str, tenant_id: str = "acme") -> Explanation:
    waits = await bench.store.latest_waits("acme", execution_id)
    explanation = await bench.engine.explain(tenant_id, execution_id, waits)
    explanation = explanation or await bench.engine.explain_ended(tenant_id, execution_id)
    assert explanation is not None
    return explanation


async def kinds(bench: Bench, execution_id: str) -> list[CauseKind]:
    return [cause.kind for cause in (await told(bench, execution_id)).causes]


async def test_slots_and_executors(bench: Bench) -> None:
    first, second = await bench.submit(), await bench.submit()
    assert await kinds(bench, first) == [CauseKind.NO_EXECUTOR]
    executor = await bench.join(slots=1)
    await executor.next()
    assert await kinds(bench, first) == [CauseKind.STARTING]
    assert await kinds(bench, second) == [CauseKind.NO_FREE_SLOT]
    assert (
        "no slot is free: 1 executor with 1 slot in all; tasks of all executions that wait for one: 1"
        in (await told(bench, second)).answer
    )
    bench.engine.leave("x1", executor)
    (cause,) = (await told(bench, first)).causes
    assert cause.kind is CauseKind.EXECUTOR_SILENT
    assert cause.until is not None
    assert cause.since is not None
    lease = bench.engine.settings.lease_s * 1e6
    assert abs(cause.until - cause.since - lease) < 5e6


async def test_limits(start) -> None:
    bench = await start(tenant_tasks=1)
    of = with_limits(definition(), executions=2)
    executor = await bench.join(slots=8)
    first, second, third = [await bench.submit(of) for _ in range(3)]
    await executor.next()
    assert await kinds(bench, first) == [CauseKind.STARTING]
    assert (await told(bench, second)).causes[0].kind is CauseKind.TASK_LIMIT
    assert "no more than 1 task of the tenant acme may run at once" in (await told(bench, second)).answer
    assert "no more than 2 executions of flow may run at once" in (await told(bench, third)).answer
    assert (await told(bench, second)).causes[0].ids == {"execution_id": first}
    (held,) = (await told(bench, third)).causes
    assert held.ids == {"execution_id": f"{first}, {second}"}
    assert held.since == bench.engine._memory.live[third].created_at


async def test_a_child_execution(bench: Bench) -> None:
    inner = definition(TaskSpec("deep"), name="inner")
    bench.engine._memory._find_definition = lambda tenant_id, name: inner
    executor = await bench.join(slots=8)
    outer = await bench.submit(definition(TaskSpec("child", workflow="inner")))
    child = (await executor.next()).live.execution_id
    (cause,) = (await told(bench, outer)).causes
    assert (cause.kind, cause.ids) == (CauseKind.CHILD_EXECUTION, {"execution_id": child})


async def test_pauses_and_deferrals_know_since_when(bench: Bench) -> None:
    executor = await bench.join()
    execution_id = await bench.submit()
    claim = (await executor.next()).claim_id
    bench.engine.report_started("x1", claim, bench.engine._now())
    bench.engine.report_deferred("x1", claim, True)
    await bench.engine.change("acme", execution_id, Pause())
    causes = (await told(bench, execution_id)).causes
    assert [cause.kind for cause in causes] == [CauseKind.PAUSED, CauseKind.DEFERRED]
    events = {row.event_type: row.at for row in await bench.store.list_events("acme", execution_id, after=0, limit=99)}
    assert [cause.since for cause in causes] == [events["workflow_paused"], events["task_deferred"]]


async def test_what_has_ended_is_explained_from_the_store(bench: Bench) -> None:
    executor = await bench.join()
    execution_id = await bench.submit(definition(TaskSpec("only", retry=ONCE)))
    bench.engine.report(executor, failed(await executor.next(), Failure(FailureReason.TASK_ERROR, "boom")))
    await bench.ended(execution_id)
    explanation = await told(bench, execution_id)
    assert [cause.kind for cause in explanation.causes] == [CauseKind.FAILED]
    assert "only failed in attempt 1 of 1 (task_error): boom" in explanation.answer
    completed = await bench.submit()
    bench.engine.report(executor, succeeded(await executor.next(2)))
    await bench.ended(completed)
    assert (await told(bench, completed)).answer.startswith("Completed")


async def test_nothing_is_told_to_another_tenant(bench: Bench) -> None:
    execution_id = await bench.submit()
    assert await bench.engine.explain("other", execution_id, {}) is None
    assert await bench.engine.explain_ended("other", execution_id) is None
    assert await bench.engine.explain_ended("acme", execution_id) is None, "it has not ended"


async def test_nothing_is_said_before_it_is_durable(bench: Bench, database) -> None:
    executor = await bench.join()
    execution_id = await bench.submit(definition(TaskSpec("only", retry=ONCE)))
    claim = await executor.next()
    database.hold()
    bench.engine.report(executor, failed(claim, Failure(FailureReason.TASK_ERROR, "boom")))
    await until(lambda: database.held == 1, "the commit that waits")
    asking = asyncio.create_task(bench.engine.explain("acme", execution_id, {}))
    done, _ = await asyncio.wait([asking], timeout=0.05)
    assert not done
    database.let_go()
    assert await asking is None, "it has ended by then"


async def test_a_store_that_cannot_be_written_is_the_reason(bench: Bench, database) -> None:
    execution_id = await bench.submit()
    database.failures += [disk_full()] * 50
    with pytest.raises(Unavailable):
        await bench.submit()
    with pytest.raises(Unavailable, match="store is unavailable"):
        await bench.engine.explain("acme", execution_id, {})
