"""How much of one workflow, and of one tenant, runs at once.

An execution over its workflow's limit stays Pending until another ends. A task over a limit stays Ready, where it is in
the queue, until another task of what it is limited by ends. What is started by a task of another execution is never
held back: its parent would wait for ever for what waits for it.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict

from cloacina.domain.explanation import counted
from cloacina.engine.model import Live
from cloacina.engine.ready import Lane

_Group = tuple[str, str]
"""A tenant and a workflow of it, or a tenant and ``""`` for all it has."""


class Limits:
    """Counts what runs, and holds executions that must wait.

    Args:
        tenant_tasks: tasks of one tenant that may run at once; 0 for no limit.
    """

    def __init__(self, tenant_tasks: int) -> None:
        self._tenant_tasks = tenant_tasks
        self._executions: Counter[_Group] = Counter()
        self._tasks: Counter[_Group] = Counter()
        self._pending: dict[_Group, list[tuple[int, int, str]]] = defaultdict(list)

    def clear(self) -> None:
        """Forgets everything."""
        self._executions.clear()
        self._tasks.clear()
        self._pending.clear()

    @property
    def waiting(self) -> int:
        """Executions that a limit holds back."""
        return sum(len(queue) for queue in self._pending.values())

    # Executions

    def admits(self, live: Live) -> bool:
        """Whether the execution may start now."""
        most = live.definition.max_executions
        return not most or live.parent is not None or self._executions[_group(live)] < most

    def execution_started(self, live: Live) -> None:
        """It runs from now on."""
        if live.parent is None:
            self._executions[_group(live)] += 1

    def execution_ended(self, live: Live) -> None:
        """It ended."""
        if live.parent is None:
            self._executions[_group(live)] -= 1

    def hold(self, live: Live) -> None:
        """It waits until it is admitted: by priority, then by age."""
        heapq.heappush(self._pending[_group(live)], (-live.priority, live.created_at, live.execution_id))

    def next_held(self, live: Live) -> str | None:
        """Takes the id of the execution that has waited longest where `live` ended; ``None`` when none waits."""
        queue = self._pending.get(_group(live))
        return heapq.heappop(queue)[2] if queue else None

    def of_execution(self, live: Live) -> str:
        """In words, the limit that keeps the execution from starting; empty for none."""
        if self.admits(live):
            return ""
        most = live.definition.max_executions
        return f"no more than {counted(most, 'execution')} of {live.workflow_name} may run at once"

    def of_task(self, live: Live) -> str:
        """In words, the limit that keeps a further task of it from being claimed; empty for none."""
        if self.of_workflow_tasks(live):
            most = live.definition.max_tasks
            return f"no more than {counted(most, 'task')} of {live.workflow_name} may run at once"
        if self._of_tenant(live.tenant_id):
            return f"no more than {counted(self._tenant_tasks, 'task')} of the tenant {live.tenant_id} may run at once"
        return ""

    def of_workflow_tasks(self, live: Live) -> bool:
        """Whether it is the workflow's own limit that keeps a further task of it from being claimed."""
        return self._of_workflow(lane_of(live))

    # Tasks

    def task_started(self, live: Live) -> None:
        """A task of it holds a slot from now on."""
        self._tasks[_group(live)] += 1
        self._tasks[live.tenant_id, ""] += 1

    def task_ended(self, live: Live) -> None:
        """A task of it holds no slot any more."""
        self._tasks[_group(live)] -= 1
        self._tasks[live.tenant_id, ""] -= 1

    def allow(self, lane: Lane) -> bool:
        """Whether a further task of the lane may be claimed."""
        return not (self._of_workflow(lane) or self._of_tenant(lane.tenant_id))

    def _of_workflow(self, lane: Lane) -> bool:
        return lane.most > 0 and self._tasks[lane.tenant_id, lane.workflow_name] >= lane.most

    def _of_tenant(self, tenant_id: str) -> bool:
        return self._tenant_tasks > 0 and self._tasks[tenant_id, ""] >= self._tenant_tasks


def lane_of(live: Live) -> Lane:
    """Where its ready tasks wait."""
    most = live.definition.max_tasks
    return Lane(live.tenant_id, live.workflow_name, most) if most else Lane(live.tenant_id)


def _group(live: Live) -> _Group:
    return live.tenant_id, live.workflow_name
