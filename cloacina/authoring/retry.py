"""RetryPolicy and its builder: what happens after a failed attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class BackoffStrategy:
    """How the delay grows. Made with `fixed`, `linear` or `exponential`."""

    kind: str
    base: float = 2.0
    multiplier: float = 1.0

    @staticmethod
    def fixed() -> BackoffStrategy:
        """Always the initial delay."""
        return BackoffStrategy("fixed")

    @staticmethod
    def linear(multiplier: float) -> BackoffStrategy:
        """The initial delay times the attempt times `multiplier`."""
        return BackoffStrategy("linear", multiplier=multiplier)

    @staticmethod
    def exponential(base: float, multiplier: float | None = None) -> BackoffStrategy:
        """The initial delay times `multiplier` times `base` to the power of the attempts before."""
        return BackoffStrategy("exponential", base, 1.0 if multiplier is None else multiplier)


@dataclass(frozen=True, slots=True)
class RetryCondition:
    """Which failures are tried again. Made with `never`, `transient_only`, `all_errors` or `error_pattern`; `custom` is
    ours."""

    kind: str
    patterns: tuple[str, ...] = ()
    verdict: Callable[[BaseException], bool] | None = None

    @staticmethod
    def never() -> RetryCondition:
        """None."""
        return RetryCondition("never")

    @staticmethod
    def transient_only() -> RetryCondition:
        """Timeouts, connection errors and the like."""
        return RetryCondition("transient")

    @staticmethod
    def all_errors() -> RetryCondition:
        """Every one."""
        return RetryCondition("all")

    @staticmethod
    def error_pattern(patterns: list[str]) -> RetryCondition:
        """Those whose text contains one of `patterns`, whatever their case."""
        return RetryCondition("pattern", tuple(patterns))

    @staticmethod
    def custom(verdict: Callable[[BaseException], bool]) -> RetryCondition:
        """Those for which `verdict(error)` is true; asked where the task ran."""
        return RetryCondition("all", verdict=verdict)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A retry policy. Made with `builder`, or `default`; delays in seconds."""

    max_attempts: int = 3
    initial_delay: float = 1.0
    max_delay: float = 60.0
    strategy: BackoffStrategy = BackoffStrategy("exponential")
    condition: RetryCondition = RetryCondition("all")
    with_jitter: bool = True

    @staticmethod
    def builder() -> RetryPolicyBuilder:
        """A builder that begins with the default policy."""
        return RetryPolicyBuilder()

    @staticmethod
    def default() -> RetryPolicy:
        """Three attempts, exponential from one second to a minute, with jitter, for every error."""
        return RetryPolicy()

    def should_retry(self, attempt: int, error_type: str) -> bool:
        """Whether another attempt follows attempt number `attempt`."""
        return attempt < self.max_attempts and self.condition.kind != "never"

    def calculate_delay(self, attempt: int) -> float:
        """Seconds after attempt number `attempt`, without jitter."""
        growth = {
            "fixed": 1.0,
            "linear": self.strategy.multiplier * attempt,
            "exponential": self.strategy.multiplier * self.strategy.base ** (attempt - 1),
        }
        return min(self.initial_delay * growth[self.strategy.kind], self.max_delay)

    def to_wire(self) -> dict[str, Any]:
        """The form the engine reads (``cloacina.domain.retry``)."""
        return {
            "max_attempts": max(1, self.max_attempts),
            "backoff": self.strategy.kind,
            "delay_ms": round(self.initial_delay * 1000),
            "max_delay_ms": round(self.max_delay * 1000),
            "base": self.strategy.base,
            "multiplier": self.strategy.multiplier,
            "jitter": self.with_jitter,
            "condition": self.condition.kind,
            "patterns": list(self.condition.patterns),
        }


class RetryPolicyBuilder:
    """Builds a `RetryPolicy`; every method gives a new builder."""

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        self._policy = policy or RetryPolicy()

    def max_attempts(self, attempts: int) -> RetryPolicyBuilder:
        """Attempts in all, the first included."""
        return RetryPolicyBuilder(replace(self._policy, max_attempts=attempts))

    def initial_delay(self, delay_seconds: float) -> RetryPolicyBuilder:
        """Seconds before the second attempt."""
        return RetryPolicyBuilder(replace(self._policy, initial_delay=delay_seconds))

    def max_delay(self, delay_seconds: float) -> RetryPolicyBuilder:
        """Seconds that no delay exceeds."""
        return RetryPolicyBuilder(replace(self._policy, max_delay=delay_seconds))

    def backoff_strategy(self, strategy: BackoffStrategy) -> RetryPolicyBuilder:
        """How the delay grows."""
        return RetryPolicyBuilder(replace(self._policy, strategy=strategy))

    def retry_condition(self, condition: RetryCondition) -> RetryPolicyBuilder:
        """Which failures are tried again."""
        return RetryPolicyBuilder(replace(self._policy, condition=condition))

    def with_jitter(self, jitter: bool) -> RetryPolicyBuilder:
        """Whether delays are spread."""
        return RetryPolicyBuilder(replace(self._policy, with_jitter=jitter))

    def build(self) -> RetryPolicy:
        """The policy."""
        return self._policy


_KEYWORDS = {
    "retry_attempts": "attempts in all",
    "retry_backoff": "fixed, linear or exponential",
    "retry_delay_ms": "milliseconds",
    "retry_max_delay_ms": "milliseconds",
    "retry_condition": "never, transient or all",
    "retry_jitter": "a bool",
}


def policy_from_keywords(retry: RetryPolicy | None, **keywords: Any) -> RetryPolicy:
    """The policy of a task from ``retry=`` or its ``retry_*`` keywords.

    Raises:
        ValueError: both are given.
    """
    given = {name: value for name, value in keywords.items() if value is not None}
    if retry is not None:
        if given:
            raise ValueError(
                f"@task(retry=RetryPolicy(...)) cannot be combined with {', '.join(given)}: use one, not both"
            )
        return retry
    policy = RetryPolicy.default()
    if "retry_attempts" in given:
        policy = replace(policy, max_attempts=given["retry_attempts"])
    if "retry_backoff" in given:
        strategies = {"linear": BackoffStrategy.linear(1.0), "exponential": BackoffStrategy.exponential(2.0)}
        policy = replace(policy, strategy=strategies.get(given["retry_backoff"], BackoffStrategy.fixed()))
    if "retry_delay_ms" in given:
        policy = replace(policy, initial_delay=given["retry_delay_ms"] / 1000)
    if "retry_max_delay_ms" in given:
        policy = replace(policy, max_delay=given["retry_max_delay_ms"] / 1000)
    if "retry_condition" in given:
        conditions = {"never": RetryCondition.never(), "transient": RetryCondition.transient_only()}
        policy = replace(policy, condition=conditions.get(given["retry_condition"], RetryCondition.all_errors()))
    if "retry_jitter" in given:
        policy = replace(policy, with_jitter=given["retry_jitter"])
    return policy
