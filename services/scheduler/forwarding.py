"""Calls that belong to another scheduler: found by the execution, or by who keeps the schedules, and passed on once.

A request may reach any scheduler. What concerns an unfinished execution is its owner's; schedules, named instances and
executions that are counted against a limit are the keeper's; an `Idempotency-Key` has a scheduler that decides on it,
so that two of them seldom insert the same key at once. Everything else is answered where it arrives, from the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter

from cloacina.engine.engine import Engine
from cloacina.engine.schedules import Schedules
from cloacina.errors import CloacinaError, Unavailable
from cloacina.rpc.client import RpcClient
from cloacina.rpc.errors import Unreachable
from cloacina.rpc.v1 import scheduler_pb2, scheduler_pb2_grpc
from cloacina.store.owners import OwnerStore
from services.scheduler.definitions import Definitions

log = logging.getLogger(__name__)

FORWARDED = "x-cloacina-forwarded"
"""Metadata of a call that another scheduler has passed on: it is not passed on again."""

_LONGEST_WAIT_S = 2.0
"""Seconds that a call waits while what it is about is being taken over."""
_LOOK_AGAIN_S = 0.05
_LONGEST_PAUSE_S = 0.5
_HINT_DEADLINE_S = 1.0
_MOST_CLIENTS = 32
_DEADLINE_S = 5.0
"""Of a call whose caller has set none."""
_MARGIN_S = 0.2
"""Of the caller's deadline so much is left for the way back."""


def was_forwarded(context: Any) -> bool:
    """Whether another scheduler has passed a call on."""
    return any(key == FORWARDED for key, _ in context.invocation_metadata() or ())


class NotReached(Unreachable):
    """There was no connection: nothing was asked."""


class Preferred(str):
    """A scheduler that had better be the one; where it cannot be reached any other will do."""

    __slots__ = ()


Route = Callable[[Any, bool], Awaitable[str | None]]
"""Given the request, and whether it was passed on already: where it belongs; ``None`` for here."""


