"""The workflows that can be executed now: a mirror of the registry, kept by a stream from the reconciler.

An execute request is answered from the mirror, without a call. What the mirror lacks (it is not there yet, or the stream
broke) is asked of the reconciler directly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import orjson

from cloacina.domain.graph import TaskSpec, WorkflowSpec
from cloacina.domain.retry import Backoff, RetryPolicy, RetryWhen
from cloacina.domain.rules import rule_from_wire
from cloacina.engine.model import Definition
from cloacina.errors import CloacinaError
from cloacina.rpc.client import RpcClient
from cloacina.rpc.v1 import common_pb2, reconciler_pb2, reconciler_pb2_grpc
from cloacina.store.executions import DefinitionRow

log = logging.getLogger(__name__)

_RETRY_LONGEST_S = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Workflow:
    """A workflow that can be executed: what the registry says of it, and what the engine runs."""

    message: common_pb2.WorkflowDefinition
    definition: Definition


def workflow_from(message: common_pb2.WorkflowDefinition) -> Workflow:
    """Makes the engine's definition from the registry's message.

    Raises:
        InvalidGraph: its tasks are no DAG.
    """
    spec = WorkflowSpec.create(message.workflow_name, [_task_spec(task) for task in message.tasks])
    definition = Definition(
        definition_id=f"{message.package_id}/{message.workflow_name}",
        tenant_id=message.tenant_id,
        spec=spec,
        package_id=message.package_id,
        package_version=message.package_version,
        package_digest=message.package_digest,
        body=message.SerializeToString(deterministic=True),
    )
    return Workflow(message, definition)


def load_definition(row: DefinitionRow) -> Definition:
    """Makes a definition again from its row in the store."""
    return workflow_from(common_pb2.WorkflowDefinition.FromString(row.body)).definition


def _task_spec(task: common_pb2.TaskDefinition) -> TaskSpec:
    retry = task.retry
    policy = RetryPolicy(
        max_attempts=max(1, retry.max_attempts),
        backoff=Backoff(retry.backoff or Backoff.EXPONENTIAL),
        delay_ms=retry.delay_ms,
        max_delay_ms=retry.max_delay_ms,
        multiplier=retry.multiplier or 2.0,
        jitter=retry.jitter,
        condition=RetryWhen(retry.condition or RetryWhen.ALL),
    )
    return TaskSpec(
        id=task.id,
        dependencies=tuple(task.dependencies),
        retry=policy,
        timeout_s=task.timeout_ms / 1000 if task.timeout_ms else None,
        rule=rule_from_wire(orjson.loads(task.trigger_rule)) if task.trigger_rule else None,
    )


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
        self._task: asyncio.Task[None] | None = None

    @property
    def following(self) -> bool:
        """Whether the stream is up, so that the mirror is current."""
        return self._following

    def __len__(self) -> int:
        return len(self._workflows)

    def start(self) -> None:
        """Follows the registry until `stop`."""
        self._task = asyncio.create_task(self._follow(), name="follow the registry")

    async def stop(self) -> None:
        """Ends following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def get(self, tenant_id: str, workflow_name: str) -> Workflow:
        """The workflow that a new execution uses now.

        Raises:
            NotFound: the tenant has none of this name.
            Unavailable: it is not in the mirror and the reconciler cannot be asked.
        """
        found = self._workflows.get((tenant_id, workflow_name)) if self._following else None
        if found is not None:
            return found
        request = reconciler_pb2.GetWorkflowRequest(tenant_id=tenant_id, workflow_name=workflow_name)
        return workflow_from(await self._client.call(self._stub.GetWorkflow, request))

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
                applied.put_nowait(changes.revision)
        finally:
            stream.cancel()

    def _apply(self, changes: reconciler_pb2.WorkflowChanges) -> None:
        if changes.snapshot:
            self._workflows.clear()
        for key in changes.removed:
            self._workflows.pop((key.tenant_id, key.workflow_name), None)
        for message in changes.upserted:
            self._workflows[message.tenant_id, message.workflow_name] = workflow_from(message)
        self._following = True
