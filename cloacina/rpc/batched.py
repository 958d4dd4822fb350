"""Calls of ``SchedulerService/Execute`` over one stream: a call of its own for each costs both sides more than what the
call is about.

Whoever calls sees no difference: each call has its deadline, its request id, its span and its count, ends with the same
errors, and is answered as one that got lost when the stream is.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator
from contextvars import Context
from typing import Any

import grpc

from cloacina.errors import CloacinaError, Unavailable
from cloacina.rpc.client import RpcClient
from cloacina.rpc.errors import Unreachable, error_of, from_rpc_error, to_status
from cloacina.rpc.options import MAX_MESSAGE_BYTES
from cloacina.rpc.v1 import common_pb2, scheduler_pb2, scheduler_pb2_grpc
from cloacina.telemetry import scope, tracing

EXECUTE = "/cloacina.v1.SchedulerService/Execute"
"""The method that is called."""

SPAN_ATTRIBUTES = {"rpc.system": "grpc", "rpc.service": "cloacina.v1.SchedulerService", "rpc.method": "Execute"}
STATUS_ATTRIBUTE = "rpc.grpc.status_code"

_MOST_CALLS = 4096
"""Calls that wait for their answers; more are refused as unavailable."""
_MESSAGE_BUDGET = MAX_MESSAGE_BYTES // 2
_ONE_BY_ONE_S = 30.0
"""A scheduler that does not know the stream is asked again whether it does after so many seconds."""
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


class _NotKnown(Exception):
    """The scheduler does not know the stream."""


class BatchedExecutes:
    """The calls to one scheduler. The stream is opened by the first call, and again by the next one after it ended.

    Args:
        client: of the scheduler.
    """

    def __init__(self, client: RpcClient) -> None:
        self._client = client
        self._stub = scheduler_pb2_grpc.SchedulerServiceStub(client.channel)
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._unsent: deque[scheduler_pb2.ExecuteCall] = deque()
        self._wake = asyncio.Event()
        self._stream: asyncio.Task[None] | None = None
        self._streams = 0
        self._one_by_one_until = float("-inf")

    async def call(self, request: Any, *, deadline_s: float) -> Any:
        """Calls Execute; see `RpcClient.call`.

        Args:
            request: the message.
            deadline_s: seconds it may take.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        if loop.time() >= self._one_by_one_until:
            try:
                return await self._observed(request, deadline_s)
            except _NotKnown:
                self._one_by_one_until = loop.time() + _ONE_BY_ONE_S
        remaining = max(deadline - loop.time(), 0.001)
        return await self._client.call(self._stub.Execute, request, deadline_s=remaining)

    async def close(self) -> None:
        """Ends the stream."""
        if self._stream is not None:
            self._stream.cancel()
            await asyncio.gather(self._stream, return_exceptions=True)

    async def _observed(self, request: Any, deadline_s: float) -> Any:
        began = time.perf_counter()
        code: grpc.StatusCode | None = grpc.StatusCode.OK
        with tracing.span(EXECUTE, kind="client", attributes=SPAN_ATTRIBUTES) as span:
            try:
                return await self._ask(request, deadline_s, span.traceparent)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except _NotKnown:
                code = None
                raise
            except CloacinaError as error:
                code = to_status(error)[0]
                raise
            finally:
                if code is not None:  # otherwise it is made again, and counted then
                    span.set_attribute(STATUS_ATTRIBUTE, code.value[0])
                    if self._client.metrics is not None:
                        self._client.metrics.observe(EXECUTE, code.name, "client", time.perf_counter() - began)

    async def _ask(self, request: Any, deadline_s: float, traceparent: str) -> Any:
        if len(self._answers) >= _MOST_CALLS:
            raise Unavailable(f"{_MOST_CALLS} calls wait for the {self._client.service}; try again later")
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        answer = self._answers[number] = loop.create_future()
        self._unsent.append(
            scheduler_pb2.ExecuteCall(
                number=number,
                request=request,
                origin=common_pb2.Origin(request_id=scope.current().request_id or "", traceparent=traceparent),
                timeout_ms=max(1, int(deadline_s * 1000)),
            )
        )
        self._wake.set()
        if self._stream is None:
            self._stream = loop.create_task(self._converse(), name="calls of Execute", context=Context())
        clock = loop.call_later(deadline_s, self._expire, answer)
        try:
            return await answer
        finally:
            clock.cancel()
            self._answers.pop(number, None)
            del answer  # else its error, the error's traceback and this frame would keep each other, and the request

    def _expire(self, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            answer.set_exception(Unreachable(f"the {self._client.service} did not answer in time"))

    # The stream

    async def _converse(self) -> None:
        broken: grpc.aio.AioRpcError | None = None
        stream = self._client.stream(self._stub.ExecuteMany, self._messages(), deadline_s=None)
        try:
            async for message in stream:
                for answered in message.answers:
                    self._settle(answered)
        except grpc.aio.AioRpcError as error:
            broken = error
        finally:
            stream.cancel()
            self._stream = None
            self._streams += 1
            self._unsent.clear()
            answers, self._answers = self._answers, {}
            for waiting in answers.values():
                if not waiting.done():
                    waiting.set_exception(self._lost(broken))

    def _lost(self, broken: grpc.aio.AioRpcError | None) -> Exception:
        """What becomes of a call that the stream's end leaves without an answer."""
        if broken is not None and broken.code() is grpc.StatusCode.UNIMPLEMENTED:
            return _NotKnown()
        if broken is not None and broken.code() is grpc.StatusCode.UNAUTHENTICATED:
            return from_rpc_error(broken, self._client.service)
        # whatever ended the stream says nothing about the calls on it: a scheduler that goes may reset it as INTERNAL
        return Unreachable(f"the {self._client.service} cannot be reached")

    def _settle(self, answer: scheduler_pb2.ExecuteAnswer) -> None:
        waiting = self._answers.get(answer.number)
        if waiting is None or waiting.done():  # nobody waits any more
            return
        if answer.HasField("response"):
            waiting.set_result(answer.response)
        else:
            status = _STATUS.get(answer.error.status, grpc.StatusCode.INTERNAL)
            waiting.set_exception(error_of(status, answer.error.message, answer.error.code))

    async def _messages(self) -> AsyncIterator[scheduler_pb2.ExecuteCalls]:
        this = self._streams
        while True:
            await self._wake.wait()
            await asyncio.sleep(0)  # what is asked in this turn of the loop goes along
            if this != self._streams:  # a stream that ended may ask once more; what there is belongs to its successor
                return
            message = self._gather()
            if message.calls:
                yield message

    def _gather(self) -> scheduler_pb2.ExecuteCalls:
        """One message with the calls that wait, up to a size; the rest waits for the next."""
        message = scheduler_pb2.ExecuteCalls()
        size = 0
        while self._unsent and (size == 0 or size < _MESSAGE_BUDGET):
            call = self._unsent.popleft()
            if call.number in self._answers:
                message.calls.append(call)
                size += len(call.request.context) + 512
        if not self._unsent:
            self._wake.clear()
        return message
