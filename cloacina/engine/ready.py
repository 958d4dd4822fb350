"""The queue of ready tasks: first in first out within a tenant, tenants in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator


class ReadyQueue:
    """Ready tasks that wait for a slot.

    A tenant with a long queue takes one turn like any other, so it delays another tenant's task by at most one task
    a slot. Entries may be stale (cancelled, paused): whoever takes one checks the execution.
    """

    def __init__(self) -> None:
        self._queues: dict[str, deque[tuple[str, str]]] = {}
        self._turns: deque[str] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, tenant_id: str, execution_id: str, task: str) -> None:
        """Adds a task at the end of its tenant's queue."""
        queue = self._queues.get(tenant_id)
        if queue is None:
            queue = self._queues[tenant_id] = deque()
            self._turns.append(tenant_id)
        queue.append((execution_id, task))
        self._size += 1

    def pop(self) -> tuple[str, str] | None:
        """Takes (execution id, task) of the tenant whose turn it is; ``None`` when empty."""
        if not self._turns:
            return None
        tenant = self._turns[0]
        queue = self._queues[tenant]
        entry = queue.popleft()
        self._size -= 1
        if queue:
            self._turns.rotate(-1)
        else:
            self._turns.popleft()
            del self._queues[tenant]
        return entry

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for tenant in self._turns:
            yield from self._queues[tenant]
