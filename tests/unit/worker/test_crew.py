"""The threads of a worker: every order is done, each on a thread of its own, and somebody always reads."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence

from cloacina.worker.crew import Crew, Job
from tests.system.running import wait_until

_DEADLINE_S = 30.0


class _Orders:
    """What a crew reads: lists of jobs, in the order they are given."""

    def __init__(self) -> None:
        self._given: queue.SimpleQueue[Sequence[Job]] = queue.SimpleQueue()
        self.arrivals = os.eventfd(0, os.EFD_SEMAPHORE)
        self.readers: list[str] = []
        self.reading = 0

    def give(self, *jobs: Job) -> None:
        self._given.put(jobs)
        os.eventfd_write(self.arrivals, 1)

    def read(self) -> Sequence[Job]:
        self.reading += 1
        assert self.reading == 1, "two threads read"
        self.readers.append(threading.current_thread().name)
        os.eventfd_read(self.arrivals)
        jobs = self._given.get()
        self.reading -= 1
        return jobs


def _crew(most: int = 1024) -> _Orders:
    orders = _Orders()
    threading.Thread(target=Crew(orders.arrivals, orders.read, most).serve, daemon=True).start()
    return orders


def test_all_is_done_and_jobs_that_wait_hold_nothing_up() -> None:
    """Fifty jobs that end only when all of them have begun, in lists of several sizes."""
    orders, barrier, done = _crew(), threading.Barrier(50), queue.SimpleQueue[int]()

    def job(number: int) -> Job:
        def run() -> None:
            barrier.wait(_DEADLINE_S)
            done.put(number)

        return run

    jobs = [job(number) for number in range(50)]
    orders.give(*jobs[:1])
    orders.give()
    orders.give(*jobs[1:4])
    orders.give(*jobs[4:])
    assert sorted(done.get(timeout=_DEADLINE_S) for _ in jobs) == list(range(50))


def test_whoever_reads_an_order_does_it() -> None:
    orders, names = _crew(), queue.SimpleQueue[str]()
    for _ in range(5):
        orders.give(lambda: names.put(threading.current_thread().name))
        name = names.get(timeout=_DEADLINE_S)
        assert name in orders.readers
        assert name.startswith("task ")


def test_one_after_another_needs_few_threads() -> None:
    orders, names = _crew(), queue.SimpleQueue[str]()
    for _ in range(200):
        orders.give(lambda: names.put(threading.current_thread().name))
        names.get(timeout=_DEADLINE_S)
    assert len(set(orders.readers)) <= 5


def test_while_an_order_is_done_another_thread_waits_for_the_next() -> None:
    """Each order is begun though those before it never let go of their threads."""
    orders, stop, begun = _crew(), threading.Event(), queue.SimpleQueue[str]()

    def run() -> None:
        begun.put(threading.current_thread().name)
        stop.wait(_DEADLINE_S)

    names = set()
    for _ in range(20):
        orders.give(run)
        names.add(begun.get(timeout=_DEADLINE_S))
    assert len(names) == 20
    stop.set()


def test_where_no_thread_is_left_somebody_still_reads() -> None:
    """Orders that take no thread of their own, those to stop a task above all, get through."""
    orders, stop, begun = _crew(most=3), threading.Event(), queue.SimpleQueue[int]()

    def job(number: int) -> Job:
        def run() -> None:
            begun.put(number)
            stop.wait(_DEADLINE_S)

        return run

    for number in range(6):
        orders.give(job(number))
    assert sorted(begun.get(timeout=_DEADLINE_S) for _ in range(2)) == [0, 1]
    before = len(orders.readers)
    orders.give()
    orders.give()
    wait_until(lambda: len(orders.readers) > before + 1, "another look at the orders", _DEADLINE_S)
    stop.set()
    assert sorted(begun.get(timeout=_DEADLINE_S) for _ in range(4)) == [2, 3, 4, 5]
