"""The benchmark's history of finished executions is what as many real ones would have left."""

from __future__ import annotations

from stored_rows import DEFINITION, event, execution, task

from bench.history import seed
from cloacina.store.database import open_database
from cloacina.store.executions import Batch, ExecutionStore


async def test_copies_have_the_rows_of_the_execution_and_ids_and_times_of_their_own(durable_url: str) -> None:
    database = open_database(durable_url, "scheduler")
    await database.open()
    real = execution(
        1, status="Completed", reason="ok", output=b"{}", created_at=1000, started_at=1100, finished_at=1900
    )
    done = task("e1", 0, status="Completed", created_at=1000, ready_at=1200, started_at=1300, finished_at=1800)
    events = [event("e1", 1, at=1100), event("e1", 2, at=1900)]
    await ExecutionStore(database).commit(Batch([DEFINITION], [real], tasks=[done], events=events))
    await database.close()

    await seed(durable_url, "e1", 300, lambda said: None)

    await database.open()
    store = ExecutionStore(database)
    rows, total = await store.list_executions("acme", limit=400)
    assert total == 301
    copies = [row for row in rows if row.execution_id != "e1"]
    assert len({row.execution_id for row in copies}) == len({row.request_id for row in copies}) == 300
    assert [row.created_at for row in copies] == sorted((row.created_at for row in copies), reverse=True)
    newest = await store.get_execution("acme", copies[0].execution_id)
    assert newest is not None
    kept = {name: getattr(real, name) for name in ("workflow_name", "definition_id", "status", "reason", "output")}
    assert {name: getattr(newest, name) for name in kept} == kept
    assert newest.finished_at is not None
    assert newest.finished_at - newest.created_at == 900
    (copied,) = await store.list_tasks("acme", newest.execution_id)
    assert (copied.task_name, copied.status) == (done.task_name, "Completed")
    assert copied.finished_at == newest.created_at + 800
    found = await store.list_events("acme", newest.execution_id, after=0, limit=10)
    assert [(each.sequence, each.at - newest.created_at) for each in found] == [(1, 100), (2, 900)]
    assert await store.load_live() == []
    await database.close()
