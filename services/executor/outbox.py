"""What must not be lost: results and releases that no scheduler has acknowledged, and whose claims the executor holds.

A claim's home is the link to the scheduler that gave it, or that has taken it over since. What is said of the claim
goes there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cloacina.rpc.v1 import scheduler_pb2

Home = TypeVar("Home")


@dataclass(slots=True)
class _Held(Generic[Home]):
    execution_id: str
    home: Home | None


class Outbox(Generic[Home]):
    """Claims that the executor holds, each from its assignment until its result or release is acknowledged."""

    def __init__(self) -> None:
        self._held: dict[int, _Held[Home]] = {}
        self.results: dict[int, scheduler_pb2.TaskResult] = {}
        self.released: set[int] = set()
        self._settled = asyncio.Event()
        self._settled.set()

    def take(self, claim_id: int, execution_id: str, home: Home) -> None:
        """A claim was assigned."""
        self._held[claim_id] = _Held(execution_id, home)

    def holds(self, claim_id: int) -> bool:
        """Whether the claim is run, or its end not acknowledged."""
        return claim_id in self._held

    def home_of(self, claim_id: int) -> Home | None:
        """Where the claim belongs."""
        held = self._held.get(claim_id)
        return None if held is None else held.home

    def move(self, claim_id: int, home: Home) -> None:
        """Another scheduler has taken over."""
        self._held[claim_id].home = home

    def held(self) -> dict[int, str]:
        """The execution of every claim."""
        return {claim_id: held.execution_id for claim_id, held in self._held.items()}

    def keep(self, result: scheduler_pb2.TaskResult) -> None:
        """An attempt ended."""
        self.results[result.claim_id] = result
        self._settled.clear()

    def release(self, claims: Iterable[int]) -> None:
        """Claims are handed back unfinished."""
        for claim_id in claims:
            self.released.add(claim_id)
            self._settled.clear()

    def acknowledge(self, claims: Collection[int]) -> None:
        """Their results or releases are durable."""
        for claim_id in claims:
            self._held.pop(claim_id, None)
            self.results.pop(claim_id, None)
            self.released.discard(claim_id)
        if claims and not self.results and not self.released:
            self._settled.set()

    def unsettled(self) -> list[int]:
        """Claims whose end is not acknowledged."""
        return [*self.results, *(self.released - self.results.keys())]

    async def settle(self) -> None:
        """Returns once every result and release is acknowledged."""
        await self._settled.wait()
