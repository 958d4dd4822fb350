"""The ``task`` decorator, and the handle a task may ask for."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cloacina.authoring.registry import register_task
from cloacina.authoring.retry import RetryPolicy, policy_from_keywords
from cloacina.authoring.rules import as_rule

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, eq=False)
class TaskDefinition:
    """A task as its author wrote it.

    Args:
        id: name within the workflow.
        function: the body.
        dependencies: ids it depends on, in order.
        retry: its retry policy.
        timeout_s: seconds an attempt may run (ours).
        rule: its trigger rule in wire form; ``None`` for the default.
        on_success, on_failure: callbacks.
        handle_parameter: name of the parameter that takes a `TaskHandle`; ``None`` when it asks for none.
        what, why: the parts of its docstring.
        workflow: the workflow it executes in place of a body (ours).
        for_each: the list in its context for each of whose elements it runs (ours).
    """

    id: str
    function: Callable[..., Any]
    dependencies: tuple[str, ...]
    retry: RetryPolicy
    timeout_s: float | None
    rule: dict[str, Any] | None
    on_success: Callable[..., Any] | None
    on_failure: Callable[..., Any] | None
    handle_parameter: str | None
    what: str
    why: str
    workflow: str | None = None
    for_each: str | None = None

    @property
    def is_async(self) -> bool:
        """Whether the body is awaited."""
        return inspect.iscoroutinefunction(self.function)

    def to_wire(self) -> dict[str, Any]:
        """The form the engine and the registry read."""
        return {
            "id": self.id,
            "dependencies": list(self.dependencies),
            "retry": self.retry.to_wire(),
            "timeout_s": self.timeout_s,
            "trigger_rule": self.rule,
            "what": self.what,
            "why": self.why,
            "workflow": self.workflow,
            "for_each": self.for_each,
        }


def task(
    *,
    id: str | None = None,
    dependencies: Sequence[str | Callable[..., Any]] | None = None,
    retry: RetryPolicy | None = None,
    retry_attempts: int | None = None,
    retry_backoff: str | None = None,
    retry_delay_ms: int | None = None,
    retry_max_delay_ms: int | None = None,
    retry_condition: str | None = None,
    retry_jitter: bool | None = None,
    on_success: Callable[..., Any] | None = None,
    on_failure: Callable[..., Any] | None = None,
    invokes: Any = None,
    post_invocation: Callable[..., Any] | None = None,
    trigger_rules: dict[str, Any] | None = None,
    timeout_s: float | None = None,
    for_each: str | None = None,
) -> Callable[[_Function], _Function]:
    """Makes a function a task of the workflow being defined. The function itself stays as it is.

    Args:
        id: name of the task; the function's by default.
        dependencies: tasks that must end first: ids, or the functions of tasks.
        retry: the retry policy; or, in its place, the six that follow.
        retry_attempts: attempts in all (default 3).
        retry_backoff: "fixed", "linear" or "exponential" (the default).
        retry_delay_ms: milliseconds before the second attempt (default 1000).
        retry_max_delay_ms: milliseconds that no delay exceeds (default 60000).
        retry_condition: "never", "transient" or "all" (the default).
        retry_jitter: whether delays are spread (default true).
        on_success: called with (task id, context) after a success; its errors are logged and change nothing.
        on_failure: called with (task id, error text, context) after a failed attempt, likewise.
        invokes, post_invocation: computation graphs, which this engine does not have.
        trigger_rules: whether the task runs, see ``always`` and its siblings.
        timeout_s: seconds an attempt may run (ours).
        for_each: key of a list in the task's context (ours). The task then runs once for each element, at the same time
            as far as there are slots: the element is ``context["item"]``, its number ``context["index"]``, the list is
            left out. What an instance leaves in ``context["item"]`` is its result; the results, in order, are
            ``context["<id of the task>"]`` for the tasks after it.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    if invokes is not None or post_invocation is not None:
        raise ValueError("@task(invokes=..., post_invocation=...): computation graphs are not supported by this engine")
    if timeout_s is not None and timeout_s <= 0:
        raise ValueError(f"@task(timeout_s=...) must be above 0, not {timeout_s}")
    policy = policy_from_keywords(
        retry,
        retry_attempts=retry_attempts,
        retry_backoff=retry_backoff,
        retry_delay_ms=retry_delay_ms,
        retry_max_delay_ms=retry_max_delay_ms,
        retry_condition=retry_condition,
        retry_jitter=retry_jitter,
    )
    rule = None if trigger_rules is None else as_rule(trigger_rules)

    def decorate(function: _Function) -> _Function:
        name = id or function.__name__
        what, why = split_doc(inspect.getdoc(function) or "")
        definition = TaskDefinition(
            id=name,
            function=function,
            dependencies=tuple(_dependency(name, each) for each in dependencies or ()),
            retry=policy,
            timeout_s=timeout_s,
            rule=rule,
            on_success=on_success,
            on_failure=on_failure,
            handle_parameter=_handle_parameter(function),
            what=what,
            why=why,
            for_each=for_each,
        )
        register_task(definition)
        declared_tasks[name] = definition
        _ids[function] = name
        return function

    return decorate


