"""One connection to PostgreSQL: made when it is needed, made again when it was lost, its failures told in our terms."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from cloacina.errors import CloacinaError
from cloacina.store.database import StoreConflict, StoreStartupError, StoreUnavailable

_T = TypeVar("_T")
_CONNECT_DEADLINE_S = 5.0
_CLOSE_DEADLINE_S = 5.0
_PAUSE_S = 0.2
"""For so long after a connection could not be made calls fail at once: a queue of them does not wait for an attempt
each."""

_SETTINGS = {
    "synchronous_commit": "on",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",  # a process that is frozen does not hold rows for ever
    "jit": "off",
    "tcp_keepalives_idle": "5",  # seconds: what a machine that vanished had locked is free again after 11
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*\Z")
"""Names that mean the same with and without quotes."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is.

    Args:
        url: ``postgresql://…``.
        store: its name.
        named: the schema its tables are in; empty for one named after the store.
    """

    url: str
    store: str
    named: str = ""

    @property
    def schema(self) -> str:
        """The schema its tables are in."""
        return self.named or f"cloacina_{self.store}"

    @property
    def identifier(self) -> str:
        """The schema as SQL writes it: in quotes where its name needs them."""
        return self.schema if _PLAIN.match(self.schema) else f'"{self.schema}"'

    def __str__(self) -> str:
        """Host, port and database: what may be shown of the URL."""
        return self.url.partition("://")[2].rpartition("@")[2].partition("?")[0]

    def unavailable(self, problem: object) -> StoreUnavailable:
        """The error for a database that cannot be read or written now."""
        said = " ".join(str(problem).split()) or type(problem).__name__  # details come on lines of their own
        return StoreUnavailable(
            f"the {self.store} store (PostgreSQL, {self}) is unavailable: {said}; check that the server runs, can be "
            "reached and has room on its disk"
        )


Prepare = Callable[[asyncpg.Connection], Awaitable[None]]


class Connection:
    """One connection; calls take turns. Whoever calls sets the deadline: a call that is cancelled ends the connection.

    Args:
        address: where to.
        settings: parameters of the session, beside those that every session has.
        prepare: called on each new connection before it is used; when it fails there is none.
    """

    def __init__(self, address: Address, settings: Mapping[str, str], prepare: Prepare | None = None) -> None:
        self._address = address
        self._prepare = prepare
        self._settings = {
            **_SETTINGS,
            **settings,
            "search_path": address.identifier,
            "application_name": f"cloacina {address.store}: process {os.getpid()} on {socket.gethostname()}"[:63],
        }
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()
        self._closed = False
        self._failed_at = 0.0
        self._failure: CloacinaError | None = None
        self.made = 0
        """How often a connection was made."""
        self.lost = asyncio.Event()
        """Set while there is no connection."""
        self.lost.set()

    @property
    def idle(self) -> bool:
        """Whether it is there, and a call begins at once."""
        connection = self._connection
        return connection is not None and not connection.is_closed() and not self._turn.locked() and not self._closed

    async def run(self, function: Callable[[asyncpg.Connection], Awaitable[_T]]) -> _T:
        """Calls `function` with the connection, which is made if there is none.

        Raises:
            StoreUnavailable: there is no connection, or it broke meanwhile.
            StoreStartupError: the server refuses for good: URL, password or database are wrong, or `prepare` said so.
            StoreConflict: a constraint was violated.
            asyncpg.DataError, asyncpg.CharacterNotInRepertoireError: a parameter is no value of its type.
            TimeoutError: `function` set a deadline, which passed; the connection is given up.
        """
        try:
            async with self._turn:
                connection = await self._connected()
                try:
                    return await function(connection)
                except asyncpg.ReadOnlySQLTransactionError:
                    connection.terminate()  # this server is a standby now: look for the one that took over
                    raise
                except (asyncpg.PostgresError, StoreConflict, StoreUnavailable, ValueError):
                    raise  # the server or the caller refused; the connection itself is as before
                except BaseException:
                    connection.terminate()  # in the middle of something: the next call gets a new one
                    raise
        except asyncpg.IntegrityConstraintViolationError as error:
            # without its detail, which has the row's values
            raise StoreConflict(f"the {self._address.store} store holds a conflicting row: {error.args[0]}") from error
        except (asyncpg.DataError, asyncpg.CharacterNotInRepertoireError):
            raise
        except asyncpg.InternalClientError as error:
            raise self._address.unavailable("the connection was lost") from error
        except TimeoutError:
            raise
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self._address.unavailable(error) from error

    async def close(self) -> None:
        """Lets the call that runs end, and disconnects. Calls that wait are refused."""
        self._closed = True
        try:
            async with asyncio.timeout(_CLOSE_DEADLINE_S), self._turn:
                if self._connection is not None:
                    await self._connection.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # a TimeoutError is an OSError
            pass
        if self._connection is not None:
            self._connection.terminate()

    async def _connected(self) -> asyncpg.Connection:
        if self._closed:
            raise StoreUnavailable(f"the {self._address.store} store is closed")
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._failure is not None and time.monotonic() - self._failed_at < _PAUSE_S:
            raise type(self._failure)(self._failure.message)
        try:
            self._connection = await self._connect()
        except Exception as error:
            self._failed_at, self._failure = time.monotonic(), self._explain(error)
            raise self._failure from error
        self._failure = None
        self.made += 1
        self.lost.clear()
        self._connection.add_termination_listener(lambda _: self.lost.set())
        return self._connection

    async def _connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(
            self._address.url,
            timeout=_CONNECT_DEADLINE_S,
            server_settings=self._settings,
            max_cached_statement_lifetime=0,  # for ever
        )
        try:
            if self._prepare is not None:
                await self._prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _explain(self, error: Exception) -> CloacinaError:
        match error:
            case CloacinaError():
                return error
            case asyncpg.ClientConfigurationError():
                return StoreStartupError(f"the database URL is none of PostgreSQL's: {error}")
            case asyncpg.InvalidCatalogNameError():
                return StoreStartupError(
                    f"{error} (PostgreSQL, {self._address}): create it with createdb, or correct the database URL"
                )
            case asyncpg.InvalidAuthorizationSpecificationError():
                return StoreStartupError(
                    f"PostgreSQL ({self._address}) refuses the login: {error}; correct user and password in the "
                    "database URL, or the server's pg_hba.conf"
                )
            case asyncpg.InsufficientPrivilegeError():
                return StoreStartupError(
                    f"the user of the database URL may not do this in PostgreSQL ({self._address}): {error}; grant it "
                    f"CREATE on the database, or ownership of the schema {self._address.schema}"
                )
            case TimeoutError():
                return self._address.unavailable(f"no connection within {_CONNECT_DEADLINE_S:g} s")
            case _:
                return self._address.unavailable(error)


class Connections:
    """Connections for calls that may run side by side.

    Args:
        connections: those there are.
    """

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._all = connections
        self._free = list(connections)
        self._room = asyncio.Semaphore(len(connections))

    async def run(self, function: Callable[[asyncpg.Connection], Awaitable[_T]]) -> _T:
        """As `Connection.run`, on the one that was free last: an idle service keeps to one connection."""
        async with self._room:
            connection = self._free.pop()
            try:
                return await connection.run(function)
            finally:
                self._free.append(connection)

    async def close(self) -> None:
        """Disconnects all."""
        await asyncio.gather(*(connection.close() for connection in self._all))


async def nothing(_: asyncpg.Connection) -> None:
    """A call for the sake of the connection."""


async def bounded(call: Awaitable[_T], deadline_s: float, address: Address) -> _T:
    """The result of `call` within a deadline. Who waits may be cancelled: what was begun still ends properly.

    Raises:
        StoreUnavailable: the deadline passed; the connection is given up.
    """

    async def run() -> _T:
        async with asyncio.timeout(deadline_s):
            return await call

    task = asyncio.create_task(timely(run(), deadline_s, address))
    task.add_done_callback(_notice)
    return await asyncio.shield(task)


async def timely(call: Awaitable[_T], deadline_s: float, address: Address) -> _T:
    """The result of `call`, which raises TimeoutError itself when its deadline has passed.

    Raises:
        StoreUnavailable: the deadline passed.
    """
    try:
        return await call
    except TimeoutError as error:
        raise address.unavailable(f"no answer within {deadline_s:g} s") from error


def _notice(task: asyncio.Task[_T]) -> None:
    """Whoever waited may be gone: then the error is of no interest."""
    if not task.cancelled():
        task.exception()
