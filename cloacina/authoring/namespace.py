"""TaskNamespace: the full name of a task, ``tenant::package::workflow::task``; WorkflowContext: that of a workflow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskNamespace:
    """A task's full name; a parent has an empty task id."""

    tenant_id: str
    package_name: str
    workflow_id: str
    task_id: str

    @staticmethod
    def from_string(namespace_str: str) -> TaskNamespace:
        """Reads ``tenant::package::workflow::task``.

        Raises:
            ValueError: it has not four parts.
        """
        parts = namespace_str.split("::")
        if len(parts) != 4:
            raise ValueError(f"{namespace_str!r} is not tenant::package::workflow::task")
        return TaskNamespace(*parts)

    def parent(self) -> TaskNamespace:
        """The workflow it belongs to."""
        return TaskNamespace(self.tenant_id, self.package_name, self.workflow_id, "")

    def is_child_of(self, parent: TaskNamespace) -> bool:
        """Whether it belongs to that workflow."""
        return self.task_id != "" and self.parent() == parent

    def is_sibling_of(self, other: TaskNamespace) -> bool:
        """Whether both belong to one workflow."""
        return self != other and self.parent() == other.parent()

    def __str__(self) -> str:
        return "::".join((self.tenant_id, self.package_name, self.workflow_id, self.task_id))


@dataclass(frozen=True, slots=True)
class WorkflowContext:
    """The workflow that tasks belong to, by its full name."""

    tenant_id: str
    package_name: str
    workflow_id: str

    def task_namespace(self, task_id: str) -> TaskNamespace:
        """The full name of one of its tasks."""
        return TaskNamespace(self.tenant_id, self.package_name, self.workflow_id, task_id)

    def resolve_dependency(self, task_name: str) -> TaskNamespace:
        """The full name of the task that a dependency names."""
        return self.task_namespace(task_name)

    def workflow_namespace(self) -> TaskNamespace:
        """Its own full name, with an empty task id."""
        return self.task_namespace("")

    def contains_namespace(self, namespace: TaskNamespace) -> bool:
        """Whether that task is one of its own."""
        return namespace.parent() == self.workflow_namespace()

    def __str__(self) -> str:
        return "::".join((self.tenant_id, self.package_name, self.workflow_id))
