"""The executors an engine knows: their slots, the claims they hold, and their leases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from cloacina.domain.explanation import Preparation
from cloacina.engine.model import Session


@dataclass(slots=True, eq=False)
class Executor:
    """One executor process.

    Args:
        executor_id: its identity, a new one at every start of the process.
        slots: tasks it takes at once; 0 while it drains.
        version: version of its program.
        lease_until: when its lease lapses, on the engine's monotonic clock, in seconds.
        session: the way to it; ``None`` while it is not connected.
        claims: what it holds: execution id and task by claim id.
        deferred: claims that hold no slot at present.
        preparing: what claims wait for whose tasks have not begun, and since when, in microseconds since the epoch.
        joining: it is not welcomed yet, and says nothing until then: its lease does not lapse.
    """

    executor_id: str
    slots: int
    version: str
    lease_until: float
    session: Session | None = None
    claims: dict[int, tuple[str, str]] = field(default_factory=dict)
    deferred: set[int] = field(default_factory=set)
    preparing: dict[int, tuple[Preparation, int]] = field(default_factory=dict)
    joining: bool = False

    def prepares(self, claim_id: int, stage: Preparation, since: int) -> None:
        """A claim of it waits for something. Those that it does not hold any more are forgotten."""
        self.preparing[claim_id] = (stage, since)
        self.preparing = {claim: what for claim, what in self.preparing.items() if claim in self.claims}

    def lapsed(self, now: float) -> bool:
        """Whether its lease lapsed by `now` (seconds, monotonic)."""
        return not self.joining and self.lease_until <= now

    @property
    def free(self) -> int:
        """Slots that a task could be assigned to now."""
        return self.slots - len(self.claims) + len(self.deferred) if self.session is not None else 0


class ExecutorView(NamedTuple):
    """An executor as operators see it; `silent_s` are the seconds since it renewed its lease."""

    executor_id: str
    version: str
    connected: bool
    slots: int
    free_slots: int
    claims: int
    silent_s: float


class Executors:
    """All executors that are connected, or hold a lease that has not lapsed."""

    def __init__(self) -> None:
        self._by_id: dict[str, Executor] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Executor]:
        return iter(self._by_id.values())

    def get(self, executor_id: str) -> Executor | None:
        return self._by_id.get(executor_id)

    def add(self, executor: Executor) -> None:
        self._by_id[executor.executor_id] = executor

    def remove(self, executor: Executor) -> None:
        self._by_id.pop(executor.executor_id, None)

    def clear(self) -> None:
        self._by_id.clear()

    def freest(self) -> Executor | None:
        """The executor with the most free slots; ``None`` when there is no free slot anywhere."""
        best = max(self._by_id.values(), key=lambda executor: executor.free, default=None)
        return best if best is not None and best.free > 0 else None

    def for_poll(self) -> Executor | None:
        """The connected executor that has most room, full or not; ``None`` when all are away or drain."""
        there = [executor for executor in self._by_id.values() if executor.session is not None and executor.slots > 0]
        return max(there, key=lambda executor: executor.free, default=None)

    @property
    def sessions(self) -> list[Session]:
        """The ways to those that are connected."""
        return [executor.session for executor in self._by_id.values() if executor.session is not None]

    def lapsed(self, now: float) -> Iterable[Executor]:
        """Executors whose lease lapsed by `now` (seconds, monotonic)."""
        return [executor for executor in self._by_id.values() if executor.lapsed(now)]

    @property
    def free_slots(self) -> int:
        return sum(max(executor.free, 0) for executor in self._by_id.values())
