"""Reading the log files of this machine for clients: off the event loop, a few at a time, one tenant's lines only."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from cloacina.telemetry.log_files import Page, Position, Search, read_page

_READERS = 2
_FAMILY = "cloacina-server"
_OURS = frozenset(("scheduler", "executor"))


class LogReader:
    """Reads pages of lines.

    Args:
        home: the home folder of the services; the files are in its ``logs``.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "logs"
        self._readers = asyncio.Semaphore(_READERS)
        self.host = socket.gethostname()

    async def read(self, search: Search, tenant_id: str | None, cursor: str | None, limit: int) -> Page:
        """A page of lines.

        Args:
            search: what is looked for.
            tenant_id: whose lines; ``None`` for those of every tenant.
            cursor: where to begin; ``None`` for the beginning.
            limit: lines at most.

        Raises:
            InvalidRequest: the cursor is none.
        """
        start = None if cursor is None else Position.parse(cursor)
        if tenant_id is not None:
            accept, proven = search.accept, search.name == "execution_id"
            search = replace(search, accept=lambda line: belongs_to(tenant_id, line, proven=proven) and accept(line))
        async with self._readers:
            return await asyncio.to_thread(read_page, self._folder, _FAMILY, search, start, limit=limit)


def belongs_to(tenant_id: str, line: dict[str, Any], *, proven: bool) -> bool:
    """Whether a line is the tenant's.

    Args:
        tenant_id: whose it must be.
        line: as it is in the file.
        proven: whether all lines looked for name an execution that is known to be the tenant's: then one without a
            tenant is too, if a service of ours wrote it of its own. Nothing from outside can make it do so.
    """
    named = line.get("tenant_id")
    if named is not None:
        return bool(named == tenant_id)
    return proven and line.get("service") in _OURS


def as_json(page: Page) -> list[Any]:
    """The lines for an answer: they are JSON already."""
    return [orjson.Fragment(line) for line in page.lines]
