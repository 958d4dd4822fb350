"""Where tasks, triggers and declarations go while a module is imported or a builder is open.

A package's module registers its tasks by importing it: the loader opens a `Collector` around the import. A script opens
a ``WorkflowBuilder`` instead. Outside of both, a task belongs to nothing and is only a function.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloacina.authoring.task import TaskDefinition
    from cloacina.authoring.triggers import TriggerDefinition


@dataclass(slots=True)
class Collector:
    """What a package declares.

    Args:
        workflow_name: the workflow that bare tasks belong to.
        tasks: in the order they were declared.
        duplicates: ids declared more than once.
        triggers: its triggers.
        params: declared inputs, wire form.
        secrets: declared secrets.
        max_executions, max_tasks: how much of the workflow may run at once; 0 for no limit.
    """

    workflow_name: str
    tasks: dict[str, TaskDefinition] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)
    triggers: list[TriggerDefinition] = field(default_factory=list)
    params: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    max_executions: int = 0
    max_tasks: int = 0

    def add_task(self, task: TaskDefinition) -> None:
        """Adds a task, or the same one again; another one of the same id is noted in `duplicates`."""
        if self.tasks.get(task.id, task) is not task:
            self.duplicates.append(task.id)
        self.tasks[task.id] = task

    def manifest(self) -> dict[str, Any]:
        """What the registry keeps of it, as JSON values."""
        return {
            "workflow_name": self.workflow_name,
            "tasks": [task.to_wire() for task in self.tasks.values()],
            "triggers": [trigger.to_wire() for trigger in self.triggers],
            "params": self.params,
            "secrets": self.secrets,
            "max_executions": self.max_executions,
            "max_tasks": self.max_tasks,
        }


_collector: ContextVar[Collector | None] = ContextVar("cloacina_collector", default=None)


@contextmanager
def collecting(collector: Collector) -> Iterator[Collector]:
    """Everything declared inside the with-block goes to `collector`."""
    token = _collector.set(collector)
    try:
        yield collector
    finally:
        _collector.reset(token)


def register_task(task: TaskDefinition) -> None:
    """Hands a task to whoever collects."""
    collector = _collector.get()
    if collector is not None:
        collector.add_task(task)


def active_collector() -> Collector | None:
    """Who collects now."""
    return _collector.get()