class Routes:
    """Where calls belong.

    Args:
        engine: what is owned here.
        owners: whose everything else is.
        schedules: whether they are kept here.
        definitions: what is executed, and its limits.
    """

    def __init__(self, engine: Engine, owners: OwnerStore, schedules: Schedules, definitions: Definitions) -> None:
        self._engine = engine
        self._ownership = engine.ownership
        self._owners = owners
        self._schedules = schedules
        self._definitions = definitions

    async def to_owner(self, request: Any, forwarded: bool) -> str | None:
        """To the owner of an unfinished execution. One that has ended is everybody's."""

        async def look() -> tuple[bool, str | None]:
            if self._engine.find(request.execution_id) is not None:
                return True, None
            found = await self._owners.owner_of(request.tenant_id, request.execution_id)
            if found is None or found.ended:
                return True, None
            return self._elsewhere(found.epoch, found.target, forwarded)

        return None if self._ownership.sole else await self._until_settled(look)

    async def find_owner(self, tenant_id: str, execution_id: str) -> str | None:
        """Where the owner is of an execution that is not among those that run here.

        Returns:
            The address of its scheduler; empty for this one, also when the execution has ended or does not exist;
            ``None`` when nobody owns it now.
        """
        if self._ownership.sole:
            return ""
        found = await self._owners.owner_of(tenant_id, execution_id)
        if found is None or found.ended or found.epoch == self._ownership.owner.epoch:
            return ""
        if not found.target:
            self._ownership.look()
        return found.target or None

    async def to_last_owner(self, request: Any, forwarded: bool) -> str | None:
        """To who has, or had, an execution, or else to the keeper: so that two who retry it meet."""

        async def look() -> tuple[bool, str | None]:
            if self._engine.find(request.execution_id) is not None:
                return True, None
            found = await self._owners.owner_of(request.tenant_id, request.execution_id)
            if found is None or found.epoch == self._ownership.owner.epoch:
                return True, None
            if not found.owner_id and found.ended:
                return True, await self.to_keeper(request, forwarded)
            if found.ended and forwarded:
                return True, None
            return self._elsewhere(found.epoch, found.target, forwarded)

        return None if self._ownership.sole else await self._until_settled(look)

    async def to_keeper(self, request: Any, forwarded: bool) -> str | None:
        """To the scheduler that keeps the schedules."""

        async def look() -> tuple[bool, str | None]:
            if self._schedules.kept_here:
                return True, None
            keeper = self._ownership.keeper
            if keeper is None or forwarded:
                await self._ownership.refresh()
                keeper = self._ownership.keeper
            if keeper is None:
                return self._elsewhere(0, "", forwarded)
            return self._elsewhere(keeper.epoch, keeper.target, forwarded)

        return await self._until_settled(look)

    async def to_starter(self, request: Any, forwarded: bool) -> str | None:
        """To who is to begin an execution: the keeper, if a limit counts it, so that one scheduler counts them all."""
        if self._ownership.alone or forwarded:
            return None
        tenant_id, workflow_name = request.tenant_id, request.workflow_name
        counted = self._engine.settings.tenant_tasks or request.max_unfinished
        if counted or self._definitions.is_limited(tenant_id, workflow_name):
            return await self.to_keeper(request, forwarded)
        if not request.idempotency_key:
            return None
        key = f"{request.tenant_id}\0{request.workflow_name}\0{request.idempotency_key}"
        there = [row for row in self._ownership.owners if row.target and not row.lapsed]
        decides = max(there, key=lambda row: hashlib.blake2b(f"{row.epoch}\0{key}".encode()).digest(), default=None)
        if decides is None or decides.epoch == self._ownership.owner.epoch:
            return None
        return Preferred(decides.target)

    def _elsewhere(self, epoch: int, target: str, forwarded: bool) -> tuple[bool, str | None]:
        """Whether it is settled where a call belongs, and where that is."""
        if epoch != self._ownership.owner.epoch and target and not forwarded:
            return True, target
        if not target:
            self._ownership.look()
        return False, None

    async def _until_settled(self, look: Callable[[], Awaitable[tuple[bool, str | None]]]) -> str | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LONGEST_WAIT_S
        while True:
            settled, target = await look()
            if settled:
                return target
            if loop.time() > deadline:
                raise Unavailable("this is being taken over by another scheduler; try again shortly", code="moving")
            await asyncio.sleep(_LOOK_AGAIN_S)


