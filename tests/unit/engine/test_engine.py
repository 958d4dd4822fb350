"""The engine: durable before it is told, one commit a hop, leases and fencing, restarts, failing commits."""

from __future__ import annotations

import asyncio
import contextlib

import orjson
import pytest
from engine_bench import Bench, StubbornDatabase, definition, disk_full, failed, succeeded, until

from cloacina.domain.decisions import Cancel, IllegalTransition, Pause, Resume
from cloacina.domain.execution import FailureReason
from cloacina.domain.graph import TaskSpec
from cloacina.domain.retry import RetryPolicy
from cloacina.engine.model import Failure, Origin
from cloacina.errors import NotFound, Unavailable

_CHAIN = (TaskSpec("first"), TaskSpec("second", ("first",)))
_BROKEN = Failure(FailureReason.TASK_ERROR, "boom", "traceback")


async def test_nothing_is_told_before_it_is_durable(bench: Bench, database: StubbornDatabase) -> None:
    executor = await bench.join()
    database.hold()
    submitting = asyncio.create_task(bench.submit())
    await until(lambda: database.held, "the commit")
    for _ in range(20):
        await asyncio.sleep(0)
    assert executor.assigned == []
    assert not submitting.done()
    database.let_go()
    execution_id = await submitting
    assignment = await executor.next()
    assert (assignment.live.execution_id, assignment.task, assignment.attempt) == (execution_id, "only", 1)
    assert (await bench.task(execution_id)).claim_id == assignment.claim_id

    database.hold()
    bench.engine.report(executor, succeeded(assignment))
    await until(lambda: database.held, "the commit")
    for _ in range(20):
        await asyncio.sleep(0)
    assert executor.acknowledged == []
    assert bench.metric("cloacina_tasks_total", status="completed", reason="ok") == 0
    database.let_go()
    await until(lambda: executor.acknowledged == [assignment.claim_id])
    assert (await bench.execution(execution_id)).status == "Completed"


async def test_a_result_its_successors_and_their_claims_are_one_commit(
    bench: Bench, database: StubbornDatabase
) -> None:
    executor = await bench.join()
    execution_id = await bench.submit(definition(*_CHAIN), b'{"n":1}')
    first = await executor.next()
    assert orjson.loads(first.context) == {"n": 1}
    before = len(database.writes)
    bench.engine.report(executor, succeeded(first, b'{"n":2}'))
    second = await executor.next(2)
    assert (second.task, orjson.loads(second.context)) == ("second", {"n": 2})
    assert len(database.writes) == before + 1
    rows = await bench.store.list_tasks("acme", execution_id)
    assert [(row.status, row.claim_id) for row in rows] == [
        ("Completed", first.claim_id),
        ("Running", second.claim_id),
    ]
    assert second.claim_id > first.claim_id
    bench.engine.report(executor, succeeded(second))
    assert orjson.loads((await bench.ended(execution_id)).output or b"") == {"n": 2}


async def test_the_events_of_an_execution_are_stored_without_gaps(bench: Bench) -> None:
    executor = await bench.join()
    execution_id = await bench.submit(definition(*_CHAIN))
    for number in (1, 2):
        bench.engine.report(executor, succeeded(await executor.next(number)))
    row = await bench.ended(execution_id)
    events = await bench.store.list_events("acme", execution_id, after=0, limit=100)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert row.sequence == len(events)
    assert [event.event_type for event in events][:3] == ["workflow_started", "task_created", "task_created"]
    assert events[-1].event_type == "workflow_completed"
    assert all(event.data is None or orjson.loads(event.data) for event in events)


async def test_what_comes_while_a_commit_is_in_flight_shares_the_next(bench: Bench, database: StubbornDatabase) -> None:
    of = definition()
    database.hold()
    first = asyncio.create_task(bench.submit(of))
    await until(lambda: database.held)
    others = [asyncio.create_task(bench.submit(of)) for _ in range(50)]
    before = len(database.writes)
    await asyncio.sleep(0)
    database.let_go()
    ids = await asyncio.gather(first, *others)
    assert len(set(ids)) == 51
    assert len(database.writes) == before + 2


