"""Peers that install from PyPI, each in a virtual environment of its own, measured on the same machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Figure
from tests.postgres import running_postgres
from tests.system.running import free_ports, wait_until

_DEADLINE_S = 600


@dataclass(frozen=True)
class Peer:
    """A peer.

    Args:
        name: its name, and that of its program in this folder.
        requirements: what is installed for it.
        keeps: what it keeps its work in, "redis" or "postgresql".
    """

    name: str
    requirements: tuple[str, ...]
    keeps: str


PEERS = {
    peer.name: peer
    for peer in (
        Peer("celery", ("celery[redis]",), "redis"),
        Peer("dbos", ("dbos",), "postgresql"),
        Peer("procrastinate", ("procrastinate", "psycopg[binary]"), "postgresql"),
    )
}


def measure(peer: Peer, build: Path, rounds: int, scale: float) -> list[Figure]:
    """Runs a peer's program in its own environment; returns its figures.

    Args:
        peer: which.
        build: the folder that environments are made in, and kept.
        rounds: rounds of each figure.
        scale: 1 for the whole number of jobs; less for a look.
    """
    python = _environment(peer, build)
    program = Path(__file__).with_name(f"{peer.name}_program.py")
    with _server(peer) as url:
        ended = subprocess.run(
            [python, program, url, str(rounds), str(scale)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=_DEADLINE_S,
        )
    lines: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    subject = f"{peer.name} {lines.pop('version')} on {peer.keeps}"
    return [Figure(peer.name, subject, name, unit, tuple(values)) for name, (unit, values) in lines.items()]


def _environment(peer: Peer, build: Path) -> Path:
    folder = build / peer.name
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if not done.exists():
        print(f"  making an environment for {peer.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *peer.requirements], check=True, stderr=subprocess.DEVNULL)
        done.touch()
    return python


@contextmanager
def _server(peer: Peer) -> Iterator[str]:
    """The URL of what the peer keeps its work in; thrown away afterwards."""
    if peer.keeps == "postgresql":
        with running_postgres() as server:
            yield server.new_database()
        return
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is not installed (Debian and Ubuntu: sudo apt-get install redis-server)")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="cloacina-redis-") as folder:
        server = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--daemonize", "no"],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: _pongs(port), "the start of redis")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait(30)


def _pongs(port: int) -> bool:
    import socket

    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
