"""The daemon's metrics: those of engine, schedules and store, and what it has loaded; in a file, as nothing asks it.

Prometheus' node exporter reads such files (its textfile collector); so does whoever wants to look.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from cloacina.dispatch.pools import WORKER_STATES
from cloacina.telemetry.metrics import expose

log = logging.getLogger(__name__)


def show_packages(registry: CollectorRegistry, loaded: Callable[[], float], failed: Callable[[], float]) -> None:
    """Adds the packages by state.

    Args:
        registry: where.
        loaded: gives how many are loaded.
        failed: gives how many files and folders are not as they should be.
    """
    packages = Gauge("cloacina_reconciler_packages", "Packages by state.", ["state"], registry=registry)
    packages.labels("loaded").set_function(loaded)
    packages.labels("failed").set_function(failed)


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


async def write_metrics(registry: CollectorRegistry, file: Callable[[], Path | None], every_s: float) -> None:
    """Writes the metrics into a file every `every_s` seconds, until it is cancelled: whole, never half of them.

    Args:
        registry: what to write.
        file: gives where; ``None`` for nowhere.
        every_s: seconds.
    """
    failed = ""
    while True:
        path = file()
        if path is not None:
            try:
                await asyncio.to_thread(_write, path, expose(registry, None)[0])
                failed = ""
            except OSError as error:
                if failed != str(error):  # once for each reason
                    failed = str(error)
                    log.warning("the metrics cannot be written", extra={"file": str(path), "error": failed})
        await asyncio.sleep(every_s)


def _write(path: Path, text: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(text)
    os.chmod(part, 0o644)  # others collect it; there are names in it, and numbers
    part.replace(path)
