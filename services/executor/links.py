"""The streams to all schedulers: who is connected, whose each claim is, and which slots each scheduler is offered."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

from cloacina.domain.explanation import Preparation
from cloacina.rpc.client import RpcClient
from cloacina.rpc.places import Place, Places
from cloacina.rpc.v1 import scheduler_pb2
from services.executor.allotment import Allotment
from services.executor.link import Link
from services.executor.outbox import Outbox

log = logging.getLogger(__name__)

_TICK_S = 1.0
"""Seconds between looks at what waits: reports whose scheduler is away, and turns where slots are few."""

_ASTRAY_S = 2.0
"""A report whose scheduler is away for so long is told to another, which may have taken over."""


class Orders(Protocol):
    """Whoever does what the schedulers say."""

    def assign(self, assignments: Sequence[Any]) -> None:
        """Tasks to run."""

    def cancel(self, claims: Sequence[int]) -> None:
        """Claims to stop."""

    def poll(self, polls: Sequence[Any]) -> None:
        """Triggers to poll."""

    def holding(self) -> Iterable[int]:
        """Claims whose tasks hold a slot."""


class Links:
    """The way to the schedulers (`services.executor.link.Desk`, also `cloacina.dispatch.runs.Reports`).

    Args:
        targets: where they are, see `cloacina.rpc.places.Places`.
        connect: makes a client of one place.
        executor_id: identity of this process.
        slots: tasks it takes at once.
    """

    def __init__(self, targets: str, connect: Callable[[Place], RpcClient], executor_id: str, slots: int) -> None:
        self._places = Places(targets)
        self._connect = connect
        self._executor_id = executor_id
        self._outbox: Outbox[Link] = Outbox()
        self._allotment: Allotment[Link] = Allotment(slots)
        self._links: dict[Place, Link] = {}
        self._polls: dict[int, Link] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._orders: Orders | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def start(self, orders: Orders) -> None:
        """Connects to all schedulers there are, and to those that come, until `stop`."""
        self._orders = orders
        self._set_places(await self._places.find())
        self._places.follow(self._set_places)
        self._ticking = asyncio.create_task(self._tick(), name="look after the links")

    async def stop(self) -> None:
        """Hangs up."""
        await self._places.stop()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(self._close(link) for link in links), *self._closing)

    @property
    def connected(self) -> bool:
        """Whether there is a scheduler that can assign tasks."""
        return bool(self.schedulers)

    @property
    def schedulers(self) -> list[str]:
        """The ids of the schedulers that are connected."""
        return [link.scheduler_id for link in self._links.values() if link.connected]

    def offer(self, slots: int) -> None:
        """Changes how many tasks it takes at once; 0 for none any more."""
        self._allotment.slots = slots
        if self._orders is not None:  # before that nobody is connected
            self._share_out()

    async def settle(self) -> None:
        """Returns once every result and release is acknowledged."""
        await self._outbox.settle()

    # Reports

    def started(self, claim_id: int, started_at: int) -> None:
        link = self._outbox.home_of(claim_id)
        if link is not None:
            link.started(claim_id, started_at)

    def preparing(self, claim_id: int, stage: Preparation, since: int) -> None:
        link = self._outbox.home_of(claim_id)
        if link is not None:
            link.preparing(claim_id, stage, since)

    def deferred(self, claim_id: int, deferred: bool) -> None:
        link = self._outbox.home_of(claim_id)
        if link is not None:
            link.deferred(claim_id, deferred)
        self._share_out_among_many()

    def ended(self, result: scheduler_pb2.TaskResult) -> None:
        self._outbox.keep(result)
        link = self._outbox.home_of(result.claim_id)
        if link is not None:
            link.send(result.claim_id)
        self._share_out_among_many()

    def polled(self, result: scheduler_pb2.PollResult) -> None:
        """A trigger's function was called; told once, if who asked is still there."""
        link = self._polls.pop(result.poll_id, None)
        if link is not None and link.connected:
            link.polled(result)

    def release(self, claims: Collection[int]) -> None:
        """Hands claims back unfinished."""
        self._outbox.release(claims)
        for claim_id in claims:
            link = self._outbox.home_of(claim_id)
            if link is not None:
                link.send(claim_id)

    # What the links tell

    def offer_to(self, link: Link) -> int:
        return self._allotment.connect(link, self._used()[link])

    def others(self, link: Link) -> Collection[str]:
        return {other.scheduler_id for other in self._links.values() if other is not link and other.connected}

    def alone(self, link: Link) -> bool:
        return len(self._links) < 2

    def broke(self, link: Link) -> None:
        self._allotment.disconnect(link)
        for poll_id in [poll_id for poll_id, asked in self._polls.items() if asked is link]:
            del self._polls[poll_id]
        self._share_out()

    def heed(self, link: Link, message: Any) -> None:
        assert self._orders is not None
        self._outbox.acknowledge(message.acknowledged)
        if message.stop:
            self._orders.cancel(message.stop)
        if message.polls:
            self._polls.update((poll.poll_id, link) for poll in message.polls)
            self._orders.poll(message.polls)
        for assignment in message.assignments:
            self._outbox.take(assignment.claim_id, assignment.execution_id, link)
        if message.assignments:
            self._orders.assign(message.assignments)
        if message.owned:
            self._take_over(link, message.owned)
        self._allotment.wait(link, message.waiting)
        if message.HasField("slots"):
            self._allotment.confirm(link, message.slots)
        self._share_out_among_many()

    def _take_over(self, link: Link, claims: Iterable[int]) -> None:
        """The scheduler there owns these claims now, whoever gave them."""
        for claim_id in claims:
            if not self._outbox.holds(claim_id):
                self._outbox.take(claim_id, "", link)
                self._outbox.release([claim_id])
            self._outbox.move(claim_id, link)
            if claim_id in self._outbox.results or claim_id in self._outbox.released:
                link.send(claim_id)

    # Slots

    def _used(self) -> Counter[Link | None]:
        assert self._orders is not None
        return Counter(self._outbox.home_of(claim_id) for claim_id in self._orders.holding())

    def _share_out_among_many(self) -> None:
        if len(self._links) > 1:
            self._share_out()

    def _share_out(self) -> None:
        used = self._used()
        there = {link for link in self._links.values() if self._allotment.has(link)}
        elsewhere = sum(count for link, count in used.items() if link not in there)
        offers = self._allotment.offers({link: used[link] for link in there}, elsewhere)
        for link, slots in offers.items():
            link.offer(slots)

    # Places

    def _set_places(self, places: Sequence[Place]) -> None:
        for place in self._links.keys() - set(places):
            task = asyncio.ensure_future(self._close(self._links.pop(place)))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for place in places:
            if place not in self._links:
                link = Link(self._connect(place), self._executor_id, self._outbox, self)
                self._links[place] = link
                link.start()

    async def _close(self, link: Link) -> None:
        await link.stop()
        link.connected = False
        self._allotment.disconnect(link)
        await link.client.close()

    async def _tick(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(_TICK_S)
            if len(self._links) < 2:
                continue
            turn += 1
            self._allotment.next_turn()
            self._share_out()
            self._tell_others(turn)

    def _tell_others(self, turn: int) -> None:
        """Whose scheduler is away has, perhaps, another one by now, which answers; others do not."""
        now = asyncio.get_running_loop().time()
        connected = [link for link in self._links.values() if link.connected]
        if not connected:
            return
        for claim_id in self._outbox.unsettled():
            home = self._outbox.home_of(claim_id)
            if home is None or (not home.connected and now - home.broken_at > _ASTRAY_S):
                connected[turn % len(connected)].send(claim_id)
