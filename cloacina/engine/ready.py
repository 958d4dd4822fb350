"""The queue of ready tasks: by priority within a tenant, then those of the oldest execution; tenants in turn.

What was begun is ended before more is begun: executions end as soon as they can, few are under way at once, and a task
that another one made ready is claimed in the same commit, as long as its execution is among the oldest.
What may not be claimed now stays where it is: its lane is passed over, however much it holds.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

_Entry = tuple[int, int, str, int, str]
"""Negated priority, creation of the execution, its id, number of arrival, task."""


class Lane(NamedTuple):
    """Ready tasks of one tenant that the same limits hold back.

    Args:
        tenant_id: whose.
        workflow_name: of a workflow with a limit on its tasks; empty for all others.
        most: that limit; 0 for none.
    """

    tenant_id: str
    workflow_name: str = ""
    most: int = 0


Allows = Callable[[Lane], bool]
"""Whether a task of a lane may be claimed now."""


class ReadyQueue:
    """Ready tasks that wait for a slot.

    A tenant with a long queue takes one turn like any other, so it delays another tenant's task by at most one task
    a slot, whatever priority it gives its own. Entries may be stale (cancelled, paused): whoever takes one checks the
    execution.
    """

    def __init__(self) -> None:
        self._queues: dict[str, dict[Lane, list[_Entry]]] = {}
        self._turns: deque[str] = deque()
        self._arrivals = itertools.count()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, lane: Lane, execution_id: str, task: str, *, created_at: int, priority: int = 0) -> None:
        """Adds a task.

        Args:
            lane: which limits it is under.
            execution_id, task: which.
            created_at: when the execution was created, in microseconds since the epoch.
            priority: tasks of the tenant with a higher one are taken before it.
        """
        lanes = self._queues.get(lane.tenant_id)
        if lanes is None:
            lanes = self._queues[lane.tenant_id] = {}
            self._turns.append(lane.tenant_id)
        entry = (-priority, created_at, execution_id, next(self._arrivals), task)
        heapq.heappush(lanes.setdefault(lane, []), entry)
        self._size += 1

    def pop(self, allows: Allows) -> tuple[str, str] | None:
        """Takes (execution id, task) of the first tenant in turn that may claim one.

        Args:
            allows: asked of lanes that hold something.

        Returns:
            ``None`` when nothing may be claimed.
        """
        for _ in range(len(self._turns)):
            tenant_id = self._turns[0]
            lanes = self._queues[tenant_id]
            lane = _first(lanes, allows)
            if lane is not None:
                return self._take(tenant_id, lanes, lane)
            self._turns.rotate(-1)
        return None

    def _take(self, tenant_id: str, lanes: dict[Lane, list[_Entry]], lane: Lane) -> tuple[str, str]:
        _, _, execution_id, _, task = heapq.heappop(lanes[lane])
        self._size -= 1
        if not lanes[lane]:
            del lanes[lane]
        if lanes:
            self._turns.rotate(-1)
        else:
            self._turns.popleft()
            del self._queues[tenant_id]
        return execution_id, task

    def of_tenant(self, tenant_id: str) -> bool:
        """Whether a task of a tenant waits."""
        return tenant_id in self._queues

    def count(self, allows: Allows) -> int:
        """How many wait in lanes of which one may be claimed."""
        lanes = itertools.chain.from_iterable(queue.items() for queue in self._queues.values())
        return sum(len(entries) for lane, entries in lanes if allows(lane))


def _first(lanes: dict[Lane, list[_Entry]], allows: Allows) -> Lane | None:
    """Of the lanes that may go on, the one whose first task is first."""
    found: Lane | None = None
    for lane, entries in lanes.items():
        if (found is None or entries[0] < lanes[found][0]) and allows(lane):
            found = lane
    return found
