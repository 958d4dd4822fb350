"""The workflows that can be executed now: a mirror of the registry, kept by a stream from the reconciler.

An execute request is answered from the mirror, without a call. What the mirror lacks (it is not there yet, or the
stream broke) is asked of the reconciler directly; while that cannot be reached, the mirror as it was last serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from typing import Protocol

import grpc

from cloacina.catalog.workflows import Workflow, workflow_from
from cloacina.engine.model import Definition
from cloacina.errors import CloacinaError, Conflict, Unavailable
from cloacina.rpc.client import RpcClient
from cloacina.rpc.v1 import reconciler_pb2, reconciler_pb2_grpc

log = logging.getLogger(__name__)

_RETRY_LONGEST_S = 2.0


class Follower(Protocol):
    """Whoever goes along with the registry."""

    async def follow(self, changed: Collection[tuple[str, str]], *, complete: bool) -> None:
        """What the mirror knows has changed.

        Args:
            changed: tenant and name of the workflows that are new, other or gone.
            complete: the mirror was filled anew: whatever it lacks is gone.
        """


class Definitions:
    """The mirror.

    Args:
        client: of the reconciler.
        watcher_id: identity of this process, for the reconciler's bookkeeping.
    """

    def __init__(self, client: RpcClient, watcher_id: str) -> None:
        self._client = client
        self._stub = reconciler_pb2_grpc.ReconcilerServiceStub(client.channel)
        self._watcher_id = watcher_id
        self._workflows: dict[tuple[str, str], Workflow] = {}
        self._following = False
        self._follower: Follower | None = None
        self._changed: set[tuple[str, str]] = set()
        self._complete = False
        self._seen = False
        self._limited: dict[tuple[str, str], bool] = {}
        self._task: asyncio.Task[None] | None = None
        self.closed: set[str] = set()
        """Tenants that are being removed: nothing of theirs is started any more."""

    @property
    def following(self) -> bool:
        """Whether the stream is up, so that the mirror is current."""
        return self._following

    @property
    def seen(self) -> bool:
        """Whether the registry was heard of since the start. From then on the mirror serves without it."""
        return self._seen

    def __len__(self) -> int:
        return len(self._workflows)

    def start(self, follower: Follower | None = None) -> None:
        """Follows the registry until `stop`.

        Args:
            follower: told of each change, before it is acknowledged.
        """
        self._follower = follower
        self._task = asyncio.create_task(self._follow(), name="follow the registry")

    async def stop(self) -> None:
        """Ends following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def names(self) -> list[tuple[str, str]]:
        """Tenant and name of every workflow that the mirror has."""
        return list(self._workflows)

    def check_open(self, tenant_id: str) -> None:
        """Refuses a tenant that is being removed.

        Raises:
            Conflict: it is (code tenant_removed).
        """
        if tenant_id in self.closed:
            raise Conflict("the tenant is being removed", code="tenant_removed")

    def known(self, tenant_id: str, workflow_name: str) -> Workflow | None:
        """What the mirror has of this name, without asking anyone."""
        return self._workflows.get((tenant_id, workflow_name))

    def is_limited(self, tenant_id: str, workflow_name: str) -> bool:
        """Whether a limit counts how much of the workflow runs at once, or of one that its tasks execute."""
        key = (tenant_id, workflow_name)
        limited = self._limited.get(key)
        if limited is None:
            limited = self._limited[key] = self._is_limited(key, set())
        return limited

    def _is_limited(self, key: tuple[str, str], above: set[tuple[str, str]]) -> bool:
        found = self._workflows.get(key)
        if found is None or key in above:
            return False
        definition = found.definition
        if definition.max_executions or definition.max_tasks:
            return True
        below = {task.workflow for task in definition.spec.tasks.values() if task.workflow}
        return any(self._is_limited((key[0], name), above | {key}) for name in below)

    def find(self, tenant_id: str, workflow_name: str) -> Definition | None:
        """The definition that a task which executes the workflow uses now; ``None`` when the mirror has none."""
        found = self._workflows.get((tenant_id, workflow_name))
        return None if found is None else found.definition

    async def get(self, tenant_id: str, workflow_name: str) -> Workflow:
        """The workflow that a new execution uses now.

        Raises:
            NotFound: the tenant has none of this name.
            Conflict: the tenant is being removed (code tenant_removed).
            Unavailable: it was never in the mirror and the reconciler cannot be asked.
        """
        self.check_open(tenant_id)
        found = self._workflows.get((tenant_id, workflow_name))
        if found is not None and self._following:
            return found
        request = reconciler_pb2.GetWorkflowRequest(tenant_id=tenant_id, workflow_name=workflow_name)
        try:
            return workflow_from(await self._client.call(self._stub.GetWorkflow, request))
        except Unavailable:
            if found is None or found.message.paused:  # that it is paused may be old news: no reason for a final no
                raise
            return found  # while the registry is away nothing can change in it

    async def _follow(self) -> None:
        delay = 0.1
        while True:
            try:
                await self._follow_once()
                delay = 0.1
            except grpc.aio.AioRpcError as error:
                log.debug("the registry's stream broke", extra={"error": error.code().name})
            except CloacinaError as error:
                log.error("the registry sent a workflow that cannot be used", extra={"error": error.message})
            self._following = False
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_LONGEST_S)

    async def _follow_once(self) -> None:
        applied: asyncio.Queue[int] = asyncio.Queue()

        async def acknowledgements() -> AsyncIterator[reconciler_pb2.WatchAcknowledgement]:
            yield reconciler_pb2.WatchAcknowledgement(watcher_id=self._watcher_id)
            while True:
                yield reconciler_pb2.WatchAcknowledgement(watcher_id=self._watcher_id, revision=await applied.get())

        stream = self._client.stream(self._stub.WatchWorkflows, acknowledgements(), deadline_s=None)
        try:
            async for changes in stream:
                self._apply(changes)
                if self._follower is not None and not changes.more:
                    changed, self._changed = self._changed, set()
                    complete, self._complete = self._complete, False
                    await self._follower.follow(changed, complete=complete)
                applied.put_nowait(changes.revision)
        finally:
            stream.cancel()

    def _apply(self, changes: reconciler_pb2.WorkflowChanges) -> None:
        self._limited.clear()
        if changes.snapshot:
            self._workflows.clear()
            self._complete = True
        for key in changes.removed:
            self._workflows.pop((key.tenant_id, key.workflow_name), None)
            self._changed.add((key.tenant_id, key.workflow_name))
        for message in changes.upserted:
            self._workflows[message.tenant_id, message.workflow_name] = workflow_from(message)
            self._changed.add((message.tenant_id, message.workflow_name))
        self._following = self._seen = True