async def test_no_more_tasks_are_assigned_than_there_are_slots(bench: Bench) -> None:
    executor = await bench.join(slots=2)
    for _ in range(3):
        await bench.submit()
    await executor.next(2)
    assert len(executor.assigned) == 2
    assert bench.engine.figures()["free_slots"] == 0
    bench.engine.report(executor, succeeded(executor.assigned[0]))
    await executor.next(3)


async def test_a_deferred_task_leaves_its_slot_to_others(bench: Bench) -> None:
    executor = await bench.join(slots=1)
    await bench.submit()
    waiting = await executor.next()
    await bench.submit()
    bench.engine.report_deferred("x1", waiting.claim_id, True)
    other = await executor.next(2)
    assert (await bench.task(waiting.live.execution_id)).deferred
    bench.engine.report_deferred("x1", waiting.claim_id, False)
    bench.engine.report(executor, succeeded(other))
    bench.engine.report(executor, succeeded(waiting))
    await bench.ended(waiting.live.execution_id)


async def test_an_executor_that_drains_gets_nothing_and_what_it_hands_back_runs_elsewhere(bench: Bench) -> None:
    leaving = await bench.join("leaving", slots=1)
    execution_id = await bench.submit()
    assignment = await leaving.next()
    bench.engine.heartbeat("leaving", 0)
    bench.engine.release("leaving", leaving, assignment.claim_id)
    await until(lambda: leaving.acknowledged == [assignment.claim_id])
    staying = await bench.join("staying")
    again = await staying.next()
    assert again.live.execution_id == execution_id
    assert again.claim_id > assignment.claim_id
    assert len(leaving.assigned) == 1
    assert (await bench.task(execution_id)).lost_claims == 0


# Leases and fencing


async def test_the_tasks_of_an_executor_that_fell_silent_run_elsewhere(start) -> None:
    bench: Bench = await start(lease_s=0.2)
    silent = await bench.join("silent")
    execution_id = await bench.submit()
    lost = await silent.next()
    await until(lambda: silent.closed, "the lease to lapse")
    assert bench.engine.figures()["executors"] == 0
    assert (await bench.task(execution_id)).status == "Ready"
    assert await bench.store.load_executors() == []
    assert bench.metric("cloacina_scheduler_stale_claims_swept_total") == 1
    other = await bench.join("other")
    again = await other.next()
    assert (again.live.execution_id, again.attempt) == (execution_id, 1)
    assert again.claim_id > lost.claim_id
    assert (await bench.task(execution_id)).lost_claims == 1

    bench.engine.report(silent, succeeded(lost, b'{"from":"silent"}'))
    await until(lambda: silent.acknowledged == [lost.claim_id], "the refusal")
    assert bench.metric("cloacina_tasks_total", status="failed", reason="claim_lost") == 1
    assert (await bench.task(execution_id)).status == "Running"
    bench.engine.report(other, succeeded(again, b'{"from":"other"}'))
    assert orjson.loads((await bench.ended(execution_id)).output or b"") == {"from": "other"}


async def test_heartbeats_keep_a_lease(start) -> None:
    bench: Bench = await start(lease_s=0.25)
    beating, silent = await bench.join("beating", slots=1), await bench.join("silent", slots=1)
    await bench.submit()

    async def beat() -> None:
        while True:
            bench.engine.heartbeat("beating", 1)
            await asyncio.sleep(0.02)

    beats = asyncio.create_task(beat())
    await until(lambda: silent.closed, "the other lease to lapse")
    assert not beating.closed
    beats.cancel()
    assert bench.metric("cloacina_scheduler_heartbeat_writes_total") > 2


async def test_a_poisonous_task_does_not_take_executor_after_executor(start) -> None:
    bench: Bench = await start(lease_s=0.1)
    execution_id = await bench.submit()
    for number in range(3):
        victim = await bench.join(f"victim{number}")
        await victim.next()
        await until(lambda victim=victim: victim.closed, "the lease to lapse")
    row = await bench.ended(execution_id)
    assert (row.status, row.reason) == ("Failed", "dependency_failed")
    assert (await bench.task(execution_id)).reason == "infrastructure"
    assert bench.metric("cloacina_tasks_total", status="failed", reason="infrastructure") == 1


