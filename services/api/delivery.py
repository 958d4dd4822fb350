"""Delivery over WebSockets: versioned envelopes, acknowledgements, bounds; one session a connection.

Nothing is kept here. Events come from the scheduler's store by their numbers, so a client that comes back, to this
gateway or another, goes on where it was. A session holds at most `window` pushes that are not acknowledged; beyond that
it asks for no more, and a client that then stands still is sent away.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import orjson
from aiohttp import WSMsgType, web
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import BaseModel, ConfigDict, StrictInt, TypeAdapter, ValidationError

from cloacina.errors import CloacinaError, NotFound, Unavailable

log = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
"""Of the envelopes, both ways."""

MAX_FRAME_BYTES = 4096
"""Largest frame that a client may send: hello and ack are far smaller."""

HELLO_WAIT_S = 2.0
"""Seconds a client has to say where it goes on. It need not: then it starts at the beginning."""

UNKNOWN_WAIT_S = 5.0
"""Seconds a connection about an unknown execution is held before it is closed."""

LAST_ACKS_WAIT_S = 5.0
"""Seconds the last pushes have to be acknowledged before the connection is closed at the end."""

CLOSE_WAIT_S = 2.0
"""Seconds a client has to answer a close frame."""

HEARTBEAT_S = 20.0
"""Seconds of silence after which the client is pinged; half as long without an answer, and it is gone."""


class CloseCode(IntEnum):
    """Why a connection ends. 4400, 4404 and 4426 are those of the original protocol."""

    ENDED = 1000
    GOING_AWAY = 1001
    INVALID_FRAME = 4400
    UNAUTHORIZED = 4401
    NOT_FOUND = 4404
    TOO_SLOW = 4408
    UNSUPPORTED_VERSION = 4426


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a connection, as the client is told."""

    code: CloseCode
    reason: str


@dataclass(frozen=True, slots=True)
class Push:
    """Something to deliver.

    Args:
        id: its number; grows, and is the same at every gateway.
        tenant_id: whose it is.
        kind: what the payload is.
        payload: JSON.
    """

    id: int
    tenant_id: str
    kind: str
    payload: bytes


class Hello(BaseModel):
    """What a client says first: the version it speaks, and the last push it has, if any."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["hello"]
    protocol_version: StrictInt
    since_id: StrictInt | None = None


class Ack(BaseModel):
    """A push was processed."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["ack"]
    protocol_version: StrictInt
    id: StrictInt


_FRAME: TypeAdapter[Hello | Ack] = TypeAdapter(Hello | Ack)

Source = Callable[[int], AsyncGenerator[Push, None]]
"""Gives what comes after a position. Raises `NotFound` when there is nothing of that name."""


class DeliveryMetrics:
    """What connections are measured in (contract, section 1).

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._active = Gauge(
            "cloacina_ws_connections_active", "WebSocket connections that are open.", ["endpoint"], registry=registry
        )
        self._messages = Counter(
            "cloacina_ws_messages_total", "Frames over WebSockets.", ["endpoint", "direction"], registry=registry
        )
        self._failures = Counter(
            "cloacina_ws_auth_failures_total",
            "WebSocket upgrades that were refused for want of rights.",
            ["endpoint", "reason"],
            registry=registry,
        )
        self._closed = Counter(
            "cloacina_ws_closed_total",
            "WebSocket connections that have ended, by the code the gateway closed with; client where the client did.",
            ["endpoint", "code"],
            registry=registry,
        )
        for reason in ("unauthorized", "tenant_access_denied", "insufficient_permissions"):
            self._failures.labels(ENDPOINT, reason)  # there from the start, so that a rate sees the first one
        self.active = self._active.labels(ENDPOINT)
        self.sent = self._messages.labels(ENDPOINT, "out")
        self.received = self._messages.labels(ENDPOINT, "in")

    def refused(self, reason: str) -> None:
        """An upgrade was refused; `reason` is an error's code."""
        self._failures.labels(ENDPOINT, reason).inc()

    def closed(self, close: Close | None) -> None:
        """A connection has ended, by the gateway, or (``None``) by the client."""
        self._closed.labels(ENDPOINT, "client" if close is None else str(int(close.code))).inc()


