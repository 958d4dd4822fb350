"""The daemon's metrics: those of engine, schedules and store, and what it has loaded; in a file, as nothing asks it.

Prometheus' node exporter reads such files (its textfile collector); so does whoever wants to look.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from cloacina.telemetry.metrics import expose

log = logging.getLogger(__name__)


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
