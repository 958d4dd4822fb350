"""A history of finished executions: copies of one that ran, written by set-based SQL through the store's own driver.

Every copy has the rows that a real execution leaves (itself, its tasks, its events) under ids and times of its own, so
that tables and indexes are as large, and as spread, as if each had run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cloacina.store.database import Database, Schema, Statement, number_parameters, parse_queries
from cloacina.store.postgres import PostgresDatabase
from cloacina.store.sqlite import SqliteDatabase

_SQL = Path(__file__).with_name("sql")
_BATCH = 20_000
"""Executions of one transaction."""
_SPREAD_US = 60_000
"""Microseconds between two executions of the history: a million of them fill sixteen hours."""


def _open(url: str) -> Database:
    postgres = not url.startswith("sqlite")
    schema = Schema.load("scheduler", "postgres" if postgres else "sqlite")
    queries = parse_queries((_SQL / ("history.postgres.sql" if postgres else "history.sql")).read_text())[0]
    if postgres:
        queries = {name: number_parameters(sql) for name, sql in queries.items()}
    schema = replace(schema, queries={**schema.queries, **queries})
    if postgres:
        return PostgresDatabase(url, schema, exclusive=True)
    return SqliteDatabase(Path(url.removeprefix("sqlite://")), schema, exclusive=True)


async def seed(url: str, execution_id: str, count: int, say: Callable[[str], None]) -> None:
    """Adds `count` finished executions to a scheduler's store that no scheduler has open.

    Args:
        url: the store's database.
        execution_id: the finished execution to copy.
        count: how many.
        say: told how long it took.
    """
    database = _open(url)
    await database.open()
    began = time.perf_counter()
    try:
        base_us = (time.time_ns() // 1000) - 1_000_000 - count * _SPREAD_US
        for first in range(0, count, _BATCH):
            last = min(first + _BATCH, count) - 1
            parameters = (first, last, base_us, _SPREAD_US, execution_id)
            await database.write(
                [Statement(query, [parameters]) for query in ("copy_executions", "copy_tasks", "copy_events")]
            )
    finally:
        await database.close()
    say(f"a history of {count:,} finished executions was written in {time.perf_counter() - began:.0f} s")
