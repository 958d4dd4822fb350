"""A service that ends is started again: at once at first, and never so late that a lease goes by."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cloacina.cli import supervisor
from cloacina.cli.supervisor import _Child


class _Ending(_Child):
    """A service that ends as often as it is run, each time after so many seconds."""

    def __init__(self, *lives_s: float) -> None:
        super().__init__("scheduler", {})
        self.proven = True
        self._lives_s = list(lives_s)
        self.now = 0.0

    async def _run_once(self) -> int:
        self.now += self._lives_s.pop(0)
        return -9


async def _pauses(monkeypatch: pytest.MonkeyPatch, *lives_s: float) -> list[float]:
    """What the supervisor waits for before each further start."""
    child, told, waited = _Ending(*lives_s), asyncio.Event(), []

    async def wait_for(waiting: Any, seconds: float) -> None:
        waiting.close()
        waited.append(seconds)
        if len(waited) == len(lives_s):
            told.set()
        raise TimeoutError

    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: child.now))
    monkeypatch.setattr(supervisor, "asyncio", SimpleNamespace(wait_for=wait_for))
    await child.keep_up(told)
    return waited


async def test_pauses_grow_and_stay_shorter_than_what_a_recovery_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _pauses(monkeypatch, *[3.0] * 8) == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0]


async def test_a_service_that_was_steady_is_started_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _pauses(monkeypatch, 1.0, 1.0, 11.0, 1.0) == [0.5, 1.0, 0.5, 1.0]
