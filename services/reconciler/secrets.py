"""Secrets of tenants over gRPC: kept in a vault, and opened for the tasks of workflows that declare them."""

from __future__ import annotations

import logging
from typing import Any

import orjson

from cloacina.errors import CloacinaError, Forbidden
from cloacina.rpc.v1 import secrets_pb2, secrets_pb2_grpc
from cloacina.secrets.vault import Vault
from cloacina.store.registry import RegistryStore
from cloacina.store.secrets import SecretRow
from cloacina.telemetry import scope
from services.reconciler.metrics import ReconcilerMetrics, Resolution

log = logging.getLogger(__name__)

_MAX_PACKAGES = 10_000
_SHOWN_NAME = 100


class Secrets:
    """Gives secrets to tasks.

    Args:
        vault: where they are kept.
        packages: says what a package declares.
        metrics: what resolutions are counted in.
    """

    def __init__(self, vault: Vault, packages: RegistryStore, metrics: ReconcilerMetrics) -> None:
        self.vault = vault
        self._packages = packages
        self._metrics = metrics
        self._declared: dict[tuple[str, str], tuple[str, frozenset[str]]] = {}

    async def resolve(self, request: secrets_pb2.ResolveSecretsRequest) -> secrets_pb2.ResolveSecretsResponse:
        """The values that a task is given.

        Raises:
            Forbidden: the workflow does not declare a name (code ``secret_not_granted``).
            Unavailable: there is no key, or none that opens them.
        """
        try:
            answer = await self._resolve(request)
        except CloacinaError as error:
            refused = isinstance(error, Forbidden)
            self._metrics.resolved(Resolution.REFUSED if refused else Resolution.FAILED)
            log.warning("secrets are not given to a task", extra={**_who(request), "error": error.message})
            raise
        self._metrics.resolved(Resolution.MISSING if answer.missing else Resolution.RESOLVED)
        log.info(
            "secrets given to a task",
            extra={
                **_who(request),
                "secrets": [each.reference.secret for each in answer.secrets],
                "missing": [each.secret or each.name for each in answer.missing],
            },
        )
        return answer

    async def _resolve(self, request: secrets_pb2.ResolveSecretsRequest) -> secrets_pb2.ResolveSecretsResponse:
        self.vault.check_configured()
        tenant_id = request.tenant_id
        workflow_name, declared = await self._declared_by(tenant_id, request.package_id)
        undeclared = [each.name for each in request.references if each.name not in declared]
        if undeclared or workflow_name != request.workflow_name:
            raise Forbidden(
                f"the workflow {request.workflow_name[:_SHOWN_NAME]!r} of package {request.package_id[:_SHOWN_NAME]!r} "
                f"declares no secrets {sorted(undeclared)[:5]}",
                code="secret_not_granted",
            )
        return await self.vault.resolve(tenant_id, request.references)

    async def _declared_by(self, tenant_id: str, package_id: str) -> tuple[str, frozenset[str]]:
        """Workflow and declared secrets of a tenant's package, which never change: what was read once is kept."""
        found = self._declared.get((tenant_id, package_id))
        if found is None:
            stored = await self._packages.package_contents(tenant_id, package_id)
            if stored is None:
                return "", frozenset()
            workflow_name, contents = stored
            found = workflow_name, frozenset(orjson.loads(contents)["secrets"])
            if len(self._declared) >= _MAX_PACKAGES:
                self._declared.clear()
            self._declared[tenant_id, package_id] = found
        return found


class SecretHandlers(secrets_pb2_grpc.SecretServiceServicer):
    """Handlers of SecretService: they translate.

    Args:
        secrets: what acts.
        protected: whether callers must show a token or a certificate.
    """

    def __init__(self, secrets: Secrets, *, protected: bool) -> None:
        self._secrets = secrets
        self._protected = protected

    async def CreateSecret(self, request: Any, context: Any) -> secrets_pb2.SecretMetadata:
        with scope.bind(tenant_id=request.tenant_id):
            return _metadata(await self._secrets.vault.create(request.tenant_id, request.name, request.fields))

    async def RotateSecret(self, request: Any, context: Any) -> secrets_pb2.SecretMetadata:
        with scope.bind(tenant_id=request.tenant_id):
            return _metadata(await self._secrets.vault.rotate(request.tenant_id, request.name, request.fields))

    async def ListSecrets(self, request: Any, context: Any) -> secrets_pb2.ListSecretsResponse:
        rows = await self._secrets.vault.of_tenant(request.tenant_id)
        return secrets_pb2.ListSecretsResponse(secrets=[_metadata(row) for row in rows])

    async def GetSecret(self, request: Any, context: Any) -> secrets_pb2.SecretMetadata:
        return _metadata(await self._secrets.vault.get(request.tenant_id, request.name))

    async def DeleteSecret(self, request: Any, context: Any) -> secrets_pb2.DeleteSecretResponse:
        with scope.bind(tenant_id=request.tenant_id):
            await self._secrets.vault.delete(request.tenant_id, request.name)
        return secrets_pb2.DeleteSecretResponse()

    async def ResolveSecrets(self, request: Any, context: Any) -> secrets_pb2.ResolveSecretsResponse:
        with scope.bind(
            tenant_id=request.tenant_id,
            package_id=request.package_id,
            workflow_name=request.workflow_name,
            execution_id=request.execution_id,
            task_name=request.task_name,
            attempt=request.attempt,
        ):
            if not self._protected:
                raise Forbidden(
                    "secrets are not given out over a port that is open to every process of this machine: set "
                    "CLOACINA_RPC_TOKEN or the CLOACINA_TLS_* variables of all services",
                    code="secrets_unprotected",
                )
            return await self._secrets.resolve(request)


def _metadata(row: SecretRow) -> secrets_pb2.SecretMetadata:
    return secrets_pb2.SecretMetadata(
        secret_id=row.secret_id,
        name=row.name,
        field_names=orjson.loads(row.field_names),
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _who(request: secrets_pb2.ResolveSecretsRequest) -> dict[str, object]:
    return {"asked": [each.name for each in request.references], "executor_id": request.executor_id}
