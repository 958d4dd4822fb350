"""The WebSocket that delivers events: frames, acknowledgements, resuming, bounds, ends."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from cloacina.telemetry.scope import valid_request_id
from services.api import delivery
from services.api.account_schemas import WsTicketResponse

from .conftest import StartStand
from .stand import ADMIN_KEY, Stand, eventually

_DEADLINE_S = 10.0
_STORY = ("workflow_started", "task_created", "task_started", "task_completed", "workflow_completed")


class Client:
    """One connection, spoken frame by frame."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def read(self) -> dict[str, Any]:
        message = await self.ws.receive(_DEADLINE_S)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        frame: dict[str, Any] = json.loads(message.data)
        assert frame["protocol_version"] == 1
        return frame

    async def welcome(self, since_id: int | None = None) -> None:
        """Reads the welcome and says hello."""
        assert await self.read() == {"type": "welcome", "protocol_version": 1, "max_known_id": 0}
        await self.send(type="hello", since_id=since_id)

    async def send(self, **fields: Any) -> None:
        await self.ws.send_json({"protocol_version": 1, **fields})

    async def push(self, *, ack: bool = True) -> dict[str, Any]:
        frame = await self.read()
        assert frame["type"] == "push"
        if ack:
            await self.send(type="ack", id=frame["id"])
        return frame

    async def closed(self) -> int:
        """The code the server closes with."""
        message = await self.ws.receive(_DEADLINE_S)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED), message
        assert self.ws.close_code is not None
        return self.ws.close_code


@asynccontextmanager
async def connected(
    stand: Stand, execution_id: str, *, key: str | None = ADMIN_KEY, **params: str
) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with stand.http.ws_connect(
        f"/v1/ws/delivery/exec_events:{execution_id}", headers=headers, params=params
    ) as ws:
        yield Client(ws)


def event_in(push: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(push["payload_b64"]))
    return found


async def ticket_of(stand: Stand, key: str) -> str:
    issued = (await stand.ask("POST", "/v1/auth/ws-ticket", key=key)).fits(200, WsTicketResponse)
    return str(issued["ticket"])


def sample(stand: Stand, name: str, **labels: str) -> float:
    return stand.runtime.registry.get_sample_value(name, {"endpoint": "delivery", **labels}) or 0.0


async def test_the_whole_story_ends_with_the_execution(stand: Stand) -> None:
    execution_id = await stand.execution()
    await stand.scheduler.happens(execution_id, *_STORY[:2])
    async with connected(stand, execution_id, key=await stand.key("acme", "read")) as client:
        assert sample(stand, "cloacina_ws_connections_active") == 1
        await client.welcome()
        pushes = [await client.push(), await client.push()]
        await stand.scheduler.happens(execution_id, *_STORY[2:])  # while it is followed
        pushes += [await client.push() for _ in _STORY[2:]]
        assert await client.closed() == 1000
    assert [push["id"] for push in pushes] == [1, 2, 3, 4, 5]
    assert {(push["kind"], push["recipient"], push["tenant_id"]) for push in pushes} == {
        ("execution_event", f"exec_events:{execution_id}", "acme")
    }
    events = [event_in(push) for push in pushes]
    assert [event["event_type"] for event in events] == list(_STORY)
    assert [event["task_name"] for event in events] == [None, "load", "load", "load", None]
    assert {event["execution_id"] for event in events} == {execution_id}
    assert {"id", "created_at", "sequence_num", "event_data", "workflow_execution_id"} <= set(events[0])
    await eventually(lambda: sample(stand, "cloacina_ws_connections_active") == 0, "the connection is over")
    assert sample(stand, "cloacina_ws_messages_total", direction="out") == 6
    assert sample(stand, "cloacina_ws_messages_total", direction="in") == 6
    assert sample(stand, "cloacina_ws_closed_total", code="1000") == 1


async def test_the_request_id_goes_along(stand: Stand) -> None:
    execution_id = await stand.execution()
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "x-request-id": "followed-here"}
    async with stand.http.ws_connect(f"/v1/ws/delivery/exec_events:{execution_id}", headers=headers) as ws:
        assert ws._response.headers["x-request-id"] == "followed-here"
        assert ws._response.headers["Server"] == "cloacina"
        await Client(ws).welcome()
        await eventually(lambda: bool(stand.scheduler.calls("FollowEvents")), "the scheduler is asked")
    assert stand.scheduler.calls("FollowEvents")[0].metadata["x-request-id"] == "followed-here"


