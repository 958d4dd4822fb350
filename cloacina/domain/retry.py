"""What happens after a failed attempt: whether to try again, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A task's retry policy.

    Args:
        max_attempts: attempts in all, the first included (at least 1).
        backoff: how the delay grows.
        delay_ms: milliseconds before the second attempt.
        max_delay_ms: no delay is longer than this many milliseconds.
        multiplier: factor between attempts of the exponential backoff.
        jitter: spread each delay over half to all of its length, so that many failures do not come back at once.
        condition: which failures are tried again.
    """

    max_attempts: int = 1
    backoff: Backoff = Backoff.EXPONENTIAL
    delay_ms: int = 1000
    max_delay_ms: int = 60_000
    multiplier: float = 2.0
    jitter: bool = True
    condition: RetryWhen = RetryWhen.ALL

    def allows(self, *, attempt: int, transient: bool) -> bool:
        """Whether another attempt follows the failed attempt number `attempt` (from 1)."""
        if attempt >= self.max_attempts or self.condition is RetryWhen.NEVER:
            return False
        return transient or self.condition is RetryWhen.ALL

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
                delay = float(self.delay_ms) * attempt
            case Backoff.EXPONENTIAL:
                # the exponent is capped: past 2**64 every sensible max_delay_ms has long been reached
                delay = self.delay_ms * self.multiplier ** min(attempt - 1, 64)
        delay = min(delay, float(self.max_delay_ms))
        if self.jitter:
            delay *= 0.5 + spread / 2
        return int(delay * 1000)

    def to_wire(self) -> dict[str, Any]:
        """The JSON form, the inverse of `from_wire`."""
        return {
            "max_attempts": self.max_attempts,
            "backoff": self.backoff.value,
            "delay_ms": self.delay_ms,
            "max_delay_ms": self.max_delay_ms,
            "multiplier": self.multiplier,
            "jitter": self.jitter,
            "condition": self.condition.value,
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
        multiplier = known.get("multiplier", 2.0)
        if not isinstance(multiplier, int | float) or not 1 <= multiplier <= 1000:
            raise ValueError(f"retry 'multiplier' must be a number from 1 to 1000, not {multiplier!r}")
        return cls(**known)


_KEYS = ("max_attempts", "backoff", "delay_ms", "max_delay_ms", "multiplier", "jitter", "condition")
