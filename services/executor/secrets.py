"""Asks the reconciler for the secrets of a task right before it runs: kept in memory, and sent to its worker only."""

from __future__ import annotations

from typing import Any

from cloacina.dispatch.runs import Run
from cloacina.errors import CloacinaError, Unavailable
from cloacina.rpc.client import RpcClient
from cloacina.rpc.v1 import secrets_pb2, secrets_pb2_grpc
from cloacina.telemetry import scope, tracing
from cloacina.worker.frames import MAX_BODY_BYTES
from cloacina.worker.secrets import Granted

_DEADLINE_S = 5.0


class SecretsWithheld(Exception):
    """A task cannot have its secrets, and does not run.

    Args:
        reason: of the failure, a value of `cloacina.domain.execution.FailureReason`.
        message: prose; never a value.
        transient: whether another attempt may have them.
    """

    def __init__(self, reason: str, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.transient = transient


class SecretSource:
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
        """What a run may read. Called in a task of its own, whose scope becomes the run's.

        A secret that the execution was bound to must be there. One that is only declared need not be: a task that
        reads it is told.

        Args:
            run: whose assignment names secrets.

        Raises:
            SecretsWithheld: see there.
        """
        references = list(run.assignment.secrets)
        scope.attach(run.scope)
        with tracing.continue_from(run.traceparent), tracing.span("resolve secrets") as span:
            try:
                granted = await self._ask(run.assignment, references)
            except SecretsWithheld as withheld:
                span.fail(withheld.message)
                raise
        if len(granted.encode()) > MAX_BODY_BYTES:
            raise SecretsWithheld(
                "validation_failed", f"the task's secrets are over {MAX_BODY_BYTES} bytes together", transient=False
            )
        return granted

    async def _ask(self, assignment: Any, references: list[secrets_pb2.SecretReference]) -> Granted:
        bound = [each for each in references if each.secret]
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
            if error.code == "secrets_not_configured" and not bound:
                return Granted(unconfigured=[each.name for each in references])
            away = isinstance(error, Unavailable)
            raise SecretsWithheld(
                "infrastructure" if away else "validation_failed",
                f"the task's secrets cannot be had: {error.message}",
                transient=away,
            ) from None
        lacking = [each for each in answer.missing if each.secret]
        if lacking:
            said = ", ".join(f"{each.secret!r} (bound to {each.name!r})" for each in lacking)
            raise SecretsWithheld("validation_failed", f"the tenant has no secret {said}", transient=False)
        return _granted(answer)


def _granted(answer: secrets_pb2.ResolveSecretsResponse) -> Granted:
    """A secret is read by the name that the workflow declares, or by its own. A declared name comes first."""
    fields = {each.reference.secret: dict(each.fields) for each in answer.secrets}
    fields |= {each.reference.name: dict(each.fields) for each in answer.secrets}
    missing = [each.name for each in answer.missing]
    return Granted({name: values for name, values in fields.items() if name not in missing}, missing)