async def test_a_reconnect_goes_on_where_it_was_at_another_gateway(start_stand: StartStand) -> None:
    stand = await start_stand()
    await stand.tenant("acme")
    other = await start_stand(
        scheduler_target=f"127.0.0.1:{stand.scheduler.port}", reconciler_target=f"127.0.0.1:{stand.reconciler.port}"
    )
    execution_id = await stand.execution()
    await stand.scheduler.happens(execution_id, *_STORY)
    async with connected(stand, execution_id) as client:
        await client.welcome()
        last = [await client.push(), await client.push()][-1]["id"]
    async with connected(other, execution_id, key=None, token=await ticket_of(stand, ADMIN_KEY)) as client:
        await client.welcome(since_id=last)
        assert [(await client.push())["id"] for _ in range(3)] == [3, 4, 5]
        assert await client.closed() == 1000
    async with connected(other, execution_id) as client:  # what is over and known: nothing more comes
        await client.welcome(since_id=5)
        assert await client.closed() == 1000


async def test_a_client_that_says_no_hello_starts_at_the_beginning(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "HELLO_WAIT_S", 0.05)
    execution_id = await stand.execution()
    await stand.scheduler.happens(execution_id, "workflow_started")
    async with connected(stand, execution_id) as client:
        assert (await client.read())["type"] == "welcome"
        assert (await client.push())["id"] == 1


async def test_a_slow_client_is_sent_away_and_finds_everything_again(start_stand: StartStand) -> None:
    stand = await start_stand(api_ws_window=2, api_ws_stall_s=0.2)
    await stand.tenant("acme")
    execution_id = await stand.execution()
    await stand.scheduler.happens(execution_id, *_STORY)
    async with connected(stand, execution_id) as client:
        await client.welcome()
        assert [(await client.push(ack=False))["id"] for _ in range(2)] == [1, 2]
        assert await client.closed() == 4408  # no more than the window was sent
    await eventually(lambda: sample(stand, "cloacina_ws_closed_total", code="4408") == 1, "it is counted")
    async with connected(stand, execution_id) as client:
        await client.welcome(since_id=1)
        assert [(await client.push())["id"] for _ in range(4)] == [2, 3, 4, 5]
        assert await client.closed() == 1000


async def test_a_client_that_reads_nothing_costs_no_memory(start_stand: StartStand) -> None:
    """What the socket does not take is not gathered: the connection is broken off."""
    stand = await start_stand(api_ws_window=1_000_000, api_ws_stall_s=0.3)
    await stand.tenant("acme")
    execution_id = await stand.execution()
    await stand.scheduler.happens(execution_id, *["task_" + "x" * 5000] * 5000)
    path = f"/v1/ws/delivery/exec_events:{execution_id}"
    head = f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADMIN_KEY}\r\nConnection: Upgrade\r\n"
    head += "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", stand.port, limit=2**14)
    writer.write(head.encode())
    await eventually(lambda: sample(stand, "cloacina_ws_closed_total", code="4408") == 1, "it is broken off")
    assert sample(stand, "cloacina_ws_messages_total", direction="out") < 5000
    writer.close()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"type": "hello", "protocol_version": 99, "since_id": None}, 4426),
        ({"type": "ack", "protocol_version": 2, "id": 1}, 4426),
        ({"type": "hello"}, 4400),
        ({"type": "dance", "protocol_version": 1}, 4400),
        ({"type": "ack", "protocol_version": 1, "id": "1"}, 4400),
        ({"type": "ack", "protocol_version": 1, "id": 1, "more": 1}, 4400),
        ([], 4400),
        ("x" * 5000, 1009),
    ],
)
async def test_frames_that_are_none(stand: Stand, frame: Any, code: int) -> None:
    async with connected(stand, await stand.execution()) as client:
        assert (await client.read())["type"] == "welcome"
        await client.ws.send_json(frame)
        assert await client.closed() == code


async def test_binary_frames_are_refused(stand: Stand) -> None:
    async with connected(stand, await stand.execution()) as client:
        assert (await client.read())["type"] == "welcome"
        await client.ws.send_bytes(b"{}")
        assert await client.closed() == 4400


async def test_acks_of_what_was_not_sent_change_nothing(stand: Stand) -> None:
    execution_id = await stand.execution()
    async with connected(stand, execution_id) as client:
        await client.welcome()
        for unknown in (7, -1, 7):
            await client.send(type="ack", id=unknown)
        await stand.scheduler.happens(execution_id, *_STORY)
        assert [(await client.push())["id"] for _ in _STORY] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("whose", ["nobody", "other"])
