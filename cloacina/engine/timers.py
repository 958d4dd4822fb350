"""Retries that wait for their time: one timer for all of them, set to the next one due."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

_LONGEST_SLEEP_S = 30.0
"""Due times are wall-clock times. The timer never sleeps longer than this, so that a step of the clock is noticed."""


def _uptime() -> int:
    """Microseconds that never jump, and go on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


@dataclass(slots=True, eq=False)
class _Entry:
    execution_id: str
    task: str
    over: bool = False


class DueTimers:
    """Calls `fire(execution_id, task)` once the time of each entry has come: by the wall clock, or by the time that
    has passed since it was added, whichever is first. So a clock that is set back delays nothing.

    Args:
        now: the wall clock, microseconds since the epoch.
        fire: called from the event loop.
        uptime: microseconds that never jump.
    """

    def __init__(
        self, now: Callable[[], int], fire: Callable[[str, str], None], uptime: Callable[[], int] = _uptime
    ) -> None:
        self._now = now
        self._fire = fire
        self._uptime = uptime
        self._by_clock: list[tuple[int, int, _Entry]] = []
        self._by_uptime: list[tuple[int, int, _Entry]] = []
        self._added = itertools.count()
        self._size = 0
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self._size

    def add(self, due: int, execution_id: str, task: str) -> None:
        """Fires (execution_id, task) at `due`, microseconds since the epoch."""
        entry, number = _Entry(execution_id, task), next(self._added)
        heapq.heappush(self._by_clock, (due, number, entry))
        heapq.heappush(self._by_uptime, (self._uptime() + due - self._now(), number, entry))
        self._size += 1
        if entry in (self._by_clock[0][2], self._by_uptime[0][2]):
            self._arm()

    def clear(self) -> None:
        """Forgets everything."""
        self._by_clock.clear()
        self._by_uptime.clear()
        self._size = 0
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        wait = min(self._by_clock[0][0] - self._now(), self._by_uptime[0][0] - self._uptime())
        delay = min(max(0.0, wait / 1e6), _LONGEST_SLEEP_S)
        self._handle = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._handle = None
        self._fire_due(self._by_clock, self._now())
        self._fire_due(self._by_uptime, self._uptime())
        for heap in (self._by_clock, self._by_uptime):
            while heap and heap[0][2].over:
                heapq.heappop(heap)
        if self._size:
            self._arm()

    def _fire_due(self, heap: list[tuple[int, int, _Entry]], now: int) -> None:
        while heap and (heap[0][0] <= now or heap[0][2].over):
            entry = heapq.heappop(heap)[2]
            if not entry.over:
                entry.over = True
                self._size -= 1
                self._fire(entry.execution_id, entry.task)
