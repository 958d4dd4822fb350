"""The span around an attempt goes to the executor together with the attempt's end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from cloacina.worker import frames
from cloacina.worker.process import Worker


@pytest.fixture
def ends() -> Iterator[tuple[Worker, socket.socket]]:
    """A worker, and the executor's end of its socket, which keeps what is sent at once together."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.settimeout(10)
        yield Worker(ours), theirs


def received(executor: socket.socket) -> list[tuple[str, bytes]]:
    """What came in one go."""
    return [(header["kind"], body) for header, body in frames.Decoder().feed(executor.recv(1 << 16))]


def test_a_span_waits_for_the_frame_that_follows(ends: tuple[Worker, socket.socket]) -> None:
    worker, executor = ends
    worker.relay_span(b"once" + b"span", 4)
    worker.send(frames.DONE, {"claim": 1}, b"{}")
    (header, body), done = frames.Decoder().feed(executor.recv(1 << 16))
    assert (header, body) == ({"kind": frames.SPAN, "about": 4}, b"oncespan")
    assert done == ({"kind": frames.DONE, "claim": 1}, b"{}")
    worker.send(frames.DONE, {"claim": 2})
    assert received(executor) == [(frames.DONE, b"")]


def test_spans_of_authors_do_not_wait(ends: tuple[Worker, socket.socket]) -> None:
    worker, executor = ends
    worker.relay_span(b"a request", 0)
    assert received(executor) == [(frames.SPAN, b"a request")]


def test_no_span_is_lost_between_threads(ends: tuple[Worker, socket.socket]) -> None:
    worker, executor = ends

    def attempts(first: int) -> None:
        for number in range(first, first + 200):
            worker.relay_span(b"%d" % number, 1)
            worker.send(frames.DONE, {"claim": number})

    threads = [threading.Thread(target=attempts, args=(first,)) for first in (1000, 2000, 3000)]
    for thread in threads:
        thread.start()
    spans, done = [], 0
    while done < 600:
        for kind, body in received(executor):
            if kind == frames.SPAN:
                spans.append(int(body))
            else:
                done += 1
    for thread in threads:
        thread.join()
    assert sorted(spans) == [first + number for first in (1000, 2000, 3000) for number in range(200)]
