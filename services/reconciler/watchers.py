"""Who follows the registry: each gets all definitions, then every change, and says what it has applied.

A watcher is only told which workflows changed; their state is looked up when it can take more. So a slow watcher
holds nobody up, needs no queue that grows, and gets the newest state of what it missed in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from cloacina.catalog.registry import Key, Registry
from cloacina.rpc.v1 import common_pb2, reconciler_pb2

log = logging.getLogger(__name__)

_MESSAGE_BYTES = 4 * 1024 * 1024
"""Bytes of definitions in one message, about."""


class _Watcher:
    def __init__(self) -> None:
        self.id = ""
        self.acknowledged = 0
        self.changed: set[Key] = set()
        self.stirred = asyncio.Event()


class Watchers:
    """All who watch.

    Args:
        registry: what they watch.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._watchers: set[_Watcher] = set()
        self._waiting: set[tuple[int, asyncio.Future[None]]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._watchers)

    def announce(self, changed: Iterable[Key]) -> None:
        """Tells every watcher that these workflows changed."""
        keys = set(changed)
        for watcher in self._watchers:
            watcher.changed |= keys
            watcher.stirred.set()

    async def followed(self, revision: int, timeout_s: float) -> bool:
        """Waits until every watcher has applied a revision.

        Args:
            revision: the registry's.
            timeout_s: seconds to wait at most.

        Returns:
            Whether they have.
        """
        if self._all_have(revision):
            return True
        waiting = (revision, asyncio.get_running_loop().create_future())
        self._waiting.add(waiting)
        try:
            await asyncio.wait_for(waiting[1], timeout_s)
            return True
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiting)

    async def follow(
        self, acknowledgements: AsyncIterable[reconciler_pb2.WatchAcknowledgement]
    ) -> AsyncIterator[reconciler_pb2.WorkflowChanges]:
        """What one watcher is sent; ends when the service does.

        Args:
            acknowledgements: what it says.
        """
        watcher = _Watcher()
        self._watchers.add(watcher)
        reading = asyncio.create_task(self._read(watcher, acknowledgements), name="read acknowledgements")
        try:
            for changes in _in_parts(self._registry.definitions(), [], self._registry.revision, snapshot=True):
                yield changes
            while not self._closed:
                await watcher.stirred.wait()
                watcher.stirred.clear()
                for changes in self._changes(watcher):
                    yield changes
        finally:
            reading.cancel()
            self._watchers.discard(watcher)
            self._settle()
            log.debug("a watcher of the registry is gone", extra={"watcher_id": watcher.id})

    def close(self) -> None:
        """Ends every stream, and every one that is opened from now on."""
        self._closed = True
        for watcher in self._watchers:
            watcher.stirred.set()

    async def _read(self, watcher: _Watcher, acknowledgements: AsyncIterable[Any]) -> None:
        try:
            async for said in acknowledgements:
                if not watcher.id:
                    watcher.id = said.watcher_id
                    log.debug("the registry is watched", extra={"watcher_id": watcher.id})
                watcher.acknowledged = max(watcher.acknowledged, said.revision)
                self._settle()
        except Exception as error:  # the stream broke; whoever sends on it is told as well
            log.debug("a watcher's acknowledgements broke off", extra={"error": str(error)})

    def _changes(self, watcher: _Watcher) -> Iterator[reconciler_pb2.WorkflowChanges]:
        keys, watcher.changed = watcher.changed, set()
        upserted, removed = [], []
        for key in keys:
            definition = self._registry.definition(key)
            if definition is None:
                removed.append(reconciler_pb2.WorkflowKey(tenant_id=key[0], workflow_name=key[1]))
            else:
                upserted.append(definition)
        if keys:
            yield from _in_parts(upserted, removed, self._registry.revision, snapshot=False)

    def _all_have(self, revision: int) -> bool:
        return all(watcher.acknowledged >= revision for watcher in self._watchers)

    def _settle(self) -> None:
        for revision, future in self._waiting:
            if not future.done() and self._all_have(revision):
                future.set_result(None)


def _in_parts(
    upserted: list[common_pb2.WorkflowDefinition],
    removed: list[reconciler_pb2.WorkflowKey],
    revision: int,
    *,
    snapshot: bool,
) -> Iterator[reconciler_pb2.WorkflowChanges]:
    """Messages of a size that can be sent. Only the last has the revision: who acknowledges it has applied them all."""
    part = reconciler_pb2.WorkflowChanges(revision=revision - 1, snapshot=snapshot, removed=removed, more=True)
    size = 0
    for definition in upserted:
        size += definition.ByteSize()
        if part.upserted and size > _MESSAGE_BYTES:
            yield part
            part = reconciler_pb2.WorkflowChanges(revision=revision - 1, more=True)
            size = definition.ByteSize()
        part.upserted.append(definition)
    part.revision, part.more = revision, False
    yield part
