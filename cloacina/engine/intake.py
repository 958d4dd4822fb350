"""What waits for a group commit: bounded in number and bytes, with room for every tenant, and taken fairly.

Requests of clients queue by tenant. A group takes all that executors have reported, then of the clients one tenant
after the other, and never so many that whoever comes next waits long. What executors report is never refused: it is
bounded by the claims they hold, and their streams are not read while too much waits.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cloacina.engine.work import GroupWork
from cloacina.errors import CloacinaError, Unavailable

IdempotencyKey = tuple[str, str, str]
"""Tenant, workflow and the client's key."""

MOST_OF_CLIENTS = 256
"""Requests of clients in one group: at some 0.2 ms each the next tenant's waits for 50 ms at most."""


@dataclass(slots=True, eq=False)
class Request:
    """Something to decide on.

    Args:
        apply: runs inside a group.
        done: resolved with what `apply` returned once the group is durable.
        key: with one that an execution has already, `apply` does not run and the answer is that execution's id.
        tenant_id: whose client asks; empty for executors and the engine itself.
        size: bytes that it holds.
        answer: what `apply` returned.
        refusal: what it raised.
    """

    apply: Callable[[GroupWork], object]
    done: asyncio.Future[Any] | None = None
    key: IdempotencyKey | None = None
    tenant_id: str = ""
    size: int = 0
    answer: object = None
    refusal: CloacinaError | None = None

    def refuse(self, error: BaseException) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)

    def settle(self) -> None:
        """Tells how it was decided: what was decided before, and may be the reason, is durable."""
        if self.refusal is not None:
            self.refuse(self.refusal)
        elif self.done is not None and not self.done.done():
            self.done.set_result(self.answer)


class Intake:
    """The queue before the committer.

    Args:
        most: requests that may wait.
        most_bytes: bytes that they may hold.
        tenant_share: share of either that one tenant may take.
    """

    def __init__(self, most: int, most_bytes: int, tenant_share: float) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._tenant_share = tenant_share
        self._reports: deque[Request] = deque()
        self._clients: dict[str, deque[Request]] = {}
        self._waiting = 0
        self._taken = 0
        self._bytes: dict[str, int] = {}
        self._all_bytes = 0
        self._there = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        """Requests that wait for a commit, those included that were taken to be decided on."""
        return self._taken + self.queued

    @property
    def queued(self) -> int:
        """Requests that nobody has taken yet."""
        return len(self._reports) + self._waiting

    @property
    def crowded(self) -> bool:
        """Whether nothing more is read from executors."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Returns once there is room for what executors report."""
        await self._room.wait()

    async def something(self) -> None:
        """Returns once there is something to take."""
        await self._there.wait()

    def wake(self) -> None:
        """Has whoever waits for something look, though there may be nothing."""
        self._there.set()

    def check_room(self, tenant_id: str, size: int) -> None:
        """Whether another request of a client may wait.

        Raises:
            Unavailable: it may not.
        """
        own = len(self._clients.get(tenant_id, ()))
        if len(self) >= self._most:
            raise Unavailable(f"{len(self)} requests wait to be stored; try again shortly")
        if own >= math.ceil(self._most * self._tenant_share):
            raise Unavailable(f"{own} requests of this tenant wait to be stored; try again shortly")
        for held, share in ((self._all_bytes, 1.0), (self._bytes.get(tenant_id, 0), self._tenant_share)):
            if held and held + size > self._most_bytes * share:
                raise Unavailable(f"{held // 1024} KiB wait to be stored; try again shortly")

    def put(self, request: Request) -> None:
        """Adds a request."""
        if request.tenant_id:
            self._clients.setdefault(request.tenant_id, deque()).append(request)
            self._waiting += 1
            self._bytes[request.tenant_id] = self._bytes.get(request.tenant_id, 0) + request.size
            self._all_bytes += request.size
        else:
            self._reports.append(request)
        self._there.set()
        if len(self) >= self._most:
            self._room.clear()

    def take(self, most: int, of_clients: int = MOST_OF_CLIENTS) -> list[Request]:
        """Takes what is to be decided next: reports first, then clients in turn. It counts as waiting until `written`.

        Args:
            most: requests of a group at most.
            of_clients: of these, requests of clients at most.
        """
        taken = [self._reports.popleft() for _ in range(min(most, len(self._reports)))]
        for _ in range(min(most - len(taken), of_clients, self._waiting)):
            taken.append(self._next_of_clients())
        self._taken += len(taken)
        if not self.queued:
            self._there.clear()
        return taken

    def written(self, requests: int) -> None:
        """So many of those that were taken wait no more: they are being written, or refused."""
        self._taken -= requests
        if len(self) < self._most:
            self._room.set()

    def clear(self) -> list[Request]:
        """Takes all."""
        taken = [*self._reports, *self._of_clients()]
        self._reports.clear()
        self._clients.clear()
        self._bytes.clear()
        self._waiting = self._all_bytes = 0
        self._there.clear()
        if len(self) < self._most:
            self._room.set()
        return taken

    def _of_clients(self) -> Iterator[Request]:
        for queue in self._clients.values():
            yield from queue

    def _next_of_clients(self) -> Request:
        tenant_id = next(iter(self._clients))
        queue = self._clients.pop(tenant_id)
        request = queue.popleft()
        self._waiting -= 1
        self._all_bytes -= request.size
        if queue:
            self._clients[tenant_id] = queue  # at the end: its next turn comes after everyone else's
            self._bytes[tenant_id] -= request.size
        else:
            del self._bytes[tenant_id]
        return request
