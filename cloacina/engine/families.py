"""Executions started by tasks of other executions: which child belongs to which task, and what has to be done for them.

A task that executes a workflow is claimed by the engine itself. Its child is created in the transaction that claims it,
and its result is reported in the transaction that ends the child: whichever of the two exists, the other one does.
"""

from __future__ import annotations

from collections.abc import Iterable

from cloacina.engine.model import Live, Parent

CLAIMANT = "scheduler"
"""Who holds the claims of tasks that execute a workflow."""

MAX_DEPTH = 16
"""Executions that may be above one another. A workflow that executes itself would go on for ever."""


class Families:
    """Parents and children among the unfinished executions, and what is to be done in the group being decided."""

    def __init__(self) -> None:
        self._children: dict[tuple[str, str], str] = {}
        self._of: dict[str, set[str]] = {}
        self.due: list[tuple[str, str]] = []
        """Tasks, (execution id, name), that are Ready to start their child."""

    def clear(self) -> None:
        """Forgets everything."""
        self._children.clear()
        self._of.clear()
        self.due.clear()

    def add(self, child: Live, parent: Parent) -> None:
        """A child exists."""
        self._children[parent.execution_id, parent.task] = child.execution_id
        self._of.setdefault(parent.execution_id, set()).add(child.execution_id)

    def remove(self, child: Live, parent: Parent) -> None:
        """A child has ended."""
        self._children.pop((parent.execution_id, parent.task), None)
        siblings = self._of.get(parent.execution_id)
        if siblings is not None:
            siblings.discard(child.execution_id)
            if not siblings:
                del self._of[parent.execution_id]

    def children(self, execution_id: str) -> list[str]:
        """The unfinished executions that tasks of this one started."""
        return sorted(self._of.get(execution_id, ()))

    def children_by_task(self, execution_id: str, tasks: Iterable[str]) -> dict[str, str]:
        """The same, by the task that started each."""
        if execution_id not in self._of:
            return {}
        found = ((task, self._children.get((execution_id, task))) for task in tasks)
        return {task: child for task, child in found if child is not None}

    def has_child(self, execution_id: str, task: str) -> bool:
        """Whether the task has an unfinished child."""
        return (execution_id, task) in self._children
