"""A real PostgreSQL for tests: a throw-away cluster in a temporary folder, on a port of its own, with fsync on."""

from __future__ import annotations

import fcntl
import itertools
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ports import free_ports

_REMEDY = (
    "PostgreSQL's server programs (initdb, postgres) are not on this machine, and the tests of the PostgreSQL driver "
    "need them. Install them (Debian and Ubuntu: sudo apt-get install postgresql), or put the folder of initdb in PATH"
)
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
shared_buffers = 32MB
max_connections = 60
logging_collector = off
log_line_prefix = '%m [%p] %a '
"""
_SUPERUSER = "postgres"
_USER = "cloacina"
_GUARDIAN = 'read -r _; "$1" stop --pgdata "$2" --mode immediate; cd / && rm -rf "$3"'
"""Ends the cluster when its input does: with the test process, however that ends."""


class PostgresServer:
    """One cluster. PostgreSQL refuses to run as root: then it runs as `postgres` or `nobody`.

    Args:
        folder: where its files are; removed when it is discarded.
        programs: the folder of initdb, pg_ctl and psql.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder = folder
        self._programs = programs
        self._data = folder / "data"
        self._log = folder / "server.log"
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        self._numbers = itertools.count(1)
        self._guardian: subprocess.Popen[bytes] | None = None
        self.port = 0

    def create(self) -> None:
        """Makes the cluster and starts it."""
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        self._guardian = subprocess.Popen(
            ["sh", "-c", _GUARDIAN, "guardian", self._programs / "pg_ctl", self._data, self._folder],
            **self._identity(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._run(
            "initdb",
            *("--pgdata", str(self._data), f"--username={_SUPERUSER}", "--auth=trust"),
            *("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"),
        )
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION)
        self.port = free_ports(1)[0]
        self.start()
        self.query(f"CREATE ROLE {_USER} LOGIN")

    def start(self) -> None:
        """Starts it and waits until it takes connections."""
        self._control("start", "--log", str(self._log), "--options", f"-p {self.port}", "--timeout=60")

    def stop(self, mode: str = "fast") -> None:
        """Stops it: "fast" ends every connection, "immediate" is like a crash."""
        self._control("stop", "--mode", mode)

    def is_running(self) -> bool:
        """Whether it runs."""
        return (self._data / "postmaster.pid").exists()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside of the block it does nothing, and answers nobody."""
        first = psutil.Process(int((self._data / "postmaster.pid").read_text().splitlines()[0]))
        stopped = [first]
        first.suspend()  # first, so that it starts no more
        try:
            for process in first.children(recursive=True):
                process.suspend()
                stopped.append(process)
            yield
        finally:
            for process in stopped:
                process.resume()

    def discard(self) -> None:
        """Stops it and removes its files."""
        if self._guardian is not None:
            self._guardian.communicate(timeout=60)

    def url(self, database: str) -> str:
        """The URL of a database, for the ordinary user whom the product is to have: row-level security holds it."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def client(self, program: str, *arguments: str) -> str:
        """Runs a client program that came with it (pg_dump, say); returns what it printed."""
        done = subprocess.run([self._programs / program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def new_database(self) -> str:
        """Makes an empty database that an ordinary user owns; returns its URL."""
        name = f"test_{next(self._numbers)}"
        self.query(f"CREATE DATABASE {name} OWNER {_USER} TEMPLATE template0")
        return self.url(name)

    def query(self, sql: str, url: str | None = None) -> str:
        """What psql answers to a statement of the superuser: a line a row, columns divided by ``|``.

        Args:
            sql: the statement, which runs in a transaction of its own.
            url: the database, whoever its user is; the cluster's own when ``None``.
        """
        options = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1")
        return self._run(
            "psql", *options, "--dbname", superuser_url(url or self.url("postgres")), "--command", sql
        ).strip()

    def _identity(self) -> dict[str, Any]:
        """Whom its programs run as."""
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": ()}

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", *arguments, "--pgdata", str(self._data), "--wait", "--silent")

    def _run(self, program: str, *arguments: str) -> str:
        with tempfile.TemporaryFile("w+") as output:  # a file, because the server inherits it: no pipe to wait for
            ended = subprocess.run(
                [self._programs / program, *arguments],
                **self._identity(),
                cwd=self._folder,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=120,
            )
            output.seek(0)
            said = output.read()
        log = self._log.read_text(errors="replace")[-2000:] if ended.returncode and self._log.exists() else ""
        assert ended.returncode == 0, f"{program} {arguments[:1]} failed: {said}{log}"
        return said


def superuser_url(url: str) -> str:
    """The same database for the superuser, whom nothing holds."""
    return re.sub("//[^@]*@", f"//{_SUPERUSER}@", url)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A cluster that runs until the end of the block."""
    programs = find_programs()
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="cloacina-postgres-")), programs)
    try:
        server.create()
        yield server
    finally:
        server.discard()


def find_programs() -> Path:
    """The folder of PostgreSQL's server programs; as root on Debian they are installed if need be.

    Raises:
        RuntimeError: they are not here; the message says what to do.
    """
    found = _installed_programs()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        with (Path(tempfile.gettempdir()) / "cloacina-install-postgresql.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # test processes run side by side
            found = _installed_programs() or _install_programs()
    if found is None:
        raise RuntimeError(_REMEDY)
    return found


def _installed_programs() -> Path | None:
    folders = [str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)]
    if pg_config := shutil.which("pg_config"):
        asked = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(asked.stdout.strip())
    for folder in (*folders, *os.get_exec_path()):
        if folder and all(os.access(Path(folder) / program, os.X_OK) for program in ("initdb", "pg_ctl", "psql")):
            return Path(folder)
    return None


def _install_programs() -> Path | None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "postgresql"]):
        subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=False, timeout=600)
    return _installed_programs()


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", folder.parent.name))


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One cluster for all tests of this process; each takes a database of its own from it."""
    with running_postgres() as server:
        yield server