async def test_an_executor_that_connects_again_keeps_what_it_holds(bench: Bench) -> None:
    before = await bench.join(slots=3)
    for _ in range(2):
        await bench.submit()
    await before.next(2)
    kept, missed = before.assigned
    bench.engine.leave("x1", before)
    after = await bench.join(slots=3, held=[kept.claim_id, 12345])
    assert after.welcomed
    await until(lambda: after.stopped == [12345], "the unknown claim to be stopped")
    again = await after.next()
    assert again.live.execution_id == missed.live.execution_id, "what never arrived is assigned anew"
    assert (await bench.task(missed.live.execution_id)).lost_claims == 0
    assert len(after.assigned) == 1
    bench.engine.report(after, succeeded(kept))
    assert (await bench.ended(kept.live.execution_id)).status == "Completed"


async def test_a_broken_stream_is_not_death(bench: Bench) -> None:
    executor = await bench.join()
    execution_id = await bench.submit()
    assignment = await executor.next()
    bench.engine.leave("x1", executor)
    waiting = await bench.submit()
    assert (await bench.task(execution_id)).status == "Running"
    assert (await bench.task(waiting)).status == "Ready", "without a way to it, it gets nothing new"
    again = await bench.join(held=[assignment.claim_id])
    bench.engine.leave("x1", executor)
    bench.engine.report(again, succeeded(assignment))
    assert (await again.next()).live.execution_id == waiting, "the old stream's end does not cut the new one"


async def test_the_same_result_again_is_acknowledged_and_counts_once(bench: Bench) -> None:
    executor = await bench.join()
    execution_id = await bench.submit(definition(*_CHAIN))
    first = await executor.next()
    for _ in range(2):
        bench.engine.report(executor, succeeded(first))
    second = await executor.next(2)
    await until(lambda: len(executor.acknowledged) == 2)
    bench.engine.report(executor, succeeded(second))
    await bench.ended(execution_id)
    bench.engine.report(executor, succeeded(second))
    await until(lambda: len(executor.acknowledged) == 4, "the acknowledgement after the end")
    assert bench.metric("cloacina_tasks_total", status="completed", reason="ok") == 2
    assert bench.metric("cloacina_tasks_total", status="failed", reason="claim_lost") == 0


async def test_the_last_result_sent_twice_is_not_acknowledged_before_it_is_durable(
    bench: Bench, database: StubbornDatabase
) -> None:
    """Both arrive in one group: the execution has ended for the second, and nothing is durable yet."""
    executor = await bench.join()
    await bench.submit()
    assignment = await executor.next()
    database.hold()
    for _ in range(2):
        bench.engine.report(executor, succeeded(assignment))
    await until(lambda: database.held)
    for _ in range(200):
        await asyncio.sleep(0)
    await bench.store.get_execution("acme", assignment.live.execution_id)  # a read takes its time, like theirs
    await bench.store.get_execution("acme", assignment.live.execution_id)
    assert executor.acknowledged == []
    database.let_go()
    await until(lambda: len(executor.acknowledged) == 2)


async def test_a_late_result_of_a_claim_given_up_is_counted_after_the_end_too(start) -> None:
    bench: Bench = await start(lease_s=0.15)
    silent = await bench.join("silent")
    execution_id = await bench.submit()
    lost = await silent.next()
    await until(lambda: silent.closed)
    other = await bench.join("other")
    bench.engine.report(other, succeeded(await other.next()))
    await bench.ended(execution_id)
    bench.engine.report(silent, succeeded(lost))
    await until(lambda: silent.acknowledged == [lost.claim_id])
    assert bench.metric("cloacina_tasks_total", status="failed", reason="claim_lost") == 1


async def test_an_executor_that_came_back_survives_the_lapse_of_its_former_lease(
    start, database: StubbornDatabase
) -> None:
    """While a commit hangs the sweeper finds the lapsed lease; the executor connects, and is not welcomed for longer
    than a lease."""
    bench: Bench = await start(lease_s=0.2)
    await bench.join()
    database.hold()
    hanging = asyncio.create_task(bench.submit())
    await until(lambda: bench.engine.figures()["executors"] == 0, "the lease to lapse")
    joining = asyncio.create_task(bench.join())
    await until(lambda: bench.engine.figures()["executors"] == 1, "the executor to be known again")
    await asyncio.sleep(0.5)
    database.let_go()
    again = await joining
    await hanging
    assert bench.engine.figures()["executors"] == 1
    assert [row.executor_id for row in await bench.store.load_executors()] == ["x1"], "its lease is stored"
    assert not again.closed
    await again.next()


