"""Keeps the machine's cores awake while executions go through a process.

A task goes through a dozen threads of five processes, and each of them wakes up for it. A core that sleeps takes its
time for that: on a virtual machine its host has to be asked first. Linux keeps the cores out of the sleep states that
take longer than a process can bear, for as long as the process says so (PM QoS, `/dev/cpu_dma_latency`). That costs
power and the time of the host, so it is asked for by a setting, and holds only while there is something to do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

log = logging.getLogger(__name__)

DEVICE = Path("/dev/cpu_dma_latency")
"""Linux's, with its interface: four bytes, a signed number of microseconds in the machine's order; a wish ends when its
file is closed, however that happens (the kernel's Documentation/power/pm_qos_interface.rst)."""

HOLD_S = 0.5
"""Seconds without anything to do after which the cores may sleep."""

_NO_LIMIT = struct.pack("=i", 2_000_000_000)
"""What the kernel takes for no wish at all."""


class CpuLatency:
    """The wish of one process. All methods run on one event loop.

    Args:
        limit_us: microseconds that a core may take to wake up, 0 for one that does not sleep; ``None`` wishes nothing.
        registry: where it shows whether it holds.
        device: the kernel's file.
    """

    def __init__(self, limit_us: int | None, registry: CollectorRegistry, device: Path = DEVICE) -> None:
        self._wanted = _NO_LIMIT if limit_us is None else struct.pack("=i", limit_us)
        self._device = device
        self._file: int | None = None
        self._needed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._holds = Gauge(
            "cloacina_cpu_latency_limited",
            "1 while the machine's cores are kept awake (CLOACINA_CPU_LATENCY_US).",
            registry=registry,
        )

    def open(self) -> None:
        """Gets the kernel's file. Where that cannot be had, a warning says so, and everything works as without it."""
        if self._wanted is _NO_LIMIT:
            return
        try:
            self._file = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._file, _NO_LIMIT)
        except OSError as error:
            self._give_up(error)

    def needed(self) -> None:
        """There is something to do now."""
        if self._file is None:
            return
        self._needed_at = time.monotonic()
        if self._timer is None and self._wish(self._wanted):
            self._timer = asyncio.get_running_loop().call_later(HOLD_S, self._look)

    def close(self) -> None:
        """Wishes nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._holds.set(0)

    def _look(self) -> None:
        """Lets the cores sleep, unless there was something to do meanwhile."""
        left_s = self._needed_at + HOLD_S - time.monotonic()
        if left_s > 0:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._look)
            return
        self._timer = None
        self._wish(_NO_LIMIT)

    def _wish(self, limit: bytes) -> bool:
        assert self._file is not None
        try:
            os.write(self._file, limit)
        except OSError as error:
            self._give_up(error)
            return False
        self._holds.set(0 if limit is _NO_LIMIT else 1)
        return True

    def _give_up(self, error: OSError) -> None:
        self.close()
        log.warning(
            "the cores cannot be kept awake: give this process write access to the device, or unset "
            "CLOACINA_CPU_LATENCY_US",
            extra={"path": str(self._device), "error": str(error)},
        )
