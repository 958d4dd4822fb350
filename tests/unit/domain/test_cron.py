"""When a cron expression fires: what the fields mean, both switches of the clocks, errors that name the mistake."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloacina.domain.cron import CronExpression

_SETTINGS = settings(max_examples=150, deadline=None)
_ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # half an hour off the others
    "America/Havana",  # changes at midnight
    "Australia/Lord_Howe",  # changes by half an hour
    "Antarctica/Troll",  # changes by two hours
    "Africa/Casablanca",  # changes around Ramadan
    "Pacific/Apia",  # left out a whole day
    "Asia/Kathmandu",
]


def us(text: str) -> int:
    """An instant from its ISO form with offset."""
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000


def firings(expression: str, after: str, count: int, timezone: str = "UTC") -> list[str]:
    """The next firings, each as ISO local time with its offset."""
    cron = CronExpression.parse(expression, timezone)
    zone = ZoneInfo(timezone)
    return [
        datetime.fromtimestamp(at // 1_000_000, zone).isoformat() for at in islice(instants(cron, us(after)), count)
    ]


def instants(cron: CronExpression, after_us: int) -> Iterator[int]:
    at = cron.next_after(after_us)
    while at is not None:
        yield at
        at = cron.next_after(at)


# fields


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", ["2026-01-01T00:01", "2026-01-01T00:02"]),
        ("*/15 * * * *", ["2026-01-01T00:15", "2026-01-01T00:30"]),
        ("20/15 * * * *", ["2026-01-01T00:20", "2026-01-01T00:35", "2026-01-01T00:50", "2026-01-01T01:20"]),
        ("0 9-17/4 * * *", ["2026-01-01T09:00", "2026-01-01T13:00", "2026-01-01T17:00", "2026-01-02T09:00"]),
        ("5,10 0 * * *", ["2026-01-01T00:05", "2026-01-01T00:10", "2026-01-02T00:05"]),
        ("0 9 * * MON-FRI", ["2026-01-01T09:00", "2026-01-02T09:00", "2026-01-05T09:00"]),
        ("0 9 * * fri-sun", ["2026-01-02T09:00", "2026-01-03T09:00", "2026-01-04T09:00", "2026-01-09T09:00"]),
        ("0 0 ? JAN,mar 1", ["2026-01-05T00:00", "2026-01-12T00:00", "2026-01-19T00:00", "2026-01-26T00:00",
                             "2026-03-02T00:00"]),
        ("0 0 * * 7", ["2026-01-04T00:00", "2026-01-11T00:00"]),
        ("0 0 * * 0", ["2026-01-04T00:00", "2026-01-11T00:00"]),
        ("0 0 L * *", ["2026-01-31T00:00", "2026-02-28T00:00", "2026-03-31T00:00", "2026-04-30T00:00"]),
        ("0 0 31 * *", ["2026-01-31T00:00", "2026-03-31T00:00", "2026-05-31T00:00"]),
        ("0 0 * * MON#1", ["2026-01-05T00:00", "2026-02-02T00:00"]),
        ("0 0 * * 5#5", ["2026-01-30T00:00", "2026-05-29T00:00"]),
        ("0 0 * * FRI#L", ["2026-01-30T00:00", "2026-02-27T00:00"]),
        ("0 0 * * 5L", ["2026-01-30T00:00", "2026-02-27T00:00"]),
        ("0 0 * * MON-TUE#2", ["2026-01-12T00:00", "2026-01-13T00:00", "2026-02-09T00:00"]),
        ("0 0 15W * *", ["2026-01-15T00:00", "2026-02-16T00:00", "2026-03-16T00:00"]),
        ("0 0 1W 8 *", ["2026-08-03T00:00", "2027-08-02T00:00"]),
        ("0 0 31W 5 *", ["2026-05-29T00:00", "2027-05-31T00:00"]),
        ("0 0 13 * 5", ["2026-01-02T00:00", "2026-01-09T00:00", "2026-01-13T00:00", "2026-01-16T00:00"]),
        ("@yearly", ["2027-01-01T00:00"]),
        ("@Annually", ["2027-01-01T00:00"]),
        ("@monthly", ["2026-02-01T00:00"]),
        ("@weekly", ["2026-01-04T00:00"]),
        ("@daily", ["2026-01-02T00:00"]),
        ("@midnight", ["2026-01-02T00:00"]),
        ("  @hourly ", ["2026-01-01T01:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00", "2032-02-29T00:00"]),
    ],
)  # fmt: skip
def test_fields_name_these_minutes(expression: str, expected: list[str]) -> None:
    found = firings(expression, "2026-01-01T00:00+00:00", len(expected))
    assert found == [f"{text}:00+00:00" for text in expected]


def test_six_fields_begin_with_the_second() -> None:
    assert firings("*/20 59 23 31 12 *", "2026-01-01T00:00+00:00", 4) == [
        "2026-12-31T23:59:00+00:00",
        "2026-12-31T23:59:20+00:00",
        "2026-12-31T23:59:40+00:00",
        "2027-12-31T23:59:00+00:00",
    ]


def test_the_next_instant_is_strictly_after() -> None:
    cron = CronExpression.parse("0 12 * * *")
    noon = us("2026-06-01T12:00+00:00")
    assert cron.next_after(noon - 1) == noon
    assert cron.next_after(noon) == us("2026-06-02T12:00+00:00")
    assert cron.next_after(noon + 1) == us("2026-06-02T12:00+00:00")


def test_a_leap_day_is_found_over_a_century_without_one() -> None:
    assert firings("0 0 29 2 *", "2097-01-01T00:00+00:00", 1) == ["2104-02-29T00:00:00+00:00"]
    assert firings("0 0 ? 2 SUN#5", "2080-01-01T00:00+00:00", 1) == ["2088-02-29T00:00:00+00:00"]


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin"])
def test_a_day_that_never_comes_gives_none(timezone: str) -> None:
    assert CronExpression.parse("0 0 30 2 *", timezone).next_after(us("2026-01-01T00:00+00:00")) is None
    assert CronExpression.parse("0 0 31 4,6,9,11 *", timezone).next_after(us("2026-01-01T00:00+00:00")) is None


@pytest.mark.parametrize("timezone", _ZONES)
@pytest.mark.parametrize("at_us", [-(2**63), -62_135_596_800_000_000, -1, 0, 253_402_300_799_000_000, 2**63 - 1])
def test_any_64_bit_instant_has_an_answer(timezone: str, at_us: int) -> None:
    found = CronExpression.parse("* * * * * *", timezone).next_after(at_us)
    assert found is None or found > at_us


def test_expressions_written_alike_are_equal() -> None:
    assert CronExpression.parse("0  9 * * *", "Europe/Berlin") == CronExpression.parse(" 0 9 * * * ", "Europe/Berlin")
    assert CronExpression.parse("0 9 * * *") != CronExpression.parse("0 9 * * *", "Europe/Berlin")
    assert len({CronExpression.parse("@daily"), CronExpression.parse("@daily")}) == 1


# clocks


def test_a_time_that_does_not_exist_fires_once_at_the_first_instant_after_the_gap() -> None:
    berlin = firings("30 2 * * *", "2026-03-28T12:00+01:00", 2, "Europe/Berlin")
    assert berlin == ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
    several = firings("0,15,30 2,3 * * *", "2026-03-29T00:00+01:00", 4, "Europe/Berlin")
    assert [text[11:16] for text in several] == ["03:00", "03:15", "03:30", "02:00"]


def test_minutes_of_an_hour_that_does_not_exist_fire_once() -> None:
    found = firings("*/15 2 * * *", "2026-03-28T12:00+01:00", 2, "Europe/Berlin")
    assert found == ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]


def test_intervals_make_nothing_up_after_a_gap() -> None:
    found = firings("30 * * * *", "2026-03-29T01:00+01:00", 2, "Europe/Berlin")
    assert found == ["2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"], "one hour apart"
    found = firings("5 */2 * * *", "2026-03-29T00:00+01:00", 2, "Europe/Berlin")
    assert found == ["2026-03-29T00:05:00+01:00", "2026-03-29T04:05:00+02:00"]


def test_a_time_that_occurs_twice_fires_at_its_first_occurrence() -> None:
    found = firings("30 2 * * *", "2026-10-24T12:00+02:00", 2, "Europe/Berlin")
    assert found == ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]


def test_a_named_time_does_not_fire_in_the_second_pass_whenever_asked() -> None:
    for asked in (
        "2026-10-25T02:30+02:00",
        "2026-10-25T02:59+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T02:29+01:00",
    ):
        assert firings("30 2 * * *", asked, 1, "Europe/Berlin") == ["2026-10-26T02:30:00+01:00"], asked


def test_what_follows_a_change_at_once_is_not_missed() -> None:
    assert firings("0,30 2,3 * * *", "2026-10-25T02:10+01:00", 1, "Europe/Berlin") == ["2026-10-25T03:00:00+01:00"]
    assert firings("0 * * * *", "2026-03-29T01:10+01:00", 1, "Europe/Berlin") == ["2026-03-29T03:00:00+02:00"]
    assert firings("0 2,3 * * *", "2026-03-29T01:10+01:00", 2, "Europe/Berlin") == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:00:00+02:00",
    ]


@pytest.mark.parametrize("expression", ["*/30 * * * *", "*/30 2,3 * * *", "0/30 0-23 * * *", "0,30 0-23 * * *"])
def test_intervals_fire_in_both_passes(expression: str) -> None:
    found = firings(expression, "2026-10-25T01:59+02:00", 6, "Europe/Berlin")
    assert [text[11:] for text in found] == [
        "02:00:00+02:00",
        "02:30:00+02:00",
        "02:00:00+01:00",
        "02:30:00+01:00",
        "03:00:00+01:00",
        "03:30:00+01:00",
    ]


def test_an_hourly_firing_stays_hourly_through_both_switches() -> None:
    for after in ("2026-03-29T00:00+01:00", "2026-10-25T00:00+02:00"):
        cron = CronExpression.parse("17 * * * *", "Europe/Berlin")
        found = list(islice(instants(cron, us(after)), 6))
        assert {later - earlier for earlier, later in zip(found, found[1:], strict=False)} == {3_600_000_000}


def test_a_day_that_a_zone_left_out_is_made_up_for() -> None:
    """Samoa had no 30 December 2011."""
    found = firings("0 12 * * *", "2011-12-29T00:00-10:00", 3, "Pacific/Apia")
    assert found == ["2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"]


# the fields and clocks together, against a walk over every minute


@dataclass(frozen=True)
class Drawn:
    """An expression and, worked out apart from it, what it names."""

    text: str
    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    day: Callable[[date], bool]
    repeats: bool
    makes_up: bool

    def names(self, local: datetime) -> bool:
        return (
            local.hour in self.hours
            and local.minute in self.minutes
            and local.second in self.seconds
            and self.day(local.date())
        )


@st.composite
def element_lists(draw: st.DrawFn, least: int, most: int) -> tuple[str, frozenset[int], bool]:
    """A field's text, its values, and whether it is one of intervals."""
    texts: list[str] = []
    values: set[int] = set()
    intervals = False
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(least, most))
        last = draw(st.integers(first, most))
        step = draw(st.integers(1, most - least + 1))
        kind = draw(st.sampled_from(["*", "?", "*/n", "a", "a-b", "a-b/n", "a/n"]))
        match kind:
            case "*" | "?":
                texts.append(kind)
                values.update(range(least, most + 1))
            case "*/n":
                texts.append(f"*/{step}")
                values.update(range(least, most + 1, step))
            case "a":
                texts.append(str(first))
                values.add(first)
            case "a-b":
                texts.append(f"{first}-{last}")
                values.update(range(first, last + 1))
            case "a-b/n":
                texts.append(f"{first}-{last}/{step}")
                values.update(range(first, last + 1, step))
            case "a/n":
                texts.append(f"{first}/{step}")
                values.update(range(first, most + 1, step))
        intervals |= kind in ("*", "?", "*/n", "a/n")
    return ",".join(texts), frozenset(values), intervals or len(values) == most - least + 1


