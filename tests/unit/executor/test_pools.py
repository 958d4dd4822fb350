"""Which worker a run goes to, and when another is started."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloacina.dispatch import pools
from cloacina.dispatch.artifacts import Artifact
from cloacina.dispatch.pools import Pools, Supplies
from cloacina.dispatch.runs import Run
from cloacina.rpc.v1 import scheduler_pb2
from services.executor.settings import ExecutorSettings


class Forge:
    """Stands for the fork server: its workers load at once, and keep what they are given."""

    def __init__(self) -> None:
        self.given: list[list[str]] = []

    async def spawn(self, order, worker):
        given: list[str] = []
        self.given.append(given)
        worker.loaded = True
        return SimpleNamespace(pid=1, gone=False, placed=True, send=lambda kind, fields, body=b"": given.append(kind))


class Artifacts:
    async def get(self, digest: str) -> Artifact:
        return Artifact(Path("/nowhere"), "workflow", "tasks")


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Forge:
    monkeypatch.setattr(pools, "_CORES", 2)
    return Forge()


async def given_to_each(forge: Forge, runs: int) -> list[int]:
    """How many runs each worker is given, once all are."""
    made = Pools(Supplies(forge, Artifacts(), ExecutorSettings(), lambda encoded: None))
    for number in range(1, runs + 1):
        made.submit(Run(scheduler_pb2.Assignment(claim_id=number, tenant_id="t", package_digest="d"), None))
        for _ in range(4):  # a worker that is being started is there
            await asyncio.sleep(0)
    return [len(given) for given in forge.given]


async def test_few_runs_share_one_worker(forge: Forge) -> None:
    assert await given_to_each(forge, 8) == [8]


async def test_more_runs_are_spread_over_a_worker_for_each_core(forge: Forge) -> None:
    assert await given_to_each(forge, 40) == [20, 20]


async def test_a_further_worker_is_started_when_all_are_full(forge: Forge) -> None:
    each = ExecutorSettings().worker_tasks
    assert await given_to_each(forge, 2 * each + 1) == [each, each, 1]
