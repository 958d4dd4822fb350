"""What happens after a failed attempt: whether to try again, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_LONGEST_DELAY_MS = 10 * 366 * 86_400_000
"""Ten years. Due times are 64-bit microseconds; a longer delay, which no author means, must not overflow them."""


class Backoff(StrEnum):
    """How the delay grows with the attempts made."""

    FIXED = "fixed"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"


class RetryWhen(StrEnum):
    """Which failures are tried again."""

    NEVER = "never"
    TRANSIENT = "transient"
    ALL = "all"
    PATTERN = "pattern"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A task's retry policy.

    Args:
        max_attempts: attempts in all, the first included (at least 1).
        backoff: how the delay grows.
        delay_ms: milliseconds before the second attempt, before the factors below.
        max_delay_ms: no delay is longer than this many milliseconds (before jitter), nor than ten years.
        base: factor between attempts of the exponential backoff.
        multiplier: factor of every delay of the linear and exponential backoff.
        jitter: spread each delay by a quarter either way, so that many failures do not come back at once.
        condition: which failures are tried again.
        patterns: with ``pattern``: an error whose text contains one of these, whatever their case.
    """

    max_attempts: int = 3
    backoff: Backoff = Backoff.EXPONENTIAL
    delay_ms: int = 1000
    max_delay_ms: int = 60_000
    base: float = 2.0
    multiplier: float = 1.0
    jitter: bool = True
    condition: RetryWhen = RetryWhen.ALL
    patterns: tuple[str, ...] = ()

    def allows(self, *, attempt: int, transient: bool, error: str) -> bool:
        """Whether another attempt follows.

        Args:
            attempt: number of the attempt that failed, from 1.
            transient: whether the error is of a kind that another attempt may cure.
            error: its text.
        """
        if attempt >= self.max_attempts:
            return False
        match self.condition:
            case RetryWhen.NEVER:
                return False
            case RetryWhen.TRANSIENT:
                return transient
            case RetryWhen.PATTERN:
                return any(pattern.lower() in error.lower() for pattern in self.patterns)
            case RetryWhen.ALL:
                return True

    def delay_us(self, *, attempt: int, spread: float) -> int:
        """Microseconds to wait after failed attempt `attempt`.

        Args:
            attempt: number of the attempt that failed, from 1.
            spread: a number in [0, 1) that places the delay in its jitter range.
        """
        match self.backoff:
            case Backoff.FIXED:
                delay = float(self.delay_ms)
            case Backoff.LINEAR:
                delay = self.delay_ms * self.multiplier * attempt
            case Backoff.EXPONENTIAL:
                # the exponent is capped: past 2**64 every sensible max_delay_ms has long been reached
                delay = self.delay_ms * self.multiplier * self.base ** min(attempt - 1, 64)
        delay = min(delay, float(self.max_delay_ms), float(_LONGEST_DELAY_MS))
        if self.jitter:
            delay *= 0.75 + spread / 2
        return int(delay * 1000)

    def to_wire(self) -> dict[str, Any]:
        """The JSON form, the inverse of `from_wire`."""
        return {
            "max_attempts": self.max_attempts,
            "backoff": self.backoff.value,
            "delay_ms": self.delay_ms,
            "max_delay_ms": self.max_delay_ms,
            "base": self.base,
            "multiplier": self.multiplier,
            "jitter": self.jitter,
            "condition": self.condition.value,
            "patterns": list(self.patterns),
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> RetryPolicy:
        """Reads the JSON form; what is left out takes its default.

        Raises:
            ValueError: a value is out of range; the message names the key.
        """
        known = {key: wire[key] for key in _KEYS if wire.get(key) is not None}
        for key, kind in (("backoff", Backoff), ("condition", RetryWhen)):
            if key in known:
                try:
                    known[key] = kind(known[key])
                except ValueError:
                    allowed = ", ".join(repr(member.value) for member in kind)
                    raise ValueError(f"retry {key!r} must be one of {allowed}, not {known[key]!r}") from None
        for key, least in (("max_attempts", 1), ("delay_ms", 0), ("max_delay_ms", 0)):
            value = known.get(key, least)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"retry {key!r} must be a whole number of at least {least}, not {value!r}")
        for key in ("base", "multiplier"):
            factor = known.get(key, 1.0)
            if not isinstance(factor, int | float) or not 0 <= factor <= 1000:
                raise ValueError(f"retry {key!r} must be a number from 0 to 1000, not {factor!r}")
        patterns = known.get("patterns", ())
        if not isinstance(patterns, list | tuple):
            raise ValueError(f"retry 'patterns' must be a list of strings, not {patterns!r}")
        known["patterns"] = tuple(str(pattern) for pattern in patterns)
        return cls(**known)


_KEYS = (
    "max_attempts",
    "backoff",
    "delay_ms",
    "max_delay_ms",
    "base",
    "multiplier",
    "jitter",
    "condition",
    "patterns",
)
