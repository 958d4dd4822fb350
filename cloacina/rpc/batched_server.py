"""The scheduler's side of `cloacina.rpc.batched`: each call of the stream is handled as if it had come by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from cloacina.errors import Unavailable
from cloacina.rpc.batched import EXECUTE, SPAN_ATTRIBUTES, STATUS_ATTRIBUTE
from cloacina.rpc.server import MOST_CALLS, judge, let_go
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.telemetry import scope, tracing
from cloacina.telemetry.metrics import RpcMetrics

log = logging.getLogger(__name__)

_MOST_ANSWERS = 1000
"""Answers in one message."""


class BatchedCall:
    """What a handler is given for the context of its call.

    Args:
        request_id: of the request that it is made for.
        deadline: when the caller gives up, on the event loop's clock, in seconds.
    """

    def __init__(self, request_id: str, deadline: float) -> None:
        self._request_id = request_id
        self._deadline = deadline

    def time_remaining(self) -> float:
        """Seconds until the caller gives up."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call by itself would have carried beside its message."""
        return (("x-request-id", self._request_id),)


Execute = Callable[[Any, Any], Awaitable[scheduler_pb2.ExecuteResponse]]


class BatchedExecutesServer:
    """Serves the streams of all gateways.

    Args:
        metrics: what calls are counted in.
        most_calls: calls handled at once; more are refused as unavailable.
    """

    def __init__(self, metrics: RpcMetrics, most_calls: int = MOST_CALLS) -> None:
        self._metrics = metrics
        self._most_calls = most_calls
        self._execute: Execute | None = None
        self._running = 0
        self._open: set[_Conversation] = set()
        self._closed = False

    def handle_with(self, execute: Execute) -> None:
        """Names what handles a call; before the first stream."""
        self._execute = execute

    async def serve(self, messages: Any) -> AsyncIterator[scheduler_pb2.ExecuteAnswers]:
        """One stream: the answers to the messages of a gateway."""
        conversation = _Conversation(self)
        self._open.add(conversation)
        reading = asyncio.create_task(conversation.read(messages))
        if self._closed:
            conversation.end()
        try:
            async for answers in conversation.say():
                yield answers
        finally:
            self._open.discard(conversation)
            reading.cancel()
            for task in conversation.tasks:
                task.cancel()

    def close(self) -> None:
        """Ends every stream once what it has asked is answered."""
        self._closed = True
        for conversation in self._open:
            conversation.end()

    async def handle(self, call: scheduler_pb2.ExecuteCall) -> scheduler_pb2.ExecuteAnswer | None:
        """The answer to one call; ``None`` when nobody waits for it any more."""
        assert self._execute is not None
        began = time.perf_counter()
        code = grpc.StatusCode.OK
        timeout_s = call.timeout_ms / 1000
        request_id = scope.accept_request_id(call.origin.request_id or None)
        scope.attach(scope.Scope(request_id=request_id))
        with tracing.span(
            EXECUTE, kind="server", parent=call.origin.traceparent or None, attributes=SPAN_ATTRIBUTES
        ) as span:
            self._running += 1
            try:
                if self._running > self._most_calls:
                    raise Unavailable(f"{self._most_calls} calls are being handled; try again later")
                context = BatchedCall(request_id, asyncio.get_running_loop().time() + timeout_s)
                async with asyncio.timeout(timeout_s):
                    response = await self._execute(call.request, context)
                return scheduler_pb2.ExecuteAnswer(number=call.number, response=response)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except TimeoutError:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
                return None
            except Exception as error:
                code, message, machine_code = judge(error, EXECUTE)
                span.fail(error)
                let_go(error)
                failure = scheduler_pb2.CallError(status=code.value[0], message=message, code=machine_code)
                return scheduler_pb2.ExecuteAnswer(number=call.number, error=failure)
            finally:
                self._running -= 1
                span.set_attribute(STATUS_ATTRIBUTE, code.value[0])
                self._metrics.observe(EXECUTE, code.name, "server", time.perf_counter() - began)


class _Conversation:
    """One stream: what it asks, and what there is to answer."""

    def __init__(self, server: BatchedExecutesServer) -> None:
        self._server = server
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._ended = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.answers: list[scheduler_pb2.ExecuteAnswer] = []

    def end(self) -> None:
        """Takes no further calls."""
        self._ended = True
        self._wake.set()

    async def read(self, messages: Any) -> None:
        """Begins what is asked, until there is no more, or `end`."""
        try:
            async for message in messages:
                if self._ended:
                    return
                self._begin(message)
                del message  # not kept until the next one comes
                while len(self.answers) > _MOST_ANSWERS:  # the gateway does not read
                    self._sent.clear()
                    await self._sent.wait()
        except Exception as error:
            log.debug("a gateway's stream broke", extra={"error": str(error)})
        finally:
            self.end()

    def _begin(self, message: scheduler_pb2.ExecuteCalls) -> None:
        for call in message.calls:
            task = asyncio.create_task(self._answer(call))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _answer(self, call: scheduler_pb2.ExecuteCall) -> None:
        try:
            answer = await self._server.handle(call)
            if answer is not None:
                self.answers.append(answer)
        finally:
            self._wake.set()

    async def say(self) -> AsyncIterator[scheduler_pb2.ExecuteAnswers]:
        """Messages with all answers that have gathered, until all is answered after the `end`."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(0)  # what is answered in this turn of the loop goes along
            self._wake.clear()
            while self.answers:
                said, self.answers = self.answers[:_MOST_ANSWERS], self.answers[_MOST_ANSWERS:]
                yield scheduler_pb2.ExecuteAnswers(answers=said)
                self._sent.set()
            if self._ended and not self.tasks:
                return
