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
from cloacina.engine.ready import Lane, ReadyQueue
from cloacina.engine.timers import DueTimers

_pushes = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y"]), st.integers(-1, 1)), max_size=30)


def always(lane: Lane) -> bool:
    """No limit."""
    return True


def lane_of(tenant: str, workflow: str) -> Lane:
    return Lane(tenant, workflow, 2 if workflow else 0)


@settings(max_examples=200, deadline=None)
@given(pushes=_pushes, pops=st.integers(0, 30))
def test_everything_pushed_is_popped_once_in_order_within_its_tenant(
    pushes: list[tuple[str, str, int]], pops: int
) -> None:
    queue = ReadyQueue()
    for number, (tenant, workflow, priority) in enumerate(pushes):
        queue.push(lane_of(tenant, workflow), f"{tenant}{number}", "t", created_at=number, priority=priority)
    assert len(queue) == len(pushes) == queue.count(always)
    popped = [entry for _ in range(pops) if (entry := queue.pop(always)) is not None]
    assert len(queue) == len(pushes) - len(popped) == queue.count(always)
    popped += list(iter(lambda: queue.pop(always), None))
    assert sorted(name for name, _ in popped) == sorted(f"{t}{n}" for n, (t, _, _) in enumerate(pushes))
    for tenant in "abc":
        numbers = [int(name[1:]) for name, _ in popped if name[0] == tenant]
        assert numbers == sorted(numbers, key=lambda number: (-pushes[number][2], number)), "over all of its lanes"
    assert (queue.pop(always), queue.of_tenant("a")) == (None, False)


@settings(max_examples=200, deadline=None)
@given(pushes=_pushes)
def test_tenants_take_turns(pushes: list[tuple[str, str, int]]) -> None:
    """While a tenant waits, no other takes two turns."""
    queue = ReadyQueue()
    left = Counter(tenant for tenant, _, _ in pushes)
    for tenant, workflow, priority in pushes:
        queue.push(lane_of(tenant, workflow), tenant, "t", created_at=0, priority=priority)
    since: dict[str, Counter[str]] = {tenant: Counter() for tenant in left}
    while (entry := queue.pop(always)) is not None:
        tenant = entry[0]
        left[tenant] -= 1
        since[tenant] = Counter()
        for other in left:
            if other != tenant and left[other]:
                since[other][tenant] += 1
                assert since[other][tenant] <= 1, f"{tenant} took two turns while {other} waited"


@settings(max_examples=200, deadline=None)
@given(pushes=_pushes, shut=st.sets(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y"]))))
def test_what_may_not_be_claimed_stays_and_holds_nothing_else_back(
    pushes: list[tuple[str, str, int]], shut: set[tuple[str, str]]
) -> None:
    queue = ReadyQueue()
    for number, (tenant, workflow, priority) in enumerate(pushes):
        queue.push(lane_of(tenant, workflow), str(number), "t", created_at=number, priority=priority)
    closed = {lane_of(*each) for each in shut}
    held = {str(number) for number, (tenant, workflow, _) in enumerate(pushes) if (tenant, workflow) in shut}
    popped = {entry[0] for entry in iter(lambda: queue.pop(lambda lane: lane not in closed), None)}
    assert popped == {str(number) for number in range(len(pushes))} - held
    assert (len(queue), queue.count(lambda lane: lane not in closed)) == (len(held), 0)
    assert {entry[0] for entry in iter(lambda: queue.pop(always), None)} == held


def test_a_long_queue_delays_a_newcomer_by_one_task() -> None:
    queue = ReadyQueue()
    for number in range(1000):
        queue.push(Lane("busy"), f"busy{number}", "t", created_at=number)
    queue.pop(always)
    queue.push(Lane("small"), "small", "t", created_at=9999)
    assert "small" in [queue.pop(always)[0], queue.pop(always)[0]]  # type: ignore[index]


def test_what_is_held_back_costs_nothing_to_pass_over() -> None:
    """However much a limit holds back: lanes are asked about, not what they hold."""
    queue = ReadyQueue()
    for number in range(10_000):
        queue.push(Lane("busy", "limited", 1) if number % 2 else Lane("busy"), f"busy{number}", "t", created_at=number)
    queue.push(Lane("small"), "small", "t", created_at=9999)
    asked: list[Lane] = []

    def small_only(lane: Lane) -> bool:
        asked.append(lane)
        return lane.tenant_id == "small"

    assert queue.pop(small_only) == ("small", "t")
    assert queue.pop(small_only) is None
    assert len(asked) <= 5
    assert queue.count(always) == 10_000


@settings(max_examples=200, deadline=None)
@given(tasks=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30))
def test_priority_comes_first_then_the_oldest_execution_then_the_order_of_arrival(tasks: list[tuple[int, int]]) -> None:
    queue = ReadyQueue()
    for number, (created_at, priority) in enumerate(tasks):
        queue.push(Lane("t"), f"e{created_at}", str(number), created_at=created_at, priority=priority)
    popped = [int(task) for _, task in iter(lambda: queue.pop(always), None)]
    assert popped == sorted(range(len(tasks)), key=lambda number: (-tasks[number][1], tasks[number][0], number))


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
