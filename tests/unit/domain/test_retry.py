"""When the next attempt is due: delays within their bounds, and a due time that any clock and store can hold."""

from __future__ import annotations

import pytest
from drawn_workflows import policies
from hypothesis import given, settings
from hypothesis import strategies as st

from cloacina.domain.retry import Backoff, RetryPolicy, RetryWhen

_SETTINGS = settings(max_examples=200, deadline=None)
spreads = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 5000)


@_SETTINGS
@given(policy=policies, attempt=attempts, spread=spreads)
def test_a_delay_is_never_negative_and_never_over_the_longest(policy: RetryPolicy, attempt: int, spread: float) -> None:
    longest = policy.max_delay_ms * 1000 * (1.25 if policy.jitter else 1.0)
    assert 0 <= policy.delay_us(attempt=attempt, spread=spread) <= longest


@_SETTINGS
@given(policy=policies, attempt=attempts, spread=spreads)
def test_jitter_moves_a_delay_by_a_quarter_at_most(policy: RetryPolicy, attempt: int, spread: float) -> None:
    steady = RetryPolicy(
        backoff=policy.backoff,
        delay_ms=policy.delay_ms,
        max_delay_ms=policy.max_delay_ms,
        base=policy.base,
        multiplier=policy.multiplier,
        jitter=False,
    ).delay_us(attempt=attempt, spread=spread)
    delay = policy.delay_us(attempt=attempt, spread=spread)
    if policy.jitter:
        assert steady * 0.75 - 1 <= delay <= steady * 1.25 + 1
    else:
        assert delay == steady


@_SETTINGS
@given(policy=policies, attempt=st.integers(1, 200), spread=spreads)
def test_delays_do_not_shrink_as_attempts_go_on(policy: RetryPolicy, attempt: int, spread: float) -> None:
    if policy.backoff is Backoff.EXPONENTIAL and policy.base < 1:
        return
    assert policy.delay_us(attempt=attempt, spread=spread) <= policy.delay_us(attempt=attempt + 1, spread=spread)


def test_jitter_spreads_over_its_whole_range() -> None:
    policy = RetryPolicy(backoff=Backoff.FIXED, delay_ms=1000)
    assert policy.delay_us(attempt=1, spread=0.0) == 750_000
    assert policy.delay_us(attempt=1, spread=0.5) == 1_000_000
    assert policy.delay_us(attempt=1, spread=0.999) > 1_249_000


@pytest.mark.parametrize(
    ("policy", "delays_ms"),
    [
        (RetryPolicy(backoff=Backoff.FIXED, delay_ms=200, multiplier=9, jitter=False), [200, 200, 200, 200]),
        (RetryPolicy(backoff=Backoff.LINEAR, delay_ms=100, multiplier=2, jitter=False), [200, 400, 600, 800]),
        (RetryPolicy(delay_ms=100, jitter=False), [100, 200, 400, 800]),
        (RetryPolicy(delay_ms=100, base=3, multiplier=0.5, jitter=False), [50, 150, 450, 1350]),
        (RetryPolicy(delay_ms=100, max_delay_ms=300, jitter=False), [100, 200, 300, 300]),
    ],
)
def test_backoff_grows_as_said(policy: RetryPolicy, delays_ms: list[int]) -> None:
    assert [policy.delay_us(attempt=n, spread=0.7) // 1000 for n in (1, 2, 3, 4)] == delays_ms


@pytest.mark.parametrize("backoff", Backoff)
def test_a_due_time_always_fits_into_64_bits(backoff: Backoff) -> None:
    """The longest delays that travel between services are 64-bit milliseconds; due times are stored in microseconds."""
    policy = RetryPolicy(backoff=backoff, delay_ms=2**64 - 1, max_delay_ms=2**64 - 1, base=1000, multiplier=1000)
    now_us = 4_102_444_800_000_000  # the year 2100
    assert now_us + policy.delay_us(attempt=100, spread=0.99) < 2**63


@pytest.mark.parametrize(
    ("condition", "transient", "error", "allowed"),
    [
        (RetryWhen.NEVER, True, "x", False),
        (RetryWhen.ALL, False, "x", True),
        (RetryWhen.TRANSIENT, True, "x", True),
        (RetryWhen.TRANSIENT, False, "x", False),
        (RetryWhen.PATTERN, True, "Connection RESET by peer", True),
        (RetryWhen.PATTERN, True, "refused", False),
    ],
)
def test_conditions(condition: RetryWhen, transient: bool, error: str, allowed: bool) -> None:
    policy = RetryPolicy(max_attempts=3, condition=condition, patterns=("reset",))
    assert policy.allows(attempt=2, transient=transient, error=error) is allowed
    assert policy.allows(attempt=3, transient=transient, error=error) is False, "the last attempt is the last"


@_SETTINGS
@given(policy=policies)
def test_the_wire_form_loses_nothing(policy: RetryPolicy) -> None:
    assert RetryPolicy.from_wire(policy.to_wire()) == policy
