"""The services behind the gateway: their clients, their state, and calls that must not be given up half-way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from cloacina.errors import CloacinaError
from cloacina.rpc.balanced import BalancedClient
from cloacina.rpc.client import RpcClient
from cloacina.rpc.v1 import common_pb2, executor_pb2_grpc, instances_pb2_grpc, reconciler_pb2_grpc, scheduler_pb2_grpc
from cloacina.store.identity import IdentityStore
from services.api.schemas import ServiceState

log = logging.getLogger(__name__)

STATUS_DEADLINE_S = 1.0
"""Seconds a service has to say how it is."""

READINESS_TTL_S = 1.0
"""Seconds an answer about readiness is given again."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Upstream:
    """One service that is called.

    Args:
        service: its name.
        target: where it is.
        client: the channel to it.
        stub: its methods.
    """

    service: str
    target: str
    client: RpcClient | BalancedClient
    stub: Any

    def each(self) -> list[Upstream]:
        """The processes of the service, each as one of its own."""
        if not isinstance(self.client, BalancedClient):
            return [self]
        return [
            Upstream(self.service, address, client, type(self.stub)(client.channel))
            for address, client in self.client.members()
        ]

    async def status(self) -> common_pb2.ServiceStatus:
        """What the service says of itself.

        Raises:
            CloacinaError: it cannot be reached in time.
        """
        answer: common_pb2.ServiceStatus = await self.client.call(
            self.stub.GetStatus, common_pb2.GetStatusRequest(), deadline_s=STATUS_DEADLINE_S
        )
        return answer


def scheduler_at(client: RpcClient | BalancedClient, target: str) -> Upstream:
    """The scheduler."""
    return Upstream("scheduler", target, client, scheduler_pb2_grpc.SchedulerServiceStub(client.channel))


def reconciler_at(client: RpcClient | BalancedClient, target: str) -> Upstream:
    """The reconciler."""
    return Upstream("reconciler", target, client, reconciler_pb2_grpc.ReconcilerServiceStub(client.channel))


def instances_at(client: RpcClient | BalancedClient, target: str) -> Upstream:
    """The scheduler's service of named instances, over the scheduler's own channel."""
    return Upstream("scheduler", target, client, instances_pb2_grpc.InstanceServiceStub(client.channel))


def executor_at(client: RpcClient, target: str) -> Upstream:
    """An executor."""
    return Upstream("executor", target, client, executor_pb2_grpc.ExecutorServiceStub(client.channel))


async def states_of(upstreams: Iterable[Upstream]) -> list[ServiceState]:
    """The state of each process of each, asked of all at once."""
    each = [process for upstream in upstreams for process in upstream.each()]
    return list(await asyncio.gather(*(_state_of(process) for process in each)))


async def _state_of(upstream: Upstream) -> ServiceState:
    try:
        return state_from(await upstream.status(), upstream.target)
    except CloacinaError as error:
        return {
            "service": upstream.service,
            "target": upstream.target,
            "status": "unreachable",
            "reason": error.message,
            "instance_id": None,
            "version": None,
            "uptime_s": None,
            "figures": {},
        }


def state_from(status: common_pb2.ServiceStatus, target: str | None) -> ServiceState:
    """A service's own words in the shape of the API."""
    return {
        "service": status.service,
        "target": target,
        "status": "ok" if status.ready else "not_ready",
        "reason": status.reason or None,
        "instance_id": status.instance_id,
        "version": status.version,
        "uptime_s": round(status.uptime_s, 3),
        "figures": dict(status.figures),
    }


class Readiness:
    """Whether requests can be answered: the store of identities, the scheduler and the reconciler are there.

    Probes may come often and from many sides: one check runs at a time, and its result holds for a second.

    Args:
        identity: the gateway's own store.
        upstreams: the services without which nothing works.
    """

    def __init__(self, identity: IdentityStore, upstreams: Iterable[Upstream]) -> None:
        self._identity = identity
        self._upstreams = tuple(upstreams)
        self._check: asyncio.Task[str] | None = None
        self._reason = ""
        self._checked_at = float("-inf")

    async def reason(self) -> str:
        """Why requests cannot be answered; empty when they can."""
        if time.monotonic() - self._checked_at < READINESS_TTL_S:
            return self._reason
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._ask())
        return await asyncio.shield(self._check)

    async def _ask(self) -> str:
        answers = await asyncio.gather(self._store(), *(self._upstream(upstream) for upstream in self._upstreams))
        self._reason = "; ".join(filter(None, answers))
        self._checked_at = time.monotonic()
        return self._reason

    async def _store(self) -> str:
        try:
            async with asyncio.timeout(STATUS_DEADLINE_S):
                await self._identity.has_admin_key()
        except (CloacinaError, TimeoutError) as error:
            log.warning("the identity store cannot be read", extra={"error": str(error) or "timed out"})
            return "the identity store cannot be read"
        return ""

    async def _upstream(self, upstream: Upstream) -> str:
        try:
            status = await upstream.status()
        except CloacinaError as error:
            return error.message
        return "" if status.ready else f"the {upstream.service} is not ready: {status.reason}"


class Finisher:
    """Runs calls to their end even when the client that asked has gone: a start of an execution that was sent is not
    taken back, because nobody could tell whether it had happened.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._abandoned: set[asyncio.Task[Any]] = set()

    @property
    def abandoned(self) -> int:
        """How many go on without a client."""
        return len(self._abandoned)

    async def finish(self, call: Coroutine[Any, Any, _Answer]) -> _Answer:
        """The call's answer. A cancellation ends the wait, not the call."""
        task = asyncio.create_task(call)
        self._running.add(task)
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self._abandoned.add(task)
            raise
        finally:
            del task  # else its error, the error's traceback and this frame would keep each other, and the request

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # where the client has gone, nobody else takes it

    async def drain(self) -> None:
        """Waits for the calls whose clients have gone."""
        while self._running:
            await asyncio.wait(tuple(self._running))
