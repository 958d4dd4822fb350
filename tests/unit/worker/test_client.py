"""What an executor says to a worker process: all that is said in one turn of the event loop in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from cloacina.worker import frames
from cloacina.worker.client import WorkerForge, WorkerProcess
from cloacina.worker.hosting import Listener


class _Transport(asyncio.WriteTransport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        assert not self.closed, "said after the end"
        self.writes.append(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True


def _worker(tmp_path: Path) -> tuple[WorkerProcess, _Transport]:
    worker = WorkerProcess(1, cast(Listener, None), cast(WorkerForge, None), tmp_path)
    transport = _Transport()
    worker.connection_made(transport)
    return worker, transport


def _said(data: bytes) -> list[tuple[str, Any, bytes]]:
    return [(header["kind"], header.get("claim"), body) for header, body in frames.Decoder().feed(data)]


async def test_frames_of_one_turn_go_in_one_write_and_in_order(tmp_path: Path) -> None:
    worker, transport = _worker(tmp_path)
    for claim in range(50):
        worker.send(frames.SECRETS, {"claim": claim}, b"secret")
        worker.send(frames.RUN, {"claim": claim}, b"{}")
    assert not transport.writes
    await asyncio.sleep(0)
    worker.send(frames.CANCEL, {"claim": 3})
    await asyncio.sleep(0)
    first, second = transport.writes
    expected = [said for claim in range(50) for said in (("secrets", claim, b"secret"), ("run", claim, b"{}"))]
    assert _said(first) == expected
    assert _said(second) == [("cancel", 3, b"")]


async def test_what_was_said_goes_out_before_the_hang_up_and_nothing_after_it(tmp_path: Path) -> None:
    worker, transport = _worker(tmp_path)
    worker.send(frames.CANCEL, {"claim": 1})
    worker.hang_up()
    assert [_said(data) for data in transport.writes] == [[("cancel", 1, b"")]]
    assert transport.closed
    await asyncio.sleep(0)
    assert len(transport.writes) == 1


async def test_what_is_unsent_when_the_connection_is_lost_is_dropped(tmp_path: Path) -> None:
    worker, transport = _worker(tmp_path)
    worker.send(frames.CANCEL, {"claim": 1})
    worker.connection_lost(None)
    worker.send(frames.CANCEL, {"claim": 2})
    await asyncio.sleep(0)
    assert not transport.writes
    if worker._timer is not None:
        worker._timer.cancel()
