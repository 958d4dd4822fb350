"""The loop that looks for lapsed leases, and notices when its own process stood still."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

_STALL_PERIODS = 2.5
"""Being late by more periods than that is a stall. Under heavy load each sweep is a little late: if that counted, the
leases of the dead would be extended again and again."""


async def sweep_leases(period_s: float, sweep: Callable[[float], None]) -> None:
    """Calls `sweep(stall_s)` every `period_s` seconds until cancelled.

    Args:
        period_s: seconds between sweeps.
        sweep: given the seconds by which this process was late (stopped, suspended, swapped out); 0.0 when it was not.
    """
    loop = asyncio.get_running_loop()
    last = loop.time()
    while True:
        await asyncio.sleep(period_s)
        now = loop.time()
        stall = now - last - period_s
        last = now
        stalled = stall > _STALL_PERIODS * period_s
        if stalled:
            log.warning("this process stood still; leases are extended by as much", extra={"stall_s": round(stall, 3)})
        sweep(stall if stalled else 0.0)
