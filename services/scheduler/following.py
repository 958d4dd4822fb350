"""Following the events of an execution: what is stored, and then each group of them as it is committed.

The scheduler that owns the execution has them in memory. Any other passes on what the owner says, and reads the store
only while there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc

from cloacina.domain.execution import EVENT_TYPES, WorkflowCancelled, WorkflowCompleted, WorkflowFailed
from cloacina.engine.engine import Engine
from cloacina.engine.watchers import Watch
from cloacina.errors import NotFound, Unavailable
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.store.executions import EventRow, ExecutionStore

log = logging.getLogger(__name__)

_PAGE = 500
"""Events in one message, and events that are kept for one follower who does not take them."""

_LOOK_AGAIN_S = 5.0
"""Seconds of silence after which it is looked up whether the execution has ended, or moved to another owner."""

_LOOK_ELSEWHERE_S = 0.04
"""The same where nobody tells: it is being taken over, its owner cannot be reached, or its end is being committed."""

_ENDS = frozenset(EVENT_TYPES[event] for event in (WorkflowCompleted, WorkflowFailed, WorkflowCancelled))

Messages = AsyncGenerator[scheduler_pb2.FollowEventsResponse, None]
FindOwner = Callable[[str, str], Awaitable[str | None]]
"""Given a tenant and its execution: where the scheduler is that owns it, empty for this one; ``None`` for nobody."""

PassOn = Callable[[str, scheduler_pb2.FollowEventsRequest], Any]
"""Given where, follows there: gives the call, a stream of messages."""


class Following:
    """What `SchedulerService.FollowEvents` does.

    Args:
        store: where the events are.
        engine: who commits them.
        message_of: an event as a message.
        find_owner: whose an execution is that this engine has not.
        pass_on: follows at another scheduler.
    """

    def __init__(
        self,
        store: ExecutionStore,
        engine: Engine,
        message_of: Callable[[EventRow], scheduler_pb2.ExecutionEvent],
        find_owner: FindOwner,
        pass_on: PassOn,
    ) -> None:
        self._store = store
        self._engine = engine
        self._message_of = message_of
        self._find_owner = find_owner
        self._pass_on = pass_on

    async def follow(self, request: scheduler_pb2.FollowEventsRequest, *, forwarded: bool = False) -> Messages:
        """The events, until the one that ends the execution.

        Args:
            request: of what, and after which.
            forwarded: another scheduler passes the request on; it is not passed on again.

        Raises:
            NotFound: there is no such execution.
            Unavailable: the store cannot be read, or the scheduler stops; or the request was passed on, and the
                execution is not here (code moving).
        """
        execution_id, position = request.execution_id, max(request.after, 0)
        with self._engine.watchers.watch(execution_id, _PAGE) as watch:
            progress = await self._store.progress(request.tenant_id, execution_id)
            if progress is None:
                raise NotFound(f"there is no execution {execution_id}", code="execution_not_found")
            tenant_id = progress.tenant_id
            yield scheduler_pb2.FollowEventsResponse(tenant_id=tenant_id)
            while True:
                rows = watch.take(position)
                if rows is None:
                    rows = await self._store.list_events(tenant_id, execution_id, after=position, limit=_PAGE)
                if rows:
                    position = rows[-1].sequence
                    events = [self._message_of(row) for row in rows]
                    yield scheduler_pb2.FollowEventsResponse(tenant_id=tenant_id, events=events)
                    if len(rows) == _PAGE:  # there may be more
                        watch.doubt()
                        continue
                    if rows[-1].event_type in _ENDS:
                        return
                elif await self._has_ended(tenant_id, execution_id, position):
                    return
                if self._engine.watchers.closed:
                    raise Unavailable("the scheduler is stopping")
                if self._engine.find(execution_id) is not None:
                    await _wait(watch, _LOOK_AGAIN_S)
                    continue
                owner = await self._find_owner(tenant_id, execution_id)
                if owner and not forwarded:
                    after = scheduler_pb2.FollowEventsRequest(
                        tenant_id=tenant_id, execution_id=execution_id, after=position
                    )
                    async with contextlib.aclosing(self._follow_there(owner, after, watch)) as messages:
                        async for message in messages:
                            if message.events:
                                position = message.events[-1].sequence
                                yield message
                    watch.doubt()  # what is committed elsewhere is not told here
                elif owner != "" and forwarded:
                    raise Unavailable(f"execution {execution_id} is not here", code="moving")
                else:
                    await _wait(watch, _LOOK_ELSEWHERE_S)
                    if owner is None:
                        watch.doubt()

    async def _follow_there(self, owner: str, request: scheduler_pb2.FollowEventsRequest, watch: Watch) -> Messages:
        """What the owner says, until it has said all, is gone, or owns the execution no longer."""
        call = self._pass_on(owner, request)
        told_here = asyncio.ensure_future(watch.changed())  # it was adopted, or this scheduler stops
        reading: asyncio.Future[Any] = asyncio.ensure_future(_next(call))
        try:
            while True:
                while not reading.done():
                    done, _ = await asyncio.wait(
                        (reading, told_here), timeout=_LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED
                    )
                    moved = not done and await self._find_owner(request.tenant_id, request.execution_id) != owner
                    if told_here.done() or moved:
                        return
                message = reading.result()
                if message is None:
                    return
                yield message
                reading = asyncio.ensure_future(_next(call))
        except grpc.aio.AioRpcError as error:
            log.debug("an execution cannot be followed at its owner", extra={"target": owner, "error": error.details()})
            await _wait(watch, _LOOK_ELSEWHERE_S)
        finally:
            call.cancel()
            told_here.cancel()
            reading.cancel()
            await asyncio.gather(told_here, reading, return_exceptions=True)

    async def _has_ended(self, tenant_id: str, execution_id: str, position: int) -> bool:
        progress = await self._store.progress(tenant_id, execution_id)
        return progress is None or (progress.finished_at is not None and progress.sequence <= position)


async def _next(messages: Any) -> Any:
    """The next message; ``None`` at the end of the stream."""
    return await anext(aiter(messages), None)


async def _wait(watch: Watch, longest_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await watch.changed()
