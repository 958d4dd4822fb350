"""The streams of the executors: messages in become engine calls, what the engine says becomes messages out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from cloacina.domain.execution import FailureReason
from cloacina.engine.engine import Engine
from cloacina.engine.model import Assignment, Failure, Joining, Result, Success
from cloacina.errors import InvalidRequest
from cloacina.rpc.options import MAX_MESSAGE_BYTES
from cloacina.rpc.v1 import common_pb2, scheduler_pb2, scheduler_pb2_grpc

log = logging.getLogger(__name__)

_MESSAGE_BUDGET = MAX_MESSAGE_BYTES // 2
"""Bytes of contexts put into one message; the rest waits for the next."""


class Outgoing:
    """The engine's way to one executor (`cloacina.engine.model.Session`): gathers, and hands out whole messages."""

    def __init__(self, welcome: scheduler_pb2.Welcome) -> None:
        self._welcome = welcome
        self._wake = asyncio.Event()
        self._closed = False
        self._welcomed = False
        self._heartbeat = False
        self._assignments: list[Assignment] = []
        self._acknowledged: list[int] = []
        self._stop: list[int] = []

    def welcome(self) -> None:
        self._welcomed = True
        self._wake.set()

    def heartbeat(self) -> None:
        """Confirms a heartbeat."""
        self._heartbeat = True
        self._wake.set()

    def assign(self, assignments: Sequence[Assignment]) -> None:
        self._assignments.extend(assignments)
        self._wake.set()

    def acknowledge(self, claims: Sequence[int]) -> None:
        self._acknowledged.extend(claims)
        self._wake.set()

    def stop(self, claims: Sequence[int]) -> None:
        self._stop.extend(claims)
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
                acknowledged=self._acknowledged, stop=self._stop, heartbeat=self._heartbeat
            )
            if self._welcomed:
                message.welcome.CopyFrom(self._welcome)
                self._welcomed = False
            self._acknowledged, self._stop, self._heartbeat = [], [], False
            taken, size = 0, 0
            for assignment in self._assignments:
                size += len(assignment.context) + 512
                if taken and size > _MESSAGE_BUDGET:
                    break
                message.assignments.append(_assignment(assignment))
                taken += 1
            del self._assignments[:taken]
            if not self._assignments:
                self._wake.clear()
            yield message


def _assignment(assignment: Assignment) -> scheduler_pb2.Assignment:
    live = assignment.live
    timeout_s = live.definition.spec.tasks[assignment.task].timeout_s
    return scheduler_pb2.Assignment(
        claim_id=assignment.claim_id,
        execution_id=live.execution_id,
        tenant_id=live.tenant_id,
        workflow_name=live.workflow_name,
        task_name=assignment.task,
        attempt=assignment.attempt,
        timeout_ms=round(timeout_s * 1000) if timeout_s is not None else 0,
        context=assignment.context,
        package_id=live.definition.package_id,
        package_digest=live.definition.package_digest,
        origin=common_pb2.Origin(request_id=live.origin.request_id, traceparent=live.origin.traceparent),
    )


class Dispatch(scheduler_pb2_grpc.DispatchServiceServicer):
    """Handlers of DispatchService.

    Args:
        engine: what they speak for.
        scheduler_id: identity of this process.
    """

    def __init__(self, engine: Engine, scheduler_id: str) -> None:
        self._engine = engine
        settings = engine.settings
        self._welcome = scheduler_pb2.Welcome(
            lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s, scheduler_id=scheduler_id
        )

    async def Work(self, request_iterator: Any, context: Any) -> AsyncIterator[scheduler_pb2.SchedulerMessage]:
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.hello.executor_id:
            raise InvalidRequest("the first message of an executor must be 'hello', with its executor_id")
        hello = first.hello
        outgoing = Outgoing(self._welcome)
        joining = Joining(hello.executor_id, hello.slots, frozenset(hello.held_claims), hello.version)
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
        except Exception as error:
            log.debug("an executor's stream broke", extra={"executor_id": executor_id, "error": str(error)})
        finally:
            outgoing.close()

    def _receive(self, message: scheduler_pb2.ExecutorMessage, executor_id: str, outgoing: Outgoing) -> None:
        engine = self._engine
        if message.HasField("heartbeat"):
            engine.heartbeat(executor_id, message.heartbeat.slots)
            outgoing.heartbeat()
        for started in message.started:
            engine.report_started(executor_id, started.claim_id, started.started_at)
        for deferral in message.deferrals:
            engine.report_deferred(executor_id, deferral.claim_id, deferral.deferred)
        for result in message.results:
            engine.report(outgoing, _result(result))
        for claim_id in message.released:
            engine.release(executor_id, outgoing, claim_id)


def _result(message: scheduler_pb2.TaskResult) -> Result:
    outcome: Success | Failure
    if message.HasField("success"):
        outcome = Success(None if message.success.unchanged else message.success.context)
    else:
        failure = message.failure
        outcome = Failure(
            _reason(failure.reason),
            failure.error,
            failure.details,
            failure.transient,
            failure.retry if failure.HasField("retry") else None,
        )
    return Result(message.claim_id, message.execution_id, message.task_name, message.started_at or None, outcome)


def _reason(text: str) -> FailureReason:
    try:
        return FailureReason(text)
    except ValueError:
        return FailureReason.UNKNOWN
