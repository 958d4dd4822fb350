"""The threads of a worker: whoever reads an order does the first of it, and lets another read on.

A thread that only read would have to wake a second one for every task, and the task would wait for that.
"""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Callable, Sequence

Job = Callable[[], object]

_MOST = 1024


class Crew:
    """As many threads as there is to do at once, and one that reads.

    Args:
        read: waits for orders; returns what is to be done, each on a thread of its own, and has done the rest.
        most: threads at most; past that jobs wait for one.
    """

    def __init__(self, read: Callable[[], Sequence[Job]], most: int = _MOST) -> None:
        self._read = read
        self._most = most
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._undone = 0

    def serve(self) -> None:
        """Goes on for as long as the process lives. The calling thread only waits."""
        self._hand(self._lead)
        threading.Event().wait()

    def _lead(self) -> None:
        """Reads until there is something to do, does the first and has others do the rest. Where there is no other
        thread left, it only reads: an order to stop a task must get through."""
        while True:
            jobs = self._read()
            if not jobs:
                continue
            for job in jobs[1:]:
                self._hand(job)
            if self._hand(self._lead):
                jobs[0]()
                return
            self._hand(jobs[0])

    def _hand(self, job: Job) -> bool:
        """Has a thread do it; one is started if all are busy. Of `_lead`, only if it does not have to wait for one.

        Returns:
            Whether the job was taken.
        """
        with self._lock:
            free = self._undone < self._threads
            if not free and self._threads >= self._most and job == self._lead:
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
