"""The second wall between tenants on PostgreSQL: what a query may see, whatever it asks for."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from stored_rows import DEFINITION, execution, key, task

from cloacina.runtime.tenant_wall import warn_where_open
from cloacina.store.database import Database, Schema, Statement, open_database
from cloacina.store.execution_logs import ExecutionLogStore, LogChunk
from cloacina.store.executions import Batch, ExecutionStore
from cloacina.store.identity import IdentityStore, TenantRow
from cloacina.store.postgres import PostgresDatabase
from tests.postgres import PostgresServer, superuser_url


async def _opened(url: str, store: str) -> Database:
    database = open_database(url, store)
    await database.open()
    return database


@pytest.fixture
async def careless(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    """The scheduler's store with executions of acme and of other, and queries that have lost their tenant filter."""
    database = await _opened(postgres_url, "scheduler")
    theirs = execution(2)._replace(tenant_id="other", definition_id="d2")
    definitions = [DEFINITION, DEFINITION._replace(definition_id="d2", tenant_id="other")]
    await ExecutionStore(database).commit(
        Batch(definitions=definitions, executions=[execution(1), theirs], tasks=[task("e1"), task("e2")])
    )
    chunks = [LogChunk("e1", "", "x\n"), LogChunk("e2", "", "x\n")]
    await ExecutionLogStore(database, 1000).append("b", chunks, lambda chunk: "")
    await database.close()
    schema = Schema.load("scheduler", "postgres")
    lost = {
        **schema.queries,
        "execution": "SELECT execution_id FROM executions WHERE execution_id = $1 AND $2::text IS NOT NULL",
        "list_tasks": "SELECT t.execution_id FROM executions e JOIN tasks t ON t.execution_id = e.execution_id "
        "WHERE e.execution_id = $1 AND $2::text IS NOT NULL",
        "log_chunks": "SELECT execution_id FROM execution_logs WHERE execution_id = $1 AND $2::text IS NOT NULL",
        "count_executions": "SELECT count(*) FROM executions",
    }
    opened = PostgresDatabase(postgres_url, replace(schema, queries=lost))
    await opened.open()
    yield opened
    await opened.close()


async def test_a_query_that_lost_its_filter_shows_no_other_tenants_rows(careless: PostgresDatabase) -> None:
    for query in ("execution", "list_tasks", "log_chunks"):
        assert await careless.fetch(query, "e2", "acme") == [("e2",)], "the wall is not the filter's doing"
        assert await careless.fetch(query, "e2", "acme", tenant="acme") == []
        assert await careless.fetch(query, "e1", "acme", tenant="acme") == [("e1",)]
    assert await careless.fetch("count_executions") == [(2,)], "what one transaction named ends with it"
    assert await careless.fetch("count_executions", tenant="acme") == [(1,)]
    assert await careless.fetch("count_executions", tenant="nobody") == [(0,)]


@pytest.mark.parametrize("store", ["scheduler", "registry", "identity"])
async def test_a_session_that_names_no_tenant_sees_nothing(postgres_url: str, store: str) -> None:
    database = await _opened(postgres_url, store)
    if store == "identity":
        identity = IdentityStore(database)
        await identity.create_tenant(TenantRow("acme", None, 1))
        await identity.add_key(key(1))
        assert [row.key_id for row in await identity.list_keys("acme")] == ["k1"]
    elif store == "scheduler":
        await ExecutionStore(database).commit(Batch(definitions=[DEFINITION], executions=[execution(1)]))
    await database.close()
    connection = await asyncpg.connect(postgres_url)
    try:
        tables = await connection.fetch(
            "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity FROM pg_class c "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped "
            "WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace($1)",
            f"cloacina_{store}",
        )
        assert tables, "the store is in a schema of another name"
        for table, walled in tables:
            assert walled, f"{store}.{table} has a tenant_id, and no wall"
            assert await connection.fetchval(f"SELECT count(*) FROM cloacina_{store}.{table}") == 0, table
        if store == "scheduler":
            async with connection.transaction():
                await connection.execute("SELECT set_config('cloacina.tenant_id', 'acme', true)")
                assert await connection.fetchval("SELECT count(*) FROM cloacina_scheduler.executions") == 1
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(
                    "INSERT INTO cloacina_scheduler.definitions VALUES ('d9', 'acme', 'w', 'p', 'x', '')"
                )
    finally:
        await connection.close()


async def test_a_user_whom_nothing_holds_is_warned_of(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    for url, user in ((postgres_url, None), (superuser_url(postgres_url), "postgres")):
        database = await _opened(url, "identity")
        caplog.clear()
        await warn_where_open(database)
        await database.close()
        assert [getattr(record, "database_user", None) for record in caplog.records] == ([user] if user else [])


async def test_what_a_superuser_has_made_can_be_given_to_an_ordinary_user(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    """By the statements of docs/operate.md."""
    for store in ("scheduler", "registry", "identity"):
        await (await _opened(superuser_url(postgres_url), store)).close()
    page = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    script = tmp_path / "give.sql"
    script.write_text(next(block for block in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) if "gexec" in block))
    try:
        postgres_server.client(
            "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={script}", superuser_url(postgres_url)
        )
        for store in ("scheduler", "registry", "identity"):
            database = await _opened(postgres_url.replace("cloacina@", "cloacina_owner@"), store)
            assert await database.unheld_user() is None
            await database.close()
        database = await _opened(postgres_url.replace("cloacina@", "cloacina_owner@"), "identity")
        assert await database.fetch("tenant", "public", tenant="public")
        await database.write([Statement("insert_tenant", [("acme", None, 1, None, None, None)])])
        await database.close()
    finally:
        name = postgres_url.rpartition("/")[2]
        postgres_server.query(f"DROP DATABASE {name} WITH (FORCE)")
        postgres_server.query("DROP ROLE IF EXISTS cloacina_owner")
