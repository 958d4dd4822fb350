"""Calling a service that has several processes: in turn, and another one when one is away.

A call is repeated elsewhere where that is safe: nothing has happened (the process said so, or was never reached), the
call only reads, or its request can say that it may have been made before (a field ``again``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloacina.errors import Unavailable
from cloacina.rpc.batched import EXECUTE, BatchedExecutes
from cloacina.rpc.client import RpcClient
from cloacina.rpc.errors import Unreachable
from cloacina.rpc.places import Place, Places

log = logging.getLogger(__name__)

NOTHING_HAPPENED = frozenset(("draining", "moving", "ownership_lost"))
"""Codes of `Unavailable` by which a process says that it did nothing, and that another may be able to."""

_READS = ("Get", "List", "Find", "Explain")
_LOOK_S = 0.02
_LONG_PART = 0.3
"""An answer that takes longer than this part of the deadline makes the process suspect."""
_PROBE_S = 0.25
_PROBE_DEADLINE_S = 1.0
_PATIENCE_S = 10.0
"""Calls wait for a service that has just gone, and may come back; of one that is away for longer they fail at once."""
_PATIENT_PART = 0.6
"""They wait for this part of the usual deadline at most: a restart is waited for, and who asks still gets an answer."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a stub, for whichever process is called.

    Args:
        path: ``/package.Service/Method``.
        shape: "unary_unary", "unary_stream" or "stream_unary".
        serialize, deserialize: of the messages.
    """

    path: str
    shape: str
    serialize: Any
    deserialize: Any

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return self.path.rpartition("/")[2].startswith(_READS)

    def on(self, channel: Any) -> Any:
        """The method, called on a channel."""
        return getattr(channel, self.shape)(
            self.path,
            request_serializer=self.serialize,
            response_deserializer=self.deserialize,
            _registered_method=True,
        )


class _Channel:
    """What a generated stub takes for a channel."""

    def __getattr__(self, shape: str) -> Callable[..., Method]:
        def method(path: str, *, request_serializer: Any, response_deserializer: Any, **_: Any) -> Method:
            return Method(path, shape, request_serializer, response_deserializer)

        return method


class _Member:
    """One process of the service."""

    def __init__(self, place: Place, client: RpcClient) -> None:
        self.place = place
        self.client = client
        self.suspect = False
        self._executes = BatchedExecutes(client)
        self._methods: dict[str, Any] = {}
        self._probing: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether it is connected, and not known to be unable. Where it is not connected that is begun."""
        state = self.client.channel.get_state(try_to_connect=True)
        return state is grpc.ChannelConnectivity.READY and not self.suspect

    def method(self, method: Method) -> Any:
        found = self._methods.get(method.path)
        if found is None:
            found = self._methods[method.path] = method.on(self.client.channel)
        return found

    async def call(self, method: Method, request: Any, deadline_s: float) -> Any:
        """A call with one answer; those of Execute share a stream."""
        if method.path == EXECUTE:
            return await self._executes.call(request, deadline_s=deadline_s)
        return await self.client.call(self.method(method), request, deadline_s=deadline_s)

    def doubt(self) -> None:
        """It drains, hangs or is gone: it is asked how it is, until it says that it serves."""
        if not self.suspect:
            self.suspect = True
            self._probing = asyncio.create_task(self._probe(), name=f"probe {self.place.address}")

    async def serves(self) -> bool:
        """What it says itself, if it answers."""
        stub = health_pb2_grpc.HealthStub(self.client.channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_DEADLINE_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_S)
            if await self.serves():
                self.suspect = False
                return

    async def close(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self._executes.close()
        await self.client.close()


class BalancedClient:
    """A client of all processes of a service (in the shape of `cloacina.rpc.client.RpcClient`).

    Args:
        targets: where they are, see `cloacina.rpc.places.Places`.
        connect: makes a client of one place.
        service: name of the service, for messages.
        deadline_s: seconds a call may take unless it says otherwise.
    """

    def __init__(
        self, targets: str, connect: Callable[[Place], RpcClient], *, service: str, deadline_s: float = 5.0
    ) -> None:
        self.service = service
        self.channel: Any = _Channel()
        self._places = Places(targets)
        self._connect = connect
        self._deadline_s = deadline_s
        self._members: list[_Member] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._lost_at: float | None = None
        self._repeatable: dict[str, bool] = {}

    async def start(self) -> None:
        """Finds the processes there are, and from then on those that come."""
        self._set_places(await self._places.find())
        self._places.follow(self._set_places)

    async def close(self) -> None:
        """Ends the channels and what is still being called on them."""
        await self._places.stop()
        members, self._members = self._members, []
        await asyncio.gather(*(member.close() for member in members), *self._closing)

    def members(self) -> list[tuple[str, RpcClient]]:
        """Each process: its address, and the client of it alone."""
        return [(member.place.address, member.client) for member in self._members]

    async def call(self, method: Any, request: Any, *, deadline_s: float | None = None) -> Any:
        """A call with one answer; see `RpcClient.call`.

        Raises:
            CloacinaError: what the service said; `Unavailable` when no process of it can be reached in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (deadline_s or self._deadline_s)
        repeatable = self._may_repeat(method, request)
        tried: list[_Member] = []
        while True:
            member = await self._available(tried, deadline)
            remaining = max(deadline - loop.time(), 0.001)
            try:
                if repeatable and len(self._members) > 1:
                    return await self._watch(member, method, request, remaining)
                return await member.call(method, request, remaining)
            except Unavailable as error:
                nothing_happened = error.code in NOTHING_HAPPENED
                if nothing_happened or isinstance(error, Unreachable):
                    if error.code != "moving":
                        member.doubt()
                else:
                    raise  # the service can be reached, and cannot do it now: neither could another
                if not (nothing_happened or repeatable) or loop.time() + _LOOK_S >= deadline:
                    raise
                log.debug(
                    "a call is made again at another process",
                    extra={"rpc_method": method.path, "target": member.place.address, "error": error.message},
                )
            if not nothing_happened:
                request = _again(request)
            tried.append(member)
            await asyncio.sleep(_LOOK_S)

    async def _watch(self, member: _Member, method: Method, request: Any, remaining: float) -> Any:
        """A call whose process is asked how it is when the answer takes long: one that is slow is waited for, one that
        hangs leaves another the time to answer."""
        calling = asyncio.ensure_future(member.call(method, request, remaining))
        try:
            done, _ = await asyncio.wait((calling,), timeout=remaining * _LONG_PART)
            if not done and not await member.serves() and not calling.done():
                raise Unreachable(f"the {self.service} does not answer")
            return await calling
        finally:
            calling.cancel()

    def _may_repeat(self, method: Method, request: Any) -> bool:
        found = self._repeatable.get(method.path)
        if found is None:
            found = method.shape == "unary_unary" and (method.reads or "again" in request.DESCRIPTOR.fields_by_name)
            self._repeatable[method.path] = found
        return found

    def stream(self, method: Any, request: Any, *, deadline_s: float | None) -> Any:
        """A call with a stream of answers; see `RpcClient.stream`. It is not repeated."""
        member = self._next(()) or self._members[0]
        return member.client.stream(member.method(method), request, deadline_s=deadline_s)

    async def _available(self, tried: Sequence[_Member], deadline: float) -> _Member:
        """A process that can be called, rather one that was not tried; waits for one within the deadline."""
        loop = asyncio.get_running_loop()
        deadline = min(deadline, loop.time() + self._deadline_s * _PATIENT_PART)
        while True:
            member = self._next(tried) or self._next(())
            if member is not None:
                self._lost_at = None
                return member
            now = loop.time()
            if self._lost_at is None:
                self._lost_at = now
            if now + _LOOK_S >= deadline or now - self._lost_at > _PATIENCE_S:
                raise Unreachable(f"the {self.service} cannot be reached")
            await asyncio.sleep(_LOOK_S)

    def _next(self, without: Sequence[_Member]) -> _Member | None:
        for _ in self._members:
            self._turn += 1
            member = self._members[self._turn % len(self._members)]
            if member not in without and member.ready:
                return member
        return None

    def _set_places(self, places: Sequence[Place]) -> None:
        known = {member.place: member for member in self._members}
        for place in known.keys() - set(places):
            task = asyncio.ensure_future(self._retire(known[place]))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._members = [known.get(place) or _Member(place, self._connect(place)) for place in places]
        for member in self._members:
            member.client.channel.get_state(try_to_connect=True)

    async def _retire(self, member: _Member) -> None:
        """Ends the channel to a process that is not listed any more, once its last calls have come back."""
        await asyncio.sleep(self._deadline_s)
        await member.close()


def _again(request: Any) -> Any:
    """The request, saying that it may have been made before, if it can."""
    if "again" not in request.DESCRIPTOR.fields_by_name:
        return request
    repeated = type(request)()
    repeated.CopyFrom(request)
    repeated.again = True
    return repeated