@st.composite
def days(draw: st.DrawFn) -> tuple[str, str, str, Callable[[date], bool]]:
    """The three day fields, and whether they name a date."""
    month_text, months, _ = draw(st.just(("*", frozenset(range(1, 13)), True)) | element_lists(1, 12))
    by_day = draw(
        st.just(("*", lambda _: True))
        | element_lists(1, 31).map(lambda drawn: (drawn[0], lambda on: on.day in drawn[1]))
        | st.just(("L", lambda on: (on + timedelta(days=1)).day == 1))
        | st.integers(1, 31).map(lambda day: (f"{day}W", lambda on: on == nearest_weekday(on, day)))
    )
    by_weekday = draw(
        st.just(("*", lambda _: True))
        | element_lists(0, 6).map(lambda drawn: (drawn[0], lambda on: on.isoweekday() % 7 in drawn[1]))
        | st.tuples(st.integers(0, 7), st.integers(1, 5)).map(
            lambda drawn: (
                f"{drawn[0]}#{drawn[1]}",
                lambda on: on.isoweekday() % 7 == drawn[0] % 7 and (on.day - 1) // 7 + 1 == drawn[1],
            )
        )
        | st.integers(0, 7).map(
            lambda day: (
                f"{day}#L",
                lambda on: on.isoweekday() % 7 == day % 7 and (on + timedelta(days=7)).month != on.month,
            )
        )
    )
    either = by_day[0] not in ("*", "?") and by_weekday[0] not in ("*", "?")

    def named(on: date) -> bool:
        first, second = by_day[1](on), by_weekday[1](on)
        return on.month in months and (first or second if either else first and second)

    return by_day[0], month_text, by_weekday[0], named


