"""Following the events of an execution: from the store, and at once when something was committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from cloacina.domain.execution import EVENT_TYPES, WorkflowCancelled, WorkflowCompleted, WorkflowFailed
from cloacina.engine.engine import Engine
from cloacina.errors import NotFound, Unavailable
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.store.executions import EventRow, ExecutionStore

_PAGE = 500
_LOOK_AGAIN_S = 5.0
"""Seconds after which the store is asked though nothing was heard: what is woken up by is a hint, not the truth."""

_LOOK_ELSEWHERE_S = 0.04
"""The same for an execution that this process does not run: another commits its events."""

_ENDS = frozenset(EVENT_TYPES[event] for event in (WorkflowCompleted, WorkflowFailed, WorkflowCancelled))


class Following:
    """What `SchedulerService.FollowEvents` does.

    Args:
        store: where the events are.
        engine: who commits them.
        message_of: an event as a message.
    """

    def __init__(
        self, store: ExecutionStore, engine: Engine, message_of: Callable[[EventRow], scheduler_pb2.ExecutionEvent]
    ) -> None:
        self._store = store
        self._engine = engine
        self._message_of = message_of

    async def follow(
        self, request: scheduler_pb2.FollowEventsRequest
    ) -> AsyncIterator[scheduler_pb2.FollowEventsResponse]:
        """The events, until the one that ends the execution.

        Raises:
            NotFound: there is no such execution.
            Unavailable: the store cannot be read, or the scheduler stops.
        """
        execution_id, position = request.execution_id, max(request.after, 0)
        with self._engine.watchers.watch(execution_id) as changed:
            progress = await self._store.progress(request.tenant_id, execution_id)
            if progress is None:
                raise NotFound(f"there is no execution {execution_id}", code="execution_not_found")
            tenant_id = progress.tenant_id
            yield scheduler_pb2.FollowEventsResponse(tenant_id=tenant_id)
            while True:
                changed.clear()
                rows = await self._store.list_events(tenant_id, execution_id, after=position, limit=_PAGE)
                if rows:
                    position = rows[-1].sequence
                    events = [self._message_of(row) for row in rows]
                    yield scheduler_pb2.FollowEventsResponse(tenant_id=tenant_id, events=events)
                    if len(rows) == _PAGE:
                        continue
                    if rows[-1].event_type in _ENDS:
                        return
                elif await self._has_ended(tenant_id, execution_id, position):
                    return
                await self._wait(changed, execution_id)

    async def _has_ended(self, tenant_id: str, execution_id: str, position: int) -> bool:
        progress = await self._store.progress(tenant_id, execution_id)
        return progress is None or (progress.finished_at is not None and progress.sequence <= position)

    async def _wait(self, changed: asyncio.Event, execution_id: str) -> None:
        if self._engine.watchers.closed:
            raise Unavailable("the scheduler is stopping")
        patience_s = _LOOK_AGAIN_S if self._engine.find(execution_id) is not None else _LOOK_ELSEWHERE_S
        try:
            async with asyncio.timeout(patience_s):
                await changed.wait()
        except TimeoutError:
            return
        if self._engine.watchers.closed:
            raise Unavailable("the scheduler is stopping")
