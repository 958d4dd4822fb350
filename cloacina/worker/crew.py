"""The threads of a worker: whoever reads an order does the first of it, and another waits for the next one already.

A thread that only read would have to wake a second one for every task, and the task would wait for that. So two wait
for orders at once, and the kernel wakes one of them: no thread of an interpreter has to let another one go first.
"""

from __future__ import annotations

import os
import queue
import select
import threading
import traceback
from collections.abc import Callable, Sequence

Job = Callable[[], object]

_MOST = 1024
_WATCHERS = 2
"""Threads that wait for orders when there is nothing to do: one for the next, and one that goes on to watch."""
_ONE = select.EPOLLIN | select.EPOLLONESHOT
"""An arrival wakes one of those who wait, and nobody else until it was read."""


class Crew:
    """As many threads as there is to do at once, and one that waits for orders.

    Args:
        orders: a file descriptor that is readable when there are orders.
        read: reads what there is, by one thread at a time; returns what is to be done, each on a thread of its own, and
            has done the rest.
        most: threads at most; past that jobs wait for one.
    """

    def __init__(self, orders: int, read: Callable[[], Sequence[Job]], most: int = _MOST) -> None:
        self._orders = orders
        self._read = read
        self._most = most
        self._arrivals = select.epoll()
        self._arrivals.register(orders, _ONE)
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._undone = 0
        self._watchers = 0

    def serve(self) -> None:
        """Goes on for as long as the process lives. The calling thread only waits."""
        self._hand(self._watch)
        threading.Event().wait()

    def _watch(self) -> None:
        """Waits for orders, does the first of them and has others do the rest; comes back to watch where that is of
        use. Where nobody else watches and no thread is left, it does none: an order to stop a task must get through."""
        while True:
            with self._lock:
                if self._watchers >= _WATCHERS:
                    return
                self._watchers += 1
            while not (jobs := self._await()):
                pass
            for job in jobs[1:]:
                self._hand(job)
            with self._lock:
                self._watchers -= 1
                watched = self._watchers > 0
            if watched or self._hand(self._watch):
                jobs[0]()
            else:
                self._hand(jobs[0])

    def _await(self) -> Sequence[Job]:
        self._arrivals.poll()
        jobs = self._read()
        self._arrivals.modify(self._orders, _ONE)
        return jobs

    def _hand(self, job: Job) -> bool:
        """Has a thread do it; one is started if all are busy. Of `_watch`, only if it does not have to wait for one.

        Returns:
            Whether the job was taken.
        """
        with self._lock:
            free = self._undone < self._threads
            if not free and self._threads >= self._most and job == self._watch:
                return False
            self._undone += 1
            start = not free and self._threads < self._most
            self._threads += start
            name = f"task {self._threads}"
        self._jobs.put(job)
        if start:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return True

    def _work(self) -> None:
        try:
            while True:
                self._jobs.get()()
                with self._lock:
                    self._undone -= 1
        except BaseException:  # a fault of ours: what this process runs is given to another one
            traceback.print_exc()
            os._exit(1)
