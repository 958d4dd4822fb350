"""While one group is written the next is decided: in order, and nothing of it is known or true before its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from engine_bench import Bench, ExecutorEnd, StubbornDatabase, definition, disk_full, succeeded, until

from cloacina.domain.decisions import Cancel, Pause
from cloacina.domain.graph import TaskSpec
from cloacina.engine.model import Assignment, Joining
from cloacina.engine.work import GroupWork
from cloacina.errors import Internal, NotFound, Unavailable

_CHAIN = (TaskSpec("first"), TaskSpec("second", ("first",)))


async def some_turns() -> None:
    """Lets whatever can go on do so."""
    for _ in range(50):
        await asyncio.sleep(0)


async def stored_ids(bench: Bench) -> set[str]:
    rows, _ = await bench.store.list_executions("acme", limit=1000)
    return {row.execution_id for row in rows}


async def test_a_group_is_decided_while_the_one_before_it_is_written(bench: Bench, database: StubbornDatabase) -> None:
    executor = await bench.join(slots=4)
    execution_id = await bench.submit(definition(*_CHAIN))
    first = await executor.next()
    database.hold()
    submitting = asyncio.create_task(bench.submit())
    await until(lambda: database.held)
    bench.engine.report(executor, succeeded(first))
    live = bench.engine.find(execution_id)
    assert live is not None
    await until(lambda: live.state.tasks["second"].claim_id, "the successor to be claimed in memory")
    await some_turns()
    assert database.held == 1, "one group at a time is written"
    assert (len(executor.assigned), executor.acknowledged) == (1, [])
    database.let_go()
    await submitting
    assert (await executor.next(3)).task == "second"


async def test_groups_become_known_in_their_order_each_after_its_own_commit(
    bench: Bench, database: StubbornDatabase
) -> None:
    executor = await bench.join(slots=10)
    told: list[int] = []

    async def submit(number: int) -> None:
        await bench.submit()
        told.append(number)

    database.hold()
    clients = [asyncio.create_task(submit(0))]
    await until(lambda: database.held)
    before = len(database.writes)
    for number in range(1, 4):
        clients.append(asyncio.create_task(submit(number)))
        await some_turns()
        assert told == list(range(number - 1))
        database.let_one_go()
        await until(lambda number=number: len(database.writes) == before + number)
        await until(lambda number=number: told == list(range(number)))
        await until(lambda: database.held, "the group that was decided meanwhile")
        await some_turns()
        assert len(executor.assigned) == number, "of the next group nothing is known"
    database.let_go()
    await asyncio.gather(*clients)
    ids = [assignment.live.execution_id for assignment in executor.assigned]
    assert len(set(ids)) == 4


async def test_with_a_commit_that_fails_what_was_decided_after_it_is_void(
    bench: Bench, database: StubbornDatabase
) -> None:
    executor = await bench.join(slots=4)
    execution_id = await bench.submit(definition(*_CHAIN))
    first = await executor.next()
    before = await stored_ids(bench)
    database.hold()
    failing = asyncio.create_task(bench.submit())
    await until(lambda: database.held)
    bench.engine.report(executor, succeeded(first))
    following = [asyncio.create_task(bench.submit()) for _ in range(3)]
    live = bench.engine.find(execution_id)
    assert live is not None
    await until(lambda: live.state.tasks["second"].claim_id, "the successor to be decided")
    await until(lambda: bench.engine.figures()["active_workflows"] == 5)
    writes = len(database.writes)
    database.failures.append(disk_full())
    database.let_go()
    answers = await asyncio.gather(failing, *following, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    await until(lambda: bench.engine.healthy)
    assert executor.closed
    assert (len(executor.assigned), executor.acknowledged) == (1, [])
    assert bench.metric("cloacina_tasks_total", status="completed", reason="ok") == 0
    written = [statement.query for statements in database.writes[writes:] for statement in statements]
    assert "insert_execution" not in written
    assert "update_task" not in written
    assert await stored_ids(bench) == before == {execution_id}

    again = bench.engine.find(execution_id)
    assert again is not None
    assert again.state.tasks["first"].claim_id == first.claim_id
    assert again.state.tasks["second"].claim_id == 0
    assert bench.engine.figures()["active_workflows"] == 1
    back = await bench.join(slots=4, held=[first.claim_id])
    bench.engine.report(back, succeeded(first))
    second = await back.next()
    assert second.claim_id > first.claim_id
    bench.engine.report(back, succeeded(second))
    assert (await bench.ended(execution_id)).status == "Completed"


async def test_a_defect_in_the_next_group_leaves_the_one_that_is_written_alone(
    bench: Bench, database: StubbornDatabase
) -> None:
    def breaks(work: GroupWork) -> None:
        raise RuntimeError("on purpose")

    database.hold()
    fine = asyncio.create_task(bench.submit())
    await until(lambda: database.held)
    beside = asyncio.create_task(bench.submit())
    broken = asyncio.create_task(bench.engine.transact(breaks))
    await some_turns()
    assert not fine.done()
    assert not broken.done()
    database.let_go()
    execution_id = await fine
    for refused in (beside, broken):
        with pytest.raises(Internal):
            await refused
    await until(lambda: bench.engine.healthy)
    assert await stored_ids(bench) == {execution_id}
    assert bench.engine.find(execution_id) is not None


async def test_a_key_of_the_group_that_is_written_names_its_execution(bench: Bench, database: StubbornDatabase) -> None:
    of = definition()
    database.hold()
    first = asyncio.create_task(bench.submit(of, idempotency_key="once"))
    await until(lambda: database.held)
    again = [asyncio.create_task(bench.submit(of, idempotency_key="once")) for _ in range(3)]
    await some_turns()
    again.append(asyncio.create_task(bench.submit(of, idempotency_key="once")))
    await some_turns()
    assert not any(each.done() for each in (first, *again))
    database.let_go()
    assert set(await asyncio.gather(first, *again)) == {await first}
    assert await stored_ids(bench) == {await first}


async def test_a_key_names_nothing_when_its_group_could_not_be_written(
    bench: Bench, database: StubbornDatabase
) -> None:
    of = definition()
    database.hold()
    first = asyncio.create_task(bench.submit(of, idempotency_key="once"))
    await until(lambda: database.held)
    again = asyncio.create_task(bench.submit(of, idempotency_key="once"))
    await some_turns()
    database.failures.append(disk_full())
    database.let_go()
    answers = await asyncio.gather(first, again, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    await until(lambda: bench.engine.healthy)
    execution_id = await bench.submit(of, idempotency_key="once")
    assert await stored_ids(bench) == {execution_id}


async def test_a_commit_that_ends_during_a_decision_is_made_known_after_it(
    bench: Bench, database: StubbornDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = definition()
    database.hold()
    first = asyncio.create_task(bench.submit(of, idempotency_key="once"))
    await until(lambda: database.held)
    asked, answer, fetch = asyncio.Event(), asyncio.Event(), database.fetch

    async def slow(query: str, *parameters: object, tenant: str | None = None) -> list[tuple[object, ...]]:
        asked.set()
        await answer.wait()
        return await fetch(query, *parameters, tenant=tenant)

    monkeypatch.setattr(database, "fetch", slow)
    keys = ("once", "another", "another")
    following = [asyncio.create_task(bench.submit(of, idempotency_key=key)) for key in keys]
    await asked.wait()
    database.let_go()
    await some_turns()
    assert not first.done()
    answer.set()
    again, another, same = await asyncio.gather(*following)
    assert again == await first
    assert another == same != again
    assert await stored_ids(bench) == {again, another}


async def test_what_cannot_be_made_known_is_loaded_again(bench: Bench) -> None:
    """A defect on the way to an executor, once the group is durable: everyone begins again from the store."""

    class Broken(ExecutorEnd):
        def assign(self, assignments: Sequence[Assignment]) -> None:
            raise RuntimeError("a defect")

    broken = Broken("x1")
    await bench.engine.join(Joining("x1", 4, frozenset(), "1"), broken)
    execution_id = await bench.submit()
    await until(lambda: broken.closed)
    await until(lambda: bench.engine.healthy)
    assert await stored_ids(bench) == {execution_id}
    executor = await bench.join()
    bench.engine.report(executor, succeeded(await executor.next()))
    assert (await bench.ended(execution_id)).status == "Completed"


async def test_a_refusal_is_told_once_what_it_is_due_to_is_durable(bench: Bench, database: StubbornDatabase) -> None:
    executor = await bench.join()
    execution_id = await bench.submit()
    database.hold()
    bench.engine.report(executor, succeeded(await executor.next()))
    await until(lambda: database.held)
    cancelling = asyncio.create_task(bench.engine.change("acme", execution_id, Cancel("late")))
    await some_turns()
    assert not cancelling.done(), "it has not ended yet, as far as anyone can know"
    database.let_go()
    with pytest.raises(NotFound):
        await cancelling
    assert (await bench.execution(execution_id)).status == "Completed"


async def test_what_a_full_group_has_no_room_for_goes_into_the_next(start, database: StubbornDatabase) -> None:
    bench: Bench = await start(max_group=2)
    of = definition()
    database.hold()
    clients = [asyncio.create_task(bench.submit(of))]
    await until(lambda: database.held)
    before = len(database.writes)
    clients += [asyncio.create_task(bench.submit(of)) for _ in range(5)]
    await until(lambda: bench.engine.figures()["active_workflows"] == 3)
    await some_turns()
    assert bench.engine.figures()["active_workflows"] == 3
    assert bench.engine.figures()["requests_waiting"] == 5
    database.let_go()
    assert len(set(await asyncio.gather(*clients))) == 6
    executions = [
        len(statement.rows)
        for statements in database.writes[before:]
        for statement in statements
        if statement.query == "insert_execution"
    ]
    assert executions == [1, 2, 2, 1]


async def test_changes_of_one_execution_in_two_groups_are_both_stored(bench: Bench, database: StubbornDatabase) -> None:
    """The rows of a group are those of its time, whatever is decided while they are written."""
    executor = await bench.join()
    execution_id = await bench.submit(definition(*_CHAIN))
    first = await executor.next()
    database.hold()
    bench.engine.report(executor, succeeded(first))
    await until(lambda: database.held)
    pausing = asyncio.create_task(bench.engine.change("acme", execution_id, Pause()))
    await some_turns()
    database.let_one_go()
    await until(lambda: executor.acknowledged == [first.claim_id])
    await until(lambda: database.held)
    assert (await bench.execution(execution_id)).status == "Running"
    database.let_go()
    await pausing
    assert (await bench.execution(execution_id)).status == "Paused"
    events = await bench.store.list_events("acme", execution_id, after=0, limit=100)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].event_type == "workflow_paused"
