"""The PostgreSQL driver: each store in a schema of its own, one connection that writes, a few that read.

A store that is opened exclusively has its lock on the connection that writes. So the lock cannot be lost unnoticed: a
transaction that commits was, until then, in the session that holds the lock. One that is shared has a shared lock
there, which keeps those out who want it for themselves; what its processes write is fenced by the store (`owners`).
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Awaitable, Sequence
from importlib import resources
from typing import Any, TypeVar

import asyncpg

from cloacina.store.database import (
    Schema,
    Statement,
    StoreConflict,
    StoreStartupError,
    StoreUnavailable,
    parse_queries,
)
from cloacina.store.postgres_connection import Address, Connection, Connections, bounded, nothing, timely
from cloacina.store.postgres_joined import JoinedStatements
from cloacina.telemetry import tracing
from cloacina.telemetry.metrics import StoreMetrics
from cloacina.telemetry.turns import once_sent

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_READERS = 4
_OPEN_DEADLINE_S = 30.0
"""A server that is just starting is waited for."""
_OPEN_RETRY_S = 0.25
_WRITE_DEADLINE_S = 30.0
_READ_DEADLINE_S = 75.0
_RELOCK_RETRY_S = 0.5
_EVERYBODY = {"cloacina.tenant_id": "*"}
"""Row-level security shows the rows of all tenants, until a transaction names one."""
_WRITER_SETTINGS = {
    **_EVERYBODY,
    "statement_timeout": "20s",
    # Writes go by primary key. Without these the planner, which has not seen the table grow yet, may scan it.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",  # planning anew would take as long as writing
}
_READER_SETTINGS = {
    **_EVERYBODY,
    "statement_timeout": "60s",  # after a crash a scheduler reads everything that is unfinished
    "default_transaction_read_only": "on",
}
_LOCK_CLASS = 0x436C6F61
"""First half of the numbers of our advisory locks; the second is the store's, above it the purpose."""


