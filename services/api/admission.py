"""How many requests the gateway handles at once: of all clients, and of each tenant, so that none takes every place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from cloacina.errors import Unavailable
from services.api.metrics import ApiMetrics


class Admission:
    """Counts what is in flight, and refuses what is too much.

    Args:
        most: requests handled at once.
        tenant_share: share of them that one tenant may take.
        abandoned: how many calls go on though their client has gone; they take a place each.
        metrics: what refusals are counted in.
    """

    def __init__(self, most: int, tenant_share: float, abandoned: Callable[[], int], metrics: ApiMetrics) -> None:
        self._most = most
        self._of_a_tenant = math.ceil(most * tenant_share)
        self._abandoned = abandoned
        self._metrics = metrics
        self._tenants: Counter[str] = Counter()
        self.in_flight = 0
        metrics.in_flight.set_function(lambda: self.in_flight)

    def check(self) -> None:
        """Judges the request that came last.

        Raises:
            Unavailable: there are too many.
        """
        if self.in_flight + self._abandoned() > self._most:
            self._metrics.refused["all"].inc()
            raise Unavailable("too many requests are in flight; try again later")

    def enter(self, tenant_id: str) -> None:
        """A request of this tenant is handled from now on.

        Raises:
            Unavailable: the tenant has too many.
        """
        if self._tenants[tenant_id] >= self._of_a_tenant:
            self._metrics.refused["tenant"].inc()
            raise Unavailable("too many requests of this tenant are in flight; try again later")
        self._tenants[tenant_id] += 1

    def leave(self, tenant_id: str) -> None:
        """It is handled."""
        self._tenants[tenant_id] -= 1
        if not self._tenants[tenant_id]:
            del self._tenants[tenant_id]
