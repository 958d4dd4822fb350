"""When a cron expression fires: what an author wrote, and the next instant it names in its time zone.

The fields are those of Vixie cron, with the additions of croner (seconds, ``L``, ``W``, ``#``). An instant is whole
microseconds since the Unix epoch, UTC, and always passed in: nothing here reads a clock.

When the clocks change, the rule is that of Vixie cron, but for one case:

- *Local times that occur twice* (clocks go back). An expression that names its times (``30 1 * * *``) fires at the
  first occurrence only. An expression of intervals (``*/15 * * * *``, ``30 * * * *``) fires in both, so that it never
  pauses. It is one of intervals when its second, minute or hour field holds ``*``, ``?`` or an open step such as
  ``0/15``, or names every value.
- *Local times that do not exist* (clocks go forward). An expression that names its hours (``30 2 * * *``) fires once,
  at the first instant after the gap, however many of its times fell into it. Where the hour field is one of intervals
  nothing is made up: its next time comes by itself. (Vixie cron and croner drop ``*/15 2 * * *`` for that day. Here it
  fires once, so that no day goes without.)
"""

from __future__ import annotations

from calendar import isleap
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

_HORIZON_YEARS = 50
"""How far ahead an instant is looked for. The rarest, a 29 February on a given weekday, is at most 40 years away."""

