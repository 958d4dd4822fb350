"""Cores are kept awake while there is something to do, where it is asked for and the kernel lets us."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from cloacina.runtime import cpu_latency
from cloacina.runtime.cpu_latency import CpuLatency

_NONE = 2_000_000_000


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of the kernel's: what is written to it stays in it."""
    monkeypatch.setattr(cpu_latency, "HOLD_S", 0.1)
    path = tmp_path / "cpu_dma_latency"
    path.touch()
    return path


def _wishes(device: Path) -> list[int]:
    return [number for (number,) in struct.iter_unpack("=i", device.read_bytes())]


def _held(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("cloacina_cpu_latency_limited")


async def test_the_wish_holds_from_the_first_need_until_a_while_after_the_last(device: Path) -> None:
    registry = CollectorRegistry()
    latency = CpuLatency(7, registry, device)
    latency.open()
    assert _wishes(device) == [_NONE]
    assert _held(registry) == 0
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < began + 0.35:
        latency.needed()
        assert _held(registry) == 1
        await asyncio.sleep(0.01)
    assert _wishes(device) == [_NONE, 7]
    async with asyncio.timeout(5):
        while _held(registry):
            await asyncio.sleep(0.01)
    assert asyncio.get_running_loop().time() >= began + 0.35 + 0.05
    assert _wishes(device) == [_NONE, 7, _NONE]
    latency.needed()
    assert _wishes(device) == [_NONE, 7, _NONE, 7]
    latency.close()
    assert _held(registry) == 0
    latency.needed()
    await asyncio.sleep(0.15)
    assert _wishes(device) == [_NONE, 7, _NONE, 7]  # the kernel forgets a wish with its file


async def test_without_the_setting_the_device_is_not_touched(device: Path) -> None:
    device.unlink()
    latency = CpuLatency(None, CollectorRegistry(), device)
    latency.open()
    latency.needed()
    latency.close()
    assert not device.exists()


async def test_a_device_that_is_not_there_is_told_once_and_changes_nothing(
    device: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device.unlink()
    registry = CollectorRegistry()
    latency = CpuLatency(0, registry, device)
    with caplog.at_level(logging.WARNING):
        latency.open()
        latency.needed()
    (told,) = caplog.records
    assert "CLOACINA_CPU_LATENCY_US" in told.message
    assert told.__dict__["path"] == str(device)
    assert "No such file" in told.__dict__["error"]
    assert _held(registry) == 0


async def test_a_kernel_that_refuses_later_is_asked_no_more(device: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    latency = CpuLatency(0, registry, device)
    latency.open()
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - its descriptor takes the place of the device's
    assert latency._file is not None
    os.dup2(full.fileno(), latency._file)
    full.close()
    with caplog.at_level(logging.WARNING):
        latency.needed()
        latency.needed()
    assert len(caplog.records) == 1
    assert _held(registry) == 0
