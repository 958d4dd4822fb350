"""The stream to one scheduler: assignments come, reports go, and it is made anew whenever it breaks.

What must not be lost is kept in the outbox until a scheduler has acknowledged it: results and releases are sent again
after every reconnect. What is only of the moment (that a task runs, that it waits) is sent once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, Protocol

import grpc

from cloacina import __version__
from cloacina.domain.explanation import Preparation
from cloacina.errors import CloacinaError
from cloacina.rpc.client import RpcClient
from cloacina.rpc.options import MAX_MESSAGE_BYTES
from cloacina.rpc.v1 import common_pb2, scheduler_pb2, scheduler_pb2_grpc
from services.executor.outbox import Outbox

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 2.0
_DOUBLE_RETRY_S = 15.0
"""An address that leads to a scheduler that is connected by another one is tried again after so long."""
_STATUS_DEADLINE_S = 2.0
_MESSAGE_BUDGET = MAX_MESSAGE_BYTES // 2


class Desk(Protocol):
    """Whoever the links belong to."""

    def offer_to(self, link: Link) -> int:
        """A stream begins: slots that are offered on it."""

    def others(self, link: Link) -> Collection[str]:
        """The ids of the schedulers that are connected by other links."""

    def alone(self, link: Link) -> bool:
        """Whether there is no other link."""

    def heed(self, link: Link, message: Any) -> None:
        """What the scheduler says."""

    def broke(self, link: Link) -> None:
        """The stream has ended."""


class Link:
    """The stream to the scheduler at one address, and what waits to be sent on it.

    Args:
        client: of the scheduler.
        executor_id: identity of this process.
        outbox: what is to be sent until it is acknowledged.
        desk: who is told.
    """

    def __init__(self, client: RpcClient, executor_id: str, outbox: Outbox[Link], desk: Desk) -> None:
        self.client = client
        self._stub = scheduler_pb2_grpc.DispatchServiceStub(client.channel)
        self._executor_id = executor_id
        self._outbox = outbox
        self._desk = desk
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._started: dict[int, int] = {}
        self._deferrals: dict[int, bool] = {}
        self._preparing: dict[int, scheduler_pb2.TaskPreparing] = {}
        self._unsent_preparing: set[int] = set()
        self._unsent: list[int] = []
        self._unsent_releases: list[int] = []
        self._polled: list[scheduler_pb2.PollResult] = []
        self._slots = 0
        self._beat = False
        self._streams = 0
        self._heard_at = 0.0
        self.scheduler_id = ""
        self.connected = False
        self.broken_at = 0.0
        """When the stream ended last, on the event loop's clock."""

    def start(self) -> None:
        """Connects, and stays connected until `stop`."""
        self._task = asyncio.create_task(self._keep_connected(), name="link to a scheduler")

    async def stop(self) -> None:
        """Hangs up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # What is said

    def offer(self, slots: int) -> None:
        """Changes how many tasks the scheduler may assign at once."""
        self._slots = slots
        self._beat = True
        self._wake.set()

    def started(self, claim_id: int, started_at: int) -> None:
        """A task has run for a while."""
        self._started[claim_id] = started_at
        self._prepared(claim_id)
        self._wake.set()

    def preparing(self, claim_id: int, stage: Preparation, since: int) -> None:
        """A task waits for something before it can begin; told again on a new stream."""
        self._preparing[claim_id] = scheduler_pb2.TaskPreparing(claim_id=claim_id, stage=stage, since=since)
        self._unsent_preparing.add(claim_id)
        self._wake.set()

    def _prepared(self, claim_id: int) -> None:
        if self._preparing.pop(claim_id, None) is not None:
            self._unsent_preparing.discard(claim_id)

    def deferred(self, claim_id: int, deferred: bool) -> None:
        """A task waits without a slot, or goes on."""
        self._deferrals[claim_id] = deferred
        self._wake.set()

    def send(self, claim_id: int) -> None:
        """The result of a claim, or its release, is in the outbox."""
        self._prepared(claim_id)
        if claim_id in self._outbox.results:
            self._unsent.append(claim_id)
            self._started.pop(claim_id, None)
        else:
            self._unsent_releases.append(claim_id)
        self._wake.set()

    def polled(self, result: scheduler_pb2.PollResult) -> None:
        """A trigger's function was called; told once."""
        self._polled.append(result)
        self._wake.set()

    # The stream

    async def _keep_connected(self) -> None:
        delay = _FIRST_RETRY_S
        loop = asyncio.get_running_loop()
        self.broken_at = loop.time()
        while True:
            began = loop.time()
            try:
                await self._converse()
                reason = "the scheduler closed it"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except _Silence as error:
                reason = str(error)
            except CloacinaError as error:
                reason = error.message
            except _Double:
                reason, delay = "the scheduler is connected by another of its addresses", _DOUBLE_RETRY_S
            lasted = loop.time() - began
            if self.connected:
                self.connected = False
                self.broken_at = loop.time()
                log.warning(
                    "the stream to the scheduler broke; connecting again",
                    extra={"scheduler_id": self.scheduler_id, "error": reason},
                )
            else:
                log.debug("the scheduler cannot be reached yet", extra={"error": reason})
            self._desk.broke(self)
            if lasted > _LONGEST_RETRY_S:
                delay = _FIRST_RETRY_S
            await self._pause(delay * (0.5 + random.random() / 2))  # noqa: S311 - spreads executors
            delay = min(delay * 2, _LONGEST_RETRY_S)

    async def _pause(self, seconds: float) -> None:
        """Waits before the next attempt; where there is no connection, not longer than until there is one."""
        channel, ready = self.client.channel, grpc.ChannelConnectivity.READY
        state = channel.get_state(try_to_connect=True)
        if state is ready:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while state is not ready:
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)

    async def _converse(self) -> None:
        if not self._desk.alone(self):
            await self._check_that_it_is_another()
        stream = self.client.stream(self._stub.Work, self._messages(), deadline_s=None)
        heart: asyncio.Task[None] | None = None
        try:
            async for message in stream:
                self._heard_at = asyncio.get_running_loop().time()
                if message.HasField("welcome"):
                    self.scheduler_id = message.welcome.scheduler_id
                    self.connected = True
                    log.info(
                        "connected to the scheduler", extra={"scheduler_id": self.scheduler_id, "slots": self._slots}
                    )
                    if heart is None:
                        heart = asyncio.create_task(self._keep_lease(message.welcome, stream.cancel))
                self._desk.heed(self, message)
        except asyncio.CancelledError:
            if heart is not None and heart.done() and not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise _Silence("the scheduler was silent for as long as the lease") from None
            raise
        finally:
            if heart is not None:
                heart.cancel()
            stream.cancel()

    async def _check_that_it_is_another(self) -> None:
        """A second stream would end the first one, and that the second."""
        stub = scheduler_pb2_grpc.SchedulerServiceStub(self.client.channel)
        status = await self.client.call(stub.GetStatus, common_pb2.GetStatusRequest(), deadline_s=_STATUS_DEADLINE_S)
        if status.instance_id in self._desk.others(self):
            raise _Double

    async def _keep_lease(self, welcome: Any, hang_up: Callable[[], Any]) -> None:
        """Sends heartbeats, and hangs up when nothing was heard for as long as the lease holds."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(welcome.heartbeat_s)
            if loop.time() - self._heard_at > welcome.lease_s:
                hang_up()
                return
            self._beat = True
            self._wake.set()

    async def _messages(self) -> AsyncIterator[scheduler_pb2.ExecutorMessage]:
        """What is said, beginning with who this is and what it holds."""
        self._streams += 1
        this = self._streams
        held = self._outbox.held()
        ended = [claim_id for claim_id in self._outbox.unsettled() if self._outbox.home_of(claim_id) in (self, None)]
        self._unsent = [claim_id for claim_id in ended if claim_id in self._outbox.results]
        self._unsent_releases = [claim_id for claim_id in ended if claim_id not in self._outbox.results]
        self._unsent_preparing.update(self._preparing)
        self._slots = self._desk.offer_to(self)
        message = self._gather()
        message.hello.executor_id = self._executor_id
        message.hello.slots = self._slots
        message.hello.version = __version__
        message.hello.held_claims.extend(held)
        message.hello.held_executions.extend(held.values())
        yield message
        while True:
            await self._wake.wait()
            await asyncio.sleep(0)  # what ends in this turn of the loop goes along
            if this != self._streams:  # a stream that broke may ask once more; what there is belongs to its successor
                return
            yield self._gather()

    def _gather(self) -> scheduler_pb2.ExecutorMessage:
        """One message with what waits, up to a size; the rest waits for the next."""
        message = scheduler_pb2.ExecutorMessage()
        self._wake.clear()
        for claim_id, at in self._started.items():
            message.started.add(claim_id=claim_id, started_at=at)
        for claim_id, deferred in self._deferrals.items():
            message.deferrals.add(claim_id=claim_id, deferred=deferred)
        message.preparing.extend(self._preparing[claim_id] for claim_id in self._unsent_preparing)
        self._started.clear()
        self._deferrals.clear()
        self._unsent_preparing.clear()
        message.released.extend(self._unsent_releases)
        self._unsent_releases.clear()
        message.poll_results.extend(self._polled)
        self._polled.clear()
        size = taken = 0
        for claim_id in self._unsent:
            result = self._outbox.results.get(claim_id)
            if result is not None:
                size += result.ByteSize()
                if size > _MESSAGE_BUDGET and message.results:
                    self._wake.set()
                    break
                message.results.append(result)
            taken += 1
        del self._unsent[:taken]
        if self._beat:
            self._beat = False
            message.heartbeat.slots = self._slots
        return message


class _Silence(Exception):
    """The scheduler is not heard any more."""


class _Double(Exception):
    """There is a stream to this scheduler already."""
