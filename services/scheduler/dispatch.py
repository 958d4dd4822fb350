"""The streams of the executors: messages in become engine calls, what the engine says becomes messages out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from cloacina.dispatch.orders import assignment_message, poll_answer_from, poll_message, result_from, too_large
from cloacina.domain.explanation import PREPARATIONS, Preparation
from cloacina.domain.inputs import LARGEST_CONTEXT_BYTES
from cloacina.engine.engine import Engine
from cloacina.engine.model import Assignment, Joining, PollOrder
from cloacina.errors import InvalidRequest
from cloacina.rpc.options import MAX_MESSAGE_BYTES
from cloacina.rpc.v1 import scheduler_pb2, scheduler_pb2_grpc

log = logging.getLogger(__name__)

_MESSAGE_BUDGET = MAX_MESSAGE_BYTES // 2
"""Bytes of contexts put into one message; the rest waits for the next."""


class Outgoing:
    """The engine's way to one executor (`cloacina.engine.model.Session`): gathers, and hands out whole messages."""

    def __init__(self, engine: Engine, welcome: scheduler_pb2.Welcome) -> None:
        self._engine = engine
        self._welcome = welcome
        self._wake = asyncio.Event()
        self._closed = False
        self._welcomed = False
        self._heartbeat = False
        self._assignments: list[Assignment] = []
        self._acknowledged: dict[int, None] = {}  # each once, however often it is said
        self._stop: dict[int, None] = {}
        self._owned: list[int] = []
        self._slots: int | None = None
        self._polls: list[PollOrder] = []

    def welcome(self) -> None:
        self._welcomed = True
        self._wake.set()

    def heartbeat(self) -> None:
        """Confirms a heartbeat."""
        self._heartbeat = True
        self._wake.set()

    def assign(self, assignments: Sequence[Assignment]) -> None:
        for assignment in assignments:
            if len(assignment.context) > LARGEST_CONTEXT_BYTES:  # it would break the stream, and again after that
                self._engine.report(self, too_large(assignment))
            else:
                self._assignments.append(assignment)
        self._wake.set()

    def poll(self, orders: Sequence[PollOrder]) -> None:
        self._polls.extend(orders)
        self._wake.set()

    def acknowledge(self, claims: Sequence[int]) -> None:
        self._acknowledged.update(dict.fromkeys(claims))
        self._wake.set()

    def stop(self, claims: Sequence[int]) -> None:
        self._stop.update(dict.fromkeys(claims))
        self._wake.set()

    def own(self, claims: Sequence[int]) -> None:
        self._owned.extend(claims)
        self._wake.set()

    def renewed(self, slots: int) -> None:
        self._slots = slots
        self._wake.set()

    def queue_changed(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    async def messages(self) -> AsyncIterator[scheduler_pb2.SchedulerMessage]:
        """Messages until `close`, each with all that has gathered."""
        while True:
            await self._wake.wait()
            if self._closed:
                return
            message = scheduler_pb2.SchedulerMessage(
                acknowledged=self._acknowledged,
                stop=self._stop,
                heartbeat=self._heartbeat,
                owned=self._owned,
                waiting=self._engine.waiting,
            )
            if self._welcomed:
                message.welcome.CopyFrom(self._welcome)
                self._welcomed = False
            self._acknowledged, self._stop, self._owned, self._heartbeat = {}, {}, [], False
            message.polls.extend(poll_message(order) for order in self._polls)
            self._polls = []
            taken, size = 0, 0
            for assignment in self._assignments:
                size += len(assignment.context) + 512
                if taken and size > _MESSAGE_BUDGET:
                    break
                message.assignments.append(assignment_message(assignment))
                taken += 1
            del self._assignments[:taken]
            if not self._assignments:
                self._wake.clear()
                if self._slots is not None:  # behind every assignment that counted with more
                    message.slots, self._slots = self._slots, None
            yield message


class Dispatch(scheduler_pb2_grpc.DispatchServiceServicer):
    """Handlers of DispatchService.

    Args:
        engine: what they speak for.
        scheduler_id: identity of this process.
        on_results: told that results have come, before the engine is.
    """

    def __init__(self, engine: Engine, scheduler_id: str, on_results: Callable[[], None]) -> None:
        self._engine = engine
        self._on_results = on_results
        settings = engine.settings
        self._welcome = scheduler_pb2.Welcome(
            lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s, scheduler_id=scheduler_id
        )

    async def Work(self, request_iterator: Any, context: Any) -> AsyncIterator[scheduler_pb2.SchedulerMessage]:
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.hello.executor_id:
            raise InvalidRequest("the first message of an executor must be 'hello', with its executor_id")
        hello = first.hello
        outgoing = Outgoing(self._engine, self._welcome)
        joining = Joining(hello.executor_id, hello.slots, frozenset(hello.held_claims), hello.version, _held(hello))
        await self._engine.join(joining, outgoing)
        self._receive(first, hello.executor_id, outgoing)
        reader = asyncio.create_task(self._read(request_iterator, hello.executor_id, outgoing))
        try:
            async for message in outgoing.messages():
                yield message
        finally:
            reader.cancel()
            self._engine.leave(hello.executor_id, outgoing)

    async def _read(self, messages: Any, executor_id: str, outgoing: Outgoing) -> None:
        try:
            async for message in messages:
                self._receive(message, executor_id, outgoing)
                await self._engine.room()  # what is not read fills the stream's window, and the executor waits
        except Exception as error:
            log.debug("an executor's stream broke", extra={"executor_id": executor_id, "error": str(error)})
        finally:
            outgoing.close()

    def _receive(self, message: scheduler_pb2.ExecutorMessage, executor_id: str, outgoing: Outgoing) -> None:
        engine = self._engine
        if message.HasField("heartbeat"):
            engine.heartbeat(executor_id, message.heartbeat.slots, outgoing)
            outgoing.heartbeat()
        for started in message.started:
            engine.report_started(executor_id, started.claim_id, started.started_at)
        for preparing in message.preparing:
            if preparing.stage in PREPARATIONS:
                engine.report_preparing(executor_id, preparing.claim_id, Preparation(preparing.stage), preparing.since)
        for deferral in message.deferrals:
            engine.report_deferred(executor_id, deferral.claim_id, deferral.deferred)
        if message.results:
            self._on_results()
        for result in message.results:
            engine.report(outgoing, result_from(result))
        for claim_id in message.released:
            engine.release(executor_id, outgoing, claim_id)
        for polled in message.poll_results:
            engine.report_polled(polled.poll_id, poll_answer_from(polled))


def _held(hello: scheduler_pb2.Hello) -> dict[int, str]:
    """The executions of the claims that an executor holds; of an older one that does not say them, none."""
    if len(hello.held_executions) != len(hello.held_claims):
        return {}
    return dict(zip(hello.held_claims, hello.held_executions, strict=True))
