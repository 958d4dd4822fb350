"""How an executor's slots are shared out among the schedulers it is connected to: never more than it has.

A scheduler is offered a number of slots and uses them without asking. To take some back it is offered fewer; they are
free for others once it has confirmed that, since what it assigned before counted with more. Who has tasks waiting gets
what others leave unused; each keeps a few, so that what it begins next runs at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

_KEPT = 8
"""A scheduler without work keeps an eighth of its equal share, and one slot at least."""

Scheduler = TypeVar("Scheduler")


@dataclass(slots=True)
class _Share:
    """What one scheduler has: slots it was offered last, slots it may count with until it confirms that, tasks of it
    that hold a slot, tasks that wait for one."""

    offered: int
    bound: int
    used: int = 0
    waiting: int = 0

    @property
    def wanted(self) -> int:
        return self.used + self.waiting

    @property
    def held(self) -> int:
        return max(self.bound, self.used)

    @property
    def hungry(self) -> bool:
        return self.wanted > self.offered


class Allotment(Generic[Scheduler]):
    """The shares of the schedulers that are connected.

    Args:
        slots: tasks that the executor runs at once; may be changed.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._shares: dict[Scheduler, _Share] = {}
        self._turn = 0

    def connect(self, scheduler: Scheduler, used: int = 0) -> int:
        """A scheduler is connected. Returns what it is offered at first.

        Args:
            scheduler: which.
            used: slots that its tasks hold already.
        """
        self._shares.pop(scheduler, None)
        fair = self.slots // (len(self._shares) + 1)
        offered = max(0, min(max(fair, used), self._free() if self._shares else self.slots))
        self._shares[scheduler] = _Share(offered, offered, used)
        return offered

    def has(self, scheduler: Scheduler) -> bool:
        """Whether it is connected."""
        return scheduler in self._shares

    def disconnect(self, scheduler: Scheduler) -> None:
        """It assigns nothing any more."""
        self._shares.pop(scheduler, None)

    def wait(self, scheduler: Scheduler, waiting: int) -> None:
        """So many tasks wait for a slot there."""
        if scheduler in self._shares:
            self._shares[scheduler].waiting = waiting

    def confirm(self, scheduler: Scheduler, slots: int) -> None:
        """It counts with so many slots from now on."""
        share = self._shares.get(scheduler)
        if share is not None and slots == share.offered:
            share.bound = slots

    def offered(self, scheduler: Scheduler) -> int:
        """What it was offered last."""
        share = self._shares.get(scheduler)
        return 0 if share is None else share.offered

    def next_turn(self) -> None:
        """Where there are fewer slots than schedulers that want one: another is the first from now on."""
        self._turn += 1

    def offers(self, used: Mapping[Scheduler, int], elsewhere: int = 0) -> dict[Scheduler, int]:
        """What is to be offered now, and was not before. It counts as said.

        Args:
            used: slots that the tasks of each scheduler hold.
            elsewhere: slots that tasks hold whose scheduler is not connected.
        """
        for scheduler, share in self._shares.items():
            share.used = used.get(scheduler, 0)
        targets = self._targets(max(0, self.slots - elsewhere))
        free = self._free() - elsewhere
        said: dict[Scheduler, int] = {}
        for scheduler, share in self._shares.items():
            target = targets[scheduler]
            if target > share.offered:
                target = max(share.offered, min(target, share.held + max(0, free)))
                free -= max(0, target - share.held)
            if target != share.offered:
                share.offered = said[scheduler] = target
                share.bound = max(share.bound, target)
        return said

    def _free(self) -> int:
        return self.slots - sum(share.held for share in self._shares.values())

    def _targets(self, slots: int) -> dict[Scheduler, int]:
        """What each should have: while one is hungry, its fair part of what it wants; otherwise what it has."""
        names = list(self._shares)
        if not names:
            return {}
        start = self._turn % len(names)
        names = names[start:] + names[:start]
        if not any(share.hungry for share in self._shares.values()):
            targets = {name: self._shares[name].offered for name in names}
            if sum(targets.values()) <= slots:
                return _even_out(targets, slots - sum(targets.values()))
        even = slots // len(names)
        targets = dict.fromkeys(names, min(even, max(1, even // _KEPT)))
        rest = slots - sum(targets.values())
        while rest > 0:
            wanting = [name for name in names if self._shares[name].wanted > targets[name]]
            if not wanting:
                break
            part = max(1, rest // len(wanting))
            for name in wanting:
                more = min(part, rest, self._shares[name].wanted - targets[name])
                targets[name] += more
                rest -= more
        return _even_out(targets, rest)


def _even_out(targets: dict[Scheduler, int], rest: int) -> dict[Scheduler, int]:
    """Gives what nobody asks for to those that have least."""
    for _ in range(rest):
        targets[min(targets, key=targets.__getitem__)] += 1
    return targets
