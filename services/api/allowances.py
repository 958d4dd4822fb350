"""Requests a second of tenants, counted over all gateways: each takes what it needs from the store, some at a time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from cloacina.store.database import StoreConflict
from cloacina.store.identity import IdentityStore

_BATCH_S = 0.1
"""A gateway takes as many requests at once as the tenant may send in so many seconds, or one."""

_KEPT_S = 1.0
"""Seconds after which what was taken and not used is lost: it must not gather, and come on top of a later second's."""

_TRIES = 4
_BUSY_S = 0.05
"""Seconds that requests are refused when other gateways were faster so often."""

_KEPT = 10_000
"""Tenants that are known at a time; of those beyond, what the first has taken is lost."""


@dataclass(slots=True)
class _Taken:
    requests: int
    until: float


class RequestAllowances:
    """Takes requests from the tenants' allowances.

    Args:
        identity: the store that all gateways share.
        clock: monotonic seconds.
    """

    def __init__(self, identity: IdentityStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._identity = identity
        self._clock = clock
        self._taken: dict[str, _Taken] = {}
        self._taking: dict[str, asyncio.Task[None]] = {}

    async def take(self, tenant_id: str, rate: float) -> float:
        """Takes one request.

        Args:
            tenant_id: whose.
            rate: requests a second that it may send, at all gateways together; a second's worth may come at once.

        Returns:
            0.0 when it may be sent, else the seconds after which one may.

        Raises:
            Unavailable: the store cannot be read or written.
        """
        while True:
            taken = self._taken.get(tenant_id)
            now = self._clock()
            if taken is not None and now < taken.until:
                if not taken.requests:
                    return taken.until - now
                taken.requests -= 1
                if not taken.requests:
                    del self._taken[tenant_id]
                return 0.0
            taking = self._taking.get(tenant_id)
            if taking is None:
                taking = self._taking[tenant_id] = asyncio.create_task(self._take_some(tenant_id, rate))
                taking.add_done_callback(_noticed)
            await asyncio.shield(taking)

    async def _take_some(self, tenant_id: str, rate: float) -> None:
        """Takes a batch, or notes for how long there is none."""
        try:
            self._keep(tenant_id, await self._batch(tenant_id, rate))
        finally:
            del self._taking[tenant_id]

    async def _batch(self, tenant_id: str, rate: float) -> _Taken:
        interval, wanted = 1e6 / rate, max(1, math.ceil(rate * _BATCH_S))
        for _ in range(_TRIES):
            due, now = await self._identity.request_allowance(tenant_id)
            begins = min(max(due, now - max(1.0, rate) * interval), now)  # a clock that was set back ends no allowance
            ends = math.ceil(begins + wanted * interval)
            if ends > now:  # a whole batch or nothing: else what is used up would be a write for each request
                return _Taken(0, self._clock() + (ends - now) / 1e6)
            try:
                await self._identity.spend_request_allowance(tenant_id, due, ends)
            except StoreConflict:  # another gateway was first
                continue
            return _Taken(wanted, self._clock() + _KEPT_S)
        return _Taken(0, self._clock() + _BUSY_S)

    def _keep(self, tenant_id: str, taken: _Taken) -> None:
        self._taken.pop(tenant_id, None)
        self._taken[tenant_id] = taken
        if len(self._taken) > _KEPT:
            del self._taken[next(iter(self._taken))]


def _noticed(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # every request that waited may have gone: then nobody else takes it