async def test_what_a_key_may_not_see_is_not_there(stand: Stand, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An execution of another tenant is like one that does not exist: quiet for a while, then closed."""
    monkeypatch.setattr(delivery, "UNKNOWN_WAIT_S", 0.05)
    execution_id = str(uuid4()) if whose == "nobody" else await stand.execution()
    async with connected(stand, execution_id, key=await stand.key("other", "admin")) as client:
        await client.welcome()
        assert await client.closed() == 4404


async def test_a_ticket_opens_one_connection(stand: Stand) -> None:
    execution_id = await stand.execution()
    ticket = await ticket_of(stand, await stand.key("acme", "read"))
    async with connected(stand, execution_id, key=None, token=ticket) as client:
        await client.welcome()
    path = f"/v1/ws/delivery/exec_events:{execution_id}"
    for token in (ticket, "wst_" + "x" * 43, ADMIN_KEY, ""):
        reply = await stand.ask("GET", path, key=None, params={"token": token})
        reply.refused(401, "unauthorized", "ticket")
    (await stand.ask("GET", path, key=None)).refused(401, "unauthorized", "missing")
    assert sample(stand, "cloacina_ws_auth_failures_total", reason="unauthorized") == 5
    no_tenant = (await stand.ask("POST", "/v1/auth/keys", json={"name": "none"})).json["key"]
    (await stand.ask("GET", path, key=no_tenant)).refused(403, "tenant_access_denied")
    assert sample(stand, "cloacina_ws_auth_failures_total", reason="tenant_access_denied") == 1


@pytest.mark.parametrize("recipient", ["exec_events:", "exec_events:1", "agent:1", "a" * 36, "exec_events%3A"])
async def test_recipients_that_are_none(stand: Stand, recipient: str) -> None:
    (await stand.ask("GET", f"/v1/ws/delivery/{recipient}")).refused(400, "invalid_request", "exec_events:")


async def test_a_request_without_an_upgrade(stand: Stand) -> None:
    reply = await stand.ask("GET", f"/v1/ws/delivery/exec_events%3A{uuid4()}")
    reply.refused(400, "invalid_request", "upgrade")


async def test_a_scheduler_that_comes_back_is_followed_on(stand: Stand) -> None:
    execution_id = await stand.execution()
    await stand.scheduler.happens(execution_id, *_STORY[:2])
    async with connected(stand, execution_id) as client:
        await client.welcome()
        assert [(await client.push())["id"] for _ in range(2)] == [1, 2]
        await stand.scheduler.break_streams()
        await stand.scheduler.happens(execution_id, *_STORY[2:])
        assert [(await client.push())["id"] for _ in range(3)] == [3, 4, 5]
        assert await client.closed() == 1000
    assert [call.request.after for call in stand.scheduler.calls("FollowEvents")] == [0, 2]


async def test_a_gateway_that_stops_says_so(stand: Stand) -> None:
    async with connected(stand, await stand.execution()) as client:
        await client.welcome()
        async with asyncio.timeout(_DEADLINE_S):
            stopping = asyncio.create_task(stand.gateway.drain())
            assert await client.closed() == 1001
            await stopping


async def test_a_revoked_key_ends_what_it_opened(start_stand: StartStand) -> None:
    stand = await start_stand(api_auth_cache_s=0.1)
    await stand.tenant("acme")
    made = await stand.ask("POST", "/v1/tenants/acme/keys", json={"name": "short-lived"})
    async with connected(stand, await stand.execution(), key=made.json["key"]) as client:
        await client.welcome()
        assert (await stand.ask("DELETE", f"/v1/auth/keys/{made.json['id']}")).status == 200
        assert await client.closed() == 4401


async def test_connections_are_bounded_and_take_no_place_of_requests(start_stand: StartStand) -> None:
    stand = await start_stand(api_ws_max_connections=2, api_max_in_flight=1)
    await stand.tenant("acme")
    execution_id = await stand.execution()
    async with connected(stand, execution_id) as one, connected(stand, execution_id) as two:
        await one.welcome()
        await two.welcome()
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(stand, execution_id):
                pass
        assert refused.value.status == 503
        assert valid_request_id(refused.value.headers["x-request-id"])  # type: ignore[index]
        assert (await stand.ask("GET", "/v1/auth/whoami")).status == 200
