"""Running one attempt of a task: its context in, its outcome out. Knows no process and no socket."""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from dataclasses import dataclass
from typing import Any

import orjson

from cloacina.authoring.context import Context, SecretResolver
from cloacina.authoring.task import HandleRuntime, TaskDefinition, TaskHandle
from cloacina.domain.inputs import MAX_CONTEXT_BYTES
from cloacina.worker.output import cut, cut_front

log = logging.getLogger("cloacina.worker")

_TRANSIENT_WORDS = (
    "connection",
    "network",
    "timeout",
    "timed out",
    "temporary",
    "unavailable",
    "busy",
    "overloaded",
    "rate limit",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    Args:
        context: what a success left behind; ``None`` when it left its input as it was, and for failures.
        reason: of a failure, a value of `cloacina.domain.execution.FailureReason`; empty for a success.
        error: the exception as one line.
        details: its traceback.
        transient: whether the failure is of a kind that another attempt may cure.
        retry: the verdict of the author's own retry condition, if there is one.
        exception: the exception itself, for the span.
    """

    context: bytes | None = None
    reason: str = ""
    error: str = ""
    details: str = ""
    transient: bool = False
    retry: bool | None = None
    exception: BaseException | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the task succeeded."""
        return not self.reason


def run_sync(
    task: TaskDefinition,
    raw: bytes,
    handle: HandleRuntime,
    secrets: SecretResolver | None = None,
    *,
    limit_bytes: int = MAX_CONTEXT_BYTES,
) -> Outcome:
    """Runs a task whose body is a plain function, and its callbacks.

    Args:
        task: what to run.
        raw: its context, a JSON object.
        handle: what is behind its `TaskHandle`, if it asks for one.
        secrets: what is behind its `Context.secret`; ``None`` where there are no secrets.
        limit_bytes: most bytes of the context it leaves behind.
    """
    context = Context.from_raw(raw, secrets)
    try:
        returned = task.function(*_arguments(task, context, handle))
        outcome = _success(task, raw, returned, limit_bytes)
    except BaseException as error:  # SystemExit too: a task must not end its worker
        outcome = _failure(task, error)
    _call_back(task, outcome, context, secrets)
    return outcome


async def run_async(
    task: TaskDefinition,
    raw: bytes,
    handle: HandleRuntime,
    secrets: SecretResolver | None = None,
    *,
    limit_bytes: int = MAX_CONTEXT_BYTES,
) -> Outcome:
    """Runs a task whose body is a coroutine function, and its callbacks.

    Args:
        task, raw, handle, secrets, limit_bytes: see `run_sync`.

    Raises:
        asyncio.CancelledError: the task was cancelled from outside.
    """
    context = Context.from_raw(raw, secrets)
    try:
        returned = await task.function(*_arguments(task, context, handle))
        outcome = _success(task, raw, returned, limit_bytes)
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        outcome = _failure(task, asyncio.CancelledError("the task cancelled itself"))
    except BaseException as error:
        outcome = _failure(task, error)
    _call_back(task, outcome, context, secrets)
    return outcome


def _arguments(task: TaskDefinition, context: Context, handle: HandleRuntime) -> tuple[Any, ...]:
    return (context,) if task.handle_parameter is None else (context, TaskHandle(handle))


def _success(task: TaskDefinition, raw: bytes, returned: Any, limit_bytes: int) -> Outcome:
    """A task that returns nothing leaves its input as it was; otherwise it returns a context."""
    if inspect.iscoroutine(returned):
        returned.close()
        raise TypeError(f"task {task.id!r} returned a coroutine: declare it with 'async def', or await it")
    if returned is None:
        return Outcome()
    if not isinstance(returned, Context):
        return Outcome(
            reason="validation_failed",
            error=f"task {task.id!r} returned {type(returned).__name__}; return the context, or nothing",
        )
    try:
        left = returned.to_raw()
    except (ValueError, orjson.JSONDecodeError) as error:
        return Outcome(reason="validation_failed", error=cut(f"the context task {task.id!r} returned: {error}"))
    if len(left) > limit_bytes:
        return Outcome(
            reason="validation_failed",
            error=(
                f"the context task {task.id!r} returned has {len(left)} bytes, the limit is {limit_bytes}: keep "
                "large data in a file or a store of your own, and its name in the context"
            ),
        )
    return Outcome(context=None if left == raw else left)


def _failure(task: TaskDefinition, error: BaseException) -> Outcome:
    text = str(error)
    line = cut(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None  # from the author's code on
    details = cut_front("".join(traceback.format_exception(type(error), error, frames)))
    return Outcome(
        reason="task_error",
        error=line,
        details=details,
        transient=_is_transient(error, line),
        retry=_verdict(task, error),
        exception=error,
    )


def _is_transient(error: BaseException, line: str) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    lower = line.lower()
    return any(word in lower for word in _TRANSIENT_WORDS)


def _verdict(task: TaskDefinition, error: BaseException) -> bool | None:
    condition = task.retry.condition.verdict
    if condition is None:
        return None
    try:
        return bool(condition(error))
    except Exception:
        log.exception("the retry condition of a task failed; the error is retried")
        return True


def _call_back(task: TaskDefinition, outcome: Outcome, context: Context, secrets: SecretResolver | None) -> None:
    """Calls on_success or on_failure. What goes wrong there is logged and changes nothing."""
    try:
        if outcome.succeeded and task.on_success is not None:
            left = context if outcome.context is None else Context.from_raw(outcome.context, secrets)
            task.on_success(task.id, left)
        elif not outcome.succeeded and task.on_failure is not None:
            task.on_failure(task.id, outcome.error, context)
    except BaseException:
        log.exception("a callback of a task failed", extra={"task_id": task.id})
