"""The queue of ready tasks: by priority within a tenant, then first in first out; tenants in turn."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator

_Entry = tuple[int, int, str, str]
"""Negated priority, number of arrival, execution id, task."""


class ReadyQueue:
    """Ready tasks that wait for a slot.

    A tenant with a long queue takes one turn like any other, so it delays another tenant's task by at most one task
    a slot, whatever priority it gives its own. Entries may be stale (cancelled, paused): whoever takes one checks the
    execution.
    """

    def __init__(self) -> None:
        self._queues: dict[str, list[_Entry]] = {}
        self._turns: deque[str] = deque()
        self._arrivals = itertools.count()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, tenant_id: str, execution_id: str, task: str, priority: int = 0) -> None:
        """Adds a task behind those of its tenant that have its priority or a higher one."""
        queue = self._queues.get(tenant_id)
        if queue is None:
            queue = self._queues[tenant_id] = []
            self._turns.append(tenant_id)
        heapq.heappush(queue, (-priority, next(self._arrivals), execution_id, task))
        self._size += 1

    def pop(self) -> tuple[str, str] | None:
        """Takes (execution id, task) of the tenant whose turn it is; ``None`` when empty."""
        if not self._turns:
            return None
        tenant = self._turns[0]
        queue = self._queues[tenant]
        _, _, execution_id, task = heapq.heappop(queue)
        self._size -= 1
        if queue:
            self._turns.rotate(-1)
        else:
            self._turns.popleft()
            del self._queues[tenant]
        return execution_id, task

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for tenant in self._turns:
            for _, _, execution_id, task in sorted(self._queues[tenant]):
                yield execution_id, task
