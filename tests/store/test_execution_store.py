"""The scheduler's store keeps executions, tasks and events exactly, and finds them again."""

from __future__ import annotations

import pytest
from stored_rows import DEFINITION, begun, event, execution, execution_change, task, task_change

from cloacina.store.database import StoreConflict
from cloacina.store.executions import MOST_COUNTED, Batch, EventRow, ExecutionStore, ExecutorRow, TaskClaim


@pytest.fixture
async def store(database) -> ExecutionStore:
    return ExecutionStore(await database("scheduler"))


async def test_every_field_comes_back_as_it_was_written(store: ExecutionStore) -> None:
    row = execution(1, idempotency_key="key", cancelling="why", traceparent="00-a-b-01", started_at=None)
    claimed = task(
        "e1", 0, status="Running", claim_id=2**62, deferred=True, output=b'{"o":1}', error="é\n", details="d"
    )
    batch = Batch([DEFINITION], [row], tasks=[claimed, task("e1", 1)], events=[event("e1", 1, data='{"a":1}')])
    await store.commit(batch)
    assert await store.get_execution("acme", "e1") == row
    assert await store.list_tasks("acme", "e1") == [claimed, task("e1", 1)]
    assert await store.list_events("acme", "e1", after=0, limit=10) == [event("e1", 1, data='{"a":1}')]
    assert await store.load_definitions(["d1", "absent"]) == [DEFINITION]
    assert await store.task_claim("e1", "t0") == TaskClaim(2**62, row.owner)
    assert await store.is_held("e1", 2**62)
    assert not await store.is_held("e1", 2**61)
    assert await store.task_claim("e1", "absent") is None


async def test_texts_and_numbers_come_back_whatever_they_look_like(store: ExecutionStore) -> None:
    texts = [
        '"',
        "\\",
        '\\"',
        'a"b',
        "NULL",
        "",
        " ",
        ",",
        "{}",
        "{a,b}",
        "it's",
        "\n\t",
        "\u0301\U0001f600",
        "None",
        None,
    ]
    tasks = [task("e1", index, error=text, retry_due=index or None) for index, text in enumerate(texts)]
    await store.commit(Batch([DEFINITION], [execution(1)], tasks=tasks))
    assert await store.list_tasks("acme", "e1") == tasks
    for index, text in enumerate(reversed(texts)):  # each alone in its column
        change = task_change("e1", index, error=text, retry_due=-(2**62))
        await store.commit(Batch(task_changes=[change]))
        found = (await store.list_tasks("acme", "e1"))[index]
        assert (found.error, found.retry_due) == (text, -(2**62))


async def test_every_field_of_a_change_is_applied(store: ExecutionStore) -> None:
    await store.commit(begun(1))
    change, of_task = execution_change("e1", error="e", cancelling="c"), task_change("e1", 1)
    await store.commit(Batch(execution_changes=[change], task_changes=[of_task]))
    changed = await store.get_execution("acme", "e1")
    assert changed is not None
    for name in change._fields:
        assert getattr(changed, name) == getattr(change, name), name
    untouched, found = await store.list_tasks("acme", "e1")
    for name in of_task._fields:
        assert getattr(found, name) == getattr(of_task, name), name
    assert untouched == task("e1", 0)


async def test_a_change_of_what_is_not_there_changes_nothing_at_all(store: ExecutionStore) -> None:
    await store.commit(begun(1))
    for change in (
        Batch(executions=[execution(2)], execution_changes=[execution_change("absent")]),
        Batch(executions=[execution(2)], task_changes=[task_change("e1", 0), task_change("e1", 9)]),
        Batch(executions=[execution(2)], events=[event("e1", 1)]),
    ):
        with pytest.raises(StoreConflict):
            await store.commit(change)
    assert await store.get_execution("acme", "e2") is None
    assert (await store.list_tasks("acme", "e1"))[0] == task("e1", 0)


async def test_an_idempotency_key_is_unique_for_a_tenant_and_workflow(store: ExecutionStore) -> None:
    await store.commit(begun(1, idempotency_key="once"))
    with pytest.raises(StoreConflict):
        await store.commit(begun(2, idempotency_key="once"))
    assert await store.get_execution("acme", "e2") is None
    assert await store.list_tasks("acme", "e2") == []
    await store.commit(begun(3, idempotency_key="once", tenant_id="other"))
    await store.commit(begun(4, idempotency_key="once", workflow_name="other"))
    await store.commit(begun(5))
    await store.commit(begun(6))
    assert await store.find_by_idempotency_key("acme", "flow", "once") == "e1"
    assert await store.find_by_idempotency_key("other", "flow", "once") == "e3"
    assert await store.find_by_idempotency_key("acme", "flow", "never") is None


async def test_a_definition_is_stored_once_and_never_changes(store: ExecutionStore) -> None:
    await store.commit(Batch(definitions=[DEFINITION]))
    await store.commit(Batch(definitions=[DEFINITION._replace(body=b"other")]))
    assert await store.load_definitions(["d1"]) == [DEFINITION]


async def test_only_what_has_not_ended_is_live(store: ExecutionStore) -> None:
    for number in (1, 2, 3):
        await store.commit(begun(number))
    await store.commit(Batch(execution_changes=[execution_change("e2")]))
    live = await store.load_live()
    assert [each.execution for each in live] == [execution(1), execution(3)]
    assert [[row.task_name for row in each.tasks] for each in live] == [["t0", "t1"], ["t0", "t1"]]


async def test_another_tenant_sees_nothing(store: ExecutionStore) -> None:
    await store.commit(begun(1))
    assert await store.get_execution("other", "e1") is None
    assert await store.list_tasks("other", "e1") == []
    assert await store.list_events("other", "e1", after=0, limit=10) == []
    assert await store.list_executions("other") == ([], 0)


