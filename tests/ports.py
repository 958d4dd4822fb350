"""Ports for the servers of the tests: no two test processes of a machine are ever given the same one."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FIRST, _LAST = 10_000, 32_000  # below the range from which Linux gives clients theirs
_BLOCK = 50
_HELD: list[int] = []  # the locks' file descriptors: as long as this process lives


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens, and which stay this process's own until it ends.

    A port found free by trying it may be another's a moment later. So a process takes blocks of ports,
    each under a lock that the operating system releases with the process.

    Args:
        count: how many.

    Raises:
        RuntimeError: every block is taken.
    """
    return [next(_PORTS) for _ in range(count)]


def _ports() -> Iterator[int]:
    folder = Path(tempfile.gettempdir()) / f"cloacina-test-ports-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    blocks = range(_FIRST, _LAST, _BLOCK)
    for turn in range(len(blocks)):
        block = blocks[(os.getpid() + turn) % len(blocks)]
        if _take(folder / str(block)):
            yield from (port for port in range(block, block + _BLOCK) if _is_free(port))
    raise RuntimeError(f"every port between {_FIRST} and {_LAST} is taken; end the test processes that still run")


def _take(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _HELD.append(descriptor)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_PORTS = _ports()
