"""Reading the log files of this machine for clients: off the event loop, a few at a time, one tenant's lines only."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from cloacina.telemetry.log_files import Page, Position, Search, read_page

_READERS = 2
_FAMILY = "cloacina-server"
_CHANGING = frozenset(("POST", "PUT", "PATCH", "DELETE"))
_BEGINNING = "/execute"


class LogReader:
    """Reads pages of lines.

    Args:
        home: the home folder of the services; the files are in its ``logs``.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "logs"
        self._readers = asyncio.Semaphore(_READERS)
        self.host = socket.gethostname()

    async def read(self, search: Search, tenant_id: str | None, cursor: str, limit: int) -> Page:
        """A page of lines.

        Args:
            search: what is looked for.
            tenant_id: whose lines; ``None`` for those of every tenant.
            cursor: where to begin; empty for the beginning.
            limit: lines at most.

        Raises:
            InvalidRequest: the cursor is none.
        """
        start = Position.parse(cursor) if cursor else None
        if tenant_id is not None:
            accept = search.accept
            search = replace(search, accept=lambda line: line.get("tenant_id") == tenant_id and accept(line))
        async with self._readers:
            return await asyncio.to_thread(read_page, self._folder, _FAMILY, search, start, limit=limit)


def changes_an_execution(line: Mapping[str, Any]) -> bool:
    """Whether a line of the gateway is kept with its execution: that somebody cancelled it, say; not that somebody
    looked at it, nor that it was asked for, which its first event tells."""
    return line.get("method") in _CHANGING and not str(line.get("route")).endswith(_BEGINNING)


def as_json(lines: Iterable[bytes]) -> list[Any]:
    """Lines for an answer: they are JSON already."""
    return [orjson.Fragment(line) for line in lines]