_LONGEST_TEXT = 512
_SECOND_US = 1_000_000
_ONE_SECOND = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local times are compared as they stand on the wall
_EARLIEST_S = -62_135_510_400  # 0001-01-02: a day inside what a datetime can hold, so that any offset fits
_LATEST_S = 253_402_127_999  # 9999-12-29

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTH_LENGTHS = (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_LAST = 6
"""Stands beside 1 to 5 for the last occurrence of a weekday in its month."""

_EVERY_SEVENTH = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28

_MACHINE_ZONES = ("localtime", "posixrules", "Factory")
_FOREIGN_TREES = ("posix/", "right/")


@dataclass(frozen=True, slots=True)
class CronExpression:
    """A cron expression in a time zone, made with `parse`.

    Two are equal when they were written alike.
    """

    text: str
    timezone: str
    _zone: tzinfo = field(repr=False, compare=False)
    _seconds: int = field(repr=False, compare=False)
    _minutes: int = field(repr=False, compare=False)
    _hours: int = field(repr=False, compare=False)
    _months: int = field(repr=False, compare=False)
    _days: tuple[int, ...] = field(repr=False, compare=False)
    _repeats: bool = field(repr=False, compare=False)
    _makes_up: bool = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, timezone: str = "UTC") -> CronExpression:
        """Reads an expression.

        Args:
            text: five fields (minute, hour, day of month, month, day of week), six with the second first, or one of
                ``@yearly @annually @monthly @weekly @daily @midnight @hourly``. When neither day field is ``*`` or
                ``?``, it fires on the days that either names.
            timezone: the IANA name of the zone whose wall clock the fields name.

        Raises:
            ValueError: the message names the field, its value and what is allowed, or the time zone.
        """
        zone = _zone_named(timezone)
        if len(text) > _LONGEST_TEXT:
            raise ValueError(f"a cron expression has at most {_LONGEST_TEXT} characters, not {len(text)}")
        plain = text.strip()
        if plain.startswith("@"):
            if plain.lower() not in _NICKNAMES:
                raise ValueError(f"unknown cron expression {plain!r}: allowed are {', '.join(_NICKNAMES)}")
            plain = _NICKNAMES[plain.lower()]
        fields = plain.upper().split()
        if len(fields) not in (5, 6):
            raise ValueError(
                f"a cron expression has 5 fields (minute, hour, day of month, month, day of week), "
                f"or 6 with the second first, not {len(fields)}: {text!r}"
            )
        if len(fields) == 5:
            fields.insert(0, "0")
        second, minute, hour, day, month, weekday = fields
        seconds, seconds_open = _SECOND.read(second, text)
        minutes, minutes_open = _MINUTE.read(minute, text)
        hours, hours_open = _HOUR.read(hour, text)
        months, _ = _MONTH.read(month, text)
        return cls(
            text=" ".join(text.split()),
            timezone=timezone,
            _zone=zone,
            _seconds=seconds,
            _minutes=minutes,
            _hours=hours,
            _months=months,
            _days=_day_masks(_read_days(day, text), _read_weekdays(weekday, text)),
            _repeats=seconds_open or minutes_open or hours_open,
            _makes_up=not hours_open,
        )

    def next_after(self, at_us: int) -> int | None:
        """The first instant strictly after `at_us` at which the expression fires.

        Returns:
            Microseconds since the epoch, UTC, on a whole second; None when there is none within 50 years.
        """
        start = max(at_us // _SECOND_US, _EARLIEST_S)
        if start > _LATEST_S:
            return None
        found = self._next_second(start)
        return None if found is None else found * _SECOND_US

    def _next_second(self, start: int) -> int | None:
        """`next_after` in whole seconds.

        The wall clock is followed as if it only ran forward. That finds every instant but those of one case: `start` is
        in hours that will be repeated. What fires in their second pass is looked for apart.
        """
        zone = self._zone
        if zone is UTC:
            utc = self._first_match(_EPOCH + timedelta(seconds=start + 1))
            return None if utc is None else _seconds_of(utc)
        local = datetime.fromtimestamp(start, zone)
        second_pass: int | None = None
        if self._repeats and not local.fold:
            second_pass = self._first_in_second_pass(local.replace(tzinfo=None))
        cursor = local.replace(tzinfo=None, fold=0) + _ONE_SECOND
        while (match := self._first_match(cursor)) is not None:
            wall = _seconds_of(match)
            before, after = _offsets(match, zone)
            if before == after:
                return _earlier(wall - before, second_pass)
            change = _change(zone, wall, before, after)
            if before < after:  # a gap: this local time does not exist
                if self._makes_up and change > start:
                    return _earlier(change, second_pass)
                cursor = _EPOCH + timedelta(seconds=change + after)
            elif wall - before > start:
                return _earlier(wall - before, second_pass)
            elif self._repeats:
                return wall - after
            else:  # the second pass, which an expression of named times leaves out
                cursor = _EPOCH + timedelta(seconds=change + before)
        return second_pass

    def _first_in_second_pass(self, local: datetime) -> int | None:
        """The first instant after the clocks go back, when `local` is in the hours that they then repeat."""
        before, after = _offsets(local, self._zone)
        if before <= after:
            return None
        change = _change(self._zone, _seconds_of(local), before, after)
        match = self._first_match(_EPOCH + timedelta(seconds=change + after))
        return None if match is None or match > local else _seconds_of(match) - after

    def _first_match(self, start: datetime) -> datetime | None:
        """The first local time at or after `start` that the fields name, as if no clock ever changed."""
        year, month, day = start.year, start.month, start.day
        last_year = min(year + _HORIZON_YEARS, 9999)
        if self._month_mask(year, month) >> day & 1:
            time = self._time_from(start.hour, start.minute, start.second)
            if time is not None:
                return datetime(year, month, day, *time)  # noqa: DTZ001 - a time on the wall
        day += 1
        while year <= last_year:
            found = _lowest(self._month_mask(year, month), day)
            if found is not None:
                return datetime(  # noqa: DTZ001 - a time on the wall
                    year, month, found, _first(self._hours), _first(self._minutes), _first(self._seconds)
                )
            day = 1
            later = _lowest(self._months, month + 1)
            if later is None:
                year, month = year + 1, _first(self._months)
            else:
                month = later
        return None

    def _month_mask(self, year: int, month: int) -> int:
        """The days of this month on which the expression fires, as bits 1 to 31."""
        if not self._months >> month & 1:
            return 0
        length = 29 if month == 2 and isleap(year) else _MONTH_LENGTHS[month]
        return self._days[(length - 28) * 7 + date(year, month, 1).isoweekday() % 7]

    def _time_from(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        """The first time of day at or after the given one."""
        if self._hours >> hour & 1:
            if self._minutes >> minute & 1:
                found = _lowest(self._seconds, second)
                if found is not None:
                    return hour, minute, found
            found = _lowest(self._minutes, minute + 1)
            if found is not None:
                return hour, found, _first(self._seconds)
        found = _lowest(self._hours, hour + 1)
        return None if found is None else (found, _first(self._minutes), _first(self._seconds))


@dataclass(frozen=True, slots=True)
class _Field:
    """One field: the numbers and names that it takes.

    Args:
        name: what a message calls it.
        least: the lowest value.
        most: the highest value.
        names: of the values from the lowest on.
        wraps: the number after the highest means the lowest again (Sunday is 0 and 7).
        also: what more a message says is allowed.
    """

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    wraps: bool = False
    also: str = ""

    def read(self, text: str, expression: str) -> tuple[int, bool]:
        """The named values as bits, and whether the field is one of intervals (see the module).

        Raises:
            ValueError: naming the field, the value and what is allowed.
        """
        mask, intervals = 0, False
        for element in text.split(","):
            values, open_ended = self.read_element(element, expression)
            mask |= values
            intervals |= open_ended
        return mask, intervals or mask == (1 << self.most + 1) - (1 << self.least)

    def read_element(self, element: str, expression: str) -> tuple[int, bool]:
        """`read` for one element of the comma-separated list."""
        span, slash, step = element.partition("/")
        open_ended = False
        if span in ("*", "?"):
            first, last, open_ended = self.least, self.most, True
        elif "-" in span:
            low, _, high = span.partition("-")
            first, last = self.number(low, element, expression), self.number(high, element, expression)
            if self.wraps and high in self.names and last == self.least < first:
                last = self.most + 1  # FRI-SUN
        elif slash:
            first, last, open_ended = self.number(span, element, expression), self.most, True
        else:
            first = last = self.number(span, element, expression)
        if first > last:
            raise self.error(element, expression, "it starts after its end (write two, such as 22-23,0-2)")
        size = self.most - self.least + 1
        if slash and not (_is_number(step) and 1 <= int(step) <= size):
            raise self.error(element, expression, f"the step must be a whole number from 1 to {size}")
        mask = 0
        for value in range(first, last + 1, int(step) if slash else 1):
            mask |= 1 << (self.least if value > self.most else value)
        return mask, open_ended

    def number(self, text: str, element: str, expression: str) -> int:
        """A number or a name of this field."""
        if text in self.names:
            return self.least + self.names.index(text)
        if not _is_number(text) or not self.least <= int(text) <= self.most + self.wraps:
            raise self.error(
                element, expression, f"{text!r} is not one of its values" if text else "a value is missing"
            )
        return int(text)

    def error(self, element: str, expression: str, reason: str) -> ValueError:
        """What is wrong with an element, and what the field allows."""
        names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return ValueError(
            f"invalid {self.name} {element!r} in cron expression {expression!r}: {reason}; "
            f"allowed are {self.least}-{self.most + self.wraps}{names}, *, ?, ranges, lists and steps{self.also}"
        )


_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of month", 1, 31, also=", L (the last day), nW (the weekday nearest to day n)")
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field(
    "day of week", 0, 6, _WEEKDAYS, wraps=True, also=", d#1 to d#5 (the nth of the month), d#L or dL (the last)"
)


@dataclass(frozen=True, slots=True)
class _Days:
    """The day of month field."""

    every: bool
    days: int
    last: bool
    nearest_weekday_to: tuple[int, ...]

    def mask(self, first_weekday: int, length: int) -> int:
        """The days of a month of `length` days that starts on `first_weekday` (Sunday is 0)."""
        mask = self.days & ((1 << length + 1) - 1)
        if self.last:
            mask |= 1 << length
        for day in self.nearest_weekday_to:
            if day <= length:
                mask |= 1 << _nearest_weekday(day, first_weekday, length)
        return mask


@dataclass(frozen=True, slots=True)
class _Weekdays:
    """The day of week field: plain days, and for each day which of its occurrences in the month."""

    every: bool
    weekdays: int
    occurrences: tuple[frozenset[int], ...]

    def mask(self, first_weekday: int, length: int) -> int:
        """The days of a month of `length` days that starts on `first_weekday` (Sunday is 0)."""
        mask = 0
        for weekday in range(7):
            first = (weekday - first_weekday) % 7 + 1
            if self.weekdays >> weekday & 1:
                mask |= _EVERY_SEVENTH << first
            for nth in self.occurrences[weekday]:
                mask |= 1 << (first + (length - first) // 7 * 7 if nth == _LAST else first + nth * 7 - 7)
        return mask & ((1 << length + 1) - 1)


def _read_days(text: str, expression: str) -> _Days:
    days, last = 0, False
    nearest: list[int] = []
    for element in text.split(","):
        if element == "L":
            last = True
        elif element.endswith("W"):
            nearest.append(_DAY.number(element[:-1], element, expression))
        else:
            days |= _DAY.read_element(element, expression)[0]
    return _Days(text in ("*", "?"), days, last, tuple(nearest))


def _read_weekdays(text: str, expression: str) -> _Weekdays:
    weekdays = 0
    occurrences: list[set[int]] = [set() for _ in range(7)]
    for element in text.split(","):
        day_text, hash_sign, which = element.partition("#")
        if not hash_sign and len(element) > 1 and element.endswith("L"):
            day_text, which = element[:-1], "L"
        if not hash_sign and not which:
            weekdays |= _WEEKDAY.read_element(element, expression)[0]
            continue
        if which not in ("1", "2", "3", "4", "5", "L"):
            raise _WEEKDAY.error(element, expression, "after # comes 1 to 5 or L")
        mask, _ = _WEEKDAY.read_element(day_text, expression)
        for weekday in range(7):
            if mask >> weekday & 1:
                occurrences[weekday].add(_LAST if which == "L" else int(which))
    return _Weekdays(text in ("*", "?"), weekdays, tuple(frozenset(nths) for nths in occurrences))


def _day_masks(days: _Days, weekdays: _Weekdays) -> tuple[int, ...]:
    """The days that fire, for each of the 28 months there are: four lengths, and seven weekdays to start on."""
    masks = []
    for length in (28, 29, 30, 31):
        for first_weekday in range(7):
            by_day, by_weekday = days.mask(first_weekday, length), weekdays.mask(first_weekday, length)
            either = not days.every and not weekdays.every
            masks.append(by_day | by_weekday if either else by_day & by_weekday)
    return tuple(masks)


def _nearest_weekday(day: int, first_weekday: int, length: int) -> int:
    """The Monday to Friday nearest to `day` in the same month."""
    match (first_weekday + day - 1) % 7:
        case 6:
            return day - 1 if day > 1 else day + 2
        case 0:
            return day + 1 if day < length else day - 2
        case _:
            return day


def _zone_named(name: str) -> tzinfo:
    """The time zone of an IANA name.

    Raises:
        ValueError: there is none of this name.
    """
    if name == "UTC":
        return UTC  # works where no time zone database is installed
    if name not in _MACHINE_ZONES and not name.startswith(_FOREIGN_TREES):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # unknown, not a name, or a folder such as "Europe"
            pass
    raise ValueError(f"unknown time zone {name!r}: use an IANA name such as 'Europe/Berlin' or 'UTC'")


def _offsets(local: datetime, zone: tzinfo) -> tuple[int, int]:
    """The offsets from UTC that a local time may have, in seconds: equal but where the clocks change.

    The first is the one before the change: larger where the time occurs twice, smaller where it does not exist.
    """
    aware = local.replace(tzinfo=zone, fold=0)
    before, after = aware.utcoffset(), aware.replace(fold=1).utcoffset()
    assert before is not None
    assert after is not None
    return before.days * 86_400 + before.seconds, after.days * 86_400 + after.seconds


def _change(zone: tzinfo, wall: int, before: int, after: int) -> int:
    """The instant at which the clocks change around the local time `wall`, in seconds since the epoch."""
    low, high = wall - max(before, after), wall - min(before, after)
    while high - low > 1:
        middle = (low + high) // 2
        offset = datetime.fromtimestamp(middle, zone).utcoffset()
        assert offset is not None
        if offset.days * 86_400 + offset.seconds == before:
            low = middle
        else:
            high = middle
    return high


def _seconds_of(local: datetime) -> int:
    elapsed = local - _EPOCH
    return elapsed.days * 86_400 + elapsed.seconds


def _earlier(instant: int, other: int | None) -> int:
    return instant if other is None else min(instant, other)


def _lowest(mask: int, least: int) -> int | None:
    """The lowest set bit of `mask` that is not under `least`."""
    rest = mask >> least
    return least + _first(rest) if rest else None


def _first(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
