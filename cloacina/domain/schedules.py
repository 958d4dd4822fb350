"""What is due of a schedule: which firings to start, which to give up, and when to look again.

`decide_due` is a pure function of the stored schedule and the present instant. The caller inserts the executions and
writes `next_run_at` and `last_run_at` in one transaction, on condition that `next_run_at` is still what was read: so no
crash and no second scheduler loses a firing or starts it twice. A firing's key, under which it is recorded, is the same
whoever decides it. Instants are whole microseconds since the Unix epoch, UTC.

`next_run_at` only ever moves forward, past every instant that was decided. A clock that is set back therefore fires
nothing again; the schedule is silent until the clock reaches `next_run_at`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from cloacina.domain.cron import CronExpression

_MOST_CATCH_UP = 1000
_MOST_COUNTED = 1000
"""Skipped firings are counted so far, no further: in a month a schedule of every second has millions of them."""


class ScheduleKind(StrEnum):
    """What a schedule is; the ``kind`` label of ``cloacina_schedule_fires_total``."""

    CRON = "cron"
    TRIGGER = "trigger"


class FireOutcome(StrEnum):
    """What became of a firing; the ``outcome`` label of ``cloacina_schedule_fires_total``."""

    FIRED = "fired"
    CAUGHT_UP = "caught_up"
    SKIPPED = "skipped"
    FAILED = "failed"


class CatchUp(StrEnum):
    """What happens to the firings that were missed, when more than one has become due."""

    SKIP = "skip"
    """The latest is started, the others are given up."""

    RUN_ALL = "run_all"
    """All are started, oldest first. Of more than the cap the oldest are given up: the latest says most about now."""


@dataclass(frozen=True, slots=True)
class PollInterval:
    """When a trigger's function is asked.

    Polls that were missed are neither made up nor counted as skipped: the next one sees what they would have seen.

    Args:
        interval_us: microseconds between two polls (at least 1).
        anchor_us: an instant on the grid of the polls, such as when the trigger was loaded, so that triggers with the
            same interval are not all asked at once.

    Raises:
        ValueError: the interval is under 1.
    """

    interval_us: int
    anchor_us: int = 0

    def __post_init__(self) -> None:
        if self.interval_us < 1:
            raise ValueError(f"a poll interval must be at least 1 microsecond, not {self.interval_us}")

    def next_after(self, at_us: int) -> int:
        """The first poll strictly after `at_us`."""
        return at_us + self.interval_us - (at_us - self.anchor_us) % self.interval_us


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it is stored.

    Args:
        id: its id; part of every firing's key.
        tenant: whose it is.
        workflow: the workflow that it starts.
        cadence: when it fires.
        catch_up: what happens to missed firings of a cron schedule.
        catch_up_cap: with ``run_all``: how many firings one decision starts at most (1 to 1000).
        paused: whether it is paused.
        next_run_at: the next instant at which it fires; None when it never will. `planned` gives the first.
        last_run_at: the latest instant for which it fired; None before the first.
        starts_at: no instant before this one fires.
        ends_at: no instant after this one fires.

    Raises:
        ValueError: the cap or the bounds are out of range.
    """

    id: str
    tenant: str
    workflow: str
    cadence: CronExpression | PollInterval
    catch_up: CatchUp = CatchUp.SKIP
    catch_up_cap: int = 100
    paused: bool = False
    next_run_at: int | None = None
    last_run_at: int | None = None
    starts_at: int | None = None
    ends_at: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.catch_up_cap <= _MOST_CATCH_UP:
            raise ValueError(f"'catch_up_cap' must be from 1 to {_MOST_CATCH_UP}, not {self.catch_up_cap}")
        if self.starts_at is not None and self.ends_at is not None and self.starts_at > self.ends_at:
            raise ValueError(f"'starts_at' ({self.starts_at}) must not be after 'ends_at' ({self.ends_at})")

    @property
    def kind(self) -> ScheduleKind:
        """Whether it fires by itself, or asks a trigger's function."""
        return ScheduleKind.CRON if isinstance(self.cadence, CronExpression) else ScheduleKind.TRIGGER


class Firing(NamedTuple):
    """One firing to start (of a trigger: one poll to make).

    Args:
        scheduled_at: the instant it is for, whenever it is started.
        key: what it is recorded under: the same firing always has the same.
        outcome: ``fired``, or ``caught_up`` when a later one has become due already.
    """

    scheduled_at: int
    key: str
    outcome: FireOutcome


class Skipped(NamedTuple):
    """Firings that were given up: those from `first_at` on and before the first that is started.

    Args:
        number: how many, up to 1000.
        more: whether there were more than that.
        first_at: the instant of the oldest.
    """

    number: int
    more: bool
    first_at: int


