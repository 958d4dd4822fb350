"""Which PostgreSQL driver for the store: the engine's transactions through asyncpg and psycopg 3, in two ways each.

Makes a throw-away cluster (fsync on), and measures, for each way of writing:

- one row: a transaction of one small insert;
- groups of N executions, as the engine writes them under load: N executions, their tasks and events begin, and the N
  before them end, in one transaction whose updates must find their rows;
- a read by primary key.

For each: milliseconds of wall time (the median of all transactions), and what the transaction cost in CPU on either
side, this process and its backend: on a small machine they share the cores, and noisy neighbours disturb CPU least.
The ways take turns, and each figure is the median of the turns.

Usage: python bench/store_drivers.py [--rounds N] [--turns N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cloacina.store.database import Schema, Statement, number_parameters, parse_queries
from cloacina.store.executions import Batch, EventRow, ExecutionChange, ExecutionRow, TaskChange, TaskRow
from tests.postgres import PostgresServer, running_postgres

ARRAYS = Schema.load("scheduler", "postgres")
"""Queries that take their rows as arrays."""
_FILE = Path(__file__).resolve().parent.parent / "cloacina" / "store" / "sql" / "scheduler" / "queries.sql"
ROWS = {name: number_parameters(sql) for name, sql in parse_queries(_FILE.read_text())[0].items()}
"""The same queries, each for one row."""
GROUPS = (1, 16, 256)


class Driver(Protocol):
    """One way of writing."""

    async def connect(self, url: str) -> None: ...

    async def close(self) -> None: ...

    async def write(self, statements: Sequence[Statement]) -> None: ...

    async def fetch(self, query: str, *parameters: Any) -> list[Any]: ...


class AsyncpgArrays:
    """asyncpg; a statement a query, its rows as arrays."""

    async def connect(self, url: str) -> None:
        settings = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
        settings |= {"plan_cache_mode": "force_generic_plan", "jit": "off"}
        self.connection = await asyncpg.connect(url, server_settings=settings)

    async def close(self) -> None:
        await self.connection.close()

    async def write(self, statements: Sequence[Statement]) -> None:
        await self.connection.execute("BEGIN")
        for statement in statements:
            if statement.query in ARRAYS.by_arrays:
                columns = zip(*statement.rows, strict=True)
                tag = await self.connection.execute(ARRAYS.queries[statement.query], *columns)
                changed = int(tag.rpartition(" ")[2])
            else:
                changed = 0
                for row in statement.rows:
                    tag = await self.connection.execute(ARRAYS.queries[statement.query], *row)
                    changed += int(tag.rpartition(" ")[2])
            assert statement.expect is None or changed == statement.expect
        await self.connection.execute("COMMIT")

    async def fetch(self, query: str, *parameters: Any) -> list[Any]:
        return list(await self.connection.fetch(ARRAYS.queries[query], *parameters))


class AsyncpgRows(AsyncpgArrays):
    """asyncpg; executemany, which tells no row counts, so that the updates go unchecked."""

    async def write(self, statements: Sequence[Statement]) -> None:
        await self.connection.execute("BEGIN")
        for statement in statements:
            await self.connection.executemany(ROWS[statement.query], statement.rows)
        await self.connection.execute("COMMIT")


class PsycopgRows:
    """psycopg; executemany within one pipeline."""

    async def connect(self, url: str) -> None:
        import psycopg

        options = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
        options += " -c plan_cache_mode=force_generic_plan -c jit=off"
        self.connection = await psycopg.AsyncConnection.connect(
            url, autocommit=True, prepare_threshold=0, cursor_factory=psycopg.AsyncRawCursor, options=options
        )

    async def close(self) -> None:
        await self.connection.close()

    async def write(self, statements: Sequence[Statement]) -> None:
        async with self.connection.pipeline() as pipeline:
            cursors = []
            await self.connection.execute("BEGIN")
            for statement in statements:
                cursors.append((self.connection.cursor(), statement))
                await self.send(*cursors[-1])
            await pipeline.sync()
            for cursor, statement in cursors:
                assert statement.expect is None or cursor.rowcount == statement.expect
            await self.connection.execute("COMMIT")

    async def send(self, cursor: Any, statement: Statement) -> None:
        await cursor.executemany(ROWS[statement.query], statement.rows)

    async def fetch(self, query: str, *parameters: Any) -> list[Any]:
        return list(await (await self.connection.execute(ROWS[query], parameters)).fetchall())


class PsycopgArrays(PsycopgRows):
    """psycopg; a statement a query, its rows as arrays, all statements in one pipeline."""

    async def send(self, cursor: Any, statement: Statement) -> None:
        if statement.query in ARRAYS.by_arrays:
            await cursor.execute(ARRAYS.queries[statement.query], [list(c) for c in zip(*statement.rows, strict=True)])
        else:
            await super().send(cursor, statement)


def begin(number: int) -> tuple[ExecutionRow, TaskRow, list[EventRow]]:
    """What begins a one-task execution and claims its task."""
    name, now = f"01JB{number:022d}", 1_700_000_000_000_000 + number
    context = b'{"order":%d,"customer":"c-1234"}' % number
    events = [
        EventRow(name, sequence, kind, "only" if kind.startswith("task") else None, now, None)
        for sequence, kind in enumerate(
            ("workflow_started", "task_created", "task_marked_ready", "task_claimed"), start=1
        )
    ]
    return (
        ExecutionRow(
            name, "public", "flow", "d1", "Running", None, None, context, None, f"request-{number}",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "manual", None, now, now, None, None, 4,
        ),
        TaskRow(
            name, 0, "only", 3, "Running", 1, 7 << 40 | number, "executor-1", 0, False, None, None, None, None, None,
            now, now, now, None, None, now,
        ),
        events,
    )  # fmt: skip


def end(number: int) -> tuple[ExecutionChange, TaskChange, list[EventRow]]:
    """What completes it."""
    name, now = f"01JB{number:022d}", 1_700_000_000_100_000 + number
    output = b'{"order":%d,"customer":"c-1234","done":true}' % number
    events = [
        EventRow(name, sequence, kind, "only" if kind.startswith("task") else None, now, None)
        for sequence, kind in enumerate(("task_started", "task_completed", "workflow_completed"), start=5)
    ]
    return (
        ExecutionChange("Completed", "ok", None, output, now, now, None, 7, name),
        TaskChange(
            "Completed", 1, 7 << 40 | number, "executor-1", 0, False, None, output, None, None, "ok", now, now, now,
            now, now, name, 0,
        ),
        events,
    )  # fmt: skip


def group(first: int, size: int) -> Batch:
    """`size` executions begin, and the `size` before them end."""
    begun = [begin(number) for number in range(first, first + size)]
    ended = [end(number) for number in range(first - size, first)] if first >= size else []
    return Batch(
        executions=[row for row, _, _ in begun],
        tasks=[row for _, row, _ in begun],
        execution_changes=[row for row, _, _ in ended],
        task_changes=[row for _, row, _ in ended],
        events=[event for _, _, events in (*begun, *ended) for event in events],
    )


Figures = tuple[float, ...]
"""Milliseconds: wall time, this process's CPU, the backend's CPU."""


async def timed(backend: psutil.Process, calls: Sequence[Callable[[], Awaitable[Any]]]) -> Figures:
    """What a call takes."""
    took, own, other = [], time.process_time(), sum(backend.cpu_times()[:2])
    for call in calls:
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1000)
    each = 1000 / len(calls)
    own, other = time.process_time() - own, sum(backend.cpu_times()[:2]) - other
    return statistics.median(took), own * each, other * each


async def measure(server: PostgresServer, kind: Callable[[], Driver], rounds: int) -> dict[str, Figures]:
    """The figures by workload."""
    url = server.new_database()
    setup = await asyncpg.connect(url)
    await setup.execute(ARRAYS.migrations[0])
    await setup.close()
    driver = kind()
    await driver.connect(url)
    pids = server.query(f"SELECT pid FROM pg_stat_activity WHERE datname = '{url.rpartition('/')[2]}'")
    backend = psutil.Process(int(pids))
    results = {}
    first = 0
    for size in GROUPS:
        batches = []
        for _ in range(max(rounds // size, 20) + 5):
            batches.append(group(first, size).statements() if first else group(0, size).statements())
            first += size
        first += 1_000_000 - first % 1_000_000  # the first group of a size has nobody to end
        for batch in batches[:5]:
            await driver.write([each for each in batch if each.expect is None or batch is not batches[0]])
        results[f"group of {size}"] = await timed(
            backend,
            [lambda batch=batch: driver.write(batch) for batch in batches[5:]],  # type: ignore[misc]
        )
    row = [
        Statement("insert_event", [EventRow("one", number, "task_started", "only", 1, None)])
        for number in range(rounds)
    ]
    results["one row"] = await timed(backend, [lambda each=each: driver.write([each]) for each in row])  # type: ignore[misc]
    names = [begin(number % 16)[0].execution_id for number in range(rounds)]
    results["read"] = await timed(
        backend,
        [lambda name=name: driver.fetch("execution", name, "public") for name in names],  # type: ignore[misc]
    )
    await driver.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Drivers for PostgreSQL, compared.")
    parser.add_argument("--rounds", type=int, default=1000, help="transactions of each kind; fewer for large groups")
    parser.add_argument("--turns", type=int, default=5, help="turns of each way")
    options = parser.parse_args()
    kinds = (AsyncpgArrays, AsyncpgRows, PsycopgArrays, PsycopgRows)
    found: dict[str, list[dict[str, Figures]]] = {kind.__name__: [] for kind in kinds}
    with running_postgres() as server:
        for _ in range(options.turns):
            for kind in kinds:
                found[kind.__name__].append(uvloop.run(measure(server, kind, options.rounds)))
    titles = ("one row", *(f"group of {size}" for size in GROUPS), "read")
    print(f"{'ms: wall, own CPU, backend CPU':<32}" + "".join(f"{title:>22}" for title in titles))
    for name, turns in found.items():
        cells = []
        for title in titles:
            medians = (statistics.median(turn[title][place] for turn in turns) for place in range(3))
            cells.append(" ".join(f"{median:6.2f}" for median in medians))
        print(f"{name:<32}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
