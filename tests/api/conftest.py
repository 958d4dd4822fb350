"""Fixtures of the gateway's tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from .stand import Stand

StartStand = Callable[..., Awaitable[Stand]]

SHARED = pytest.mark.asyncio(loop_scope="module")
"""For tests that use `shared_stand`: they run in its event loop."""


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("CLOACINA_", "OTEL_"))]:
            patch.delenv(name)
        yield


@pytest.fixture
async def start_stand(tmp_path: Path) -> AsyncIterator[StartStand]:
    """Starts gateways with settings of the test's own."""
    started: list[Stand] = []

    async def start(**knobs: Any) -> Stand:
        stand = Stand(tmp_path / "home", **knobs)
        started.append(stand)
        await stand.start()
        return stand

    yield start
    for stand in reversed(started):
        await stand.stop()


@pytest.fixture
async def stand(start_stand: StartStand) -> Stand:
    """A gateway with the tenants acme and other."""
    stand = await start_stand()
    await stand.tenant("acme")
    await stand.tenant("other")
    return stand


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    """One gateway with the tenant acme for all tests of a file that only look, or are refused.

    Such tests carry `SHARED`.
    """
    stand = Stand(tmp_path_factory.mktemp("shared"))
    await stand.start()
    await stand.tenant("acme")
    yield stand
    await stand.stop()