class PostgresDatabase:
    """A store in a schema of a PostgreSQL database.

    Args:
        url: ``postgresql://user:password@host:5432/database``, with libpq's parameters.
        schema: the store's queries and migrations, in PostgreSQL's dialect.
        metrics: what commits are measured in.
        exclusive: hold a lock that makes a second process refuse to open it.
        named: the schema its tables are in; empty for one named after the store.
        shared_s: share it with others that do; seconds that a transaction may stand still.
    """

    system = "postgresql"

    def __init__(
        self,
        url: str,
        schema: Schema,
        metrics: StoreMetrics | None = None,
        exclusive: bool = False,
        *,
        named: str = "",
        shared_s: float | None = None,
    ) -> None:
        self._address = Address(url, schema.store, named)
        self._schema = schema
        self._joined = JoinedStatements(schema)
        self._metrics = metrics
        self._exclusive = exclusive
        self._shared_s = None if exclusive else shared_s
        self._own = parse_queries((resources.files("cloacina.store") / "sql" / "postgres.sql").read_text())[0]
        self._number = zlib.crc32((named or schema.store).encode()) & 0x3FFFFFFF
        self._writer: Connection | None = None
        self._readers: Connections | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._session: int | None = None
        """Which of the writer's connections the caller's knowledge of an exclusive store is from; none after a failure
        that told it to begin anew."""

    async def open(self) -> None:
        settings = dict(_WRITER_SETTINGS)
        if self._shared_s is not None:
            settings["idle_in_transaction_session_timeout"] = f"{max(1, int(self._shared_s * 1000))}ms"
        prepare = self._take_lock if self._exclusive or self._shared_s is not None else None
        self._writer = Connection(self._address, settings, prepare)
        self._readers = Connections([Connection(self._address, _READER_SETTINGS) for _ in range(_READERS)])
        try:
            await self._reach(self._writer)
        except BaseException:
            await self.close()
            raise
        if self._exclusive:
            self._session = self._writer.made
            self._keeper = asyncio.create_task(self._keep_lock(self._writer), name=f"keep {self._schema.store} lock")

    async def close(self) -> None:
        writer, readers, keeper = self._writer, self._readers, self._keeper
        self._writer = self._readers = self._keeper = None  # first, so that nothing is asked of what is closing
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        if readers is not None:
            await readers.close()
        if writer is not None:
            await writer.close()

    async def fetch(self, query: str, *parameters: Any, tenant: str | None = None) -> list[tuple[Any, ...]]:
        try:
            return await self._fetch(query, parameters, tenant)
        except asyncpg.CharacterNotInRepertoireError:
            return await self._fetch(query, _storable(parameters), tenant)

    def data_version(self) -> int | None:
        return None  # it would be a question to the server

    async def unheld_user(self) -> str | None:
        if self._readers is None:
            raise self._closed()
        read = self._readers.run(lambda connection: connection.fetchval(self._own["unheld_user"]))
        user: str | None = await _of_open_store(bounded(read, _READ_DEADLINE_S, self._address))
        return user

    async def write(self, statements: Sequence[Statement], *, awaited: bool = False) -> None:
        began = time.perf_counter()
        rows = sum(len(statement.rows) for statement in statements)
        with tracing.child_span(
            "store commit",
            kind="client",
            attributes={
                "db.system.name": self.system,
                "db.namespace": self._schema.store,
                "db.operation.batch.size": rows,
            },
        ):
            try:
                await self._write(statements, awaited)
            except asyncpg.CharacterNotInRepertoireError:
                await self._write([_storable_statement(statement) for statement in statements], awaited)
        if self._metrics is not None:
            once_sent(self._metrics.observe_commit, time.perf_counter() - began, rows)

    async def _fetch(self, query: str, parameters: Sequence[Any], tenant: str | None) -> list[tuple[Any, ...]]:
        if self._readers is None:
            raise self._closed()
        sql = self._schema.queries[query]

        async def read(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
            if tenant is None:
                return [tuple(row) for row in await connection.fetch(sql, *parameters)]
            async with connection.transaction():
                await connection.execute(self._own["see_tenant"], tenant)
                return [tuple(row) for row in await connection.fetch(sql, *parameters)]

        await self._locked()
        return await _of_open_store(bounded(self._readers.run(read), _READ_DEADLINE_S, self._address))

    # Writing

    async def _write(self, statements: Sequence[Statement], awaited: bool) -> None:
        if self._writer is None:
            raise self._closed()
        writer, transaction = self._writer, _Transaction(self._schema, self._joined, statements)

        async def run(connection: asyncpg.Connection) -> None:
            self._check_session(writer)
            await transaction.run(connection)

        # where all there is to wait for is one answer, that has a deadline of its own
        bound = timely if awaited and transaction.is_one and writer.idle else bounded
        try:
            await _of_open_store(bound(writer.run(run), _WRITE_DEADLINE_S, self._address))
        except StoreUnavailable as error:
            self._session = None
            if transaction.committing:
                raise StoreUnavailable(f"{error.message}. It is not known whether the transaction happened") from error
            raise

    def _check_session(self, writer: Connection) -> None:
        """After the lock was lost another process may have written: what the caller knows must come from after that."""
        if not self._exclusive:
            return
        if self._session is None:
            self._session = writer.made
        elif self._session != writer.made:
            raise StoreUnavailable(
                f"the lock of the {self._schema.store} store (PostgreSQL, {self._address}) was lost for a while and is "
                "held again: what was read before must be read again"
            )

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(f"the {self._schema.store} store is closed")

    # The lock of an exclusive store

    async def _take_lock(self, connection: asyncpg.Connection) -> None:
        keys = (_LOCK_CLASS, self._number)
        try:
            await connection.execute(self._own["take_lock" if self._exclusive else "take_shared_lock"], *keys)
        except asyncpg.LockNotAvailableError:
            holder = await connection.fetchval(self._own["lock_holder"], *keys) or "a process that has just ended"
            raise StoreStartupError(
                f"the {self._schema.store} store in PostgreSQL ({self._address}) is in use by "
                f"{holder.partition(': ')[2] or holder}: it serves one process. Stop that process, or give this one "
                "another database in CLOACINA_DATABASE_URL"
            ) from None

    async def _locked(self) -> None:
        """Of an exclusive store that has lost its lock nothing is read before it is held again."""
        if self._exclusive and self._writer is not None and self._writer.lost.is_set():
            await _of_open_store(bounded(self._writer.run(nothing), _WRITE_DEADLINE_S, self._address))

    async def _keep_lock(self, writer: Connection) -> None:
        """Takes a lost lock again at once, not when there is something to write: until then another could take it."""
        while True:
            await writer.lost.wait()
            log.warning("lost the connection that holds the store's lock", extra={"store": self._schema.store})
            while writer.lost.is_set():
                try:
                    await bounded(writer.run(nothing), _WRITE_DEADLINE_S, self._address)
                except (StoreUnavailable, StoreStartupError) as error:
                    log.warning("the store's lock is not held", extra={"error": error.message})
                    await asyncio.sleep(_RELOCK_RETRY_S)
            log.info("the store's lock is held again", extra={"store": self._schema.store})

    # Opening

    async def _reach(self, writer: Connection) -> None:
        deadline = time.monotonic() + _OPEN_DEADLINE_S
        told = False
        while True:
            try:
                return await bounded(writer.run(self._migrate), _READ_DEADLINE_S, self._address)
            except StoreConflict as error:
                raise self._unopened(error.message) from error
            except StoreUnavailable as error:
                if time.monotonic() > deadline or not writer.lost.is_set():
                    raise self._unopened(error.message) from error
                if not told:
                    told = True
                    log.warning("PostgreSQL cannot be reached; trying again", extra={"error": error.message})
                await asyncio.sleep(_OPEN_RETRY_S)

    def _unopened(self, problem: str) -> StoreStartupError:
        return StoreStartupError(
            f"cannot open the {self._schema.store} store in PostgreSQL ({self._address}): {problem}"
        )

    async def _migrate(self, connection: asyncpg.Connection) -> None:
        encoding = connection.get_settings().server_encoding
        if encoding != "UTF8":
            raise self._unopened(f"its encoding is {encoding}, and must be UTF8; make it with createdb --encoding=UTF8")
        async with connection.transaction():
            await connection.execute(self._own["unlimited"])
            await connection.execute(self._own["lock_migrations"], _LOCK_CLASS, self._number | 0x40000000)
            if not await connection.fetchval(self._own["schema_exists"], self._address.identifier):
                await connection.execute(self._own["create_schema"].format(schema=self._address.identifier))
            await connection.execute(self._own["create_version"])
            version: int = await connection.fetchval(self._own["version"])
            known = len(self._schema.migrations)
            if version > known:
                raise StoreStartupError(
                    f"the {self._schema.store} store in PostgreSQL ({self._address}) has schema version {version}, "
                    f"this program knows {known}: start the newer program, or restore a backup made before the upgrade"
                )
            for number, script in enumerate(self._schema.migrations[version:], start=version + 1):
                await connection.execute(script)
                await connection.execute(self._own["add_version"], number)


class _Transaction:
    """Statements that happen together or not at all.

    Args:
        schema: what their names mean.
        joined: those that are one statement.
        statements: in order.
    """

    def __init__(self, schema: Schema, joined: JoinedStatements, statements: Sequence[Statement]) -> None:
        self._schema = schema
        self._joined = joined
        self._statements = [statement for statement in statements if statement.rows]
        self._one = self._as_one()
        """The one statement that they are, with its parameters, if they are."""
        self.committing = False
        """Whether the commit was asked for: if there is no answer, it may have happened or not."""

    @property
    def is_one(self) -> bool:
        """Whether it is one statement: a transaction by itself, which has a deadline of its own."""
        return self._one is not None

    async def run(self, connection: asyncpg.Connection) -> None:
        if self._one is None:
            if self._statements:
                await self._run_each(connection)
            return
        sql, parameters = self._one
        try:
            await self._commit(connection.execute(sql, *parameters, timeout=_WRITE_DEADLINE_S))
        except asyncpg.DivisionByZeroError:  # a row is not as expected, and nothing happened: which one it is
            async with asyncio.timeout(_WRITE_DEADLINE_S):
                await self._run_each(connection)

    def _as_one(self) -> tuple[str, Sequence[Any]] | None:
        if len(self._statements) == 1 and self._statements[0].expect is None:
            (only,) = self._statements
            if only.query in self._schema.by_arrays:
                return self._schema.queries[only.query], list(zip(*only.rows, strict=True))
            if len(only.rows) == 1:
                return self._schema.queries[only.query], only.rows[0]
        return self._joined.join(self._statements) if self._statements else None

    async def _run_each(self, connection: asyncpg.Connection) -> None:
        transaction = connection.transaction()
        await transaction.start()
        try:
            for statement in self._statements:
                changed = await self._execute(connection, statement)
                if statement.expect is not None and changed != statement.expect:
                    raise StoreConflict(
                        f"{statement.query} changed {changed} rows of the {self._schema.store} store, "
                        f"not {statement.expect}"
                    )
        except Exception:  # not when it is cancelled: then the connection is given up
            if not connection.is_closed():
                await transaction.rollback()
            raise
        await self._commit(transaction.commit())

    async def _commit(self, call: Awaitable[object]) -> None:
        self.committing = True
        try:
            await call
        except asyncpg.PostgresError as error:
            if error.severity_en == "ERROR":  # the server's answer, after which the session goes on
                self.committing = False
            raise
        self.committing = False

    async def _execute(self, connection: asyncpg.Connection, statement: Statement) -> int:
        """Returns how many rows changed; 0 when it is not asked for."""
        sql = self._schema.queries[statement.query]
        if statement.query in self._schema.by_arrays:
            return _changed(await connection.execute(sql, *zip(*statement.rows, strict=True)))
        if statement.expect is None:
            await connection.executemany(sql, statement.rows)
            return 0
        return sum([_changed(await connection.execute(sql, *row)) for row in statement.rows])


async def _of_open_store(call: Awaitable[_T]) -> _T:
    """The result of a call; what would forbid to open a store makes an open one unavailable."""
    try:
        return await call
    except StoreStartupError as error:
        raise StoreUnavailable(error.message) from error


def _changed(tag: str) -> int:
    """The row count in a command tag such as ``UPDATE 3``."""
    return int(tag.rpartition(" ")[2])


def _storable(row: Sequence[Any]) -> tuple[Any, ...]:
    """The row without U+0000, which PostgreSQL's texts cannot hold and users' error messages may: U+FFFD instead."""
    return tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in row)


def _storable_statement(statement: Statement) -> Statement:
    return Statement(statement.query, [_storable(row) for row in statement.rows], statement.expect)
