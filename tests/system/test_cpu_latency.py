"""Cores are kept awake while executions go through the services, and no longer."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from cloacina.runtime.cpu_latency import DEVICE
from tests.system.running import RunningSystem, wait_until, write_package

TASK = """
import cloaca


@cloaca.task(id="wink")
def wink(context):
    return context
"""
SERVICES = ("api", "scheduler", "executor")


def _bearable_us() -> int:
    """The latency that the kernel keeps to now, whoever wished it."""
    with DEVICE.open("rb") as device:
        (limit_us,) = struct.unpack("=i", device.read(4))
    return int(limit_us)


def _holding(system: RunningSystem) -> list[str]:
    return [service for service in SERVICES if system.metric(service, "cloacina_cpu_latency_limited") == 1]


def test_the_kernel_keeps_cores_awake_while_there_is_work_or_the_log_says_why_not(tmp_path: Path) -> None:
    with RunningSystem(tmp_path / "home", {"CLOACINA_CPU_LATENCY_US": "0"}) as system:
        system.upload(write_package(tmp_path, "winks", TASK))
        if not os.access(DEVICE, os.W_OK):  # not root, or in a container: all works as without it
            assert system.wait_for_end(system.execute("winks"))["status"] == "Completed"
            told = [line for line in system.log() if "the cores cannot be kept awake" in line["message"]]
            assert {*SERVICES} <= {line["service"] for line in told}
            assert _holding(system) == []
            return

        def all_hold() -> bool:
            system.execute("winks")
            return _holding(system) == [*SERVICES]

        wait_until(all_hold, "every service's wish")
        assert _bearable_us() == 0
        wait_until(lambda: not _holding(system), "the end of the wishes")
