"""Who follows executions: what was committed is handed to them from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from cloacina.store.executions import EventRow


class Watch:
    """What one follower has not taken yet, of one execution.

    It is a copy of the end of what is stored. Where it may not be whole (at first, for a follower that falls behind,
    after a commit that failed), the follower reads the store.

    Args:
        most: events that are kept for it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: list[EventRow] = []
        self._whole = False
        self._changed = asyncio.Event()

    def tell(self, event: EventRow) -> None:
        """An event was committed."""
        if len(self._events) < self._most:
            self._events.append(event)
            self._changed.set()
        else:
            self.doubt()

    def doubt(self) -> None:
        """It is not known what was committed."""
        self._events.clear()
        self._whole = False
        self._changed.set()

    def take(self, position: int) -> Sequence[EventRow] | None:
        """What was committed since the last call.

        Args:
            position: the sequence number up to which the follower has the events.

        Returns:
            The events after the position; ``None`` when they are to be read from the store. What is committed while
            that is done comes with the next call.
        """
        taken, self._events = self._events, []
        self._changed.clear()
        events = [event for event in taken if event.sequence > position]
        if self._whole and (not events or events[0].sequence == position + 1):
            return events
        self._whole = True
        return None

    async def changed(self) -> None:
        """Returns once there is something to take, or to read."""
        await self._changed.wait()


class Watchers:
    """The followers of all executions of an engine."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self.closed = False

    def __len__(self) -> int:
        return sum(len(watches) for watches in self._watches.values())

    @contextmanager
    def watch(self, execution_id: str, most: int) -> Iterator[Watch]:
        """What is told of an execution, as long as the block lasts.

        Args:
            execution_id: which.
            most: events that are kept until they are taken; a follower who falls behind further reads the store.
        """
        watch = Watch(most)
        if self.closed:
            watch.doubt()
        self._watches.setdefault(execution_id, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[execution_id]
            watches.discard(watch)
            if not watches:
                del self._watches[execution_id]

    def tell(self, events: Iterable[EventRow]) -> None:
        """These events were committed, in this order."""
        if not self._watches:
            return
        for event in events:
            for watch in self._watches.get(event.execution_id, ()):
                watch.tell(event)

    def doubt(self) -> None:
        """It is not known what was committed."""
        for watches in self._watches.values():
            for watch in watches:
                watch.doubt()

    def close(self) -> None:
        """Nothing further will be committed here."""
        self.closed = True
        self.doubt()
