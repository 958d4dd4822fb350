"""Log lines in the store: in order, once, of the right execution and tenant, up to a size, and gone with it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from cloacina.engine.ids import new_execution_id
from cloacina.store.database import Database, open_database
from cloacina.store.execution_logs import ExecutionLogStore, LogChunk
from cloacina.store.executions import Batch, EventRow, ExecutionStore
from cloacina.store.retention import RetentionStore
from cloacina.store.tenant_data import TenantExecutions
from tests.store.conftest import OpenDatabase
from tests.store.stored_rows import DEFINITION, execution

_ROOM = 1 << 20


def _closing(chunk: LogChunk) -> str:
    return f"no room for {chunk.execution_id}\n"


async def _filled(database: Database, room: int = _ROOM) -> ExecutionLogStore:
    """A store of lines, of e1 that has ended, and e2 of another tenant."""
    theirs = execution(2)._replace(tenant_id="other", definition_id="d2")
    definitions = [DEFINITION, DEFINITION._replace(definition_id="d2", tenant_id="other")]
    ended = execution(1, status="Completed", finished_at=2_000)
    await ExecutionStore(database).commit(Batch(definitions=definitions, executions=[ended, theirs]))
    return ExecutionLogStore(database, room)


async def _lines(store: ExecutionLogStore, tenant: str = "acme", execution_id: str = "e1", first: int = 1) -> str:
    chunks = await store.chunks(tenant, execution_id, first=first, limit=1000)
    assert [chunk.number for chunk in chunks] == list(range(first, first + len(chunks)))
    return "".join(chunk.lines for chunk in chunks)


async def _has_lines(database: Database, execution_id: str) -> bool:
    """Whether there are any, asked of their own table: they are read through their execution otherwise."""
    return bool(await database.fetch("full_log", execution_id, 0))


async def test_lines_are_read_in_the_order_in_which_they_came(database: OpenDatabase) -> None:
    store = await _filled(await database("scheduler"))
    for number in range(5):
        full = await store.append(f"b{number}", [LogChunk("e1", "acme", f'{{"é\\u0000":{number}}}\n')], _closing)
        assert full == []
    assert await _lines(store) == "".join(f'{{"é\\u0000":{number}}}\n' for number in range(5))
    assert await _lines(store, first=4) == '{"é\\u0000":3}\n{"é\\u0000":4}\n'


async def test_a_batch_that_is_sent_again_is_there_once(database: OpenDatabase) -> None:
    store = await _filled(await database("scheduler"))
    batch = [LogChunk("e1", "acme", "one\n"), LogChunk("e2", "other", "two\n")]
    for _ in range(3):
        await store.append("same", batch, _closing)
    await store.append("next", batch, _closing)
    assert await _lines(store) == "one\none\n"
    assert await _lines(store, "other", "e2") == "two\ntwo\n"


async def test_what_has_no_such_execution_or_is_another_tenants_is_not_kept(database: OpenDatabase) -> None:
    store = await _filled(await database("scheduler"))
    batch = [LogChunk("e1", "other", "x\n"), LogChunk("e2", "", "of whoever it is\n"), LogChunk("none", "acme", "x\n")]
    await store.append("b", batch, _closing)
    assert await _lines(store) == ""
    assert await _lines(store, "other", "e2") == "of whoever it is\n"
    assert await _lines(store, "acme", "e2") == ""


async def test_beyond_the_size_there_is_a_line_that_says_so_and_no_more(database: OpenDatabase) -> None:
    store = await _filled(await database("scheduler"), room=100)
    line = "x" * 39 + "\n"
    assert await store.append("b1", [LogChunk("e1", "acme", line * 2)], _closing) == []
    small = [LogChunk("e1", "acme", line), LogChunk("e2", "", "y\n")]
    await store.append("b2", small, _closing)
    for number in range(3):
        full = await store.append(f"more{number}", [LogChunk("e1", "acme", line * 3)], _closing)
        assert full == ["e1"], "so that no more of them are sent"
    assert await _lines(store) == line * 3 + "no room for e1\n"
    assert await _lines(store, "other", "e2") == "y\n"


async def test_with_no_room_at_all_nothing_is_kept(database: OpenDatabase) -> None:
    store = await _filled(await database("scheduler"), room=0)
    assert await store.append("b", [LogChunk("e1", "acme", "x\n")], _closing) == ["e1"], "no more of it is sent"
    assert await _lines(store) == ""


async def test_two_schedulers_that_keep_lines_of_the_same_executions(postgres_url: str) -> None:
    databases = [open_database(postgres_url, "scheduler") for _ in range(2)]
    for database in databases:
        await database.open()
    stores = [await _filled(databases[0]), ExecutionLogStore(databases[1], _ROOM)]

    async def write(store: ExecutionLogStore, name: str) -> None:
        for number in range(30):
            chunks = [LogChunk(each, "", f"{name} {number}\n") for each in ("e2", "e1")]
            await store.append(f"{name}{number}", chunks, _closing)

    try:
        await asyncio.gather(*(write(store, name) for store, name in zip(stores, "ab", strict=True)))
        for tenant, execution_id in (("acme", "e1"), ("other", "e2")):
            lines = (await _lines(stores[0], tenant, execution_id)).splitlines()
            assert len(lines) == 60
            for name in "ab":
                own = [int(line.split()[1]) for line in lines if line.startswith(name)]
                assert all(later > earlier for earlier, later in pairwise(own))
    finally:
        for database in databases:
            await database.close()


async def test_retention_deletes_them_with_their_execution(database: OpenDatabase) -> None:
    opened = await database("scheduler")
    store = await _filled(opened)
    old = new_execution_id(1_000_000)
    row = execution(execution_id=old, created_at=1_000_000, status="Completed", finished_at=2_000_000)
    await ExecutionStore(opened).commit(Batch(executions=[row]))
    await store.append("b", [LogChunk(old, "acme", "x" * 4999 + "\n"), LogChunk("e2", "other", "y\n")], _closing)
    retention = RetentionStore(opened)
    (ended,) = await retention.expired(10_000_000_000, after="", limit=10)
    assert (ended.execution_id, ended.log_bytes) == (old, 5000)
    await retention.delete([old])
    await store.append("late", [LogChunk(old, "acme", "x\n")], _closing)
    assert not await _has_lines(opened, old)
    assert await _has_lines(opened, "e2")


async def test_a_tenant_that_is_removed_takes_them_along(database: OpenDatabase) -> None:
    opened = await database("scheduler")
    store = await _filled(opened)
    await store.append("b", [LogChunk("e1", "", "x\n"), LogChunk("e2", "", "y\n")], _closing)
    await TenantExecutions(opened).drop("acme")
    assert not await _has_lines(opened, "e1")
    assert await _lines(store, "other", "e2") == "y\n"


async def test_what_says_which_attempt_it_is(database: OpenDatabase) -> None:
    opened = await database("scheduler")
    store = await _filled(opened)
    events = [
        EventRow("e1", 1, "workflow_started", None, 1, None),
        EventRow("e1", 2, "task_retry_scheduled", "a", 2, '{"error":"x"}'),
        EventRow("e1", 3, "task_reset", "a", 3, None),
        EventRow("e1", 4, "task_retry_scheduled", "a", 4, None),
    ]
    await ExecutionStore(opened).commit(Batch(events=events))
    found = await store.attempts_ended("acme", "e1", 3)
    assert [(each.task_name, each.event_type) for each in found] == [("a", "task_retry_scheduled"), ("a", "task_reset")]
