"""Packages as they were extracted from watched folders, by digest (`cloacina.dispatch.artifacts.Artifacts`).

They stay when the file in the folder goes: an execution that runs keeps the code that it began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from cloacina.dispatch.artifacts import Artifact
from cloacina.errors import NotFound
from cloacina.packages import archive
from cloacina.packages.manifest import Manifest

log = logging.getLogger(__name__)


class ExtractedPackages:
    """The folder of them.

    Args:
        folder: one folder a digest.
        judge: looks at the signature of an archive before it is extracted; raises `PackageRefused`.
    """

    def __init__(self, folder: Path, judge: Callable[[Path], None]) -> None:
        self._folder = folder
        self._judge = judge

    async def start(self) -> None:
        """Makes the folder, and removes what an earlier process left half-way."""
        await asyncio.to_thread(self._tidy)

    async def get(self, digest: str) -> Artifact:
        """The package with this digest.

        Raises:
            NotFound: it was never extracted here, or somebody removed it.
            PackageRefused: somebody changed it.
        """
        return await asyncio.to_thread(self._read, digest)

    async def add(self, file: Path, digest: str) -> Path:
        """Verifies and extracts an archive.

        Args:
            file: the archive; it may change while it is read.
            digest: what it must have.

        Returns:
            The package root.

        Raises:
            PackageRefused: it cannot be accepted.
            OSError: it cannot be read, or there is no room.
        """
        return await asyncio.to_thread(self._extract, file, digest)

    async def keep_only(self, digests: Collection[str]) -> None:
        """Removes every other package."""
        await asyncio.to_thread(self._remove_others, frozenset(digests))

    def _read(self, digest: str) -> Artifact:
        root = self._folder / digest
        if not root.is_dir():
            raise NotFound(
                f"package {digest[:12]} is not in {self._folder} any more; put its file into a watched folder"
            )
        manifest = Manifest.read(root)
        return Artifact(root, manifest.workflow_name, manifest.entry_module)

    def _extract(self, file: Path, digest: str) -> Path:
        root = self._folder / digest
        copy = self._folder / f".{digest}.part"  # what is verified must be what is extracted: files in folders change
        try:
            with file.open("rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
            if digest_of(copy) != digest:
                raise OSError(f"{file} changed while it was read")
            self._judge(copy)
            if root.is_dir():
                return root
            return archive.extract(copy, root)
        finally:
            with contextlib.suppress(OSError):
                copy.unlink()

    def _tidy(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for entry in self._folder.iterdir():
            if entry.name.startswith("."):
                _remove(entry)

    def _remove_others(self, digests: frozenset[str]) -> None:
        for entry in self._folder.iterdir():
            if entry.name not in digests:
                _remove(entry)


def digest_of(file: Path) -> str:
    """SHA-256 of a file, hex.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _remove(entry: Path) -> None:
    with contextlib.suppress(OSError):
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