class Firings(NamedTuple):
    """What `decide_due` decided.

    Args:
        start: the firings to start, oldest first.
        skipped: those given up; None when there are none.
        next_run_at: the schedule's new `next_run_at`.
        last_run_at: the schedule's new `last_run_at`.
    """

    start: tuple[Firing, ...]
    skipped: Skipped | None
    next_run_at: int | None
    last_run_at: int | None

    def applied_to(self, schedule: Schedule) -> Schedule:
        """The schedule after this decision."""
        return replace(schedule, next_run_at=self.next_run_at, last_run_at=self.last_run_at)


def decide_due(schedule: Schedule, now_us: int) -> Firings:
    """What to start of a schedule now.

    The work is bounded, however long ago it was last asked. A paused schedule has nothing due.

    Args:
        schedule: as it is stored.
        now_us: the present instant.
    """
    due_from, until = schedule.next_run_at, now_us
    if schedule.ends_at is not None:
        until = min(until, schedule.ends_at)
    if schedule.paused or due_from is None or due_from > until:
        return Firings((), None, schedule.next_run_at, schedule.last_run_at)
    keep = schedule.catch_up_cap if _makes_up(schedule) else 1
    # from the cadence, not next_run_at itself: the time zone's rules may have changed since that was stored
    due = list(islice(_instants(schedule.cadence, due_from - 1, until), keep + 1))
    skipped: Skipped | None = None
    if len(due) > keep:
        oldest = due[0]
        due = _latest(schedule.cadence, due_from - 1, until, keep, span=due[-1] - oldest)
        if schedule.kind is ScheduleKind.CRON:
            given_up = _instants(schedule.cadence, due_from - 1, due[0] - 1)
            count = sum(1 for _ in islice(given_up, _MOST_COUNTED + 1))
            skipped = Skipped(min(count, _MOST_COUNTED), count > _MOST_COUNTED, oldest)
    start = tuple(
        Firing(at, f"schedule:{schedule.id}:{at}", FireOutcome.FIRED if at == due[-1] else FireOutcome.CAUGHT_UP)
        for at in due
    )
    last_run_at = due[-1] if due else schedule.last_run_at
    return Firings(start, skipped, _first_from(schedule, now_us), last_run_at)


def planned(schedule: Schedule, now_us: int) -> Schedule:
    """The schedule with `next_run_at` worked out anew: its first instant after now and after all that have fired.

    For a new schedule, and one whose cadence or bounds were changed.
    """
    floor = now_us if schedule.last_run_at is None else max(now_us, schedule.last_run_at)
    return replace(schedule, next_run_at=_first_from(schedule, floor))


def paused(schedule: Schedule) -> Schedule:
    """The schedule, paused."""
    return replace(schedule, paused=True)


def resumed(schedule: Schedule, now_us: int) -> Schedule:
    """The schedule, no longer paused; what came due in the pause is not caught up.

    A schedule that is not paused is returned as it is, with what is due of it.
    """
    return planned(replace(schedule, paused=False), now_us) if schedule.paused else schedule


def _makes_up(schedule: Schedule) -> bool:
    return schedule.catch_up is CatchUp.RUN_ALL and schedule.kind is ScheduleKind.CRON


def _first_from(schedule: Schedule, after_us: int) -> int | None:
    """The schedule's first instant after `after_us` that is within its bounds."""
    if schedule.starts_at is not None:
        after_us = max(after_us, schedule.starts_at - 1)
    found = schedule.cadence.next_after(after_us)
    return None if found is None or (schedule.ends_at is not None and found > schedule.ends_at) else found


def _instants(cadence: CronExpression | PollInterval, after_us: int, until_us: int) -> Iterator[int]:
    """The instants after `after_us` and up to `until_us`."""
    found = cadence.next_after(after_us)
    while found is not None and found <= until_us:
        yield found
        found = cadence.next_after(found)


def _latest(
    cadence: CronExpression | PollInterval, after_us: int, until_us: int, count: int, *, span: int
) -> list[int]:
    """The last `count` instants after `after_us` and up to `until_us`, of which there are more.

    A cadence only looks forward, so the place to look from is found by halving; the first try is `span` microseconds
    back, the time that as many took elsewhere, which is right at once where they come evenly.
    """
    too_early, late_enough = after_us, until_us
    look_from = max(after_us, until_us - span)
    while True:
        found = list(islice(_instants(cadence, look_from, until_us), count + 1))
        if len(found) == count:
            return found
        if len(found) > count:
            too_early = look_from
        else:
            late_enough = look_from
        look_from = (too_early + late_enough) // 2
