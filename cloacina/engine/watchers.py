"""Who waits for the next committed event of an execution."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Watchers:
    """Wakes those who follow executions. It carries no events: they are read from the store, so a slow follower costs
    no memory and misses nothing.
    """

    def __init__(self) -> None:
        self._watching: dict[str, set[asyncio.Event]] = {}
        self.closed = False

    def __len__(self) -> int:
        return sum(len(events) for events in self._watching.values())

    @contextmanager
    def watch(self, execution_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something of the execution was committed, and once by `close`."""
        changed = asyncio.Event()
        if self.closed:
            changed.set()
        self._watching.setdefault(execution_id, set()).add(changed)
        try:
            yield changed
        finally:
            watching = self._watching[execution_id]
            watching.discard(changed)
            if not watching:
                del self._watching[execution_id]

    def wake(self, execution_ids: Iterable[str]) -> None:
        """Events of these executions were committed."""
        if not self._watching:
            return
        for execution_id in execution_ids:
            for changed in self._watching.get(execution_id, ()):
                changed.set()

    def wake_all(self) -> None:
        """It is not known what was committed."""
        for watching in self._watching.values():
            for changed in watching:
                changed.set()

    def close(self) -> None:
        """Nothing further will be committed here."""
        self.closed = True
        self.wake_all()
