"""The SQLite driver: one writer thread, a few reader threads, write-ahead log, every commit synced to disk."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from cloacina.store.database import Schema, Statement, StoreConflict, StoreStartupError, StoreUnavailable
from cloacina.telemetry import tracing
from cloacina.telemetry.metrics import StoreMetrics
from cloacina.telemetry.turns import once_sent

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_READERS = 2
_BUSY_TIMEOUT_S = 5.0
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA cache_size=-32768",  # KiB
    "PRAGMA wal_autocheckpoint=4000",  # pages: longer logs make rarer, still short, checkpoints
    "PRAGMA journal_size_limit=67108864",  # bytes
    "PRAGMA temp_store=MEMORY",
)


_INSERT = re.compile(r"(INSERT INTO .*\bVALUES\s*)(\([^()]*\))", re.DOTALL)
_LOOK = re.compile(r"(--[^\n]*\n|\s)*SELECT\b")
_ROWS_AT_ONCE = (32, 4, 1)
"""Rows that one run of an insert takes: as many of the first as there are, then of the next. At each run the thread
lets others have the interpreter, and gets it back when they let it: a few times a group, not once a row."""


class _Inserts:
    """The inserts of rows as such, with one row of parameters or several at once.

    Args:
        queries: all queries of a store.
    """

    def __init__(self, queries: Mapping[str, str]) -> None:
        self._by_query: dict[str, list[tuple[int, str]]] = {}
        for name, sql in queries.items():
            found = _INSERT.fullmatch(sql)
            if found is not None:
                head, row = found.groups()
                self._by_query[name] = [(count, head + ", ".join([row] * count)) for count in _ROWS_AT_ONCE]

    def __contains__(self, query: str) -> bool:
        return query in self._by_query

    def run(self, connection: sqlite3.Connection, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Inserts all rows."""
        done = 0
        for count, sql in self._by_query[query]:
            if len(rows) - done < count:
                continue
            until = len(rows) - (len(rows) - done) % count
            together = [tuple(chain.from_iterable(rows[at : at + count])) for at in range(done, until, count)]
            connection.executemany(sql, together)
            done = until


class _Worker:
    """A thread with a connection of its own, which runs one call after another."""

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Any, Any] | None] = (
            queue.SimpleQueue()
        )
        self._connect = connect
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._calls.put((function, loop, future))
        return await future

    def close(self) -> None:
        self._calls.put(None)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (call := self._calls.get()) is not None:
            function, loop, future = call
            try:
                if connection is None:
                    connection = self._connect()
                outcome, failed = function(connection), False
            except BaseException as error:
                outcome, failed = error, True
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_settle, future, outcome, failed)
        if connection is not None:
            connection.close()


def _settle(future: asyncio.Future[Any], outcome: Any, failed: bool) -> None:
    if not future.done():
        (future.set_exception if failed else future.set_result)(outcome)