ENDPOINT = "delivery"


class Deliveries:
    """All open connections of a gateway.

    Args:
        metrics: what they are measured in.
        max_connections: how many may be open at once.
        window: pushes of one connection that may be unacknowledged at once.
        stall_s: seconds a client with a full window may stand still.
        recheck_s: seconds between looks at whether the caller may still see this.
    """

    def __init__(
        self, metrics: DeliveryMetrics, *, max_connections: int, window: int, stall_s: float, recheck_s: float
    ) -> None:
        self.metrics = metrics
        self.window = window
        self.stall_s = stall_s
        self.recheck_s = recheck_s
        self._max_connections = max_connections
        self._open: set[Session] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self) -> None:
        """Refuses a connection too many.

        Raises:
            Unavailable: too many are open, or the gateway stops.
        """
        if self._draining:
            raise Unavailable("the gateway is stopping")
        if len(self._open) >= self._max_connections:
            raise Unavailable("too many WebSocket connections are open; try again later")

    async def serve(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        recipient: str,
        source: Source,
        permitted: Callable[[], Awaitable[bool]],
    ) -> Session:
        """Serves a connection until it ends.

        Args:
            ws: it, upgraded.
            transport: below it.
            recipient: what the client follows.
            source: where pushes come from.
            permitted: whether the caller may still see this.
        """
        session = Session(ws, transport, recipient, source, self)
        self._open.add(session)
        self.metrics.active.inc()
        try:
            await session.run(permitted)
        finally:
            self._open.discard(session)
            self.metrics.active.dec()
            self.metrics.closed(session.close)
        return session

    def close_all(self) -> None:
        """Closes them: the gateway stops. Clients connect again, elsewhere or later."""
        self._draining = True
        for session in self._open:
            session.end(Close(CloseCode.GOING_AWAY, "the gateway is stopping; connect again"))


