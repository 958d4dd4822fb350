"""The interface every driver offers, and the named queries it runs.

A store (`executions`, `registry`, `identity`) is written once against `Database`; a driver knows no store. All writes
go through `Database.write`, one durable transaction a call: when it returns, the rows survive the death of the process
and of the machine.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from cloacina.errors import Conflict, InvalidRequest, Unavailable
from cloacina.telemetry.metrics import StoreMetrics


class StoreUnavailable(Unavailable):
    """The database cannot be read or written now.

    Nothing of the transaction happened, unless the message says that this is not known: the connection was lost during
    the commit. What is stored tells, once it can be read again.
    """

    default_code = "unavailable"


class StoreConflict(Conflict):
    """A uniqueness rule or an expected row count was violated; nothing of the transaction happened."""

    default_code = "conflict"


class StoreStartupError(InvalidRequest):
    """The store cannot be opened: held by another process, made by a newer version, or not a database."""

    default_code = "store_startup"


@dataclass(frozen=True, slots=True)
class Statement:
    """One named query run once for each row of parameters.

    Args:
        query: its name in the store's ``queries.sql``.
        rows: parameters, in the order of the query's ``?``.
        expect: rows that must be changed in all, or found by a query that only reads, or the transaction is rolled
            back.
    """

    query: str
    rows: Sequence[tuple[Any, ...]]
    expect: int | None = None


class Database(Protocol):
    """One store's database.

    Args:
        system: the kind of database, as OpenTelemetry's ``db.system.name``.
    """

    system: str

    async def open(self) -> None:
        """Connects and brings the schema up to date.

        Raises:
            StoreStartupError: see there.
        """

    async def close(self) -> None:
        """Ends every connection."""

    async def fetch(self, query: str, *parameters: Any, tenant: str | None = None) -> list[tuple[Any, ...]]:
        """Runs a named query and returns its rows; it sees every write that has returned.

        Args:
            query: its name.
            parameters: in the order of the query's ``?``.
            tenant: whose rows it may see, whatever it asks for, where the database can hold it to that (PostgreSQL's
                row-level security); ``None`` for everybody's.

        Raises:
            StoreUnavailable: the database cannot be read.
        """

    def data_version(self) -> int | None:
        """A number that changes with every commit, whichever process makes it, where it costs next to nothing to tell;
        ``None`` where it does not."""

    async def unheld_user(self) -> str | None:
        """The name of the database's user, where no row-level security holds it though there could be some: a superuser
        of PostgreSQL, or one with BYPASSRLS. ``None`` where all is well.

        Raises:
            StoreUnavailable: the database cannot be read.
        """

    async def write(self, statements: Sequence[Statement], *, awaited: bool = False) -> None:
        """Runs the statements, in order, in one durable transaction.

        Args:
            statements: what to run.
            awaited: whoever calls waits for the end, unless it ends itself: nothing need stand between it and the
                transaction, to let that come to its end when the caller is cancelled.

        Raises:
            StoreUnavailable: the database cannot be written (locked, full, gone).
            StoreConflict: see there.
        """


@dataclass(frozen=True, slots=True)
class Schema:
    """A store's queries and migrations, read from ``sql/<store>/``.

    The files are written for SQLite. Where another database needs other words, ``queries.<dialect>.sql`` overrides
    queries by name, and ``migrations/<name>.<dialect>.sql`` takes the place of ``migrations/<name>.sql``.

    Args:
        store: its name.
        queries: SQL by name.
        migrations: scripts in order; the version of the schema is how many of them ran.
        by_arrays: names of the queries that take all rows at once, one array a column.
    """

    store: str
    queries: Mapping[str, str]
    migrations: Sequence[str]
    by_arrays: frozenset[str] = frozenset()

    @classmethod
    def load(cls, store: str, dialect: str = "sqlite") -> Schema:
        """Reads the files that ship with the package.

        Args:
            store: "scheduler", "registry" or "identity".
            dialect: "sqlite" or "postgres"; the latter's parameters are ``$1``, ``$2``, …
        """
        folder = resources.files("cloacina.store") / "sql" / store
        files = {file.name: file for file in (*folder.iterdir(), *(folder / "migrations").iterdir())}
        queries, by_arrays = parse_queries(files["queries.sql"].read_text())
        if f"queries.{dialect}.sql" in files:
            overrides, by_arrays = parse_queries(files[f"queries.{dialect}.sql"].read_text())
            if unknown := overrides.keys() - queries.keys():
                raise ValueError(f"queries.{dialect}.sql of {store} overrides what there is not: {sorted(unknown)}")
            queries |= overrides
        if dialect == "postgres":
            queries = {name: number_parameters(sql) for name, sql in queries.items()}
        scripts = sorted(name for name in files if _MIGRATION.fullmatch(name))
        return cls(
            store=store,
            queries=queries,
            migrations=[
                files.get(f"{name.removesuffix('.sql')}.{dialect}.sql", files[name]).read_text() for name in scripts
            ],
            by_arrays=by_arrays,
        )


_NAME = re.compile(r"^-- name: (\w+)( \(rows as arrays\))?\s*$", re.MULTILINE)
_MIGRATION = re.compile(r"\d+_\w+\.sql")
_PARAMETER = re.compile(r"'[^']*'|--[^\n]*|\?")


def parse_queries(text: str) -> tuple[dict[str, str], frozenset[str]]:
    """The queries of a file by name, and the names of those that take their rows as arrays."""
    parts = _NAME.split(text)
    queries = {name: body.strip().rstrip(";") for name, body in zip(parts[1::3], parts[3::3], strict=True)}
    return queries, frozenset(name for name, arrays in zip(parts[1::3], parts[2::3], strict=True) if arrays)


def number_parameters(sql: str) -> str:
    """Writes each parameter ``?`` as ``$1``, ``$2``, …; a question mark in a text or a comment stays."""
    numbers = itertools.count(1)
    return _PARAMETER.sub(lambda found: f"${next(numbers)}" if found[0] == "?" else found[0], sql)


def open_database(
    url: str,
    store: str,
    *,
    metrics: StoreMetrics | None = None,
    exclusive: bool = False,
    shared_s: float | None = None,
    schema: str = "",
) -> Database:
    """The driver for a database URL, not opened yet.

    Args:
        url: ``sqlite:///absolute/path.db``, or ``sqlite://`` for one in memory; or
            ``postgresql://user:password@host:5432/database``, where the store has a schema of its own.
        store: "scheduler", "registry" or "identity".
        metrics: what commits are measured in.
        exclusive: refuse to open while another process has opened it so.
        shared_s: refuse to open while another process has opened it exclusively; others may share it. For so many
            seconds, at most, a process that stands still holds what its transaction has locked. A SQLite file serves
            one process: there it is exclusive.
        schema: the PostgreSQL schema its tables are in (letters, digits, underscores); empty for the store's own.

    Raises:
        StoreStartupError: no driver serves this URL.
    """
    scheme = url.split("://", 1)[0]
    if scheme == "sqlite":
        from cloacina.store.sqlite import SqliteDatabase

        path = url.removeprefix("sqlite://")
        alone = exclusive or shared_s is not None
        return SqliteDatabase(Path(path) if path.strip("/") else None, Schema.load(store), metrics, alone)
    if scheme in ("postgresql", "postgres"):
        from cloacina.store.postgres import PostgresDatabase

        return PostgresDatabase(
            url, Schema.load(store, "postgres"), metrics, exclusive, named=schema, shared_s=shared_s
        )
    raise StoreStartupError(
        f"no driver for the database URL {scheme}://…; use sqlite:///absolute/path.db or "
        "postgresql://user:password@host:5432/database"
    )