# Retries


async def test_a_failed_attempt_is_tried_again_when_it_is_due(bench: Bench) -> None:
    executor = await bench.join()
    retry = RetryPolicy(max_attempts=2, delay_ms=20, jitter=False)
    execution_id = await bench.submit(definition(TaskSpec("t", retry=retry)))
    bench.engine.report(executor, failed(await executor.next(), _BROKEN))
    second = await executor.next(2)
    assert second.attempt == 2
    row = await bench.task(execution_id)
    assert (row.error, row.details, row.attempt) == ("boom", "traceback", 2)
    bench.engine.report(executor, failed(second, _BROKEN))
    ended = await bench.ended(execution_id)
    assert (ended.status, ended.error) == ("Failed", "failed tasks: t")
    await until(lambda: bench.metric("cloacina_tasks_total", status="failed", reason="task_error") == 1)
    assert bench.metric("cloacina_workflows_total", status="failed", reason="dependency_failed") == 1


async def test_a_retry_delay_beyond_all_measure_does_not_stop_the_engine(bench: Bench) -> None:
    executor = await bench.join()
    retry = RetryPolicy(max_attempts=2, delay_ms=2**63, max_delay_ms=2**64 - 1)
    execution_id = await bench.submit(definition(TaskSpec("t", retry=retry)))
    assignment = await executor.next()
    bench.engine.report(executor, failed(assignment, _BROKEN))
    await until(lambda: executor.acknowledged == [assignment.claim_id])
    assert (await bench.task(execution_id)).status == "Pending"
    assert not executor.closed


# Restarts


async def test_a_restart_takes_up_what_is_unfinished(start) -> None:
    first: Bench = await start()
    executor = await first.join(slots=2)
    of = definition(*_CHAIN)
    done, held, lost = [await first.submit(of, b'{"n":1}') for _ in range(3)]
    one, two = await executor.next(1), await executor.next(2)
    assert [one.live.execution_id, two.live.execution_id] == [done, held]
    bench: Bench = await start()  # the first is not stopped: it died
    assert bench.engine.figures()["active_workflows"] == 3
    assert bench.engine.figures()["active_tasks"] == 2, "right after a crash too"
    assert bench.metric("cloacina_active_workflows") == 3
    again = await bench.join(slots=2, held=[one.claim_id])
    bench.engine.report(again, succeeded(one, b'{"n":2}'))
    seen = 0
    while bench.engine.figures()["active_workflows"]:
        await until(lambda known=seen: len(again.assigned) > known or not bench.engine.figures()["active_workflows"])
        for assignment in again.assigned[seen:]:
            assert assignment.claim_id > two.claim_id, "tokens grow over restarts"
            bench.engine.report(again, succeeded(assignment))
            seen += 1
    assert seen == 1 + 2 + 2
    for execution_id, expected in ((done, b'{"n":2}'), (held, b'{"n":1}'), (lost, b'{"n":1}')):
        row = await bench.ended(execution_id)
        assert (row.status, row.output) == ("Completed", expected)


async def test_after_a_restart_executors_have_a_lease_to_connect_in(start) -> None:
    first: Bench = await start()
    executor = await first.join()
    execution_id = await first.submit()
    assignment = await executor.next()
    bench: Bench = await start(lease_s=0.2)
    assert (await bench.task(execution_id)).status == "Running"
    await until(lambda: not bench.engine.figures()["executors"], "the lease to lapse")
    again = await (await bench.join("other")).next()
    assert again.claim_id > assignment.claim_id, "nobody came, so it runs elsewhere"