class SqliteDatabase:
    """A store in one SQLite file, or in memory.

    Args:
        path: the file; ``None`` for memory.
        schema: the store's queries and migrations.
        metrics: what commits are measured in.
        exclusive: hold a lock that makes a second process refuse to open it.
    """

    system = "sqlite"

    def __init__(
        self, path: Path | None, schema: Schema, metrics: StoreMetrics | None = None, exclusive: bool = False
    ) -> None:
        self._path = path
        self._schema = schema
        self._inserts = _Inserts(schema.queries)
        self._looks = frozenset(name for name, sql in schema.queries.items() if _LOOK.match(sql))
        """Queries that only read: as statements of a transaction they find rows where others change some."""
        self._metrics = metrics
        self._exclusive = exclusive
        self._lock: int | None = None
        self._writer: _Worker | None = None
        self._readers: list[_Worker] = []
        self._turn = 0
        self._observer: sqlite3.Connection | None = None
        """Never writes: so the commits of this process are another's to it, and it sees those as well."""

    async def open(self) -> None:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if self._exclusive:
                    self._lock = _take_lock(self._path)
            except OSError as error:
                raise StoreStartupError(f"cannot open the {self._schema.store} store {self._path}: {error}") from error
        self._writer = _Worker(f"{self._schema.store} writer", self._connect)
        try:
            await self._writer.call(self._migrate)
        except sqlite3.DatabaseError as error:
            await self.close()
            raise StoreStartupError(f"cannot open the {self._schema.store} store {self._path}: {error}") from error
        except StoreStartupError:
            await self.close()
            raise
        readers = _READERS if self._path is not None else 0  # memory belongs to one connection
        self._readers = [_Worker(f"{self._schema.store} reader {n}", self._connect) for n in range(readers)]

    async def close(self) -> None:
        workers = (*self._readers, *([self._writer] if self._writer else []))
        self._writer, self._readers = None, []  # first, so that nothing is asked of a thread that has ended
        for worker in workers:
            await asyncio.get_running_loop().run_in_executor(None, worker.close)
        if self._observer is not None:
            self._observer.close()
            self._observer = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def fetch(self, query: str, *parameters: Any, tenant: str | None = None) -> list[tuple[Any, ...]]:
        sql = self._schema.queries[query]
        self._turn += 1
        worker = self._readers[self._turn % len(self._readers)] if self._readers else self._opened()
        try:
            return await worker.call(lambda connection: connection.execute(sql, parameters).fetchall())
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def data_version(self) -> int | None:
        """Asked of the shared memory of the write-ahead log, on the caller's thread: it takes microseconds."""
        if self._path is None or self._writer is None:
            return None
        try:
            if self._observer is None:
                self._observer = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            version: int = self._observer.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            return None
        return version

    async def unheld_user(self) -> str | None:
        return None  # there are no users

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
                await self._opened().call(lambda connection: self._transact(connection, statements))
            except sqlite3.IntegrityError as error:
                raise StoreConflict(f"the {self._schema.store} store holds a conflicting row: {error}") from error
            except sqlite3.Error as error:
                raise self._unavailable(error) from error
        if self._metrics is not None:
            once_sent(self._metrics.observe_commit, time.perf_counter() - began, rows)

    def _opened(self) -> _Worker:
        if self._writer is None:
            raise StoreUnavailable(f"the {self._schema.store} store is closed")
        return self._writer

    def _unavailable(self, error: sqlite3.Error) -> StoreUnavailable:
        where = self._path or "in memory"
        return StoreUnavailable(
            f"the {self._schema.store} store ({where}) is unavailable: {error}; check that the disk has room and "
            "that no other program holds the file"
        )

    def _connect(self) -> sqlite3.Connection:
        target = ":memory:" if self._path is None else str(self._path)
        connection = sqlite3.connect(
            target, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=128
        )
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        return connection

    def _transact(self, connection: sqlite3.Connection, statements: Sequence[Statement]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                if not statement.rows:
                    continue
                if statement.query in self._inserts and statement.expect is None:
                    self._inserts.run(connection, statement.query, statement.rows)
                    continue
                sql = self._schema.queries[statement.query]
                if statement.query in self._looks:
                    found = sum(len(connection.execute(sql, row).fetchall()) for row in statement.rows)
                else:
                    found = connection.executemany(sql, statement.rows).rowcount
                if statement.expect is not None and found != statement.expect:
                    raise StoreConflict(
                        f"{statement.query} changed {found} rows of the {self._schema.store} store, "
                        f"not {statement.expect}"
                    )
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            known = len(self._schema.migrations)
            if version > known:
                raise StoreStartupError(
                    f"the {self._schema.store} store {self._path} has schema version {version}, this program knows "
                    f"{known}: start the newer program, or restore a backup made before the upgrade"
                )
            for script in self._schema.migrations[version:]:
                for statement in script.split(";"):
                    if statement.strip():
                        connection.execute(statement)
            connection.execute(f"PRAGMA user_version={known}")
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise


def _take_lock(path: Path) -> int:
    """Holds ``<path>.lock`` until the process ends; its content names the holder."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreStartupError(
            f"{path} is in use by process {holder}: a SQLite store serves one process. Stop that process, or use "
            "another CLOACINA_HOME; for several schedulers set CLOACINA_DATABASE_URL=postgresql://…"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock
