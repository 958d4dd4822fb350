"""An executor's slots among several schedulers: never overcommitted, and where there is work."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.executor.allotment import Allotment


class Scheduler:
    """A scheduler that uses every slot it counts with, as long as it has tasks.

    Args:
        tasks: how many it has.
    """

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.running = 0
        self.counted = 0
        self.coming: deque[int] = deque()
        """Offers that are on their way."""
        self.confirmed: deque[int] = deque()
        """Confirmations that are on their way back; assignments overtake none."""
        self.assigned: deque[int] = deque()

    def step(self) -> None:
        if self.coming:
            self.counted = self.coming.popleft()
            self.confirmed.append(self.counted)
        while self.tasks > 0 and self.running < self.counted:
            self.tasks -= 1
            self.running += 1


@given(slots=st.integers(1, 40), tasks=st.lists(st.integers(0, 60), min_size=1, max_size=4), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_no_more_runs_than_there_are_slots_and_everything_runs_in_the_end(
    slots: int, tasks: list[int], seed: int
) -> None:
    chance = random.Random(seed)
    schedulers = [Scheduler(number) for number in tasks]
    allotment: Allotment[Scheduler] = Allotment(slots)
    for each in schedulers:
        each.counted = allotment.connect(each)

    def share_out() -> None:
        for scheduler, offered in allotment.offers({each: each.running for each in schedulers}).items():
            scheduler.coming.append(offered)

    for step in range(6000):
        if not any(each.tasks or each.running for each in schedulers):
            return
        each = chance.choice(schedulers)
        each.step()
        assert sum(other.running for other in schedulers) <= slots
        allotment.wait(each, each.tasks)
        if each.confirmed and chance.random() < 0.7:
            allotment.confirm(each, each.confirmed.popleft())
        if each.running and chance.random() < 0.6:
            each.running -= 1
        if step % 20 == 0:
            allotment.next_turn()
        share_out()
    raise AssertionError("tasks are left without a slot")


def test_one_scheduler_has_all_slots() -> None:
    allotment: Allotment[str] = Allotment(32)
    assert allotment.connect("a") == 32
    assert allotment.offers({}) == {}


def test_a_second_one_gets_its_half_once_the_first_has_confirmed() -> None:
    allotment: Allotment[str] = Allotment(32)
    allotment.connect("a")
    assert allotment.connect("b") == 0
    allotment.wait("b", 100)
    assert allotment.offers({"a": 32})["a"] < 32
    assert allotment.offered("b") == 0
    allotment.confirm("a", allotment.offered("a"))
    assert allotment.offers({"a": 20}) == {"b": 12}, "what the first still runs is not offered twice"


def test_who_has_nothing_to_do_keeps_a_few_slots_and_the_other_gets_the_rest() -> None:
    allotment: Allotment[str] = Allotment(32)
    allotment.connect("busy")
    allotment.connect("idle")
    for _ in range(3):
        allotment.wait("busy", 500)
        for each in allotment.offers({"busy": 10}):
            allotment.confirm(each, allotment.offered(each))
    assert (allotment.offered("busy"), allotment.offered("idle")) == (30, 2)


def test_of_one_that_is_gone_the_slots_are_free_but_those_its_tasks_still_hold() -> None:
    allotment: Allotment[str] = Allotment(10)
    allotment.connect("gone")
    allotment.connect("there")
    allotment.wait("there", 20)
    allotment.disconnect("gone")
    assert allotment.offers({"there": 0}, elsewhere=4) == {"there": 6}
    assert allotment.offers({"there": 6}, elsewhere=1) == {"there": 9}


@pytest.mark.parametrize("slots", [0, 1, 7])
def test_a_drain_takes_all_back(slots: int) -> None:
    allotment: Allotment[str] = Allotment(8)
    allotment.connect("a")
    allotment.connect("b")
    allotment.slots = 0
    allotment.offers({"a": slots})
    assert (allotment.offered("a"), allotment.offered("b")) == (0, 0)
