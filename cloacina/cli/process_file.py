"""Which process serves a home folder, and ending it.

The process holds a lock on its file for as long as it lives. So a file that a killed process left names nobody, and no
stranger that was given its number since is ever signalled.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from cloacina.errors import CloacinaError, Conflict

SERVER = "server.pid"
"""File of the supervisor in the home folder."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Holds a file, with this process's id in it.

    Args:
        path: the file; its folder must exist.

    Yields:
        Whether it is held: false where another process has it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        try:
            yield True
        finally:
            os.ftruncate(file, 0)
    finally:
        os.close(file)


def holder(path: Path) -> int | None:
    """The process that holds a file; ``None`` when none does."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(file, 32, 0).decode(errors="replace").strip()
            return int(text) if text.isdigit() else None
        return None
    finally:
        os.close(file)


def end(pid: int, what: str, *, force: bool, timeout_s: float) -> None:
    """Ends a process, and waits for it.

    Args:
        pid: which.
        what: what it is, for messages.
        force: kill it.
        timeout_s: seconds to wait.

    Raises:
        CloacinaError: it is another user's, or does not end.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL if force else signal.SIGTERM)
        if not select.select([process], [], [], timeout_s)[0]:
            raise Conflict(f"{what} (pid {pid}) has not ended within {timeout_s:g} s; it drains, or use --force")
    except PermissionError:
        raise CloacinaError(f"{what} (pid {pid}) is another user's") from None
    finally:
        os.close(process)
