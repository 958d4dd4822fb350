"""WorkflowBuilder and Workflow, and the declarations of a packaged workflow's inputs."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import CodeType, TracebackType
from typing import Any, TypeVar, get_origin

import orjson

from cloacina.authoring.registry import Collector, active_collector, collecting
from cloacina.authoring.task import TaskDefinition, declared_tasks, id_of
from cloacina.authoring.triggers import register_trigger

_Thing = TypeVar("_Thing")

_SCHEMAS: dict[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
}


class Workflow:
    """A validated DAG of tasks. Made by `WorkflowBuilder`.

    Args:
        name: its name.
        description: prose.
        tags: labels.
        tasks: by id.
        params: its declared inputs, as `workflow_params` declares them.

    Raises:
        ValueError: see `validate`.
    """

    def __init__(
        self,
        name: str,
        description: str,
        tags: dict[str, str],
        tasks: dict[str, TaskDefinition],
        params: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.name = name
        self.description = description
        self.tags = dict(tags)
        self.tasks = dict(tasks)
        self.params = tuple(params)
        self.validate()

    @property
    def version(self) -> str:
        """A hash of the tasks, their order and their code: the same content has the same version anywhere."""
        content = []
        for task in sorted(self.tasks.values(), key=lambda each: each.id):
            content.append([task.to_wire(), _code(getattr(task.function, "__code__", None))])
        return hashlib.sha256(orjson.dumps([self.name, content])).hexdigest()[:16]

    def validate(self) -> None:
        """Checks the DAG.

        Raises:
            ValueError: it has no tasks, a dependency that does not exist, or a cycle; the message names them.
        """
        if not self.tasks:
            raise ValueError(f"Workflow validation failed: workflow {self.name!r} has no tasks; it cannot be empty")
        for task in self.tasks.values():
            missing = [name for name in task.dependencies if name not in self.tasks]
            if missing:
                raise ValueError(
                    f"Workflow validation failed: task {task.id!r} depends on tasks that do not exist: {missing}"
                )
        self.get_execution_levels()

    def get_execution_levels(self) -> list[list[str]]:
        """The tasks by levels: each can run once the level before has."""
        left = dict(self.tasks)
        levels: list[list[str]] = []
        while left:
            level = sorted(name for name, task in left.items() if not any(dep in left for dep in task.dependencies))
            if not level:
                raise ValueError(f"Workflow validation failed: dependency cycle among {sorted(left)}")
            for name in level:
                del left[name]
            levels.append(level)
        return levels

    def topological_sort(self) -> list[str]:
        """The tasks in an order in which they could run."""
        return [name for level in self.get_execution_levels() for name in level]

    def get_roots(self) -> list[str]:
        """The tasks that depend on nothing."""
        return sorted(name for name, task in self.tasks.items() if not task.dependencies)

    def get_leaves(self) -> list[str]:
        """The tasks that nothing depends on."""
        needed = {dependency for task in self.tasks.values() for dependency in task.dependencies}
        return sorted(name for name in self.tasks if name not in needed)

    def __repr__(self) -> str:
        return f"Workflow(name={self.name!r}, tasks={len(self.tasks)})"


def _code(code: CodeType | None) -> list[Any]:
    """What a function does, as JSON values: its instructions, names and constants, nested functions included."""
    if code is None:
        return []
    constants = [_code(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


_workflows: dict[str, Callable[[], Workflow]] = {}
_on_registration: list[Callable[[str], None]] = []


def register_workflow_constructor(name: str, constructor: Callable[[], Workflow]) -> None:
    """Makes a workflow known to runners of this process by its name.

    Raises:
        ValueError: the constructor fails, or gives something else.
    """
    try:
        made = constructor()
    except Exception as error:
        raise ValueError(f"Failed to call workflow constructor: {error}") from error
    if not isinstance(made, Workflow):
        raise ValueError(f"a workflow constructor must return a Workflow, not {type(made).__name__}")
    _workflows[name] = constructor
    for listener in list(_on_registration):
        listener(name)


def registered_workflows() -> dict[str, Callable[[], Workflow]]:
    """The workflows known by name in this process."""
    return _workflows


def listen_for_workflows(listener: Callable[[str], None]) -> Callable[[], None]:
    """Calls `listener(name)` whenever a workflow is registered (ours, for runtimes).

    Returns:
        Ends the listening.
    """
    _on_registration.append(listener)
    return lambda: _on_registration.remove(listener)


class WorkflowBuilder:
    """Builds a workflow: as a with-block whose tasks belong to it, or task by task.

    Args:
        name: the workflow's name.
        tenant, package, workflow: parts of its tasks' namespace.
    """

    def __init__(
        self, name: str, *, tenant: str | None = None, package: str | None = None, workflow: str | None = None
    ) -> None:
        self.name = name
        self.tenant = tenant or "public"
        self.package = package or "embedded"
        self.workflow = workflow or name
        self._description = ""
        self._tags: dict[str, str] = {}
        self._collector = Collector(name)
        self._open: ExitStack | None = None

    def description(self, description: str) -> None:
        """Sets the description."""
        self._description = description

    def tag(self, key: str, value: str) -> None:
        """Adds a label."""
        self._tags[key] = value

    def add_task(self, task: str | Callable[..., Any]) -> None:
        """Adds a task by its id or its function.

        Raises:
            ValueError: no such task was declared, or it is neither a text nor a function.
        """
        if not isinstance(task, str) and not callable(task):
            raise ValueError(f"a task is given as a string task ID or a function object, not {type(task).__name__}")
        name = task if isinstance(task, str) else id_of(task)
        found = declared_tasks.get(name or "")
        if found is None:
            raise ValueError(f"Task {task!r} not found in registry; declare it with @task first")
        self._collector.add_task(found)

    def build(self) -> Workflow:
        """The workflow.

        Raises:
            ValueError: it is no valid DAG, or a task id is used twice.
        """
        if self._collector.duplicates:
            raise ValueError(f"Workflow validation failed: duplicate task ids {sorted(self._collector.duplicates)}")
        return Workflow(self.name, self._description, self._tags, self._collector.tasks, self._collector.params)

    def __enter__(self) -> WorkflowBuilder:
        self._open = ExitStack()
        self._open.enter_context(collecting(self._collector))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._open is not None
        self._open.close()
        if error is None:
            built = self.build()
            register_workflow_constructor(self.name, lambda: built)
            for trigger in self._collector.triggers:
                register_trigger(replace(trigger, on=trigger.on or self.name))

    def __repr__(self) -> str:
        return f"WorkflowBuilder(name={self.name!r})"


def workflow_params(**params: Any) -> Callable[[_Thing], _Thing]:
    """Declares a workflow's inputs: ``name=type`` for a required one, ``name=(type, default)`` for one that can be left
    out. A type is str, int, float, bool, list or dict, or one of the last two with the types inside, which are not
    looked at. As in the original, a name that is declared twice keeps its first declaration, and another type declares
    nothing; the latter is said in a warning.
    """
    collector = active_collector()
    known = set() if collector is None else {slot["name"] for slot in collector.params}
    for name, given in params.items():
        slot = _slot(name, given)
        if slot is None:
            text = f"workflow_params({name}=...): the type must be str, int, float, bool, list or dict; it is ignored"
            warnings.warn(text, stacklevel=2)
        elif collector is not None and name not in known:
            collector.params.append(slot)
    return lambda thing: thing


def _slot(name: str, given: Any) -> dict[str, Any] | None:
    """What is declared; ``None`` when the type is none that there is."""
    kind, *default = given if isinstance(given, tuple) and given else (given,)
    required, value = not isinstance(given, tuple), default[0] if default else None
    kind = get_origin(kind) or kind
    schema = _SCHEMAS.get(kind) if isinstance(kind, type) else None
    if schema is None:
        return None
    return {"name": name, "schema": {"type": schema}, "required": required, "default": value}


def workflow_limits(*, max_executions: int = 0, max_tasks: int = 0) -> Callable[[_Thing], _Thing]:
    """Limits how much of a packaged workflow runs at once (ours). What is over a limit waits; nothing is refused.

    Args:
        max_executions: executions that may run at once; further ones stay Pending. 0 for no limit.
        max_tasks: tasks, over all its executions, that may run at once; further ones stay Ready. 0 for no limit.

    Raises:
        ValueError: a limit is below 0.
    """
    if min(max_executions, max_tasks) < 0:
        raise ValueError("workflow_limits(...): a limit is 0, for none, or more")
    collector = active_collector()
    if collector is not None:
        collector.max_executions, collector.max_tasks = max_executions, max_tasks
    return lambda thing: thing


def workflow_secrets(*names: str) -> Callable[[_Thing], _Thing]:
    """Declares the secrets that a packaged workflow reads."""
    collector = active_collector()
    if collector is not None:
        collector.secrets.extend(names)
    return lambda thing: thing


def var(name: str) -> str:
    """The variable ``CLOACINA_VAR_<name>``.

    Raises:
        KeyError: it is not set.
    """
    try:
        return os.environ[f"CLOACINA_VAR_{name}"]
    except KeyError:
        raise KeyError(f"variable {name!r} is not set; set the environment variable CLOACINA_VAR_{name}") from None


def var_or(name: str, default: str) -> str:
    """The variable ``CLOACINA_VAR_<name>``, or `default`."""
    return os.environ.get(f"CLOACINA_VAR_{name}", default)
