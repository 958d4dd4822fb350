"""The ``trigger`` decorator: a schedule, or a function that is polled, that starts a workflow."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cloacina.authoring.context import Context
from cloacina.authoring.registry import active_collector

_Function = TypeVar("_Function", bound=Callable[..., Any])
_DURATION = re.compile(r"(\d+)(ms|s|m|h)\Z")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


class TriggerResult:
    """What a polled trigger answers: made with `skip` or `fire`."""

    __slots__ = ("context", "fires")

    def __init__(self, fires: bool, context: Context | None) -> None:
        self.fires = fires
        self.context = context

    @staticmethod
    def skip() -> TriggerResult:
        """Nothing to do."""
        return TriggerResult(False, None)

    @staticmethod
    def fire(context: Context | None = None) -> TriggerResult:
        """Start the workflow, with this context."""
        return TriggerResult(True, context)

    def is_fire_result(self) -> bool:
        """Whether it starts the workflow."""
        return self.fires

    def is_skip_result(self) -> bool:
        """Whether it does not."""
        return not self.fires

    def __repr__(self) -> str:
        if not self.fires:
            return "TriggerResult.Skip"
        return f"TriggerResult.Fire({'None' if self.context is None else '<context>'})"


@dataclass(frozen=True, slots=True, eq=False)
class TriggerDefinition:
    """A trigger as its author wrote it; `on` is the workflow it starts, ``""`` for the one of its package, `also_on`
    names further ones."""

    name: str
    on: str
    cron: str | None
    timezone: str | None
    poll_interval_ms: int
    allow_concurrent: bool
    function: Callable[..., Any]
    also_on: tuple[str, ...] = ()
    catch_up: str = "skip"
    catch_up_cap: int = 100

    def to_wire(self) -> dict[str, Any]:
        """The form the registry keeps."""
        return {
            "name": self.name,
            "on": self.on,
            "also_on": list(self.also_on),
            "kind": "cron" if self.cron is not None else "poll",
            "cron": self.cron,
            "timezone": self.timezone,
            "poll_interval_ms": self.poll_interval_ms,
            "allow_concurrent": self.allow_concurrent,
            "catch_up": self.catch_up,
            "catch_up_cap": self.catch_up_cap,
        }


_triggers: dict[str, TriggerDefinition] = {}
_on_registration: list[Callable[[TriggerDefinition], None]] = []


def register_trigger(definition: TriggerDefinition) -> None:
    """Makes a trigger known to runners of this process; one of the same name is replaced."""
    _triggers[definition.name] = definition
    for listener in list(_on_registration):
        listener(definition)


def registered_triggers() -> dict[str, TriggerDefinition]:
    """The triggers known by name in this process: those declared outside of packages."""
    return _triggers


def listen_for_triggers(listener: Callable[[TriggerDefinition], None]) -> Callable[[], None]:
    """Calls `listener(definition)` whenever a trigger is registered (ours, for runtimes).

    Returns:
        Ends the listening.
    """
    _on_registration.append(listener)
    return lambda: _on_registration.remove(listener)


def trigger(
    *,
    name: str | None = None,
    on: str | Sequence[str] | None = None,
    poll_interval: str | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    allow_concurrent: bool = False,
    catch_up: str = "skip",
    catch_up_cap: int = 100,
) -> Callable[[_Function], _Function]:
    """Declares a trigger.

    Args:
        name: its name; the function's by default.
        on: the workflow it starts; needed with `cron`. Several may be given (ours): all are started.
        poll_interval: how often the function is asked: a number and ms, s, m or h ("30s" by default).
        cron: a cron expression in place of polling.
        timezone: of the cron expression (IANA name).
        allow_concurrent: whether it may start the workflow while one it started still runs.
        catch_up: of a cron trigger (ours), what becomes of firings that were missed while no scheduler ran: "skip"
            starts the latest only, "run_all" starts all.
        catch_up_cap: with "run_all", how many are started at most, the latest ones (1 to 1000).

    Raises:
        ValueError: the arguments do not fit together.
    """
    if cron is not None and poll_interval is not None:
        raise ValueError("@trigger takes 'cron' or 'poll_interval', not both")
    if cron is not None and on is None:
        raise ValueError("@trigger(cron=...) needs 'on', the workflow that it starts")
    if catch_up not in ("skip", "run_all"):
        raise ValueError(f"@trigger(catch_up=...) is 'skip' or 'run_all', not {catch_up!r}")
    if not 1 <= catch_up_cap <= 1000:
        raise ValueError(f"@trigger(catch_up_cap=...) is from 1 to 1000, not {catch_up_cap}")
    if cron is None and catch_up != "skip":
        raise ValueError("@trigger(catch_up=...) needs 'cron': polls that were missed are not made up")
    text = poll_interval or "30s"
    match = _DURATION.match(text.strip())
    if match is None:
        raise ValueError(f"invalid poll_interval {text!r}: use a number and ms, s, m or h, such as '30s'")
    interval_ms = int(match.group(1)) * _UNIT_MS[match.group(2)]
    main, *further = [on or ""] if on is None or isinstance(on, str) else on or [""]

    def decorate(function: _Function) -> _Function:
        definition = TriggerDefinition(
            name=name or function.__name__,
            on=main,
            cron=cron,
            timezone=timezone,
            poll_interval_ms=interval_ms,
            allow_concurrent=allow_concurrent,
            function=function,
            also_on=tuple(further),
            catch_up=catch_up,
            catch_up_cap=catch_up_cap,
        )
        collector = active_collector()
        if collector is not None:
            collector.triggers.append(definition)
        else:
            register_trigger(definition)
        return function

    return decorate