async def test_a_restart_keeps_waiting_retries_pauses_and_cancellations(start) -> None:
    first: Bench = await start()
    executor = await first.join(slots=3)
    retry = RetryPolicy(delay_ms=300, jitter=False)
    retried = await first.submit(definition(TaskSpec("t", retry=retry)))
    paused, cancelled = await first.submit(definition(*_CHAIN)), await first.submit(definition(*_CHAIN))
    await executor.next(3)
    by_execution = {assignment.live.execution_id: assignment for assignment in executor.assigned}
    await first.engine.change("acme", paused, Pause())
    await first.engine.change("acme", cancelled, Cancel("enough"))
    first.engine.report(executor, failed(by_execution[retried], _BROKEN))
    first.engine.report(executor, succeeded(by_execution[paused]))
    await until(lambda: len(executor.acknowledged) == 2)
    await first.engine.stop()

    bench: Bench = await start()
    again = await bench.join(slots=3, held=[by_execution[cancelled].claim_id])
    await until(lambda: again.stopped == [by_execution[cancelled].claim_id], "the cancelled task to be stopped")
    bench.engine.release("x1", again, by_execution[cancelled].claim_id)
    assert (await bench.ended(cancelled)).status == "Cancelled"
    second = await again.next()
    assert (second.live.execution_id, second.attempt) == (retried, 2)
    assert [each.live.execution_id for each in again.assigned] == [retried]
    await bench.engine.change("acme", paused, Resume())
    assert (await again.next(2)).task == "second"


async def test_a_clock_that_was_set_back_before_a_restart_delays_no_retry(start) -> None:
    now = 1_700_000_000_000_000
    first: Bench = await start(lambda: now)
    executor = await first.join()
    retry = RetryPolicy(delay_ms=50, jitter=False)
    execution_id = await first.submit(definition(TaskSpec("t", retry=retry)))
    first.engine.report(executor, failed(await executor.next(), _BROKEN))
    await until(lambda: executor.acknowledged, "the retry to be stored")
    await first.engine.stop()
    assert (await first.task(execution_id)).status == "Pending"
    an_hour_ago = now - 3_600_000_000
    bench: Bench = await start(lambda: an_hour_ago)
    again = await (await bench.join()).next()
    assert (again.live.execution_id, again.attempt) == (execution_id, 2)


# Commits that fail


async def test_a_failed_commit_is_refused_and_the_engine_recovers(bench: Bench, database: StubbornDatabase) -> None:
    executor = await bench.join(slots=2)
    before = await bench.submit()
    assignment = await executor.next()
    database.failures = [disk_full(), disk_full(), disk_full()]
    with pytest.raises(Unavailable, match="disk full"):
        await bench.submit()
    assert executor.closed, "it is to connect again"
    assert not bench.engine.healthy
    with pytest.raises(Unavailable, match="store is unavailable"):
        await bench.submit()
    await until(lambda: bench.engine.healthy, "the recovery")
    assert bench.engine.figures()["active_workflows"] == 1, "nothing of the refused ones is left"
    assert (await bench.store.list_executions("acme"))[1] == 1
    again = await bench.join(slots=2, held=[assignment.claim_id])
    after = await bench.submit()
    newer = await again.next()
    assert newer.live.execution_id == after
    assert newer.claim_id > assignment.claim_id
    for each in (assignment, newer):
        bench.engine.report(again, succeeded(each))
    for execution_id in (before, after):
        assert (await bench.ended(execution_id)).status == "Completed"


async def test_a_result_whose_commit_failed_is_not_acknowledged_and_can_be_sent_again(
    bench: Bench, database: StubbornDatabase
) -> None:
    executor = await bench.join()
    execution_id = await bench.submit()
    assignment = await executor.next()
    database.failures = [disk_full()]
    bench.engine.report(executor, succeeded(assignment))
    await until(lambda: executor.closed)
    await until(lambda: bench.engine.healthy)
    assert executor.acknowledged == []
    assert bench.metric("cloacina_tasks_total", status="completed", reason="ok") == 0
    again = await bench.join(held=[assignment.claim_id])
    bench.engine.report(again, succeeded(assignment))
    assert (await bench.ended(execution_id)).status == "Completed"


async def test_a_defect_in_deciding_is_not_told_to_clients(bench: Bench, database: StubbornDatabase) -> None:
    database.failures = [RuntimeError("secret detail")]
    with pytest.raises(Exception, match="internal error") as raised:
        await bench.submit()
    assert "secret" not in str(raised.value)
    await until(lambda: bench.engine.healthy)
    await bench.submit()