def subworkflow(
    workflow: str,
    *,
    id: str | None = None,
    dependencies: Sequence[str | Callable[..., Any]] | None = None,
    retry: RetryPolicy | None = None,
    trigger_rules: dict[str, Any] | None = None,
    for_each: str | None = None,
) -> None:
    """Declares a task that executes another workflow of the tenant in place of a body (ours).

    The workflow starts with the context the task is given, under the same request id and in the same trace; its final
    context is the task's. The task fails when the execution does. Cancelling, pausing and resuming go down to it.

    Args:
        workflow: name of the workflow.
        id: name of the task; the workflow's by default.
        dependencies: tasks that must end first.
        retry: what happens after a failure; nothing by default. Each attempt is an execution of its own.
        trigger_rules: whether the task runs.
        for_each: key of a list in the context: the workflow is executed once for each element, see `task`.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    if not workflow:
        raise ValueError("subworkflow(...) needs the name of a workflow")
    name = id or workflow
    definition = TaskDefinition(
        id=name,
        function=_executed_by_the_engine,
        dependencies=tuple(_dependency(name, each) for each in dependencies or ()),
        retry=retry or RetryPolicy(max_attempts=1),
        timeout_s=None,
        rule=None if trigger_rules is None else as_rule(trigger_rules),
        on_success=None,
        on_failure=None,
        handle_parameter=None,
        what=f"executes the workflow {workflow}",
        why="",
        workflow=workflow,
        for_each=for_each,
    )
    register_task(definition)
    declared_tasks[name] = definition


def _executed_by_the_engine(context: Any) -> Any:
    raise RuntimeError("a task that executes a workflow has no body; the engine starts the workflow itself")


_ids: dict[Callable[..., Any], str] = {}
"""The task id of each decorated function, for dependencies given as functions."""

declared_tasks: dict[str, TaskDefinition] = {}
"""The last task declared under each id in this process, for builders that add tasks by name."""


def id_of(function: Callable[..., Any]) -> str | None:
    """The id of the task that a function is."""
    return _ids.get(function)


def _dependency(task_id: str, given: str | Callable[..., Any]) -> str:
    if isinstance(given, str):
        return given
    name = _ids.get(given) or getattr(given, "__name__", None)
    if name is None:
        raise ValueError(f"task {task_id!r}: a dependency must be a task id or a task function, not {given!r}")
    return str(name)


def _handle_parameter(function: Callable[..., Any]) -> str | None:
    names = list(inspect.signature(function).parameters)
    return next((name for name in names if name in ("handle", "task_handle")), None)


_MARK = re.compile(r"^\s*(what|why):[ \t]*|(?<=\s)(why):[ \t]*", re.IGNORECASE | re.MULTILINE)


def split_doc(doc: str) -> tuple[str, str]:
    """The ``what:`` and ``why:`` parts of a docstring; without marks all of it is the what."""
    parts: dict[str, list[str]] = {"what": [], "why": []}
    current, position = "what", 0
    for mark in _MARK.finditer(doc):
        parts[current].append(doc[position : mark.start()])
        current, position = (mark.group(1) or mark.group(2)).lower(), mark.end()
    parts[current].append(doc[position:])
    what, why = (" ".join(" ".join(parts[name]).split()) for name in ("what", "why"))
    return what, why


class HandleRuntime(Protocol):
    """What a runtime offers behind a `TaskHandle`."""

    def defer_until(self, condition: Callable[[], bool], poll_interval_ms: int) -> Awaitable[None] | None:
        """Gives the slot back, polls, and returns once a slot is held again; or what does so when it is awaited."""

    def slot_held(self) -> bool:
        """Whether a slot is held."""


class TaskHandle:
    """Given to a task with a parameter ``handle`` or ``task_handle``: control over the slot it runs in.

    Args:
        runtime: what is behind it.
    """

    def __init__(self, runtime: HandleRuntime) -> None:
        self._runtime = runtime

    def defer_until(self, condition: Callable[[], bool], poll_interval_ms: int = 1000) -> Awaitable[None] | None:
        """Waits, without holding a slot, until `condition()` is true. An async task awaits it (ours).

        Args:
            condition: polled; one that raises counts as false.
            poll_interval_ms: milliseconds between polls.
        """
        return self._runtime.defer_until(condition, poll_interval_ms)

    def is_slot_held(self) -> bool:
        """Whether the task holds a slot at this moment."""
        return self._runtime.slot_held()
