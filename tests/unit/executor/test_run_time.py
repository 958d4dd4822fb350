"""How long an attempt ran, as it is reported to the scheduler."""

from __future__ import annotations

import asyncio
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest

from cloacina.dispatch.orders import result_from
from cloacina.dispatch.runs import Run
from cloacina.rpc.v1 import scheduler_pb2


def reported(ended: list[Any]) -> Run:
    return Run(scheduler_pb2.Assignment(claim_id=1, tenant_id="t"), SimpleNamespace(ended=ended.append))


async def test_a_result_says_how_long_its_task_ran() -> None:
    ended: list[Any] = []
    run, began = reported(ended), time.perf_counter()
    run.begin(SimpleNamespace(pid=1, machine=""), None)
    await asyncio.sleep(0.05)
    run.succeed(None)
    most = (time.perf_counter() - began) * 1e6
    assert 40_000 < (result_from(ended[0]).run_us or 0) < most + 20_000


async def test_what_never_ran_has_no_run_time() -> None:
    ended: list[Any] = []
    reported(ended).fail("cancelled", "stopped before it began")
    assert result_from(ended[0]).run_us is None


async def test_the_line_of_an_attempt_is_written_after_its_report_and_has_the_time_of_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the scheduler logs of it has a later time, however long the executor is kept from writing."""
    ended: list[Any] = []
    with caplog.at_level(logging.INFO, "cloacina.dispatch.runs"):
        reported(ended).succeed(None)
        until = time.time()
        assert ended
        assert not caplog.records
        time.sleep(0.02)
        while not caplog.records:
            await asyncio.sleep(0)
    assert [(record.getMessage(), record.created <= until) for record in caplog.records] == [("task succeeded", True)]
