"""The databases that the contract suite runs against: SQLite in a file and in memory, and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cloacina.store.database import Database, open_database
from tests.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]

OpenDatabase = Callable[[str], Awaitable[Database]]


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an empty SQLite database in a file."""
    return f"sqlite://{tmp_path / 'stores' / 'store.db'}"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty PostgreSQL database."""
    return postgres_server.new_database()


@pytest.fixture(params=["sqlite", "postgres"])
def durable_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database that outlives the process, one for each driver."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "sqlite-memory", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database, one for each driver."""
    return "sqlite://" if request.param == "sqlite-memory" else str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[OpenDatabase]:
    """Opens the database of a store by the store's name; closes it after the test."""
    opened: list[Database] = []

    async def open_store(store: str) -> Database:
        made = open_database(database_url, store)
        await made.open()
        opened.append(made)
        return made

    yield open_store
    for each in opened:
        await each.close()
