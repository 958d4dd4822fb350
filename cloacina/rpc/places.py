"""Where the processes of a service are: a list of targets, host names among them resolved to all their addresses."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

_RESOLVE_EVERY_S = 5.0
"""Seconds after which host names are looked up again: processes come and go behind them."""

_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """One process of a service.

    Args:
        address: its gRPC target, ``host:port``.
        host: the name it was found by, which its certificate is held against; empty where that is in the address.
    """

    address: str
    host: str = ""


class Places:
    """The processes of a service, as they come and go.

    Args:
        targets: ``host:port``, ``dns:///host:port``, several separated by commas. A host name stands for all addresses
            it resolves to.
    """

    def __init__(self, targets: str) -> None:
        self._targets = [target.strip() for target in targets.split(",") if target.strip()]
        self._known: dict[str, list[Place]] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def changes(self) -> bool:
        """Whether there is a name among them, so that the places may change."""
        return any(_name_of(target) is not None for target in self._targets)

    async def find(self) -> list[Place]:
        """All places now. A name that cannot be resolved keeps what it meant before."""
        found = await asyncio.gather(*(self._find(target) for target in self._targets))
        return list(dict.fromkeys(place for places in found for place in places))

    def follow(self, changed: Callable[[Sequence[Place]], None]) -> None:
        """Looks again every few seconds until `stop`, where names may change their meaning.

        Args:
            changed: called with all places whenever they are other than before.
        """
        if self.changes:
            self._task = asyncio.create_task(self._follow(changed), name="resolve names")

    async def stop(self) -> None:
        """Ends following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self, changed: Callable[[Sequence[Place]], None]) -> None:
        before: set[Place] | None = None
        while True:
            places = await self.find()
            if set(places) != before:
                before = set(places)
                changed(places)
            await asyncio.sleep(_RESOLVE_EVERY_S)

    async def _find(self, target: str) -> list[Place]:
        name = _name_of(target)
        if name is None:
            return [Place(target)]
        host, port = name
        with contextlib.suppress(OSError):  # a TimeoutError is one
            async with asyncio.timeout(_DEADLINE_S):
                loop = asyncio.get_running_loop()
                answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._known[target] = _places(host, port, [(family, str(where[0])) for family, *_, where in answers])
        return self._known.get(target) or [Place(f"{host}:{port}")]


def _places(host: str, port: int, answers: Sequence[tuple[int, str]]) -> list[Place]:
    """One family only: a process that listens on both would be found twice."""
    four = sorted({where for family, where in answers if family == socket.AF_INET})
    six = sorted({where for family, where in answers if family == socket.AF_INET6})
    return [Place(f"{where}:{port}", host) for where in four] or [Place(f"[{where}]:{port}", host) for where in six]


def _name_of(target: str) -> tuple[str, int] | None:
    """Host name and port of a target that has to be resolved; ``None`` for one that gRPC takes as it is."""
    host, _, port = target.removeprefix("dns:///").rpartition(":")
    if not host or not port.isdigit() or ":" in host:
        return None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host, int(port)
    return None