async def test_one_idempotency_key_is_one_execution(bench: Bench, database: StubbornDatabase) -> None:
    """Also among requests of one group; and the others of the group notice nothing."""
    executor = await bench.join()
    of = definition()
    first = await bench.submit(of, idempotency_key="once")
    database.hold()
    asyncio.get_running_loop().call_later(0.01, database.let_go)
    opening, again, innocent, fresh, fresh_again = await asyncio.gather(
        bench.submit(of),
        bench.submit(of, idempotency_key="once"),
        bench.submit(of),
        bench.submit(of, idempotency_key="fresh"),
        bench.submit(of, idempotency_key="fresh"),
    )
    assert again == first
    assert fresh_again == fresh
    assert len({first, opening, innocent, fresh}) == 4
    assert not executor.closed
    assert (await bench.store.list_executions("acme"))[1] == 4


async def test_a_key_says_whether_the_execution_is_new(bench: Bench) -> None:
    of = definition()
    assert (await bench.engine.submit(of, b"{}", Origin("r"), idempotency_key="k"))[1] is True
    assert (await bench.engine.submit(of, b"{}", Origin("r"), idempotency_key="k"))[1] is False
    other = definition(name="other")
    assert (await bench.engine.submit(other, b"{}", Origin("r"), idempotency_key="k"))[1] is True


async def test_a_failure_after_the_commit_loses_nothing(bench: Bench) -> None:
    """What was committed is acknowledged; the executors are sent away and find everything in the store."""
    executor = await bench.join()

    def breaks(assignments: object) -> None:
        raise RuntimeError("on purpose")

    executor.assign = breaks  # type: ignore[method-assign]
    execution_id = await bench.submit()
    await until(lambda: executor.closed and bench.engine.healthy)
    again = await bench.join("again")
    assert bench.engine.find(execution_id) is not None
    assert again is not executor


# Limits and the end


async def test_too_many_unfinished_executions_are_refused(start) -> None:
    bench: Bench = await start(max_live=2)
    for _ in range(2):
        await bench.submit()
    with pytest.raises(Unavailable, match="2 executions are unfinished"):
        await bench.submit()


async def test_too_many_waiting_requests_are_refused(start, database: StubbornDatabase) -> None:
    bench: Bench = await start(max_waiting=3)
    database.hold()
    submitted = [asyncio.create_task(bench.submit())]
    await until(lambda: database.held)
    submitted += [asyncio.create_task(bench.submit()) for _ in range(5)]
    await until(lambda: sum(each.done() for each in submitted) == 2)
    database.let_go()
    answers = await asyncio.gather(*submitted, return_exceptions=True)
    assert sum(isinstance(answer, str) for answer in answers) == 4
    assert sum(isinstance(answer, Unavailable) for answer in answers) == 2


async def test_stopping_answers_everyone_who_waits(bench: Bench) -> None:
    of = definition()
    told: list[str] = []

    async def keep_submitting() -> None:
        with contextlib.suppress(Unavailable):
            while True:
                told.append(await bench.submit(of))

    clients = [asyncio.create_task(keep_submitting()) for _ in range(20)]
    await until(lambda: len(told) > 40)
    async with asyncio.timeout(5):
        await bench.engine.stop()
        await asyncio.gather(*clients)
    stored = {row.execution_id for row in (await bench.store.list_executions("acme", limit=10_000))[0]}
    assert set(told) <= stored
    with pytest.raises(Unavailable, match="stopping"):
        await bench.submit(of)


