"""What PostgreSQL adds: a server that restarts, connections that break, others in the same database."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest
from stored_rows import begun, execution, load_adopted

from cloacina.store import postgres, postgres_connection
from cloacina.store.database import (
    Database,
    Statement,
    StoreConflict,
    StoreStartupError,
    StoreUnavailable,
    open_database,
)
from cloacina.store.executions import ExecutionStore
from cloacina.store.owners import OwnershipLost, OwnerStore
from cloacina.store.postgres import PostgresDatabase
from tests.postgres import PostgresServer, superuser_url

_DEADLINE_S = 20.0


async def until_available(call: Callable[[], Awaitable[object]]) -> None:
    """Repeats a call until the store is available again."""
    async with asyncio.timeout(_DEADLINE_S):
        while True:
            try:
                await call()
                return
            except StoreUnavailable:
                await asyncio.sleep(0.02)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(_DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def open_scheduler(postgres_url: str) -> AsyncIterator[Callable[..., Awaitable[Database]]]:
    """Opens the scheduler's store; closes it after the test."""
    opened: list[Database] = []

    async def open_one(url: str = postgres_url, *, exclusive: bool = True) -> Database:
        database = open_database(url, "scheduler", exclusive=exclusive)
        opened.append(database)
        await database.open()
        return database

    yield open_one
    for each in opened:
        await each.close()


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's connection to the database."""
    connection = await asyncpg.connect(superuser_url(postgres_url))
    yield connection
    await connection.close()


@pytest.fixture
def stopped_server(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The server, which a test may stop; it runs again afterwards."""
    yield postgres_server
    if not postgres_server.is_running():
        postgres_server.start()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short deadlines, for tests that wait for them to pass."""
    monkeypatch.setattr(postgres, "_WRITE_DEADLINE_S", 0.5)
    monkeypatch.setattr(postgres, "_READ_DEADLINE_S", 0.5)
    monkeypatch.setattr(postgres, "_OPEN_DEADLINE_S", 0.5)
    monkeypatch.setattr(postgres_connection, "_CLOSE_DEADLINE_S", 0.5)
    monkeypatch.setattr(postgres_connection, "_CONNECT_DEADLINE_S", 0.5)
    monkeypatch.setitem(postgres_connection._SETTINGS, "lock_timeout", "100ms")


async def _writer_pid(admin: asyncpg.Connection) -> int:
    """The backend that holds the scheduler's lock."""
    return int(
        await admin.fetchval(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = $1::bigint::oid "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            postgres._LOCK_CLASS,
        )
    )


async def test_each_store_has_a_schema_of_its_own_in_one_database(postgres_url: str, admin: asyncpg.Connection) -> None:
    for store in ("scheduler", "registry", "identity"):
        database = open_database(postgres_url, store)
        await database.open()
        await database.close()
    tables = await admin.fetch(
        "SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    assert {row[0] for row in tables} == {"cloacina_scheduler", "cloacina_registry", "cloacina_identity"}


async def test_processes_that_start_at_once_migrate_once(postgres_url: str) -> None:
    databases = [open_database(postgres_url, "identity") for _ in range(6)]
    await asyncio.gather(*(database.open() for database in databases))
    for database in databases:
        assert await database.fetch("tenant", "public")
        await database.close()


async def test_a_user_who_may_not_make_schemas_can_use_one_that_is_there(
    postgres_url: str, admin: asyncpg.Connection
) -> None:
    name = f"limited_{os.getpid()}"
    await admin.execute(f"CREATE ROLE {name} LOGIN")
    try:
        url = postgres_url.replace("cloacina@", f"{name}@")
        with pytest.raises(StoreStartupError, match="permission denied for database"):
            await open_database(url, "identity").open()
        await admin.execute(f"CREATE SCHEMA cloacina_identity AUTHORIZATION {name}")
        for _ in range(2):
            database = open_database(url, "identity")
            await database.open()
            assert await database.fetch("tenant", "public")
            await database.close()
    finally:
        await admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda url: url.rpartition("/")[0] + "/absent", r'database "absent" does not exist.*createdb'),
        (lambda url: url.replace("cloacina@", "nobody:hunter2@"), r'role "nobody" does not exist.*database URL'),
        (lambda url: url + "?sslmode=maybe", "the database URL is none of PostgreSQL's"),
    ],
)
async def test_a_database_that_is_not_to_be_had_is_a_startup_error_with_a_remedy(
    postgres_url: str, change: Callable[[str], str], message: str
) -> None:
    began = time.monotonic()
    with pytest.raises(StoreStartupError, match=message) as raised:
        await open_database(change(postgres_url), "identity").open()
    assert "hunter2" not in raised.value.message
    assert time.monotonic() - began < 5, "it is not worth waiting"


