"""Threads that run the bodies of plain tasks: as many as are needed at once, kept for the next."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextvars import Context as ContextVariables

log = logging.getLogger(__name__)

_IDLE_S = 30.0
"""Seconds after which a thread without work ends."""


class TaskThreads:
    """A pool without a limit of its own: the engine's slots are the limit. A body that ran out of its time, or waits
    deferred, keeps its thread and must not keep others from theirs. The threads are daemons, so that a body that never
    ends cannot keep the process from ending.

    Args:
        name: prefix of the threads' names.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._started = 0

    def run(self, call: Callable[[], None]) -> None:
        """Runs `call` on a thread, in empty context variables."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1  # one of them will take it
                self._calls.put(call)
                return
            self._started += 1
            name = f"{self._name} {self._started}"
        threading.Thread(target=self._serve, args=(call,), name=name, daemon=True).start()

    def close(self) -> None:
        """Ends the threads that have no work."""
        with self._lock:
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._calls.put(None)

    def _serve(self, call: Callable[[], None] | None) -> None:
        while call is not None:
            try:
                ContextVariables().run(call)
            except BaseException:
                log.exception("a task's thread failed outside of the task")
            with self._lock:
                self._idle += 1
            call = self._next()

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._calls.get(timeout=_IDLE_S)
        except queue.Empty:
            with self._lock:
                if self._idle > 0:
                    self._idle -= 1
                    return None
            return self._calls.get()  # it was promised to a call, or to the end, this very moment
