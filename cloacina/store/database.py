"""The interface every driver offers, and the named queries it runs.

A store (`executions`, `registry`, `identity`) is written once against `Database`; a driver knows no store. All writes
go through `Database.write`, one durable transaction a call: when it returns, the rows survive the death of the process
and of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from cloacina.errors import Conflict, InvalidRequest, Unavailable
from cloacina.telemetry.metrics import StoreMetrics


class StoreUnavailable(Unavailable):
    """The database cannot be read or written now; nothing of the transaction happened."""

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
        expect: rows that must be affected in all, or the transaction is rolled back.
    """

    query: str
    rows: Sequence[tuple[Any, ...]]
    expect: int | None = None


class Database(Protocol):
    """One store's database."""

    async def open(self) -> None:
        """Connects and brings the schema up to date.

        Raises:
            StoreStartupError: see there.
        """

    async def close(self) -> None:
        """Ends every connection."""

    async def fetch(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Runs a named query and returns its rows; it sees every write that has returned.

        Raises:
            StoreUnavailable: the database cannot be read.
        """

    async def write(self, statements: Sequence[Statement]) -> None:
        """Runs the statements, in order, in one durable transaction.

        Raises:
            StoreUnavailable: the database cannot be written (locked, full, gone).
            StoreConflict: see there.
        """


@dataclass(frozen=True, slots=True)
class Schema:
    """A store's queries and migrations, read from ``sql/<store>/``.

    Args:
        store: its name.
        queries: SQL by name.
        migrations: scripts in order; the version of the schema is how many of them ran.
    """

    store: str
    queries: Mapping[str, str]
    migrations: Sequence[str]

    @classmethod
    def load(cls, store: str) -> Schema:
        """Reads the files that ship with the package."""
        folder = resources.files("cloacina.store") / "sql" / store
        scripts = sorted((folder / "migrations").iterdir(), key=lambda file: file.name)
        return cls(
            store=store,
            queries=_parse_queries((folder / "queries.sql").read_text()),
            migrations=[script.read_text() for script in scripts if script.name.endswith(".sql")],
        )


_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def _parse_queries(text: str) -> dict[str, str]:
    parts = _NAME.split(text)
    return {name: body.strip().rstrip(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def open_database(url: str, store: str, *, metrics: StoreMetrics | None = None, exclusive: bool = False) -> Database:
    """The driver for a database URL, not opened yet.

    Args:
        url: ``sqlite:///absolute/path.db``, or ``sqlite://`` for one in memory.
        store: "scheduler", "registry" or "identity".
        metrics: what commits are measured in.
        exclusive: refuse to open while another process has opened it so.

    Raises:
        StoreStartupError: no driver serves this URL.
    """
    from cloacina.store.sqlite import SqliteDatabase

    if url.startswith("sqlite://"):
        path = url.removeprefix("sqlite://")
        return SqliteDatabase(Path(path) if path.strip("/") else None, Schema.load(store), metrics, exclusive)
    raise StoreStartupError(
        f"no driver for the database URL {url.split('://', 1)[0]}://…; use sqlite:///absolute/path.db"
    )