class ForwardMetrics:
    """Counts calls that are passed on.

    Args:
        registry: where.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        forwards = Counter(
            "cloacina_scheduler_forwards_total",
            "Calls passed on to the scheduler that they belong to: it answered, or could not be reached.",
            ["outcome"],
            registry=registry,
        )
        self.answered, self.unavailable = forwards.labels("answered"), forwards.labels("unavailable")


class Forwarder:
    """Passes calls on to other schedulers.

    Args:
        connect: makes a client of the scheduler at a target.
        metrics: what calls are counted in.
    """

    def __init__(self, connect: Callable[[str], RpcClient], metrics: ForwardMetrics) -> None:
        self._connect = connect
        self._metrics = metrics
        self._clients: dict[str, RpcClient] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def call(self, target: str, stub: Any, method: str, request: Any, context: Any) -> Any:
        """The other scheduler's answer, within the caller's deadline.

        Raises:
            CloacinaError: what it said; `Unavailable` when it cannot be reached in time, `NotReached` when it was not
                asked at all.
        """
        client = self._client(target)
        deadline_s = _time_for(target, context)
        log.debug("a call is passed on to the scheduler it belongs to", extra={"rpc_method": method, "target": target})
        try:
            await _connect(client, deadline_s)
            answer = await client.call(
                getattr(stub(client.channel), method),
                request,
                deadline_s=_time_for(target, context),
                metadata=((FORWARDED, "1"),),
            )
        except Unavailable:
            self._metrics.unavailable.inc()
            raise
        except CloacinaError:
            self._metrics.answered.inc()
            raise
        self._metrics.answered.inc()
        return answer

    def follow(self, target: str, request: scheduler_pb2.FollowEventsRequest) -> Any:
        """Follows an execution at the scheduler that owns it: the call, a stream of messages."""
        client = self._client(target)
        stub = scheduler_pb2_grpc.SchedulerServiceStub(client.channel)
        return client.stream(stub.FollowEvents, request, deadline_s=None, metadata=((FORWARDED, "1"),))

    async def hint(self, targets: Collection[str]) -> None:
        """Tells other schedulers to look, at once, for what somebody has left behind; as good as it goes."""
        clients = [self._client(target) for target in targets]
        stubs = [scheduler_pb2_grpc.SchedulerServiceStub(client.channel) for client in clients]
        hints = (
            client.call(stub.OwnersChanged, scheduler_pb2.OwnersChangedRequest(), deadline_s=_HINT_DEADLINE_S)
            for client, stub in zip(clients, stubs, strict=True)
        )
        await asyncio.gather(*hints, return_exceptions=True)

    def _client(self, target: str) -> RpcClient:
        client = self._clients.get(target)
        if client is None:
            client = self._clients[target] = self._connect(target)
            if len(self._clients) > _MOST_CLIENTS:  # of those that came and went
                eldest = self._clients.pop(next(iter(self._clients)))
                self._closing.add(task := asyncio.create_task(eldest.close()))
                task.add_done_callback(self._closing.discard)
        return client

    async def close(self) -> None:
        """Ends the channels."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()


def _time_for(target: str, context: Any) -> float:
    """Seconds that another scheduler has to answer."""
    remaining = context.time_remaining()
    if remaining is None:
        return _DEADLINE_S
    if isinstance(target, Preferred):
        remaining /= 2
    return float(max(_MARGIN_S, remaining - _MARGIN_S))


async def _connect(client: RpcClient, deadline_s: float) -> None:
    """Returns once there is a connection.

    Raises:
        NotReached: there is none.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(deadline_s):
            while True:
                state = client.channel.get_state(try_to_connect=True)
                if state is grpc.ChannelConnectivity.READY:
                    return
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    break
                await client.channel.wait_for_state_change(state)
    raise NotReached(f"the {client.service} cannot be reached")


class Routed:
    """Handlers of a service, of which some calls belong elsewhere.

    A call that belongs to a scheduler to which there is no connection waits for a while: it may be restarting, or
    another may take over from it.

    Args:
        inner: the handlers.
        stub: the service's generated stub.
        routes: by method; what is not named is answered here.
        forwarder: passes on.
        look: called when somebody cannot be reached.
    """

    def __init__(
        self, inner: Any, stub: Any, routes: Mapping[str, Route], forwarder: Forwarder, look: Callable[[], None]
    ) -> None:
        self._inner = inner
        self._stub = stub
        self._routes = routes
        self._forwarder = forwarder
        self._look = look

    def __getattr__(self, method: str) -> Any:
        handler = getattr(self._inner, method)
        route = self._routes.get(method)
        if route is None:
            return handler

        async def call(request: Any, context: Any) -> Any:
            forwarded = was_forwarded(context)
            pause_s = _LOOK_AGAIN_S
            while (target := await route(request, forwarded)) is not None:
                try:
                    return await self._forwarder.call(target, self._stub, method, request, context)
                except Unavailable as error:
                    if isinstance(error, Unreachable):
                        self._look()
                    if isinstance(target, Preferred):
                        break
                    remaining = context.time_remaining()
                    patient = remaining is not None and remaining > pause_s + _MARGIN_S
                    if not isinstance(error, NotReached) or not patient:
                        raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            return await handler(request, context)

        return call
