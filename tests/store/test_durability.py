"""What survives: closing, crashing, a second opener, a newer schema, a file that is no database."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stored_rows import begun

from cloacina.store import postgres_connection
from cloacina.store.database import Schema, StoreStartupError, StoreUnavailable, open_database
from cloacina.store.executions import ExecutionStore
from cloacina.store.postgres import PostgresDatabase
from cloacina.store.sqlite import SqliteDatabase

_ROOT = Path(__file__).parents[2]
_WRITER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from cloacina.store.database import open_database
from cloacina.store.executions import ExecutionStore
from stored_rows import begun

async def main():
    database = open_database(sys.argv[1], "scheduler")
    await database.open()
    store = ExecutionStore(database)
    number = 0
    while True:
        number += 1
        await store.commit(begun(number))
        sys.stdout.write(f"e{number}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite://"))


@pytest.fixture
def change(request: pytest.FixtureRequest) -> Callable[[str, str, str], None]:
    """Runs a statement behind the store's back: (URL, SQLite's words, PostgreSQL's words)."""

    def run(url: str, sqlite: str, postgres: str) -> None:
        if url.startswith("sqlite"):
            connection = sqlite3.connect(_file(url), isolation_level=None)
            connection.execute(sqlite)
            connection.close()
        else:
            request.getfixturevalue("postgres_server").query(postgres, url)

    return run


async def test_rows_and_epochs_are_there_after_reopening(durable_url: str) -> None:
    epochs = []
    for number in (1, 2, 3):
        database = open_database(durable_url, "scheduler")
        await database.open()
        store = ExecutionStore(database)
        await store.commit(begun(number))
        epochs.append((await store.owners.join("o")).epoch)
        assert (await store.list_executions("acme"))[1] == number
        await database.close()
    assert epochs == sorted(set(epochs))


async def test_a_killed_process_leaves_every_row_it_acknowledged_and_no_half_written_one(durable_url: str) -> None:
    command = [sys.executable, "-c", _WRITER, durable_url, str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    assert writer.returncode == -signal.SIGKILL
    assert acknowledged[0] == "e1"
    database = open_database(durable_url, "scheduler", exclusive=True)
    await database.open()
    store = ExecutionStore(database)
    live = await store.load_live()
    found = {each.execution.execution_id for each in live}
    assert set(acknowledged) <= found
    for each in live:
        assert len(each.tasks) == 2
        assert len(await store.list_events("acme", each.execution.execution_id, after=0, limit=10)) == 2
    await database.close()


async def test_a_second_opener_is_refused_with_the_holder_and_the_remedy(
    durable_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres_connection._SETTINGS, "lock_timeout", "200ms")
    first = open_database(durable_url, "scheduler", exclusive=True)
    await first.open()
    remedy = (
        "another CLOACINA_HOME" if durable_url.startswith("sqlite") else "another database in CLOACINA_DATABASE_URL"
    )
    with pytest.raises(StoreStartupError, match=rf"in use by process {os.getpid()}\b.*{remedy}"):
        await open_database(durable_url, "scheduler", exclusive=True).open()
    await first.close()
    second = open_database(durable_url, "scheduler", exclusive=True)
    await second.open()
    with pytest.raises(StoreUnavailable, match="closed"):
        await first.fetch("executors")
    await second.close()


async def test_a_failed_opening_gives_the_store_free_again(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is no database, " * 100)
    with pytest.raises(StoreStartupError, match=r"cannot open the scheduler store .*store\.db: file is not a database"):
        await open_database(f"sqlite://{path}", "scheduler", exclusive=True).open()
    path.unlink()
    again = open_database(f"sqlite://{path}", "scheduler", exclusive=True)
    await again.open()
    await again.close()


async def test_a_newer_schema_is_refused_and_left_alone(
    durable_url: str, change: Callable[[str, str, str], None]
) -> None:
    database = open_database(durable_url, "scheduler")
    await database.open()
    await database.close()
    known = len(Schema.load("scheduler").migrations)
    change(
        durable_url,
        f"PRAGMA user_version={known + 1}",
        f"INSERT INTO cloacina_scheduler.schema_version (version) VALUES ({known + 1})",
    )
    for _ in range(2):
        with pytest.raises(
            StoreStartupError, match=f"schema version {known + 1}, this program knows {known}: start the"
        ):
            await open_database(durable_url, "scheduler").open()


async def test_migrations_run_once_each_and_a_broken_one_leaves_no_trace(durable_url: str) -> None:
    sqlite = {"all": "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"}
    postgres = {
        "all": "SELECT tablename FROM pg_tables WHERE schemaname = 'cloacina_own' AND tablename <> 'schema_version' "
        "ORDER BY tablename"
    }

    async def tables(*migrations: str) -> list[str]:
        database = (
            SqliteDatabase(_file(durable_url), Schema("own", sqlite, migrations))
            if durable_url.startswith("sqlite")
            else PostgresDatabase(durable_url, Schema("own", postgres, migrations))
        )
        await database.open()
        try:
            return [row[0] for row in await database.fetch("all")]
        finally:
            await database.close()

    first, second = "CREATE TABLE one (x TEXT);", "CREATE TABLE two (x TEXT);"
    assert await tables(first) == ["one"]
    with pytest.raises(StoreStartupError, match="cannot open the own store"):
        await tables(first, "CREATE TABLE half (x TEXT); CREATE NONSENSE;")
    assert await tables(first, second) == ["one", "two"]
    assert await tables(first, second) == ["one", "two"]


async def test_a_folder_that_cannot_be_made_is_a_startup_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for exclusive in (True, False):
        with pytest.raises(StoreStartupError, match="cannot open the identity store"):
            await open_database(f"sqlite://{tmp_path}/file/store.db", "identity", exclusive=exclusive).open()


async def test_a_database_that_another_program_locks_is_unavailable_and_recovers(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloacina.store.sqlite._BUSY_TIMEOUT_S", 0.05)
    database = open_database(sqlite_url, "scheduler")
    await database.open()
    store = ExecutionStore(database)
    other = sqlite3.connect(_file(sqlite_url), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"scheduler store \(.*\) is unavailable: database is locked"):
        await store.commit(begun(1))
    assert await store.load_live() == [], "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    await store.commit(begun(1))
    assert len(await store.load_live()) == 1
    await database.close()


async def test_commits_are_synced_to_disk_before_they_are_acknowledged(sqlite_url: str) -> None:
    database = open_database(sqlite_url, "scheduler")
    assert isinstance(database, SqliteDatabase)
    await database.open()
    pragmas = {
        name: await database._opened().call(lambda c, name=name: c.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("synchronous", "journal_mode")
    }
    assert pragmas == {"synchronous": 2, "journal_mode": "wal"}
    await database.close()


async def test_a_waiter_that_gave_up_does_not_disturb_the_next(durable_url: str) -> None:
    database = open_database(durable_url, "scheduler")
    await database.open()
    store = ExecutionStore(database)
    given_up = asyncio.create_task(store.commit(begun(1)))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    await store.commit(begun(2))
    assert await store.get_execution("acme", "e2") is not None
    await database.close()
