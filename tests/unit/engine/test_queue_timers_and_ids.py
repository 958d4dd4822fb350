"""The queue of ready tasks, the timer of retries, the identifiers."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

import pytest
from engine_bench import until
from hypothesis import given, settings
from hypothesis import strategies as st

from cloacina.engine.ids import event_id, new_execution_id, task_execution_id
from cloacina.engine.ready import ReadyQueue
from cloacina.engine.timers import DueTimers

_pushes = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(pushes=_pushes, pops=st.integers(0, 30))
def test_everything_pushed_is_popped_once_in_order_within_its_tenant(pushes: list[tuple[str, int]], pops: int) -> None:
    queue = ReadyQueue()
    for number, (tenant, task) in enumerate(pushes):
        queue.push(tenant, f"{tenant}{number}", str(task))
    assert len(queue) == len(pushes) == len(list(queue))
    popped = [entry for _ in range(pops) if (entry := queue.pop()) is not None]
    assert len(queue) == len(pushes) - len(popped) == len(list(queue))
    popped += list(iter(queue.pop, None))
    assert sorted(name for name, _ in popped) == sorted(f"{t}{n}" for n, (t, _) in enumerate(pushes))
    for tenant in "abc":
        numbers = [int(name[1:]) for name, _ in popped if name[0] == tenant]
        assert numbers == sorted(numbers)
    assert queue.pop() is None


@settings(max_examples=200, deadline=None)
@given(pushes=_pushes)
def test_tenants_take_turns(pushes: list[tuple[str, int]]) -> None:
    """While a tenant waits, no other takes two turns."""
    queue = ReadyQueue()
    left = Counter(tenant for tenant, _ in pushes)
    for tenant, task in pushes:
        queue.push(tenant, tenant, str(task))
    since: dict[str, Counter[str]] = {tenant: Counter() for tenant in left}
    while (entry := queue.pop()) is not None:
        tenant = entry[0]
        left[tenant] -= 1
        since[tenant] = Counter()
        for other in left:
            if other != tenant and left[other]:
                since[other][tenant] += 1
                assert since[other][tenant] <= 1, f"{tenant} took two turns while {other} waited"


def test_a_long_queue_delays_a_newcomer_by_one_task() -> None:
    queue = ReadyQueue()
    for number in range(1000):
        queue.push("busy", f"busy{number}", "t")
    queue.pop()
    queue.push("small", "small", "t")
    assert "small" in [queue.pop()[0], queue.pop()[0]]  # type: ignore[index]


class SteppingClock:
    """A wall clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now


async def test_timers_fire_what_is_due_in_order_of_their_times_and_nothing_else() -> None:
    clock, fired = SteppingClock(), []
    timers = DueTimers(clock, lambda execution, task: fired.append((execution, task)))
    for due in (300, 100, 200, 100_000_000):
        timers.add(clock.now + due * 1000, f"e{due}", "t")
    assert (len(timers), fired) == (4, [])
    await until(lambda: timers._handle is not None)
    clock.now += 300_000
    await until(lambda: len(fired) == 3, "the timer to ring, real time being ahead of the clock")
    assert fired == [("e100", "t"), ("e200", "t"), ("e300", "t")]
    assert len(timers) == 1
    timers.clear()
    assert len(timers) == 0


async def test_an_earlier_entry_rings_before_a_later_one_that_was_there_first() -> None:
    clock, fired = SteppingClock(), asyncio.Event()
    timers = DueTimers(clock, lambda *_: fired.set())
    timers.add(clock.now + 3_600_000_000, "late", "t")
    timers.add(clock.now, "due", "t")
    async with asyncio.timeout(5):
        await fired.wait()
    assert len(timers) == 1
    timers.clear()


async def test_a_step_of_the_clock_is_noticed_without_waiting_for_the_old_due_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cloacina.engine.timers._LONGEST_SLEEP_S", 0.01)
    clock, fired = SteppingClock(), asyncio.Event()
    timers = DueTimers(clock, lambda *_: fired.set())
    timers.add(clock.now + 3_600_000_000, "in an hour", "t")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not fired.is_set()
    clock.now += 3_600_000_000
    async with asyncio.timeout(5):
        await fired.wait()


async def test_a_clock_that_steps_back_delays_nothing() -> None:
    clock, uptime, fired = SteppingClock(), SteppingClock(), []
    timers = DueTimers(clock, lambda execution, _: fired.append(execution), uptime)
    timers.add(clock.now + 20_000, "soon", "t")
    timers.add(clock.now + 3_600_000_000, "late", "t")
    clock.now -= 3_600_000_000
    timers.add(clock.now + 10_000, "sooner", "t")
    uptime.now += 20_000
    await until(lambda: len(fired) == 2, "both that were to wait for so long")
    assert sorted(fired) == ["soon", "sooner"]
    assert len(timers) == 1
    timers.clear()


async def test_what_was_cleared_never_fires() -> None:
    clock, fired = SteppingClock(), []
    timers = DueTimers(clock, lambda *_: fired.append(1))
    timers.add(clock.now, "gone", "t")
    timers.clear()
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, later.set)
    await later.wait()
    assert fired == []


def test_execution_ids_are_uuids_in_the_order_of_time() -> None:
    ids = [new_execution_id(milli * 1000) for milli in range(1_700_000_000_000, 1_700_000_000_050)]
    assert ids == sorted(set(ids))
    assert {UUID(each).version for each in ids} == {7}
    assert {UUID(each).variant for each in ids} == {"specified in RFC 4122"}
    assert len({new_execution_id(1) for _ in range(1000)}) == 1000


def test_derived_ids_are_stable_and_distinct() -> None:
    execution = new_execution_id(5)
    assert task_execution_id(execution, "t") == task_execution_id(execution, "t")
    made = {task_execution_id(execution, "1"), task_execution_id(execution, "2"), event_id(execution, 1)}
    assert len(made) == 3
