"""What is due of a schedule: every instant once whatever the clock does, and no more caught up than was asked for."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloacina.domain.cron import CronExpression
from cloacina.domain.schedules import (
    CatchUp,
    FireOutcome,
    Firings,
    PollInterval,
    Schedule,
    ScheduleKind,
    Skipped,
    decide_due,
    paused,
    planned,
    resumed,
)

_SETTINGS = settings(max_examples=200, deadline=None)
MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
T0 = 1_767_225_600_000_000  # 2026-01-01T00:00Z
DST = 1_774_659_600_000_000  # 2026-03-28T01:00Z, a day before the clocks go forward in Berlin

HOURLY = CronExpression.parse("0 * * * *")


def schedule(**fields: object) -> Schedule:
    """An hourly schedule, planned at T0."""
    made = Schedule(**({"id": "s1", "tenant": "public", "workflow": "report", "cadence": HOURLY} | fields))  # type: ignore[arg-type]
    return planned(made, T0)


def at(firings: Firings) -> list[int]:
    return [firing.scheduled_at for firing in firings.start]


def outcomes(firings: Firings) -> list[str]:
    return [firing.outcome.value for firing in firings.start]


def test_nothing_is_due_before_its_time() -> None:
    before = schedule()
    assert before.next_run_at == T0 + HOUR
    firings = decide_due(before, T0 + HOUR - 1)
    assert firings == Firings((), None, T0 + HOUR, None)
    assert firings.applied_to(before) == before


def test_a_firing_is_due_at_its_instant() -> None:
    firings = decide_due(schedule(), T0 + HOUR)
    assert at(firings) == [T0 + HOUR]
    assert outcomes(firings) == ["fired"]
    assert firings.skipped is None
    assert (firings.next_run_at, firings.last_run_at) == (T0 + 2 * HOUR, T0 + HOUR)


def test_a_firing_has_the_same_key_whoever_decides_it_and_whenever() -> None:
    one = decide_due(schedule(), T0 + HOUR).start[0]
    other = decide_due(schedule(catch_up=CatchUp.RUN_ALL), T0 + 3 * HOUR).start[0]
    assert one.key == other.key == f"schedule:s1:{T0 + HOUR}"
    assert decide_due(schedule(id="s2"), T0 + HOUR).start[0].key != one.key


def test_skip_starts_the_latest_and_gives_up_the_rest() -> None:
    firings = decide_due(schedule(), T0 + 5 * HOUR + MINUTE)
    assert at(firings) == [T0 + 5 * HOUR]
    assert outcomes(firings) == ["fired"]
    assert firings.skipped == Skipped(number=4, more=False, first_at=T0 + HOUR)
    assert firings.next_run_at == T0 + 6 * HOUR


def test_run_all_starts_what_was_missed_oldest_first() -> None:
    firings = decide_due(schedule(catch_up=CatchUp.RUN_ALL), T0 + 3 * HOUR + MINUTE)
    assert at(firings) == [T0 + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR]
    assert outcomes(firings) == ["caught_up", "caught_up", "fired"]
    assert firings.skipped is None


def test_over_the_cap_the_oldest_are_given_up() -> None:
    firings = decide_due(schedule(catch_up=CatchUp.RUN_ALL, catch_up_cap=2), T0 + 5 * HOUR)
    assert at(firings) == [T0 + 4 * HOUR, T0 + 5 * HOUR]
    assert firings.skipped == Skipped(number=3, more=False, first_at=T0 + HOUR)


def test_a_cap_that_is_just_met_gives_nothing_up() -> None:
    firings = decide_due(schedule(catch_up=CatchUp.RUN_ALL, catch_up_cap=5), T0 + 5 * HOUR)
    assert len(firings.start) == 5
    assert firings.skipped is None


def test_years_of_missed_seconds_are_decided_without_walking_them() -> None:
    every_second = schedule(cadence=CronExpression.parse("* * * * * *"), catch_up=CatchUp.RUN_ALL)
    now = T0 + 20 * 365 * DAY
    firings = decide_due(every_second, now)
    assert at(firings) == [now - second * 1_000_000 for second in range(99, -1, -1)]
    assert firings.skipped == Skipped(number=1000, more=True, first_at=T0 + 1_000_000)


def test_a_paused_schedule_fires_nothing_and_does_not_catch_up() -> None:
    stopped = paused(schedule(catch_up=CatchUp.RUN_ALL))
    assert decide_due(stopped, T0 + 10 * HOUR).start == ()
    again = resumed(stopped, T0 + 10 * HOUR + MINUTE)
    assert again.next_run_at == T0 + 11 * HOUR
    assert at(decide_due(again, T0 + 11 * HOUR)) == [T0 + 11 * HOUR]


def test_resuming_what_is_not_paused_loses_nothing_that_is_due() -> None:
    running = schedule(catch_up=CatchUp.RUN_ALL)
    assert resumed(running, T0 + 3 * HOUR) == running


def test_a_clock_set_back_over_a_pause_fires_nothing_twice() -> None:
    fired = decide_due(schedule(), T0 + 5 * HOUR).applied_to(schedule())
    again = resumed(paused(fired), T0 + 2 * HOUR)
    assert again.next_run_at == T0 + 6 * HOUR


def test_nothing_fires_outside_the_bounds() -> None:
    bounded = schedule(catch_up=CatchUp.RUN_ALL, starts_at=T0 + 3 * HOUR, ends_at=T0 + 5 * HOUR)
    assert bounded.next_run_at == T0 + 3 * HOUR, "an instant on a bound is within it"
    assert decide_due(bounded, T0 + 4 * HOUR).next_run_at == T0 + 5 * HOUR
    firings = decide_due(bounded, T0 + 20 * HOUR)
    assert at(firings) == [T0 + 3 * HOUR, T0 + 4 * HOUR, T0 + 5 * HOUR]
    assert firings.next_run_at is None
    assert decide_due(firings.applied_to(bounded), T0 + 30 * HOUR) == Firings((), None, None, T0 + 5 * HOUR)


def test_a_schedule_that_never_fires_has_no_next_run() -> None:
    assert schedule(cadence=CronExpression.parse("0 0 30 2 *")).next_run_at is None


def test_a_changed_cadence_is_followed_from_now_on() -> None:
    fired = decide_due(schedule(), T0 + 2 * HOUR).applied_to(schedule())
    changed = planned(replace(fired, cadence=CronExpression.parse("*/10 * * * *")), T0 + 2 * HOUR + MINUTE)
    assert changed.next_run_at == T0 + 2 * HOUR + 10 * MINUTE


def test_an_instant_that_the_zone_no_longer_names_is_not_fired() -> None:
    """The rules of a time zone were changed after `next_run_at` was stored."""
    stale = replace(schedule(), next_run_at=T0 + 30 * MINUTE)
    assert decide_due(stale, T0 + 40 * MINUTE) == Firings((), None, T0 + HOUR, None)
    assert at(decide_due(stale, T0 + HOUR)) == [T0 + HOUR]


def test_a_poll_is_made_once_however_many_were_missed() -> None:
    polled = schedule(cadence=PollInterval(30_000_000, anchor_us=T0 + 7), catch_up=CatchUp.RUN_ALL)
    assert polled.kind is ScheduleKind.TRIGGER
    assert polled.next_run_at == T0 + 7
    firings = decide_due(polled, T0 + HOUR)
    assert at(firings) == [T0 + HOUR - 30_000_000 + 7]
    assert firings.skipped is None
    assert firings.next_run_at == T0 + HOUR + 7, "polls keep to their grid"


@pytest.mark.parametrize("cap", [0, -1, 1001])
def test_a_cap_out_of_range_is_refused(cap: int) -> None:
    with pytest.raises(ValueError, match=f"'catch_up_cap' must be from 1 to 1000, not {cap}"):
        schedule(catch_up_cap=cap)


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match="'starts_at'"):
        schedule(starts_at=T0 + 1, ends_at=T0)


def test_a_poll_interval_must_be_positive() -> None:
    with pytest.raises(ValueError, match="poll interval"):
        PollInterval(0)


# any sequence of clock readings

cadences = st.sampled_from(
    [
        CronExpression.parse("0 * * * *"),
        CronExpression.parse("*/7 * * * *"),
        CronExpression.parse("30 2 * * *", "Europe/Berlin"),
        CronExpression.parse("*/15 1-3 * * *", "Europe/Berlin"),
        CronExpression.parse("0 0,12 29,30 * 1", "Australia/Lord_Howe"),
    ]
)
readings = st.lists(st.integers(-2 * DAY, 4 * DAY) | st.integers(-HOUR, HOUR), min_size=1, max_size=15).map(
    lambda jumps: [DST + sum(jumps[: n + 1]) for n in range(len(jumps))]
)


def named_instants(schedule: Schedule, until: int) -> list[int]:
    found: list[int] = []
    after = DST
    while (following := schedule.cadence.next_after(after)) is not None and following <= until:
        found.append(following)
        after = following
    lowest, highest = schedule.starts_at or 0, schedule.ends_at or 2**63
    return [instant for instant in found if lowest <= instant <= highest]


def drawn(cadence: CronExpression, catch_up: CatchUp, cap: int, bounds: tuple[int, int] | None) -> Schedule:
    starts_at, ends_at = (None, None) if bounds is None else (DST + min(bounds), DST + max(bounds))
    made = Schedule("s1", "public", "report", cadence, catch_up, cap, starts_at=starts_at, ends_at=ends_at)
    return planned(made, DST)


bounds = st.none() | st.tuples(st.integers(-DAY, 5 * DAY), st.integers(0, 9 * DAY))


@_SETTINGS
@given(cadence=cadences, nows=readings, limits=bounds, cap=st.integers(1, 12))
def test_run_all_fires_every_instant_exactly_once_or_gives_it_up_over_the_cap(
    cadence: CronExpression, nows: list[int], limits: tuple[int, int] | None, cap: int
) -> None:
    state = drawn(cadence, CatchUp.RUN_ALL, cap, limits)
    fired: list[int] = []
    given_up = 0
    for now in nows:
        firings = decide_due(state, now)
        due = at(firings)
        assert len(due) <= cap
        assert firings.skipped is None or len(due) == cap, "nothing is given up under the cap"
        assert all(firing.scheduled_at <= now for firing in firings.start), "nothing is early"
        if firings.skipped is not None:
            number, more, first_at = firings.skipped
            assert not more
            missing = [one for one in named_instants(state, now) if first_at <= one < due[0]]
            assert len(missing) == number
            given_up += number
        if state.next_run_at is not None and firings.next_run_at is not None:
            assert firings.next_run_at >= state.next_run_at
        fired += due
        state = firings.applied_to(state)
        assert decide_due(state, now).start == (), "asked again, nothing is left"
    assert fired == sorted(set(fired)), "once each, in order"
    named = named_instants(state, max([DST, *nows]))
    assert set(fired) <= set(named)
    assert len(named) == len(fired) + given_up
    if cap >= len(named):
        assert fired == named


@_SETTINGS
@given(cadence=cadences, nows=readings, limits=bounds)
def test_skip_fires_the_latest_instant_of_each_decision_and_none_twice(
    cadence: CronExpression, nows: list[int], limits: tuple[int, int] | None
) -> None:
    state = drawn(cadence, CatchUp.SKIP, 100, limits)
    fired: list[int] = []
    latest = DST
    for now in nows:
        firings = decide_due(state, now)
        since = [one for one in named_instants(state, now) if one > latest]
        assert at(firings) == since[-1:]
        assert (firings.skipped.number if firings.skipped else 0) == max(len(since) - 1, 0)
        fired += at(firings)
        latest = max(latest, now)
        state = firings.applied_to(state)
    assert fired == sorted(set(fired))


@_SETTINGS
@given(
    cadence=cadences,
    steps=st.lists(st.tuples(st.sampled_from(["decide", "pause", "resume"]), st.integers(-DAY, 2 * DAY)), max_size=25),
    catch_up=st.sampled_from(CatchUp),
)
def test_with_pauses_and_any_clock_no_instant_fires_twice_nor_in_a_pause(
    cadence: CronExpression, steps: list[tuple[str, int]], catch_up: CatchUp
) -> None:
    state, now = drawn(cadence, catch_up, 100, None), DST
    fired: Counter[str] = Counter()
    resumed_at = DST
    for step, jump in steps:
        now += jump
        match step:
            case "decide":
                firings = decide_due(state, now)
                assert not (state.paused and firings.start)
                assert all(firing.scheduled_at > resumed_at for firing in firings.start)
                fired.update(firing.key for firing in firings.start)
                state = firings.applied_to(state)
            case "pause":
                state = paused(state)
            case "resume":
                resumed_at = now if state.paused else resumed_at
                state = resumed(state, now)
    assert set(fired.values()) <= {1}


@_SETTINGS
@given(cadence=cadences, nows=readings, cuts=st.lists(st.integers(0, 14), max_size=4))
def test_schedulers_that_race_agree_on_the_keys(cadence: CronExpression, nows: list[int], cuts: list[int]) -> None:
    """Two read the same row; only one's write succeeds. What the other decided is not another set of firings."""
    state = drawn(cadence, CatchUp.RUN_ALL, 1000, None)
    for n, now in enumerate(nows):
        mine, theirs = decide_due(state, now), decide_due(state, now + MINUTE)
        assert {firing.key for firing in mine.start} <= {firing.key for firing in theirs.start}
        state = (theirs if n in cuts else mine).applied_to(state)


@_SETTINGS
@given(interval=st.integers(1, 10 * MINUTE), anchor=st.integers(-DAY, T0), after=st.integers(0, T0 + DAY))
def test_polls_are_an_interval_apart_on_their_grid(interval: int, anchor: int, after: int) -> None:
    poll = PollInterval(interval, anchor)
    first = poll.next_after(after)
    assert after < first <= after + interval
    assert (first - anchor) % interval == 0
    following = [first, poll.next_after(first), poll.next_after(poll.next_after(first))]
    assert {later - earlier for earlier, later in pairwise(following)} == {interval}


def test_outcomes_and_kinds_are_those_of_the_metric() -> None:
    assert {outcome.value for outcome in FireOutcome} == {"fired", "skipped", "caught_up", "failed"}
    assert {kind.value for kind in ScheduleKind} == {"cron", "trigger"}


def test_the_page_on_schedules_tells_the_truth(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "concepts" / "schedules.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", page, re.DOTALL)
    assert snippets
    for code, printed in snippets:
        exec(compile(code, "schedules.md", "exec"), {})
        assert capsys.readouterr().out == printed
