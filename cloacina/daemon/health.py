"""The health pulse: what the daemon says of itself, over a Unix socket to whoever connects, and in the log.

To connect is to ask: the daemon writes one JSON object and hangs up. Only its user may connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from cloacina.errors import InvalidRequest, Unavailable

log = logging.getLogger(__name__)

SOCKET_NAME = "daemon.sock"
"""Name of the socket in the home folder."""

_LONGEST_PATH_BYTES = 107
_ANSWER_DEADLINE_S = 5.0


class DatabaseHealth(BaseModel):
    """The store."""

    connected: bool
    backend: str = "sqlite"


class ReconcilerHealth(BaseModel):
    """The packages. `last_run_at` is RFC 3339."""

    packages_loaded: int
    last_run_at: str | None


class Health(BaseModel):
    """What the daemon says of itself.

    Args:
        status: "healthy", "degraded" (a file or folder is not as it should be), "unhealthy" (the store) or "draining".
        pid, version: of the process.
        uptime_seconds: since it was started.
        database, reconciler: see there.
        active_workflows: executions that are unfinished.
        watch_directories: watched folders.
        workflows_ready: workflows that can be executed.
        tasks_running: tasks that run.
        tasks_waiting: tasks that wait for a slot.
        workers: worker processes.
        schedules: cron schedules and polled triggers.
        problems: what is wrong, by the path of the file or folder.
    """

    status: str
    pid: int
    version: str
    uptime_seconds: int
    database: DatabaseHealth
    reconciler: ReconcilerHealth
    active_workflows: int
    watch_directories: list[str]
    workflows_ready: int
    tasks_running: int
    tasks_waiting: int
    workers: int
    schedules: int
    problems: dict[str, str]


class DaemonDown(Unavailable):
    """No daemon answers."""

    default_code = "daemon_down"


class HealthSocket:
    """The socket.

    Args:
        home: the home folder; the caller is the only daemon on it.
        health: gives the answer.
    """

    def __init__(self, home: Path, health: Callable[[], Health]) -> None:
        self._home = home
        self._health = health
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens. A socket that a daemon left which was killed is replaced.

        Raises:
            InvalidRequest: something else is in its place, or it cannot be made there.
        """
        path = self._home / SOCKET_NAME
        try:
            if path.exists() or path.is_symlink():
                if not stat.S_ISSOCK(path.lstat().st_mode):
                    raise InvalidRequest(f"{path} is no socket; move it away, the daemon needs that name")
                log.info("a daemon that ran before left its socket; it is replaced", extra={"socket": str(path)})
                path.unlink()
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with _short(path) as address:
                    before = os.umask(0o177)  # there must be no moment in which others may connect
                    try:
                        listening.bind(address)
                    finally:
                        os.umask(before)
                self._server = await asyncio.start_unix_server(self._answer, sock=listening)
            except BaseException:
                listening.close()
                raise
        except OSError as error:
            raise InvalidRequest(f"the health socket {path} cannot be made: {error.strerror or error}") from None

    async def stop(self) -> None:
        """Takes it away."""
        if self._server is None:
            return
        self._server.close()
        with contextlib.suppress(OSError):
            (self._home / SOCKET_NAME).unlink()
        self._server = None

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(self._health().model_dump_json().encode() + b"\n")
            async with asyncio.timeout(_ANSWER_DEADLINE_S):
                await writer.drain()
        writer.close()


async def pulse(health: Callable[[], Health], interval_s: Callable[[], float]) -> None:
    """Writes a health line now and then, until it is cancelled."""
    while True:
        await asyncio.sleep(interval_s())
        now = health()
        extra = {
            "status": now.status,
            "uptime_s": now.uptime_seconds,
            "db_connected": now.database.connected,
            "active_workflows": now.active_workflows,
            "tasks_running": now.tasks_running,
            "packages_loaded": now.reconciler.packages_loaded,
        }
        log.log(logging.INFO if now.status == "healthy" else logging.WARNING, "health pulse", extra=extra)


# For those who ask


def ask(home: Path) -> Health:
    """What the daemon of a home folder says.

    Raises:
        DaemonDown: none answers; the message says what was found.
    """
    with _connected(home) as connection:
        answer = bytearray()
        try:
            while part := connection.recv(1 << 16):
                answer += part
            return Health.model_validate_json(bytes(answer))
        except (OSError, ValidationError) as error:
            raise DaemonDown(f"the daemon does not answer: {error}") from None


def pid_of(home: Path) -> int:
    """The process id of the daemon of a home folder: of who listens, whatever a file may say.

    Raises:
        DaemonDown: there is none.
    """
    with _connected(home) as connection:
        if not hasattr(socket, "SO_PEERCRED"):
            return ask(home).pid
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", raw)[0])


@contextlib.contextmanager
def _connected(home: Path) -> Iterator[socket.socket]:
    path = home / SOCKET_NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_DEADLINE_S)
        try:
            with _short(path) as address:
                connection.connect(address)
        except FileNotFoundError:
            raise DaemonDown(
                f"the daemon is not running (there is no socket {path}); start it with: cloacinactl daemon start"
            ) from None
        except ConnectionRefusedError:
            raise DaemonDown(
                f"the daemon is not running (the socket {path} is left from one that was killed); start it with: "
                "cloacinactl daemon start"
            ) from None
        except OSError as error:
            raise DaemonDown(f"the daemon's socket {path} cannot be used: {error.strerror or error}") from None
        yield connection


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address of the socket that fits: one of a deep folder is named by way of the open folder."""
    if len(os.fsencode(path)) <= _LONGEST_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


# As people read it


def block(health: Health, now: datetime | None = None) -> str:
    """The lines of ``cloacinactl daemon status``.

    Args:
        health: what the daemon said.
        now: the time to count from; the present by default.
    """
    lines = [
        "Daemon",
        f"Health: {_word(health)}",
        f"Uptime: {duration(health.uptime_seconds)}",
        f"Watch directories: {len(health.watch_directories)}",
        f"Loaded packages: {health.reconciler.packages_loaded}",
        f"Last reconciliation: {_since(health.reconciler.last_run_at, now or datetime.now(UTC))}",
        f"Workflows ready: {health.workflows_ready}",
        f"Workflows running: {health.active_workflows}",
        f"Tasks running: {health.tasks_running}",
    ]
    return "\n".join(lines)


def duration(seconds: int) -> str:
    """Seconds as people read them: ``2d 14h 32m``, ``3h 5m 7s``, ``5m 7s``, ``12s``."""
    days, rest = divmod(max(0, seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    if days:
        return f"{days}d {hours}h {minutes}m"
    if hours:
        return f"{hours}h {minutes}m {seconds}s"
    return f"{minutes}m {seconds}s" if minutes else f"{seconds}s"


def _word(health: Health) -> str:
    if health.status == "healthy":
        return "OK"
    if health.status == "degraded":
        path, why = next(iter(health.problems.items()), ("", ""))
        more = f", and {len(health.problems) - 1} more" if len(health.problems) > 1 else ""
        return f"DEGRADED ({_printable(f'{path}: {why}')}{more})"
    return health.status.upper()


def _printable(text: str) -> str:
    """On one line: packages choose what is in it."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _since(at: str | None, now: datetime) -> str:
    if at is None:
        return "never"
    then = datetime.fromisoformat(at)
    age_s = max(0, int((now - then).total_seconds()))
    return f"{then.strftime('%Y-%m-%dT%H:%M:%S')} ({duration(age_s).replace(' ', '')} ago)"