async def test_stopping_does_not_wait_for_a_store_that_hangs(
    bench: Bench, database: StubbornDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloacina.engine.engine._FLUSH_DEADLINE_S", 0.05)
    database.hold()
    submitted = [asyncio.create_task(bench.submit()) for _ in range(3)]
    await until(lambda: database.held)
    async with asyncio.timeout(5):
        await bench.engine.stop()
        answers = await asyncio.gather(*submitted, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)


# Cancel, pause, resume


async def test_cancelling_stops_what_runs_and_ends_once_it_has(bench: Bench) -> None:
    executor = await bench.join()
    execution_id = await bench.submit(definition(*_CHAIN))
    assignment = await executor.next()
    await bench.engine.change("acme", execution_id, Cancel("enough"))
    assert executor.stopped == [assignment.claim_id]
    assert (await bench.execution(execution_id)).cancelling == "enough"
    stopped = Failure(FailureReason.CANCELLED, "stopped")
    bench.engine.report(executor, failed(assignment, stopped))
    row = await bench.ended(execution_id)
    assert (row.status, row.reason, row.error) == ("Cancelled", "cancelled", "enough")
    assert {task.status for task in await bench.store.list_tasks("acme", execution_id)} == {"Skipped"}
    assert bench.metric("cloacina_workflows_total", status="cancelled", reason="cancelled") == 1
    assert bench.metric("cloacina_tasks_total", status="skipped", reason="cancelled") == 2
    assert len(executor.assigned) == 1


async def test_a_paused_execution_claims_nothing_and_goes_on_when_resumed(bench: Bench) -> None:
    executor = await bench.join(slots=2)
    execution_id = await bench.submit(definition(*_CHAIN))
    first = await executor.next()
    await bench.engine.change("acme", execution_id, Pause())
    bench.engine.report(executor, succeeded(first))
    await until(lambda: executor.acknowledged == [first.claim_id])
    other = await bench.submit()
    assert (await executor.next(2)).live.execution_id == other, "others go on"
    assert (await bench.task(execution_id, 1)).status == "Ready"
    assert (await bench.execution(execution_id)).status == "Paused"
    await bench.engine.change("acme", execution_id, Resume())
    resumed = await executor.next(3)
    assert (resumed.live.execution_id, resumed.task) == (execution_id, "second")
    assert len(executor.assigned) == 3


async def test_changes_need_an_unfinished_execution_of_the_tenant(bench: Bench) -> None:
    execution_id = await bench.submit()
    for tenant, name in (("other", execution_id), ("acme", "absent")):
        with pytest.raises(NotFound) as raised:
            await bench.engine.change(tenant, name, Cancel("x"))
        assert raised.value.code == "execution_not_found"
    await bench.engine.change("acme", execution_id, Resume())
    await bench.engine.change("acme", execution_id, Cancel("x"))
    with pytest.raises(NotFound):
        await bench.engine.change("acme", execution_id, Cancel("x"))


async def test_a_refused_change_does_not_disturb_others_of_its_group(bench: Bench, database: StubbornDatabase) -> None:
    executor = await bench.join()
    execution_id = await bench.submit()
    await executor.next()
    database.hold()
    hanging = asyncio.create_task(bench.submit())
    await until(lambda: database.held)
    refused = asyncio.create_task(bench.engine.change("acme", "absent", Pause()))
    paused = asyncio.create_task(bench.engine.change("acme", execution_id, Pause()))
    await asyncio.sleep(0)
    database.let_go()
    assert isinstance((await asyncio.gather(refused, return_exceptions=True))[0], NotFound)
    await paused
    await hanging
    assert (await bench.execution(execution_id)).status == "Paused"
    assert not issubclass(NotFound, IllegalTransition)


# Metrics


async def test_metrics_follow_from_the_state(bench: Bench) -> None:
    executor = await bench.join(slots=2)
    of = definition(*_CHAIN)
    ids = [await bench.submit(of) for _ in range(3)]
    await executor.next(2)
    assert bench.metric("cloacina_active_workflows") == 3
    assert bench.metric("cloacina_active_tasks") == 2
    assert bench.engine.figures()["ready_tasks"] == 1
    seen = 0
    while bench.metric("cloacina_active_workflows"):
        for assignment in executor.assigned[seen:]:
            seen += 1
            bench.engine.report(executor, succeeded(assignment))
        await asyncio.sleep(0.001)
    for execution_id in ids:
        await bench.ended(execution_id)
    # the store may be read between a commit and the engine's word of it
    await until(lambda: bench.metric("cloacina_workflows_total", status="completed", reason="ok") == 3)
    assert bench.metric("cloacina_active_tasks") == 0
    assert bench.metric("cloacina_tasks_total", status="completed", reason="ok") == 6
    assert bench.metric("cloacina_scheduler_claim_attempts_total", outcome="claimed") == 6
    assert bench.metric("cloacina_scheduler_claim_attempts_total", outcome="contended") > 0
    assert bench.metric("cloacina_workflow_duration_seconds_count") == 3
    assert bench.metric("cloacina_task_duration_seconds_count") == 6
    assert bench.metric("cloacina_task_queue_seconds_count") == 6
