"""Following events over a WebSocket that breaks: each is seen once, none is missed."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from cloacina.cli import live_events
from cloacina.cli.client import ApiClient, ApiFailure

EVENTS = [{"event_type": name, "sequence_num": number} for number, name in enumerate(("a", "b", "c", "d"), 1)]


@contextmanager
def gateway(converse: Callable[[web.WebSocketResponse, int, int], Any]) -> Iterator[ApiClient]:
    """A gateway; `converse` is given the socket, the position asked for, and the number of the connection."""
    started = threading.Event()
    connections: list[web.Request] = []
    running: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == "Bearer clk_x"
        connections.append(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "welcome", "protocol_version": 1, "max_known_id": 0})
        hello = json.loads((await socket.receive(timeout=10)).data)
        assert (hello["type"], hello["protocol_version"]) == ("hello", 1)
        await converse(socket, hello["since_id"] or 0, len(connections))
        return socket

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/v1/ws/delivery/exec_events:x", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        over = asyncio.Event()
        running.append((runner.addresses[0][1], asyncio.get_running_loop(), over))
        started.set()
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(10)
    ((port, loop, over),) = running
    try:
        yield ApiClient(f"http://127.0.0.1:{port}", "clk_x")
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)


async def push(socket: web.WebSocketResponse, number: int) -> None:
    """Sends an event and takes its acknowledgement."""
    payload = base64.b64encode(json.dumps(EVENTS[number - 1]).encode()).decode()
    await socket.send_json({"type": "push", "protocol_version": 1, "id": number, "payload_b64": payload})
    message = await socket.receive(timeout=10)
    assert message.type is WSMsgType.TEXT
    assert json.loads(message.data) == {"type": "ack", "protocol_version": 1, "id": number}


def test_a_connection_that_breaks_loses_and_repeats_nothing() -> None:
    async def converse(socket: web.WebSocketResponse, since: int, connection: int) -> None:
        if connection == 1:
            for number in (1, 2):
                await push(socket, number)
            socket._req.transport.abort()  # like a cable that is pulled
        else:
            assert since == 2
            for number in (2, 3, 4):  # at least once: the second one again
                await push(socket, number)
            await socket.close(code=1000)

    seen: list[Any] = []
    with gateway(converse) as client:
        live_events.follow_events(client, "x", seen.append)
    assert seen == EVENTS


@pytest.mark.parametrize(("code", "status"), [(4404, 404), (4401, 401)])
def test_a_final_no_ends_it(code: int, status: int) -> None:
    async def converse(socket: web.WebSocketResponse, since: int, connection: int) -> None:
        await socket.close(code=code)

    with gateway(converse) as client, pytest.raises(ApiFailure) as failure:
        live_events.follow_events(client, "x", lambda event: None)
    assert failure.value.status == status


def test_nobody_there_is_said_after_some_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(live_events, "_LONGEST_PAUSE_S", 0.01)
    with pytest.raises(ApiFailure, match="cannot be followed") as failure:
        live_events.follow_events(ApiClient("http://127.0.0.1:1", "clk_x"), "x", lambda event: None)
    assert failure.value.status == 0
