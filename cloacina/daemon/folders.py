"""Watched folders: which package files are in them, and waking up when that changes.

The kernel tells of changes; they are acted on once a folder has been quiet for a moment. What the kernel does not tell
(network file systems, a folder that is made or mounted later) is found by a scan now and then.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from watchfiles import Change, awatch

log = logging.getLogger(__name__)

SUFFIX = ".cloacina"
"""What the name of a package file ends with."""

_PATIENCE = 4
"""A folder that is never quiet is looked at after so many times the quiet that is asked for."""


class Stamp(NamedTuple):
    """What tells one state of a file from another without reading it. Times are nanoseconds."""

    modified_ns: int
    changed_ns: int
    size: int
    inode: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a scan found.

    Args:
        files: package files.
        unreadable: folders that cannot be listed now, each with the reason; what is in them is not known.
    """

    files: dict[Path, Stamp] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)


def scan(folders: Sequence[Path]) -> Found:
    """Lists the package files in folders, not in those below them."""
    found = Found()
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                named = [entry for entry in entries if entry.name.endswith(SUFFIX) and not entry.name.startswith(".")]
        except OSError as error:
            found.unreadable[folder] = error.strerror or str(error)
            continue
        for entry in named:
            try:
                if entry.is_file():
                    status = entry.stat()
                    stamp = Stamp(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
                    found.files[Path(entry.path)] = stamp
            except OSError:  # it went between the listing and the look, which the next scan sees
                continue
    return found


class FolderWatch:
    """Wakes up whoever looks after the packages.

    Args:
        folders: what is watched.
        debounce_ms: milliseconds of quiet before a change is told.
        poll_interval_ms: milliseconds between scans without a change.
    """

    def __init__(self, folders: Sequence[Path], debounce_ms: int, poll_interval_ms: int) -> None:
        self._folders = tuple(folders)
        self._debounce_ms = debounce_ms
        self._poll_interval_s = poll_interval_ms / 1000
        self._changed = asyncio.Event()
        self._again = asyncio.Event()
        self._told = False

    def configure(self, folders: Sequence[Path], debounce_ms: int, poll_interval_ms: int) -> None:
        """Watches with other settings from now on, and looks at once."""
        self._folders = tuple(folders)
        self._debounce_ms = debounce_ms
        self._poll_interval_s = poll_interval_ms / 1000
        self._again.set()
        self._changed.set()

    async def changes(self) -> AsyncGenerator[bool, None]:
        """Yields when there is something to look at: True for a change, False for a scan that is due."""
        watching = asyncio.create_task(self._keep_watching(), name="watch folders")
        try:
            while True:
                try:
                    async with asyncio.timeout(self._poll_interval_s):
                        await self._changed.wait()
                    self._changed.clear()
                    yield True
                except TimeoutError:
                    self._again.set()  # a folder that was made anew, or mounted, is another one to the kernel
                    yield False
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _keep_watching(self) -> None:
        while True:
            there = _identities(self._folders)
            watching = asyncio.create_task(self._watch(sorted(there)))
            try:
                while True:
                    await self._again.wait()
                    self._again.clear()
                    if _identities(self._folders) != there or watching.done():
                        break
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, folders: Sequence[Path]) -> None:
        if not folders:
            return
        self._changed.set()  # what came before the kernel was asked; whoever waits looks when it has been
        try:
            async for _ in awatch(
                *folders,
                watch_filter=_is_package,
                debounce=self._debounce_ms * _PATIENCE,
                step=self._debounce_ms,
                recursive=False,
                ignore_permission_denied=True,
            ):
                self._changed.set()
        except (OSError, RuntimeError) as error:  # no more inotify watches, say
            level = logging.DEBUG if self._told else logging.WARNING
            self._told = True
            extra = {"error": str(error), "poll_interval_s": self._poll_interval_s}
            log.log(level, "folders cannot be watched; they are scanned now and then", extra=extra)


def _is_package(_: Change, path: str) -> bool:
    return path.endswith(SUFFIX)


def _identities(folders: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """The folders that are there, and what the kernel knows them by."""
    found = {}
    for folder in folders:
        try:
            status = folder.stat()
        except OSError:
            continue
        found[folder] = (status.st_dev, status.st_ino)
    return found
