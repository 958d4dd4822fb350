"""Schemas and users of a PostgreSQL database, one of each for a tenant of embedded runners."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from importlib import resources

import asyncpg

from cloacina.store.database import parse_queries

_DEADLINE_S = 30.0

_Named = tuple[str, Sequence[str]]
"""A query of ``sql/tenant_schemas.sql`` and its parameters."""


async def create_tenant_schema(url: str, schema: str, username: str, password: str) -> None:
    """Makes a schema and a user that may use it and nothing else. All or nothing.

    Args:
        url: ``postgresql://…`` of a user who may create schemas and roles.
        schema: its name; must not exist.
        username: its name; must not exist.
        password: of the new user.

    Raises:
        asyncpg.PostgresError: the server refuses: a name is taken, or the administrator lacks a right.
        OSError, asyncpg.InterfaceError: the server cannot be reached, or the URL is none.
    """
    pair = (schema, username)
    await _run(
        url,
        [
            ("create_schema", (schema,)),
            ("create_user", (username, password)),
            ("grant_schema", pair),
            ("grant_tables", pair),
            ("grant_sequences", pair),
            ("default_schema", pair),
        ],
    )


async def drop_tenant_schema(url: str, schema: str, username: str) -> None:
    """Drops a schema with all that is in it, and a user. What does not exist is passed over.

    Args:
        url: ``postgresql://…`` of a user who may drop both.
        schema: its name.
        username: its name.

    Raises:
        As `create_tenant_schema`; also when a session still uses the schema.
    """
    await _run(url, [("drop_schema", (schema,)), ("drop_user", (username,))])


async def _run(url: str, statements: Sequence[_Named]) -> None:
    async with asyncio.timeout(_DEADLINE_S):
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                await connection.execute(_queries()["patience"])
                for query, parameters in statements:
                    await connection.execute(await connection.fetchval(_queries()[query], *parameters))
        finally:
            connection.terminate()


@cache
def _queries() -> dict[str, str]:
    return parse_queries((resources.files("cloacina.store") / "sql" / "tenant_schemas.sql").read_text())[0]
