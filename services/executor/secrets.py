"""Asks the reconciler for the secrets of a task right before it runs: kept in memory, and sent to its worker only."""

from __future__ import annotations

from typing import Any

from cloacina.dispatch.runs import Run
from cloacina.dispatch.secrets import SecretsWithheld, granted, granted_without
from cloacina.errors import CloacinaError
from cloacina.rpc.client import RpcClient
from cloacina.rpc.v1 import secrets_pb2, secrets_pb2_grpc
from cloacina.telemetry import scope, tracing
from cloacina.worker.secrets import Granted

_DEADLINE_S = 5.0


class ReconcilerSource:
    """Where secrets come from.

    Args:
        client: of the reconciler.
        executor_id: identity of this process, for the audit.
    """

    def __init__(self, client: RpcClient, executor_id: str) -> None:
        self._client = client
        self._stub = secrets_pb2_grpc.SecretServiceStub(client.channel)
        self._executor_id = executor_id

    async def secrets_of(self, run: Run) -> Granted:
        """See `cloacina.dispatch.secrets.SecretSource`."""
        references = list(run.assignment.secrets)
        scope.attach(run.scope)
        with tracing.continue_from(run.traceparent), tracing.span("resolve secrets") as span:
            try:
                return await self._ask(run.assignment, references)
            except SecretsWithheld as withheld:
                span.fail(withheld.message)
                raise

    async def _ask(self, assignment: Any, references: list[secrets_pb2.SecretReference]) -> Granted:
        request = secrets_pb2.ResolveSecretsRequest(
            tenant_id=assignment.tenant_id,
            execution_id=assignment.execution_id,
            workflow_name=assignment.workflow_name,
            task_name=assignment.task_name,
            attempt=assignment.attempt,
            package_id=assignment.package_id,
            executor_id=self._executor_id,
            references=references,
        )
        try:
            answer = await self._client.call(self._stub.ResolveSecrets, request, deadline_s=_DEADLINE_S)
        except CloacinaError as error:
            return granted_without(error, references)
        return granted(answer)
