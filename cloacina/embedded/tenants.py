"""Tenants of embedded runners: each has a schema and a user of its own in one PostgreSQL database.

A server has tenants of its own kind (``cloacinactl tenant``); these here are for programs that run `DefaultRunner`.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import string
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from cloacina.embedded.urls import is_postgres, shown, with_search_path
from cloacina.store.tenant_schemas import create_tenant_schema, drop_tenant_schema

_PASSWORD_CHARACTERS = string.ascii_letters + string.digits
_PASSWORD_LENGTH = 32
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_NOT_A_TENANTS = re.compile(r"public|information_schema|pg_.*|cloacina_(identity|registry|scheduler)", re.IGNORECASE)
"""Schemas and users of the database itself, and of a server on it."""


@dataclass(frozen=True, slots=True)
class TenantConfig:
    """What a new tenant is to be called.

    Args:
        schema_name: a letter or underscore, then letters, digits and underscores; at most 63.
        username: of its database user, likewise.
        password: of that user; empty for one that is made.
    """

    schema_name: str
    username: str
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.password is None:  # the original takes None for "make one"
            object.__setattr__(self, "password", "")


@dataclass(frozen=True, slots=True)
class TenantCredentials:
    """How to reach a tenant's schema.

    Args:
        username: its database user.
        password: of that user. This is the only time it is told.
        schema_name: its schema.
        connection_string: a URL for `DefaultRunner`: it leads to this schema.
    """

    username: str
    password: str = field(repr=False)
    schema_name: str
    connection_string: str = field(repr=False)


class DatabaseAdmin:
    """Makes and removes tenants of embedded runners.

    Args:
        database_url: ``postgresql://…/database`` of a user who may create schemas and roles. It is used when a tenant
            is made or removed, not before.

    Raises:
        RuntimeError: the URL is not PostgreSQL's, or names no database.
    """

    def __init__(self, database_url: str) -> None:
        if not is_postgres(database_url):
            raise RuntimeError(
                "DatabaseAdmin needs a PostgreSQL URL such as 'postgresql://user:password@host:5432/database', "
                f"not {shown(database_url)!r}: SQLite has no schemas and no users"
            )
        if not urlsplit(database_url).path.strip("/"):
            raise RuntimeError(f"the database URL {shown(database_url)!r} names no database: add /<database>")
        self._url = database_url

    def __repr__(self) -> str:
        return f"DatabaseAdmin({shown(self._url)!r})"

    def create_tenant(self, config: TenantConfig) -> TenantCredentials:
        """Makes a schema and a user that may use it, and no other tenant's. All or nothing.

        Raises:
            RuntimeError: a name is not allowed or taken, a right is missing, or the database cannot be reached.
        """
        _check("schema_name", config.schema_name)
        _check("username", config.username)
        password = config.password or "".join(secrets.choice(_PASSWORD_CHARACTERS) for _ in range(_PASSWORD_LENGTH))
        work = create_tenant_schema(self._url, config.schema_name, config.username, password)
        _finish(work, f"tenant schema {config.schema_name!r} with user {config.username!r} was not made")
        address = _with_login(self._url, config.username, password)
        return TenantCredentials(
            config.username, password, config.schema_name, with_search_path(address, config.schema_name)
        )

    def remove_tenant(self, schema_name: str, username: str) -> None:
        """Drops the schema, with everything in it, and the user. What is gone already is passed over.

        Raises:
            RuntimeError: a name is not allowed, a runner still uses the schema, a right is missing, or the database
                cannot be reached.
        """
        _check("schema_name", schema_name)
        _check("username", username)
        work = drop_tenant_schema(self._url, schema_name, username)
        _finish(work, f"tenant schema {schema_name!r} with user {username!r} was not removed")


def _check(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise RuntimeError(
            f"{what} {name!r} is not allowed: begin with a letter or underscore, go on with letters, digits and "
            "underscores, at most 63 in all"
        )
    if _NOT_A_TENANTS.fullmatch(name):
        raise RuntimeError(f"{what} {name!r} is not a tenant's: it belongs to the database, or to a server on it")


def _finish(work: Coroutine[None, None, None], failure: str) -> None:
    """Runs `work` to its end on a thread: the caller may be inside of a running event loop."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        try:
            thread.submit(asyncio.run, work).result()
        except TimeoutError as error:
            raise RuntimeError(f"{failure}: the database did not answer in time") from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise RuntimeError(f"{failure}: {error}") from error


def _with_login(url: str, username: str, password: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{username}:{quote(password, safe='')}@{place}"))
