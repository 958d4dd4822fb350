"""Engines on SQLite: in a file, in memory, and restarted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from engine_bench import Bench, StubbornDatabase

from cloacina.engine.settings import EngineSettings
from cloacina.store.database import open_database

StartBench = Callable[..., Awaitable[Bench]]


@pytest.fixture(params=["file", "memory"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StubbornDatabase]:
    """The scheduler's database."""
    url = f"sqlite://{tmp_path / 'scheduler.db'}" if request.param == "file" else "sqlite://"
    stubborn = StubbornDatabase(open_database(url, "scheduler"))
    await stubborn.open()
    yield stubborn
    stubborn.let_go()
    await stubborn.close()


@pytest.fixture
async def start(database: StubbornDatabase) -> AsyncIterator[StartBench]:
    """Starts an engine on the database; a second call is its successor after a restart."""
    benches: list[Bench] = []

    async def begin(clock: Callable[[], int] | None = None, **settings: float) -> Bench:
        bench = Bench(database, EngineSettings(**settings), clock)  # type: ignore[arg-type]
        await bench.engine.start()
        benches.append(bench)
        return bench

    yield begin
    database.failures.clear()
    database.let_go()
    for bench in benches:
        await bench.engine.stop()


@pytest.fixture
async def bench(start: StartBench) -> Bench:
    """A running engine."""
    return await start()
