"""The engine on PostgreSQL: executions run to their end, also over a restart of the server and of the engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
import pytest

from cloacina.domain.graph import TaskSpec
from cloacina.domain.schedules import ScheduleKind
from cloacina.engine.model import Assignment, Definition, Joining
from cloacina.engine.schedule_book import Wanted
from cloacina.engine.schedule_metrics import ScheduleMetrics
from cloacina.engine.schedules import Schedules
from cloacina.engine.settings import EngineSettings
from cloacina.errors import Unavailable
from cloacina.store.database import open_database
from cloacina.store.schedules import ScheduleStore
from tests.postgres import PostgresServer
from tests.unit.engine.engine_bench import Bench, ExecutorEnd, StubbornDatabase, definition, succeeded, until


class Worker(ExecutorEnd):
    """An executor's end that answers each assignment with success at once, and says that it lives."""

    bench: Bench
    slots: int

    def assign(self, assignments: Sequence[Assignment]) -> None:
        super().assign(assignments)
        self.bench.engine.heartbeat(self.executor_id, self.slots)
        for assignment in assignments:
            self.bench.engine.report(self, succeeded(assignment, b'{"done":true}'))


async def _join(bench: Bench, slots: int = 8) -> Worker:
    worker = Worker()
    worker.bench, worker.slots = bench, slots
    await bench.engine.join(Joining("x1", slots, frozenset(), "1"), worker)
    return worker


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[StubbornDatabase]:
    """The scheduler's database."""
    opened = StubbornDatabase(open_database(postgres_url, "scheduler", exclusive=True))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def bench(database: StubbornDatabase) -> AsyncIterator[Bench]:
    """A running engine."""
    made = Bench(database, EngineSettings(lease_s=2.0))
    await made.engine.start()
    yield made
    await made.engine.stop()


def _diamond() -> Definition:
    return definition(
        TaskSpec("first"),
        TaskSpec("left", dependencies=("first",)),
        TaskSpec("right", dependencies=("first",)),
        TaskSpec("last", dependencies=("left", "right")),
    )


async def test_many_executions_run_to_their_end(bench: Bench) -> None:
    await _join(bench)
    diamond = _diamond()
    submitted = await asyncio.gather(*(bench.submit(diamond) for _ in range(100)))
    for execution_id in submitted:
        ended = await bench.ended(execution_id)
        assert (ended.status, ended.reason, ended.output) == ("Completed", "ok", b'{"done":true}')
        assert {task.status for task in await bench.store.list_tasks("acme", execution_id)} == {"Completed"}
    assert bench.metric("cloacina_workflows_total", status="completed", reason="ok") == 100
    rows = await bench.store.list_events("acme", submitted[0], after=0, limit=100)
    assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1].event_type == "workflow_completed"


async def test_what_was_accepted_completes_over_a_restart_of_the_server(
    bench: Bench, postgres_server: PostgresServer
) -> None:
    await _join(bench, slots=2)
    diamond = _diamond()
    accepted: list[str] = []
    refused = 0
    stop = asyncio.Event()

    async def load() -> None:
        nonlocal refused
        while not stop.is_set():
            try:
                accepted.append(await bench.submit(diamond))
            except Unavailable:
                refused += 1
            await asyncio.sleep(0.001)

    submitting = asyncio.create_task(load())
    await until(lambda: len(accepted) > 20)
    await asyncio.to_thread(postgres_server.stop, "immediate")
    await until(lambda: not bench.engine.healthy)
    await asyncio.to_thread(postgres_server.start)
    await until(lambda: bench.engine.healthy, "the engine's recovery")
    before = len(accepted)
    await until(lambda: len(accepted) > before + 20)
    stop.set()
    await submitting
    with contextlib.suppress(Unavailable):
        await _join(bench, slots=8)  # as an executor does whose session was closed
    for execution_id in accepted:
        assert (await bench.ended(execution_id)).status == "Completed"
    assert refused > 0


class _OneWorkflow:
    """What the schedule starts."""

    def __init__(self) -> None:
        self._definition = definition()

    def prepare(
        self,
        tenant_id: str,
        workflow_name: str,
        values: Mapping[str, Any],
        bound: Mapping[str, Any],
        stamped: Mapping[str, Any],
    ) -> tuple[Definition, bytes]:
        return self._definition, orjson.dumps({**values, **bound, **stamped})


async def test_no_firing_is_doubled_over_a_restart_of_the_server(
    database: StubbornDatabase, postgres_server: PostgresServer
) -> None:
    bench, store = Bench(database), ScheduleStore(database)
    schedules = Schedules(bench.engine, store, _OneWorkflow(), ScheduleMetrics(bench.registry))
    await bench.engine.start()
    try:
        row = await schedules.register("acme", Wanted("tick", ScheduleKind.CRON, ("flow",), "* * * * * *", "UTC"))
        schedules.start()

        def fired() -> float:
            return bench.metric("cloacina_schedule_fires_total", kind="cron", outcome="fired")

        await until(lambda: fired() >= 2, "two firings")
        await asyncio.to_thread(postgres_server.stop, "immediate")
        await until(lambda: not bench.engine.healthy)
        await asyncio.to_thread(postgres_server.start)
        before = fired()
        await until(lambda: fired() >= before + 2, "firings after the restart")
    finally:
        await schedules.stop()
        await bench.engine.stop()
    records = [record.firing for record in await store.list_firings(row.tenant_id, row.schedule_id, limit=100)]
    instants = [firing.scheduled_at for firing in records]
    assert len(instants) == len(set(instants)) >= 4
    _, total = await bench.store.list_executions("acme")
    assert total == len(records)
