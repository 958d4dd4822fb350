"""``cloacinactl server backup|restore``: the data of a home folder, copied while it is in use, and put back.

SQLite's own backup gives each database as it is at one moment, without holding anyone up. The scheduler's comes first:
what an execution refers to (its package, its tenant) was there before it, so it is in what is copied later.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloacina import __version__
from cloacina.cli import process_file
from cloacina.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

DATABASES = ("scheduler.db", "registry.db", "identity.db", "cloacina.db", "secrets.db")
"""In the order of copying; the last is the daemon's."""

KEYS = ("bootstrap-key", "rpc-token", "config.toml")
"""Small files beside them."""

MANIFEST = "backup.json"
_PAGES = 1000
"""Pages that are copied at a time, between which writers go on."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_obj
def backup(invocation: Invocation, folder: Path) -> None:
    """Copies the databases and keys of the home into FOLDER, a new one. The server, or the daemon, goes on meanwhile.

    Data in PostgreSQL is copied with pg_dump: docs/operate.md says how. The key that encrypts secrets
    (CLOACINA_SECRET_KEK) is not in the home: keep it elsewhere.

    \b
    Example:
      cloacinactl server backup /backup/cloacina-$(date +%F)
    """
    invocation.printer.record(back_up(invocation.home, folder), key="folder")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replaces what is in the home; it is moved aside, not deleted.")
@click.pass_obj
def restore(invocation: Invocation, folder: Path, force: bool) -> None:
    """Puts the backup in FOLDER into the home. Nothing may run on the home.

    Executions go on from where they were when the backup was made; tasks that ran then are run again.

    \b
    Example:
      cloacinactl --home /var/lib/cloacina server restore /backup/cloacina-2026-04-02
    """
    invocation.printer.record(put_back(folder, invocation.home, force=force), key="home")


def back_up(home: Path, folder: Path) -> dict[str, Any]:
    """Copies a home's data.

    Args:
        home: the home folder; it may be in use.
        folder: where to; it appears whole or not at all.

    Returns:
        What the manifest says.

    Raises:
        Conflict: the folder is there already.
        InvalidRequest: there is nothing to copy, or it cannot be copied.
    """
    if folder.exists():
        raise Conflict(f"{folder} is there already; a backup is a new folder")
    present = [name for name in DATABASES if (home / name).exists()]
    if not present:
        raise InvalidRequest(
            f"{home} holds no database: with PostgreSQL the data is there, and is copied with pg_dump (docs/operate.md)"
        )
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True, mode=0o700)
        began = time.time()
        schemas = {name: _copy_database(home / name, part / name) for name in present}
        for name in KEYS:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(home / name, part / name)
                (part / name).chmod(0o600)
        files = {path.name: _digest(path) for path in sorted(part.iterdir())}
        manifest = {
            "version": __version__,
            "created_at": datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
            "home": str(home),
            "schemas": schemas,
            "files": files,
        }
        _write_durably(part / MANIFEST, json.dumps(manifest, indent=2).encode())
        part.rename(folder)
    except (OSError, sqlite3.Error) as error:
        raise InvalidRequest(f"{home} cannot be copied to {folder}: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {"folder": str(folder), **manifest, "files": sorted(files)}


def put_back(folder: Path, home: Path, *, force: bool = False) -> dict[str, Any]:
    """Puts a backup into a home.

    Args:
        folder: the backup.
        home: the home folder; made if it is not there.
        force: moves aside what is in the home.

    Raises:
        Conflict: something runs on the home, or is in it.
        InvalidRequest: the backup is not whole, or cannot be put there.
    """
    manifest = _verified(folder)
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _unused(home):
            moved = _clear(home, force=force)
            for name in manifest["files"]:
                part = home / f".{name}.part"
                shutil.copyfile(folder / name, part)
                part.chmod(0o600)
                part.replace(home / name)
            _sync(home)
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot be put into {home}: {error}") from None
    return {"home": str(home), "created_at": manifest["created_at"], "files": sorted(manifest["files"]), "moved": moved}


def _copy_database(source: Path, target: Path) -> int:
    """Copies a database as it is at one moment; returns the version of its schema."""
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as reading,
        contextlib.closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing, pages=_PAGES)
        writing.execute("PRAGMA journal_mode=DELETE")  # one file, whole in itself
        (state,) = writing.execute("PRAGMA quick_check").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(f"{source.name} is damaged: {state}")
        (version,) = writing.execute("PRAGMA user_version").fetchone()
    target.chmod(0o600)
    _sync(target)
    return int(version)


def _verified(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
        known = {*DATABASES, *KEYS}
        wrong = [name for name, digest in files.items() if name not in known or _digest(folder / name) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"{folder} is no backup that can be read: {error}") from None
    if wrong:
        raise InvalidRequest(f"{folder} is not as it was made: {', '.join(wrong)} was changed")
    return manifest


@contextlib.contextmanager
def _unused(home: Path) -> Iterator[None]:
    """Holds what the services hold, so that none runs now, or starts meanwhile."""
    pid = process_file.holder(home / process_file.SERVER)
    if pid is not None:
        raise Conflict(f"a server runs on {home} (pid {pid}); end it first: cloacinactl server stop")
    with contextlib.ExitStack() as stack:
        for name in DATABASES:
            lock = os.open(home / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"a process has {home / name} open; end it first") from None
        yield


def _clear(home: Path, *, force: bool) -> str | None:
    """Moves the data of a home aside; returns where to."""
    names = [f"{name}{end}" for name in DATABASES for end in ("", "-wal", "-shm")] + list(KEYS)
    present = [name for name in names if (home / name).exists()]
    if not any(name in DATABASES for name in present):
        present = [name for name in present if name not in KEYS or force]
        if not present:
            return None
    elif not force:
        raise Conflict(f"{home} has data already; --force moves it aside and puts the backup in its place")
    aside = home / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    aside.mkdir(mode=0o700)
    for name in present:
        (home / name).rename(aside / name)
    return str(aside)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
