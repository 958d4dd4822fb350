"""The second wall between tenants on PostgreSQL: what a query may see, whatever it asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from stored_rows import DEFINITION, execution, key, task

from cloacina.store.database import Database, Schema, open_database
from cloacina.store.execution_logs import ExecutionLogStore, LogChunk
from cloacina.store.executions import Batch, ExecutionStore
from cloacina.store.identity import IdentityStore, TenantRow
from cloacina.store.postgres import PostgresDatabase
from tests.postgres import PostgresServer


@pytest.fixture
def owned_url(postgres_server: PostgresServer) -> str:
    """A database of an ordinary user: a superuser is held by no policy."""
    url = postgres_server.new_database()
    name = url.rpartition("/")[2]
    postgres_server.query(f"CREATE ROLE owner_of_{name} LOGIN; ALTER DATABASE {name} OWNER TO owner_of_{name}")
    return url.replace("cloacina@", f"owner_of_{name}@")


async def _opened(url: str, store: str) -> Database:
    database = open_database(url, store)
    await database.open()
    return database


@pytest.fixture
async def careless(owned_url: str) -> AsyncIterator[PostgresDatabase]:
    """The scheduler's store with executions of acme and of other, and queries that have lost their tenant filter."""
    database = await _opened(owned_url, "scheduler")
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
    opened = PostgresDatabase(owned_url, replace(schema, queries=lost))
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
async def test_a_session_that_names_no_tenant_sees_nothing(owned_url: str, store: str) -> None:
    database = await _opened(owned_url, store)
    if store == "identity":
        identity = IdentityStore(database)
        await identity.create_tenant(TenantRow("acme", None, 1))
        await identity.add_key(key(1))
        assert [row.key_id for row in await identity.list_keys("acme")] == ["k1"]
    elif store == "scheduler":
        await ExecutionStore(database).commit(Batch(definitions=[DEFINITION], executions=[execution(1)]))
    await database.close()
    connection = await asyncpg.connect(owned_url)
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
