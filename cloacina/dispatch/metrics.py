"""Slots and worker processes, as whoever runs tasks measures them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Gauge

from cloacina.dispatch.pools import WORKER_STATES


def show_workers(
    registry: CollectorRegistry, busy: Callable[[], float], free: Callable[[], float], workers: Callable[[str], float]
) -> None:
    """Adds slots and worker processes.

    Args:
        registry: where.
        busy, free: give the slots in use and those that are not.
        workers: gives how many worker processes are in a state.
    """
    slots = Gauge("cloacina_executor_slots", "Tasks that can run at once.", ["state"], registry=registry)
    slots.labels("busy").set_function(busy)
    slots.labels("free").set_function(free)
    processes = Gauge("cloacina_executor_workers", "Worker processes.", ["state"], registry=registry)
    for state in WORKER_STATES:
        processes.labels(state).set_function(partial(workers, state))
