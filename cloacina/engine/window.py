"""How much a tenant with a queue has under way at once while another tenant works without one.

Tasks that end at once spend their time on the way, not running: many of them under way make each message and each
commit longer and no core busier, and whoever comes with a single task waits for all of that in every process. So while
somebody does, those with a queue have no more under way than keeps the machine at work. A claim counts by the part of
its time that it is on the way, which is learned from how long the tenant's tasks run, and not at all any more once it
is old: tasks that take their time get every slot.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

WHOLE = 1000
"""What a claim counts whose task takes no time."""

ENGAGED_S = 30.0
"""Seconds for which a tenant without a queue is reckoned with, after its last task."""
YOUNG_S = 0.05
"""Seconds after which a claim counts no more. So nothing is held back for longer."""
_ON_THE_WAY_US = 4000
"""Microseconds that a task is on the way, about, when the window is full."""
_LEARNED = 8
"""Results over which the mean of what a tenant's claims count goes, about."""


class _Claim(NamedTuple):
    tenant_id: str
    counts: int
    at: float


class ClaimWindow:
    """Counts claims on the way. Times are seconds on a monotonic clock.

    Args:
        size: claims of tasks that take no time that may be under way; 0 for no limit.
    """

    def __init__(self, size: int) -> None:
        self._size = size * WHOLE
        self._claims: dict[int, _Claim] = {}
        self._under_way: dict[str, int] = defaultdict(int)
        self._total = 0
        self._counts: dict[str, int] = {}
        self._latest, self._latest_at, self._other_at = "", float("-inf"), float("-inf")

    def __len__(self) -> int:
        """Claims that count."""
        return len(self._claims)

    def clear(self) -> None:
        """Forgets every claim."""
        self._claims.clear()
        self._under_way.clear()
        self._total = 0

    def engaged(self, tenant_id: str, now: float) -> bool:
        """Whether another tenant works without a queue."""
        seen_at = self._other_at if tenant_id == self._latest else self._latest_at
        return self._size > 0 and now - seen_at < ENGAGED_S

    def allows(self, tenant_id: str, now: float) -> bool:
        """Whether one more task of the tenant may be claimed: while there is room, or the tenant has less than an
        equal share of it."""
        if not self.engaged(tenant_id, now) or self._total < self._size:
            return True
        return self._under_way.get(tenant_id, 0) * len(self._under_way) < self._size

    def claimed(self, tenant_id: str, claim_id: int, now: float, *, queue: bool) -> None:
        """A task of the tenant is under way.

        Args:
            tenant_id: whose.
            claim_id: under which claim.
            now: when it was claimed.
            queue: whether further ones of the tenant wait.
        """
        if not queue:
            if tenant_id != self._latest:
                self._latest, self._other_at = tenant_id, self._latest_at
            self._latest_at = now
        if not self.engaged(tenant_id, now):
            return
        claim = self._claims[claim_id] = _Claim(tenant_id, self._counts.get(tenant_id, WHOLE), now)
        self._under_way[tenant_id] += claim.counts
        self._total += claim.counts

    def ended(self, claim_id: int, run_us: int | None = None) -> None:
        """A claim is held no more.

        Args:
            claim_id: which.
            run_us: microseconds that its task ran; ``None`` where that is not known.
        """
        claim = self._claims.get(claim_id)
        if claim is None:
            return
        self._drop(claim_id)
        if run_us is not None:
            self._learn(claim.tenant_id, run_us)

    def lapse(self, now: float) -> None:
        """Forgets the claims that are old."""
        while (opens_at := self.opens_at) is not None and opens_at <= now:
            claim_id, claim = next(iter(self._claims.items()))
            self._learn(claim.tenant_id, int(YOUNG_S * 1e6))
            self._drop(claim_id)

    @property
    def opens_at(self) -> float | None:
        """When the next claim is old; ``None`` where none is under way."""
        oldest = next(iter(self._claims.values()), None)
        return None if oldest is None else oldest.at + YOUNG_S

    def _learn(self, tenant_id: str, run_us: int) -> None:
        known, counts = self._counts.get(tenant_id, WHOLE), WHOLE * _ON_THE_WAY_US // (_ON_THE_WAY_US + max(run_us, 0))
        self._counts[tenant_id] = max(1, known + (counts - known) // _LEARNED)

    def _drop(self, claim_id: int) -> None:
        claim = self._claims.pop(claim_id)
        self._total -= claim.counts
        self._under_way[claim.tenant_id] -= claim.counts
        if not self._under_way[claim.tenant_id]:
            del self._under_way[claim.tenant_id]
