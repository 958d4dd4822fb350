"""Reading the daily log files back: the lines of one execution or request, page by page.

A line begins with its timestamp, so the files are an index by time: a few reads find where a time begins, and only what
was written between two times is looked at. Files are read in pieces that are searched as bytes; only lines that have
the id in them are parsed. A page ends after a number of lines or of bytes looked at, whichever comes first, so that
no page takes long, however large the files are. Everything here blocks: call it from a thread.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from cloacina.errors import InvalidRequest

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR")
"""Names of levels, the least first."""

_PIECE_BYTES = 1 << 20
_PAGE_BYTES = 64 << 20
_LONGEST_LINE_BYTES = 64 << 20
_NEAR_BYTES = 256 << 10
_DISORDER_S = 5.0
"""Seconds by which lines of several processes may stand in the wrong order."""

_HEAD = re.compile(rb'(?:^|\n)\{"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"')
_CURSOR = re.compile(r"(\d{4}-\d\d-\d\d)\.(\d{1,18})\Z")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the files: the day of a file and the bytes before it."""

    day: str
    offset: int

    def __str__(self) -> str:
        return f"{self.day}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that `str` gave.

        Raises:
            InvalidRequest: it gave none such.
        """
        try:
            found = _CURSOR.match(text)
            if found is not None and datetime.fromisoformat(found[1]):
                return cls(found[1], int(found[2]))
        except ValueError:
            pass
        raise InvalidRequest("cursor: not one of this list", code="invalid_pagination")


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines, oldest first.

    Args:
        lines: each as it is in the file, without its end.
        end: where the next page begins.
        complete: whether all that is there by now was looked at.
    """

    lines: list[bytes]
    end: Position
    complete: bool


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for.

    Args:
        name: of a field, such as ``execution_id``.
        value: of the field.
        accept: has the last word on a line that has it.
        level: the lowest level, one of `LEVELS`.
        since, until: seconds since the epoch between which lines were written; `until` ``None`` for now.
    """

    name: str
    value: str
    accept: Callable[[dict[str, Any]], bool] = field(default=lambda line: True)
    level: str = "TRACE"
    since: float = 0.0
    until: float | None = None

    def wants(self, line: dict[str, Any]) -> bool:
        """Whether a parsed line is one of those."""
        if line.get(self.name) != self.value:
            return False
        level = line.get("level")
        return level in LEVELS and LEVELS.index(level) >= LEVELS.index(self.level) and self.accept(line)


def read_page(
    folder: Path,
    family: str,
    search: Search,
    start: Position | None,
    *,
    limit: int,
    page_bytes: int = _PAGE_BYTES,
) -> Page:
    """Reads a page. Files that are not there, or cannot be read, have no lines.

    Args:
        folder: where the files are.
        family: "cloacina-server", say.
        search: what is looked for.
        start: where; ``None`` for the beginning.
        limit: lines on the page at most.
        page_bytes: bytes that are looked at, about.
    """
    needle = orjson.dumps({search.name: search.value})[1:-1]
    earliest = search.since - _DISORDER_S
    latest = (time.time() if search.until is None else search.until) + _DISORDER_S
    lines: list[bytes] = []
    place = start or Position(_day(earliest), 0)
    left = page_bytes
    for day in _days(max(place.day, _day(earliest)), _day(latest)):
        path = folder / f"{family}.{day}.log"
        at_start = start is None or day != start.day
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # the place stays where lines were: later ones may come there
        try:
            offset = _find_time(file, earliest) if at_start else _line_start(file, place.offset)
            for chunk_at, chunk in _whole_lines(file, offset):
                place = Position(day, chunk_at)
                first = _HEAD.match(chunk)
                if first is not None and _seconds(first[1]) > latest:
                    break
                for line_at, line in _lines_with(chunk, needle):
                    if len(lines) >= limit:
                        return Page(lines, Position(day, chunk_at + line_at), complete=False)
                    if search.wants(_parsed(line)):
                        lines.append(line)
                left -= len(chunk)
                place = Position(day, chunk_at + len(chunk))
                if left <= 0:
                    return Page(lines, place, complete=False)
            else:
                place = place if place.day == day else Position(day, offset)
        finally:
            os.close(file)
    return Page(lines, place, complete=True)


def _days(first: str, last: str) -> Iterator[str]:
    day, end = datetime.fromisoformat(first).date(), datetime.fromisoformat(last).date()
    while day <= end:
        yield day.isoformat()
        day += timedelta(days=1)


def _day(at: float) -> str:
    return datetime.fromtimestamp(max(at, 0.0), UTC).date().isoformat()


def _seconds(timestamp: bytes) -> float:
    return datetime.fromisoformat(timestamp.decode()).timestamp()


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError:  # torn when a disk was full
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _find_time(file: int, at: float) -> int:
    """The beginning of a line before which nothing was written after `at`, but for the disorder of processes."""
    low, high = 0, os.fstat(file).st_size
    while high - low > _NEAR_BYTES:
        middle = (low + high) // 2
        found = _HEAD.search(os.pread(file, _NEAR_BYTES, middle))
        if found is None:  # a very long line: look before it
            high = middle
        elif _seconds(found[1]) < at:
            low = middle + found.start() + (found[0][:1] == b"\n")
        else:
            high = middle
    return low


def _line_start(file: int, offset: int) -> int:
    """The offset, or the next beginning of a line when none begins there."""
    if offset == 0 or os.pread(file, 1, offset - 1) in (b"\n", b""):
        return offset
    end = os.pread(file, _PIECE_BYTES, offset).find(b"\n")
    return offset + end + 1 if end >= 0 else offset


def _whole_lines(file: int, offset: int) -> Iterator[tuple[int, bytes]]:
    """Pieces of a file that end where a line ends, with where they begin. A line that is being written is left out."""
    size = _PIECE_BYTES
    while piece := os.pread(file, size, offset):
        end = piece.rfind(b"\n") + 1
        if end:
            yield offset, piece[:end]
            offset, size = offset + end, _PIECE_BYTES
        elif len(piece) < size:
            return
        elif size >= _LONGEST_LINE_BYTES:  # no line of ours: pass over it
            offset += len(piece)
        else:
            size *= 2


def _lines_with(chunk: bytes, needle: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that have the needle in them, with where they begin."""
    found = chunk.find(needle)
    while found >= 0:
        begin = chunk.rfind(b"\n", 0, found) + 1
        end = chunk.index(b"\n", found)
        yield begin, chunk[begin:end]
        found = chunk.find(needle, end)
