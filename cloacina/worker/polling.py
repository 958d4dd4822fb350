"""Calling the function of a trigger: its answer out, or why there is none. Knows no process and no socket."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import orjson

from cloacina.authoring.triggers import TriggerDefinition, TriggerResult
from cloacina.domain.inputs import MAX_CONTEXT_BYTES
from cloacina.worker.output import cut, cut_front


@dataclass(frozen=True, slots=True)
class PollOutcome:
    """How a poll ended.

    Args:
        fires: whether the workflow is to be started.
        context: with what input; ``None`` for none.
        error: why there is no answer, as one line; empty when there is one.
        details: the traceback.
        exception: the exception itself, for the span.
    """

    fires: bool = False
    context: bytes | None = None
    error: str = ""
    details: str = ""
    exception: BaseException | None = None


def poll_sync(trigger: TriggerDefinition, *, limit_bytes: int = MAX_CONTEXT_BYTES) -> PollOutcome:
    """Calls a trigger whose body is a plain function.

    Args:
        trigger: what to call.
        limit_bytes: most bytes of the context it gives.
    """
    try:
        return _answer(trigger, trigger.function(), limit_bytes)
    except BaseException as error:  # SystemExit too: a trigger must not end its worker
        return _failure(error)


async def poll_async(trigger: TriggerDefinition, *, limit_bytes: int = MAX_CONTEXT_BYTES) -> PollOutcome:
    """Calls a trigger whose body is a coroutine function (ours); see `poll_sync`."""
    try:
        return _answer(trigger, await trigger.function(), limit_bytes)
    except Exception as error:
        return _failure(error)


def _answer(trigger: TriggerDefinition, returned: Any, limit_bytes: int) -> PollOutcome:
    """A TriggerResult, or True and False for one without a context, as in the original."""
    if isinstance(returned, bool):
        return PollOutcome(fires=returned)
    if not isinstance(returned, TriggerResult):
        return PollOutcome(
            error=f"trigger {trigger.name!r} returned {type(returned).__name__}; return TriggerResult.skip() or "
            "TriggerResult.fire(context), or a bool"
        )
    if not returned.fires or returned.context is None:
        return PollOutcome(fires=returned.fires)
    try:
        context = returned.context.to_raw()
    except (ValueError, orjson.JSONDecodeError) as error:
        return PollOutcome(error=cut(f"the context trigger {trigger.name!r} gave: {error}"))
    if len(context) > limit_bytes:
        return PollOutcome(
            error=f"the context trigger {trigger.name!r} gave has {len(context)} bytes, the limit is "
            f"{limit_bytes}: keep large data in a file or a store of your own, and its name in the context"
        )
    return PollOutcome(fires=True, context=context)


def _failure(error: BaseException) -> PollOutcome:
    text = str(error)
    line = cut(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None  # from the author's code on
    details = cut_front("".join(traceback.format_exception(type(error), error, frames)))
    return PollOutcome(error=line, details=details, exception=error)