class Session:
    """One connection.

    Args:
        ws: it, upgraded.
        transport: below it.
        recipient: what the client follows.
        source: where pushes come from.
        deliveries: what it shares with the others.
    """

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        recipient: str,
        source: Source,
        deliveries: Deliveries,
    ) -> None:
        self._ws = ws
        self._transport = transport
        self._recipient = recipient
        self._source = source
        self._deliveries = deliveries
        self._metrics = deliveries.metrics
        self._since: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._unacknowledged: deque[int] = deque()
        self._acknowledged = asyncio.Event()
        self._end: asyncio.Future[Close | None] = asyncio.get_running_loop().create_future()
        self.sent = 0
        self.close: Close | None = None

    def end(self, close: Close | None) -> None:
        """Ends the session: by the gateway with `close`, by the client with ``None``. The first to say so is right."""
        if not self._end.done():
            self._end.set_result(close)

    async def run(self, permitted: Callable[[], Awaitable[bool]]) -> None:
        """Delivers until the end."""
        tasks = [
            asyncio.create_task(self._until_end(step), name=f"delivery {name}")
            for name, step in (
                ("receive", self._receive()),
                ("deliver", self._deliver()),
                ("recheck", self._recheck(permitted)),
            )
        ]
        try:
            self.close = await self._end
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self.close is not None:
            await self._say_goodbye(self.close)

    async def _until_end(self, step: Awaitable[Close | None]) -> None:
        """Runs one of the session's steps; where one comes to an end, or cannot go on, the session does."""
        try:
            self.end(await step)
        except ConnectionError:  # the client has gone
            self.end(None)
        except CloacinaError as error:
            log.warning("a delivery broke off", extra={"error": error.message})
            self.end(Close(CloseCode.GOING_AWAY, "the events cannot be read now; connect again"))
        except Exception as error:
            log.error("a delivery failed unexpectedly", exc_info=error)
            self.end(Close(CloseCode.GOING_AWAY, "internal error; connect again"))

    async def _say_goodbye(self, close: Close) -> None:
        """Closes the connection; one that takes nothing any more is broken off."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_WAIT_S + 1):
                await self._ws.close(code=close.code, message=close.reason.encode())
        if self._transport is not None and self._transport.get_write_buffer_size():
            self._transport.abort()

    # What the client says

    async def _receive(self) -> Close | None:
        async for message in self._ws:
            self._metrics.received.inc()
            if message.type is not WSMsgType.TEXT:
                return Close(CloseCode.INVALID_FRAME, "frames are text: JSON of the type hello or ack")
            try:
                frame = _FRAME.validate_json(message.data)
            except ValidationError:
                return Close(CloseCode.INVALID_FRAME, "a frame is not JSON of the type hello or ack")
            if frame.protocol_version != PROTOCOL_VERSION:
                return Close(CloseCode.UNSUPPORTED_VERSION, f"unsupported protocol_version; this is {PROTOCOL_VERSION}")
            if isinstance(frame, Ack):
                self._take_ack(frame.id)
            elif not self._since.done():
                self._since.set_result(frame.since_id or 0)
        return None

    def _take_ack(self, push_id: int) -> None:
        """Acknowledges a push; of one that was not sent, or was acknowledged before, nothing follows."""
        with contextlib.suppress(ValueError):
            self._unacknowledged.remove(push_id)
            self._acknowledged.set()

    # What the client gets

    async def _deliver(self) -> Close:
        await self._send({"type": "welcome", "protocol_version": PROTOCOL_VERSION, "max_known_id": 0})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HELLO_WAIT_S):
                await asyncio.shield(self._since)
        position = self._since.result() if self._since.done() else 0
        try:
            async with contextlib.aclosing(self._source(max(position, 0))) as pushes:
                async for push in pushes:
                    await self._push(push)
        except NotFound as error:
            # like the original, which cannot know either; but nobody waits forever for a misspelt id
            await asyncio.sleep(UNKNOWN_WAIT_S)
            return Close(CloseCode.NOT_FOUND, error.message)
        except TimeoutError:
            return Close(CloseCode.TOO_SLOW, "too slow: acknowledge pushes sooner; connect again to go on")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ACKS_WAIT_S):
                await self._room(1)
        return Close(CloseCode.ENDED, "the execution has ended")

    async def _push(self, push: Push) -> None:
        """Sends one, as soon as there is room for it.

        Raises:
            TimeoutError: the client stands still.
        """
        async with asyncio.timeout(self._deliveries.stall_s):
            await self._room(self._deliveries.window)
            self._unacknowledged.append(push.id)
            await self._send(
                {
                    "type": "push",
                    "protocol_version": PROTOCOL_VERSION,
                    "id": push.id,
                    "kind": push.kind,
                    "recipient": self._recipient,
                    "tenant_id": push.tenant_id,
                    "payload_b64": base64.b64encode(push.payload).decode(),
                }
            )
        self.sent += 1

    async def _room(self, unacknowledged: int) -> None:
        """Waits until fewer pushes than this are unacknowledged."""
        while len(self._unacknowledged) >= unacknowledged:
            self._acknowledged.clear()
            await self._acknowledged.wait()

    async def _send(self, frame: dict[str, object]) -> None:
        await self._ws.send_frame(orjson.dumps(frame), WSMsgType.TEXT)
        self._metrics.sent.inc()

    async def _recheck(self, permitted: Callable[[], Awaitable[bool]]) -> Close:
        """A key that is revoked, or a tenant that is deleted, ends what was opened with it."""
        while True:
            await asyncio.sleep(self._deliveries.recheck_s)
            with contextlib.suppress(Unavailable):  # not known now: asked again
                if not await permitted():
                    return Close(CloseCode.UNAUTHORIZED, "the key was revoked")
