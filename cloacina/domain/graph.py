"""The DAG of a workflow: its tasks, their order, and what makes a graph invalid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloacina.domain.retry import RetryPolicy
from cloacina.domain.rules import Rule, rule_from_wire, rule_to_wire, tasks_named_by
from cloacina.errors import InvalidRequest


class InvalidGraph(InvalidRequest):
    """A workflow whose tasks do not form a DAG; the message names every offending task."""

    default_code = "invalid_workflow"


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task as the engine sees it.

    Args:
        id: name, unique within the workflow.
        dependencies: ids of the tasks that must be terminal first, in the author's order (it is the merge order).
        retry: what happens after a failed attempt.
        timeout_s: seconds one attempt may run; ``None`` for no limit.
        rule: the author's explicit trigger rule; ``None`` for the default (see ``execution.py``).
        workflow: name of the workflow that this task executes in place of code of its own; ``None`` for code.
        for_each: key of a list in the task's context: it runs once for each element; ``None`` for once.
    """

    id: str
    dependencies: tuple[str, ...] = ()
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_s: float | None = None
    rule: Rule | None = None
    workflow: str | None = None
    for_each: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """The JSON form, the inverse of `from_wire`."""
        return {
            "id": self.id,
            "dependencies": list(self.dependencies),
            "retry": self.retry.to_wire(),
            "timeout_s": self.timeout_s,
            "trigger_rule": None if self.rule is None else rule_to_wire(self.rule),
            "workflow": self.workflow,
            "for_each": self.for_each,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> TaskSpec:
        """Reads the JSON form; keys it does not know (documentation of the task, say) are ignored.

        Raises:
            InvalidGraph: a value is malformed; the message names task and key.
        """
        name = wire.get("id")
        if not isinstance(name, str) or not name:
            raise InvalidGraph(f"a task's 'id' must be a non-empty string, not {name!r}")
        timeout = wire.get("timeout_s")
        seconds = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if timeout is not None and (not seconds or not 0 < timeout < float("inf")):
            raise InvalidGraph(f"task {name!r}: 'timeout_s' must be a number of seconds above 0, not {timeout!r}")
        dependencies = wire.get("dependencies") or ()
        if not isinstance(dependencies, list | tuple) or not all(isinstance(each, str) for each in dependencies):
            raise InvalidGraph(f"task {name!r}: 'dependencies' must be a list of task ids, not {dependencies!r}")
        retry = wire.get("retry") or {}
        if not isinstance(retry, Mapping):
            raise InvalidGraph(f"task {name!r}: 'retry' must be an object, not {retry!r}")
        for key in ("workflow", "for_each"):
            value = wire.get(key)
            if value is not None and (not isinstance(value, str) or not value):
                raise InvalidGraph(f"task {name!r}: {key!r} must be a non-empty string, not {value!r}")
        rule = wire.get("trigger_rule")
        try:
            return cls(
                id=name,
                dependencies=tuple(dependencies),
                retry=RetryPolicy.from_wire(retry),
                timeout_s=None if timeout is None else float(timeout),
                rule=None if rule is None else rule_from_wire(rule),
                workflow=wire.get("workflow"),
                for_each=wire.get("for_each"),
            )
        except ValueError as error:
            raise InvalidGraph(f"task {name!r}: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class WorkflowSpec:
    """A validated DAG. Make one with `create`; the derived fields are computed once, here.

    Args:
        name: the workflow's name.
        tasks: by id, in topological order (ties keep the author's order).
        dependents: for each task, the tasks that depend on it, in topological order.
    """

    name: str
    tasks: Mapping[str, TaskSpec]
    dependents: Mapping[str, tuple[str, ...]]

    @classmethod
    def create(cls, name: str, tasks: Iterable[TaskSpec]) -> WorkflowSpec:
        """Validates and orders the tasks.

        Raises:
            InvalidGraph: no tasks, duplicate ids, unknown or repeated dependencies, rules about tasks that are not
                dependencies, or cycles; the message names each.
        """
        listed = list(tasks)
        by_id = _unique(name, listed)
        _check_references(name, by_id)
        order = _topological(name, by_id)
        dependents: dict[str, list[str]] = {task: [] for task in order}
        for task in order:
            for dependency in by_id[task].dependencies:
                dependents[dependency].append(task)
        return cls(
            name=name,
            tasks={task: by_id[task] for task in order},
            dependents={task: tuple(after) for task, after in dependents.items()},
        )

    def task_of(self, name: str) -> TaskSpec:
        """The task that a name stands for: a task's own id, or that of an instance of it (``resize[3]``)."""
        found = self.tasks.get(name)
        return self.tasks[parent_of(name)] if found is None else found

    @property
    def roots(self) -> tuple[str, ...]:
        """The tasks with no dependencies."""
        return tuple(task for task, spec in self.tasks.items() if not spec.dependencies)

    def to_wire(self) -> dict[str, Any]:
        """The JSON form, the inverse of `from_wire`."""
        return {"name": self.name, "tasks": [task.to_wire() for task in self.tasks.values()]}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> WorkflowSpec:
        """Reads and validates the JSON form.

        Raises:
            InvalidGraph: see `create` and `TaskSpec.from_wire`.
        """
        return cls.create(str(wire["name"]), [TaskSpec.from_wire(task) for task in wire["tasks"]])


def instance_name(task: str, index: int) -> str:
    """The name of one instance of a task that runs for each element of a list."""
    return f"{task}[{index}]"


def parent_of(name: str) -> str:
    """The task that an instance's name belongs to; the name itself if it is no instance's."""
    return _INSTANCE.sub("", name)


_INSTANCE = re.compile(r"\[\d+\]\Z")


def _unique(name: str, tasks: list[TaskSpec]) -> dict[str, TaskSpec]:
    if not tasks:
        raise InvalidGraph(f"workflow {name!r} has no tasks; it needs at least one")
    by_id: dict[str, TaskSpec] = {}
    duplicates = []
    for task in tasks:
        if task.id in by_id:
            duplicates.append(task.id)
        by_id[task.id] = task
    confusing = [task for task in by_id if _INSTANCE.search(task)]
    if confusing:
        raise InvalidGraph(f"workflow {name!r}: a task id must not end like an instance's: {_names(confusing)}")
    if duplicates:
        raise InvalidGraph(f"workflow {name!r} defines these task ids more than once: {_names(duplicates)}")
    return by_id


def _check_references(name: str, by_id: Mapping[str, TaskSpec]) -> None:
    problems: list[str] = []
    for task in by_id.values():
        missing = [dependency for dependency in task.dependencies if dependency not in by_id]
        if missing:
            problems.append(f"task {task.id!r} depends on tasks that do not exist: {_names(missing)}")
        repeated = [each for each, times in Counter(task.dependencies).items() if times > 1]
        if repeated:
            problems.append(f"task {task.id!r} lists a dependency twice: {_names(repeated)}")
        strangers = [] if task.rule is None else sorted(tasks_named_by(task.rule) - set(task.dependencies))
        if strangers:
            problems.append(
                f"the trigger rule of task {task.id!r} names tasks it does not depend on: {_names(strangers)}; "
                "add them to its dependencies"
            )
    if problems:
        raise InvalidGraph(f"workflow {name!r}: " + "; ".join(problems))


def _topological(name: str, by_id: Mapping[str, TaskSpec]) -> list[str]:
    waiting = {task: len(spec.dependencies) for task, spec in by_id.items()}
    dependents: dict[str, list[str]] = {task: [] for task in by_id}
    for task, spec in by_id.items():
        for dependency in spec.dependencies:
            dependents[dependency].append(task)
    order = [task for task, count in waiting.items() if count == 0]
    for task in order:  # grows while it is walked
        for dependent in dependents[task]:
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                order.append(dependent)
    if len(order) < len(by_id):
        raise InvalidGraph(f"workflow {name!r} has a dependency cycle: {_cycle(by_id, set(order))}")
    return order


def _cycle(by_id: Mapping[str, TaskSpec], done: set[str]) -> str:
    """One cycle among the tasks that could not be ordered, written as the arrows of a path."""
    task = next(task for task in by_id if task not in done)
    path: list[str] = []
    while task not in path:
        path.append(task)
        task = next(dependency for dependency in by_id[task].dependencies if dependency not in done)
    loop = [*path[path.index(task) :], task]
    return " -> ".join(repr(member) for member in loop)


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