async def test_what_conflicts_is_named_without_its_values(postgres_url: str) -> None:
    identity = open_database(postgres_url, "identity")
    await identity.open()
    with pytest.raises(StoreConflict, match="tenants_pkey") as raised:
        await identity.write([Statement("insert_tenant", [("public", None, 1, None, None, None)])])
    assert "(public)" not in raised.value.message
    await identity.close()


async def test_a_database_in_another_encoding_is_refused(postgres_server: PostgresServer) -> None:
    postgres_server.query("CREATE DATABASE latin ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    with pytest.raises(StoreStartupError, match="encoding is LATIN1, and must be UTF8"):
        await open_database(postgres_server.url("latin"), "identity").open()


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_cannot_be_reached_is_a_startup_error_in_the_end(postgres_url: str) -> None:
    url = postgres_url.replace("127.0.0.1:", "127.0.0.1:1")  # no port has six digits that start so
    nobody = postgres_url.rpartition(":")[0] + ":1/absent"
    with pytest.raises(StoreStartupError, match=r"cannot open the identity store .*127\.0\.0\.1:1/absent"):
        await open_database(nobody, "identity").open()
    with pytest.raises(StoreStartupError):
        await open_database(url, "identity").open()


async def test_a_server_that_is_just_starting_is_waited_for(
    stopped_server: PostgresServer, open_scheduler: Callable[..., Awaitable[Database]]
) -> None:
    url = stopped_server.new_database()
    stopped_server.stop()
    opening = asyncio.create_task(open_scheduler(url))
    await asyncio.sleep(0)
    await asyncio.to_thread(stopped_server.start)
    async with asyncio.timeout(_DEADLINE_S):
        assert await (await opening).fetch("executors") == []


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_while_the_server_is_down_the_store_is_unavailable_and_then_recovers(
    stopped_server: PostgresServer, open_scheduler: Callable[..., Awaitable[Database]], mode: str
) -> None:
    database = await open_scheduler()
    store = ExecutionStore(database)
    acknowledged: set[str] = set()
    refused = 0
    stop = asyncio.Event()

    async def load() -> None:
        nonlocal refused
        number = 0
        while not stop.is_set():
            number += 1
            try:
                await store.commit(begun(number))
                acknowledged.add(f"e{number}")
            except StoreUnavailable:
                refused += 1
            await asyncio.sleep(0.001)

    async def acknowledged_more() -> bool:
        return len(acknowledged) > before + 20

    writing = asyncio.create_task(load())
    before = 0
    await until(acknowledged_more)
    await asyncio.to_thread(stopped_server.stop, mode)
    async with asyncio.timeout(5):
        for _ in range(100):  # at once, and for each
            with pytest.raises(StoreUnavailable, match="unavailable"):
                await store.load_live()
    await asyncio.to_thread(stopped_server.start)
    before = len(acknowledged)
    await until(acknowledged_more)
    stop.set()
    await writing
    live = await store.load_live()
    assert acknowledged <= {each.execution.execution_id for each in live}
    assert all(len(each.tasks) == 2 for each in live), "each transaction is there as a whole or not at all"
    assert refused > 0


@asynccontextmanager
async def _slow_commit(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """Inside of the block a commit that inserts an execution waits, in the midst of committing, for a lock."""
    await admin.execute("SELECT pg_advisory_lock(1)")
    await admin.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM set_config('lock_timeout', '0', true), pg_advisory_xact_lock_shared(1); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON cloacina_scheduler.executions "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    yield
    await admin.execute("SELECT pg_advisory_unlock(1)")
    await admin.execute("DROP FUNCTION wait() CASCADE")


async def _is_committing(admin: asyncpg.Connection, pid: int) -> bool:
    """Whether the writer waits in its commit, which is one statement together with all that it writes."""
    row = await admin.fetchrow("SELECT query, state, wait_event_type FROM pg_stat_activity WHERE pid = $1", pid)
    waits = row is not None and (row["state"], row["wait_event_type"]) == ("active", "Lock")
    return waits and row["query"].startswith("WITH s1 AS (INSERT INTO definitions")


async def test_a_connection_that_is_killed_in_the_midst_of_a_commit(
    open_scheduler: Callable[..., Awaitable[Database]], admin: asyncpg.Connection
) -> None:
    store = ExecutionStore(await open_scheduler())
    pid = await _writer_pid(admin)
    async with _slow_commit(admin):
        committing = asyncio.create_task(store.commit(begun(1)))
        await until(lambda: _is_committing(admin, pid))
        await admin.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(StoreUnavailable, match="not known whether the transaction happened"):
            await committing
    await until_available(lambda: store.owners.join("test"))
    assert await load_adopted(store) == [], "this one did not"
    await store.commit(begun(1))
    assert await _writer_pid(admin) != pid


async def test_an_owner_that_is_given_up_while_it_commits_writes_nothing(
    open_scheduler: Callable[..., Awaitable[Database]], admin: asyncpg.Connection
) -> None:
    """Whoever gives it up has not committed that when the owner's commit begins, and has when it goes on."""
    store = ExecutionStore(await open_scheduler())
    owner = await store.owners.join("test")
    pid = await _writer_pid(admin)
    async with admin.transaction():
        await admin.execute("DELETE FROM cloacina_scheduler.owners")
        committing = asyncio.create_task(store.commit(replace(begun(1), owner=owner)))
        await until(lambda: _is_waiting(admin, pid))
    with pytest.raises(OwnershipLost):
        await committing
    assert await admin.fetchval("SELECT count(*) FROM cloacina_scheduler.executions") == 0


async def _is_waiting(admin: asyncpg.Connection, pid: int) -> bool:
    return bool(await admin.fetchval("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1", pid))


async def test_nobody_gives_up_an_owner_in_the_midst_of_its_commit(
    open_scheduler: Callable[..., Awaitable[Database]], admin: asyncpg.Connection
) -> None:
    store = ExecutionStore(await open_scheduler(exclusive=False))
    other = OwnerStore(await open_scheduler(exclusive=False))
    slow = await store.owners.join("slow", lease_s=0.0)
    async with _slow_commit(admin):
        committing = asyncio.create_task(store.commit(replace(begun(1), owner=slow)))
        await until(lambda: admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        await other.join("other")
        assert {each.owner_id for each in await other.owners()} == {"slow", "other"}
    await committing
    assert await store.get_execution("acme", "e1") == execution(1)


async def test_a_commit_that_happened_although_nobody_was_told(
    postgres_server: PostgresServer,
    postgres_url: str,
    open_scheduler: Callable[..., Awaitable[Database]],
    admin: asyncpg.Connection,
) -> None:
    """The commit is on disk and waits for a standby that there is not; then the connection breaks."""
    store = ExecutionStore(await open_scheduler())
    pid = await _writer_pid(admin)
    postgres_server.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    try:
        postgres_server.query("SELECT pg_reload_conf()")
        await _until_commits_wait(admin, postgres_url)
        committing = asyncio.create_task(store.commit(begun(1)))
        await until(lambda: _waits_for_a_standby(admin, pid))
        await admin.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(StoreUnavailable, match="not known whether the transaction happened"):
            await committing
    finally:
        postgres_server.query("ALTER SYSTEM RESET synchronous_standby_names")
        postgres_server.query("SELECT pg_reload_conf()")
    await until_available(lambda: store.owners.join("test"))
    assert [each.execution for each in await load_adopted(store)] == [execution(1)]


async def _waits_for_a_standby(admin: asyncpg.Connection, pid: int) -> bool:
    event = await admin.fetchval("SELECT wait_event FROM pg_stat_activity WHERE pid = $1", pid)
    return bool(event == "SyncRep")


async def _until_commits_wait(admin: asyncpg.Connection, url: str) -> None:
    """Returns once a commit waits for a standby: which is only after the checkpointer, too, has read the setting."""
    probe = await asyncpg.connect(url)
    pid = probe.get_server_pid()

    async def write_until_one_waits() -> None:
        while True:
            await probe.execute("CREATE TABLE probe (); DROP TABLE probe")

    writing = asyncio.create_task(write_until_one_waits())
    try:
        await until(lambda: _waits_for_a_standby(admin, pid))
    finally:
        writing.cancel()
        probe.terminate()
        await admin.execute("SELECT pg_terminate_backend($1)", pid)
        await asyncio.gather(writing, return_exceptions=True)


async def test_after_the_lock_was_lost_the_next_write_says_so_even_when_it_is_held_again(
    open_scheduler: Callable[..., Awaitable[Database]], admin: asyncpg.Connection
) -> None:
    """Another process may have written meanwhile: whoever keeps state in memory must load it again."""
    store = ExecutionStore(await open_scheduler())
    await store.commit(begun(1))
    lost = await _writer_pid(admin)
    await admin.execute("SELECT pg_terminate_backend($1)", lost)

    async def is_held_again() -> bool:
        held = await admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid <> $1", lost)
        return bool(held == 1)

    await until(is_held_again)  # without anyone reading or writing
    with pytest.raises(StoreUnavailable, match="lost for a while.*must be read again"):
        await store.commit(begun(2))
    await store.commit(begun(2))
    assert len(await store.load_live()) == 2


@pytest.mark.usefixtures("impatient")
async def test_while_another_holds_the_lost_lock_nothing_is_read_or_written(
    open_scheduler: Callable[..., Awaitable[Database]], admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_RELOCK_RETRY_S", 0.05)
    database = await open_scheduler()
    store = ExecutionStore(database)
    assert isinstance(database, PostgresDatabase)
    keys = postgres._LOCK_CLASS, database._number
    other = await asyncpg.connect(database._address.url, server_settings={"application_name": "x: process 7 on moon"})
    taking = asyncio.create_task(other.execute("SELECT pg_advisory_lock($1, $2)", *keys))
    await until(lambda: admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
    await admin.execute("SELECT pg_terminate_backend($1)", await _writer_pid(admin))
    await taking
    for call in (store.owners.join, store.load_live, store.load_executors):
        with pytest.raises(StoreUnavailable):
            await call()
    with pytest.raises(StoreUnavailable, match="in use by process 7 on moon: it serves one process. Stop that process"):
        await store.load_live()
    await other.close()
    await until_available(lambda: store.owners.join("test"))
    await store.commit(begun(1))


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_does_not_answer_makes_the_store_unavailable_in_time(
    stopped_server: PostgresServer, open_scheduler: Callable[..., Awaitable[Database]]
) -> None:
    database = await open_scheduler()
    store = ExecutionStore(database)
    await store.load_live()
    with stopped_server.frozen():
        async with asyncio.timeout(5):
            for call in (lambda: store.commit(begun(1)), store.load_live, lambda: store.commit(begun(1))):
                with pytest.raises(StoreUnavailable, match=r"no answer within 0\.5 s|no connection within 0\.5 s"):
                    await call()
    await until_available(lambda: store.owners.join("test"))
    await until_available(lambda: store.commit(begun(2)))


@pytest.mark.usefixtures("impatient")
async def test_rows_that_another_session_holds_are_waited_for_only_so_long(
    open_scheduler: Callable[..., Awaitable[Database]], admin: asyncpg.Connection
) -> None:
    store = ExecutionStore(await open_scheduler())
    async with admin.transaction():
        await admin.execute("LOCK TABLE cloacina_scheduler.executions IN SHARE ROW EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match="lock timeout") as raised:
            await store.commit(begun(1))
        assert "not known" not in raised.value.message
        assert await store.load_live() == [], "reading goes on"
    await store.commit(begun(1))
    assert len(await store.load_live()) == 1


async def test_commits_are_synced_to_disk_before_they_are_acknowledged(
    postgres_server: PostgresServer, open_scheduler: Callable[..., Awaitable[Database]], admin: asyncpg.Connection
) -> None:
    """Also where the server's own default is otherwise."""
    postgres_server.query(
        "ALTER DATABASE " + (await admin.fetchval("SELECT current_database()")) + " SET synchronous_commit = off"
    )
    database = await open_scheduler()
    assert isinstance(database, PostgresDatabase)
    assert database._writer is not None
    settings = await database._writer.run(
        lambda connection: connection.fetchrow(
            "SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('search_path')"
        )
    )
    assert tuple(settings) == ("on", "on", "cloacina_scheduler")


async def test_a_waiter_that_gave_up_does_not_break_the_transaction(
    open_scheduler: Callable[..., Awaitable[Database]], admin: asyncpg.Connection
) -> None:
    database = await open_scheduler()
    store = ExecutionStore(database)
    pid = await _writer_pid(admin)
    async with _slow_commit(admin):
        given_up = asyncio.create_task(database.write(begun(1).statements()))
        await until(lambda: _is_committing(admin, pid))
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
    await store.commit(begun(2))
    assert len(await store.load_live()) == 2
    assert await _writer_pid(admin) == pid


async def test_whoever_waits_for_its_transaction_itself_gives_the_connection_up_with_it(
    open_scheduler: Callable[..., Awaitable[Database]], admin: asyncpg.Connection
) -> None:
    store = ExecutionStore(await open_scheduler())
    pid = await _writer_pid(admin)
    async with _slow_commit(admin):
        given_up = asyncio.create_task(store.commit(begun(1)))
        await until(lambda: _is_committing(admin, pid))
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
    await until_available(lambda: store.commit(begun(2)))
    assert await _writer_pid(admin) != pid


async def test_closing_lets_the_transaction_end(
    open_scheduler: Callable[..., Awaitable[Database]], admin: asyncpg.Connection
) -> None:
    database = await open_scheduler()
    store = ExecutionStore(database)
    pid = await _writer_pid(admin)
    async with _slow_commit(admin):
        committing = asyncio.create_task(store.commit(begun(1)))
        await until(lambda: _is_committing(admin, pid))
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0)
    await asyncio.gather(committing, closing)
    assert len(await ExecutionStore(await open_scheduler()).load_live()) == 1