async def test_pages_by_cursor_hold_every_execution_once_newest_first(store: ExecutionStore) -> None:
    """Also where many began in the same microsecond, and while new ones are added."""
    for number in range(1, 8):
        await store.commit(begun(number, created_at=5_000 + number // 3))
    seen: list[tuple[int, str]] = []
    before = None
    while True:
        page, total = await store.list_executions("acme", limit=2, before=before)
        assert total >= 7
        if not page:
            break
        seen += [(row.created_at, row.execution_id) for row in page]
        before = seen[-1]
        await store.commit(begun(100 + len(seen), created_at=9_000))
    assert seen == sorted(seen, reverse=True)
    assert sorted(name for _, name in seen) == [f"e{number}" for number in range(1, 8)]


async def test_every_filter_finds_what_matches_newest_first(store: ExecutionStore) -> None:
    states = ["Pending", "Running", "Paused", "Completed", "Failed", "Cancelled"]
    rows = []
    for number, state in enumerate(states * 3):
        ended = 1 if state in ("Completed", "Failed", "Cancelled") else None
        rows.append(execution(number, status=state, finished_at=ended, workflow_name=f"w{number % 2}"))
    await store.commit(Batch([DEFINITION], rows))
    for status in ("", *states):
        for workflow in ("", "w0", "w1", "absent"):
            wanted = [row for row in rows if status in ("", row.status) and workflow in ("", row.workflow_name)]
            wanted.sort(key=lambda row: (row.created_at, row.execution_id), reverse=True)
            page, total = await store.list_executions("acme", status=status, workflow_name=workflow)
            assert [row.execution_id for row in page] == [row.execution_id for row in wanted], (status, workflow)
            assert total == len(wanted), (status, workflow)


async def test_a_page_counts_no_more_than_a_bound(store: ExecutionStore) -> None:
    await store.commit(Batch([DEFINITION], [execution(number) for number in range(MOST_COUNTED + 1)]))
    page, total = await store.list_executions("acme", limit=1)
    assert (len(page), total) == (1, MOST_COUNTED)


async def test_pages_by_offset_and_filters(store: ExecutionStore) -> None:
    for number in range(1, 6):
        await store.commit(begun(number, status="Failed" if number % 2 else "Running", workflow_name=f"w{number % 2}"))
    page, total = await store.list_executions("acme", status="Failed", limit=2, offset=1)
    assert ([row.execution_id for row in page], total) == (["e3", "e1"], 3)
    page, total = await store.list_executions("acme", workflow_name="w0", status="Running")
    assert ([row.execution_id for row in page], total) == (["e4", "e2"], 2)
    assert await store.list_executions("acme", workflow_name="w0", status="Failed") == ([], 0)


async def test_the_last_event_of_an_unfinished_execution_is_known_where_only_its_tasks_changed(
    store: ExecutionStore,
) -> None:
    await store.commit(begun(1))
    (found,) = await store.load_live()
    assert found.execution.sequence == 3, "that of its row, which is the larger one"
    await store.commit(Batch(events=[event("e1", 4), event("e1", 5)]))
    (found,) = await store.load_live()
    assert found.execution.sequence == 5


async def test_events_come_in_order_after_a_sequence_number(store: ExecutionStore) -> None:
    await store.commit(begun(1))
    await store.commit(Batch(events=[event("e1", number) for number in (5, 4, 3)]))

    async def sequences(after: int, limit: int) -> list[int]:
        rows: list[EventRow] = await store.list_events("acme", "e1", after=after, limit=limit)
        return [row.sequence for row in rows]

    assert await sequences(0, 100) == [1, 2, 3, 4, 5]
    assert await sequences(2, 2) == [3, 4]
    assert await sequences(5, 10) == []


async def test_an_executors_lease_is_renewed_and_ends(store: ExecutionStore) -> None:
    lease = ExecutorRow(0, "x1", 4, "1.0", 100, 50)
    renewed = lease._replace(slots=8, lease_expires_at=200, updated_at=150, version="1.1")
    await store.commit(Batch(executors=[lease, ExecutorRow(0, "x2", 1, "", 1, 1)]))
    await store.commit(Batch(executors=[renewed], executors_gone=["x2"]))
    assert await store.load_executors() == [renewed]


async def test_what_a_request_began_is_found_by_its_id(store: ExecutionStore) -> None:
    await store.commit(begun(1, request_id="one"))
    await store.commit(begun(2, request_id="two"))
    await store.commit(begun(3, request_id="one", tenant_id="other"))
    await store.commit(begun(4, request_id="one"))
    assert [row.execution_id for row in await store.list_by_request("one", "acme", 10)] == ["e1", "e4"]
    assert [row.execution_id for row in await store.list_by_request("one", "", 10)] == ["e1", "e3", "e4"]
    assert [row.execution_id for row in await store.list_by_request("one", "", 2)] == ["e1", "e3"]
    assert await store.list_by_request("three", "", 10) == []


async def test_since_when_an_execution_waits_is_when_that_happened_last(store: ExecutionStore) -> None:
    kinds = [("workflow_paused", None), ("task_deferred", "t0"), ("task_started", "t0"), ("workflow_paused", None)]
    kinds += [("task_deferred", "t1"), ("task_deferred", "t0")]
    events = [EventRow("e1", number, kind, name, 100 + number, None) for number, (kind, name) in enumerate(kinds, 10)]
    await store.commit(begun(1))
    await store.commit(begun(2))
    await store.commit(Batch(events=[*events, EventRow("e2", 10, "workflow_paused", None, 999, None)]))
    assert await store.latest_waits("acme", "e1") == {
        ("workflow_paused", ""): 113,
        ("task_deferred", "t0"): 115,
        ("task_deferred", "t1"): 114,
    }
