"""The text files of an archive, for people to read. Nothing is written, and the archive is trusted no more than when it
came.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloacina.packages.archive import entries_of

MAX_FILE_BYTES = 1024 * 1024
"""Files larger than this are left out."""

MAX_TOTAL_BYTES = 8 * 1024 * 1024
"""Bytes of all files together; what comes after them in the archive is left out."""

MAX_FILES = 2000


@dataclass(frozen=True, slots=True)
class Source:
    """What can be shown of an archive.

    Args:
        files: path, relative to the package's root, and contents; sorted by path.
        omitted: files that are left out: too large, no UTF-8 text, vendored, or beyond the limits of all together.
    """

    files: tuple[tuple[str, str], ...]
    omitted: int


def read_source(archive: Path) -> Source:
    """Reads the text files of an archive. ``vendor/`` is left out: that is others' code.

    Args:
        archive: the file.

    Raises:
        PackageRefused: the archive breaks a rule, which none that was accepted does.
    """
    files: dict[str, str] = {}
    omitted = total = 0
    for path, size, read in entries_of(archive):
        fits = size <= MAX_FILE_BYTES and total + size <= MAX_TOTAL_BYTES and len(files) < MAX_FILES
        text = _text(read()) if fits and not path.startswith("vendor/") else None
        if text is None:
            omitted += 1
        else:
            files[path] = text
            total += size
    return Source(tuple(sorted(files.items())), omitted)


def _text(data: bytes) -> str | None:
    """The text; ``None`` when it is none."""
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
