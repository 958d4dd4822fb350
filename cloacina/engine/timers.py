"""Retries that wait for their time: one timer for all of them, set to the next one due."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

_LONGEST_SLEEP_S = 30.0
"""Due times are wall-clock times. The timer never sleeps longer than this, so that a step of the clock is noticed."""


class DueTimers:
    """Calls `fire(execution_id, task)` once the time of each entry has come.

    Args:
        now: the wall clock, microseconds since the epoch.
        fire: called from the event loop.
    """

    def __init__(self, now: Callable[[], int], fire: Callable[[str, str], None]) -> None:
        self._now = now
        self._fire = fire
        self._heap: list[tuple[int, str, str]] = []
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due: int, execution_id: str, task: str) -> None:
        """Fires (execution_id, task) at `due`, microseconds since the epoch."""
        heapq.heappush(self._heap, (due, execution_id, task))
        if self._heap[0][0] == due:
            self._arm()

    def clear(self) -> None:
        """Forgets everything."""
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        delay = max(0.0, (self._heap[0][0] - self._now()) / 1e6)
        self._handle = asyncio.get_running_loop().call_later(min(delay, _LONGEST_SLEEP_S), self._ring)

    def _ring(self) -> None:
        self._handle = None
        now = self._now()
        while self._heap and self._heap[0][0] <= now:
            _, execution_id, task = heapq.heappop(self._heap)
            self._fire(execution_id, task)
        if self._heap:
            self._arm()