def nearest_weekday(on: date, day: int) -> date | None:
    length = monthrange(on.year, on.month)[1]
    if day > length:
        return None
    wanted = on.replace(day=day)
    around = [on.replace(day=other) for other in range(1, length + 1) if on.replace(day=other).isoweekday() < 6]
    return min(around, key=lambda other: abs((other - wanted).days))


@st.composite
def expressions(draw: st.DrawFn, *, with_seconds: bool = False, any_day: bool = False) -> Drawn:
    seconds = draw(element_lists(0, 59)) if with_seconds else ("", frozenset({0}), False)
    minutes, hours = draw(element_lists(0, 59)), draw(element_lists(0, 23))
    day, month, weekday, named = ("*", "*", "*", lambda _: True) if any_day else draw(days())
    text = " ".join([seconds[0], minutes[0], hours[0], day, month, weekday]).strip()
    intervals = seconds[2] or minutes[2] or hours[2]
    return Drawn(text, seconds[1], minutes[1], hours[1], named, intervals, not hours[2])


def changes_of(timezone: str) -> list[int]:
    """The instants from 2010 to 2030 at which the zone's offset changes, in seconds."""
    zone = ZoneInfo(timezone)

    def offset(at: int) -> timedelta | None:
        return datetime.fromtimestamp(at, zone).utcoffset()

    found = []
    for day in range(us("2010-01-01T00:00+00:00") // 1_000_000, us("2030-01-01T00:00+00:00") // 1_000_000, 86_400):
        if offset(day) != offset(day + 86_400):
            found.extend(at for at in range(day + 900, day + 86_401, 900) if offset(at) != offset(at - 900))
    return found


def walked(drawn: Drawn, timezone: str, start: int, end: int, step: int) -> list[int]:
    """Every firing from `start` to `end`, in seconds, found by walking: a clock's hand, not arithmetic."""
    zone = ZoneInfo(timezone)
    found: list[int] = []
    seen: set[datetime] = set()
    expected: datetime | None = None
    for at in range(start, end + 1, step):
        local = datetime.fromtimestamp(at, zone).replace(tzinfo=None, fold=0)
        made_up = False
        while expected is not None and expected < local:  # wall times that the clock left out
            made_up |= drawn.makes_up and drawn.names(expected)
            expected += timedelta(seconds=step)
        if made_up or (drawn.names(local) and (drawn.repeats or local not in seen)):
            found.append(at)
        seen.add(local)
        expected = local + timedelta(seconds=step)
    return found


_CHANGES = {timezone: changes_of(timezone) for timezone in _ZONES}
_moments = st.sampled_from([(timezone, change) for timezone in _ZONES for change in _CHANGES[timezone]]) | st.tuples(
    st.sampled_from(_ZONES), st.integers(21_000_000, 31_000_000).map(lambda minute: minute * 60)
)


def assert_as_walked(drawn: Drawn, timezone: str, start: int, end: int, step: int, asked_after: float) -> None:
    expected = walked(drawn, timezone, start, end, step)
    cron = CronExpression.parse(drawn.text, timezone)
    # a walk learns of a first occurrence by having seen it, so nothing before its second quarter is compared
    begin = start + (end - start) // 4
    found: list[int] = []
    for at in instants(cron, begin * 1_000_000):
        if at > end * 1_000_000:
            break
        found.append(at // 1_000_000)
    assert found == [at for at in expected if at > begin]
    asked = begin + int((end - begin) * asked_after)
    following = next((at * 1_000_000 for at in expected if at > asked), None)
    got = cron.next_after(asked * 1_000_000)
    assert got == following or (following is None and (got is None or got > end * 1_000_000))


@_SETTINGS
@given(drawn=expressions(), moment=_moments, asked_after=st.floats(0, 1))
def test_it_fires_as_a_walk_over_every_minute_says(drawn: Drawn, moment: tuple[str, int], asked_after: float) -> None:
    timezone, around = moment
    assert_as_walked(drawn, timezone, around - 36 * 3600, around + 26 * 3600, 60, asked_after)


@settings(max_examples=60, deadline=None)
@given(drawn=expressions(with_seconds=True, any_day=True), moment=_moments, asked_after=st.floats(0, 1))
def test_it_fires_as_a_walk_over_every_second_says(drawn: Drawn, moment: tuple[str, int], asked_after: float) -> None:
    timezone, around = moment
    assert_as_walked(drawn, timezone, around - 2 * 3600, around + 3600, 1, asked_after)


@_SETTINGS
@given(drawn=days(), start=st.dates(date(1990, 1, 1), date(2100, 1, 1)))
def test_it_fires_on_the_days_that_a_calendar_says(
    drawn: tuple[str, str, str, Callable[[date], bool]], start: date
) -> None:
    day, month, weekday, named = drawn
    midnight = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * 1_000_000
    found = CronExpression.parse(f"0 0 {day} {month} {weekday}").next_after(midnight)
    ahead = (start + timedelta(days=n) for n in range(1, 15_000))
    expected = next((on for on in ahead if named(on)), None)
    if expected is None:
        assert found is None or found > midnight + 14_999 * 86_400_000_000
    else:
        assert found is not None
        assert datetime.fromtimestamp(found // 1_000_000, UTC).date() == expected


# errors


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        ("61 * * * *", ["minute", "'61'", "0-59"]),
        ("* 24 * * *", ["hour", "'24'", "0-23"]),
        ("* * 0 * *", ["day of month", "'0'", "1-31"]),
        ("* * 32W * *", ["day of month", "'32W'", "1-31"]),
        ("* * * 13 *", ["month", "'13'", "1-12"]),
        ("* * * FOO *", ["month", "'FOO'", "JAN-DEC"]),
        ("* * * * 8", ["day of week", "'8'", "0-7"]),
        ("* * * * MON#6", ["day of week", "'MON#6'", "1 to 5"]),
        ("* * * * L", ["day of week", "'L'"]),
        ("60 * * * * *", ["second", "'60'", "0-59"]),
        ("0 */0 * * *", ["hour", "'*/0'", "step", "1 to 24"]),
        ("*/61 * * * *", ["minute", "'*/61'", "step", "1 to 60"]),
        ("0 22-2 * * *", ["hour", "'22-2'", "starts after its end"]),
        ("1,,2 * * * *", ["minute", "missing"]),
        ("1- * * * *", ["minute", "'1-'", "missing"]),
        ("-1 * * * *", ["minute", "'-1'"]),
        ("1.5 * * * *", ["minute", "'1.5'"]),
        ("² * * * *", ["minute", "'²'"]),
        ("* * * *", ["5 fields", "not 4"]),
        ("", ["5 fields", "not 0"]),
        ("* * * * * * *", ["not 7"]),
        ("@reboot", ["@reboot", "@hourly"]),
        ("* " * 300, ["512 characters"]),
    ],
)
def test_a_mistake_is_named(expression: str, parts: list[str]) -> None:
    with pytest.raises(ValueError, match="cron expression") as caught:
        CronExpression.parse(expression)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "timezone",
    ["", "Europe", "Europe/Atlantis", "europe/berlin ", "../UTC", "/etc/passwd", "right/UTC", "localtime", "x" * 5000],
)
def test_an_unknown_time_zone_is_named(timezone: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone") as caught:
        CronExpression.parse("* * * * *", timezone)
    assert repr(timezone) in str(caught.value)


@_SETTINGS
@given(st.text(alphabet="0123456789*/-,?LW#@ MONJAFEB", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        cron = CronExpression.parse(text)
    except ValueError:
        return
    found = cron.next_after(us("2026-01-01T00:00+00:00"))
    assert found is None or found > us("2026-01-01T00:00+00:00")
