"""Secrets of tenants: sealed before they are stored, opened for the tasks of workflows that declare them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

import orjson

from cloacina.errors import CloacinaError, Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from cloacina.rpc.v1 import secrets_pb2, secrets_pb2_grpc
from cloacina.store.database import StoreConflict
from cloacina.store.registry import RegistryStore
from cloacina.store.secrets import SecretRow, SecretStore
from cloacina.telemetry import scope
from services.reconciler.envelope import Keyring, Sealed, SecretUnreadable
from services.reconciler.metrics import ReconcilerMetrics, Resolution

log = logging.getLogger(__name__)

MAX_NAME = 255
"""Characters of the name of a secret, and of a field."""
MAX_FIELDS_BYTES = 64 * 1024
"""Bytes of the fields of a secret together, as JSON."""
_MAX_PACKAGES = 10_000
_SHOWN_NAME = 100


class Secrets:
    """What can be done with secrets.

    Args:
        store: where they are kept.
        packages: says what a package declares.
        keyring: the operator's keys; ``None`` without: then nothing can be done.
        metrics: what resolutions are counted in.
    """

    def __init__(
        self, store: SecretStore, packages: RegistryStore, keyring: Keyring | None, metrics: ReconcilerMetrics
    ) -> None:
        self._store = store
        self._packages = packages
        self._keyring = keyring
        self._metrics = metrics
        self._declared: dict[str, tuple[str, str, frozenset[str]]] = {}

    async def start(self) -> None:
        """Has the current key wrap whatever a former one still wraps, so that the former one can be taken away."""
        if self._keyring is None:
            return
        rewrapped, unreadable = [], []
        for row in await self._store.under_other_keys(self._keyring.current_id):
            try:
                sealed = self._keyring.rewrap(row.tenant_id, row.name, _sealed(row))
            except SecretUnreadable as error:
                unreadable.append(row)
                with scope.bind(tenant_id=row.tenant_id):
                    log.error("a secret cannot be read", extra={"secret": row.name, "error": error.message})
            else:
                rewrapped.append(row._replace(data_key=sealed.data_key, kek_id=sealed.kek_id))
        if rewrapped:
            await self._store.rewrap(rewrapped)
            log.info(
                "secrets are under the current key now; the former ones can be taken away",
                extra={"secrets": len(rewrapped), "unreadable": len(unreadable), "kek_id": self._keyring.current_id},
            )

    async def create(self, tenant_id: str, name: str, fields: Mapping[str, str]) -> SecretRow:
        """Adds a secret.

        Raises:
            Conflict: the tenant has one of this name (code ``secret_exists``).
            InvalidRequest: the name or a field is not acceptable.
            Unavailable: there is no key (code ``secrets_not_configured``).
        """
        row = self._new_row(tenant_id, name, fields)
        try:
            await self._store.add(row)
        except StoreConflict:
            raise Conflict(f"the tenant has a secret {name!r} already; rotate it", code="secret_exists") from None
        log.info("secret created", extra={"secret": name, "field_names": list(fields)})
        return row

    async def rotate(self, tenant_id: str, name: str, fields: Mapping[str, str]) -> SecretRow:
        """Gives a secret other fields.

        Raises:
            NotFound: there is none of this name.
            InvalidRequest, Unavailable: see `create`.
        """
        try:
            await self._store.replace(self._new_row(tenant_id, name, fields))
        except StoreConflict:
            raise _no_secret(name) from None
        row = await self.get(tenant_id, name)
        log.info("secret rotated", extra={"secret": name, "field_names": list(fields), "version": row.version})
        return row

    async def of_tenant(self, tenant_id: str) -> list[SecretRow]:
        """A tenant's secrets, by name.

        Raises:
            Unavailable: see `create`.
        """
        self._keys()
        return await self._store.of_tenant(tenant_id)

    async def get(self, tenant_id: str, name: str) -> SecretRow:
        """A secret.

        Raises:
            NotFound: there is none of this name.
            Unavailable: see `create`.
        """
        self._keys()
        row = await self._store.find(tenant_id, name)
        if row is None:
            raise _no_secret(name)
        return row

    async def delete(self, tenant_id: str, name: str) -> None:
        """Removes a secret.

        Raises:
            NotFound, Unavailable: see `get`.
        """
        self._keys()
        try:
            await self._store.delete(tenant_id, name)
        except StoreConflict:
            raise _no_secret(name) from None
        log.info("secret deleted", extra={"secret": name})

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
        keyring = self._keys()
        tenant_id, workflow_name, declared = await self._declared_by(request.package_id)
        undeclared = [each.name for each in request.references if each.name not in declared]
        if undeclared or (tenant_id, workflow_name) != (request.tenant_id, request.workflow_name):
            raise Forbidden(
                f"the workflow {request.workflow_name[:_SHOWN_NAME]!r} of package {request.package_id[:_SHOWN_NAME]!r} "
                f"declares no secrets {sorted(undeclared)[:5]}",
                code="secret_not_granted",
            )
        answer = secrets_pb2.ResolveSecretsResponse()
        for reference in request.references:
            row = await self._store.find(tenant_id, reference.secret or reference.name)
            if row is None:
                answer.missing.append(reference)
                continue
            fields = keyring.open(tenant_id, row.name, _sealed(row))
            given = secrets_pb2.SecretReference(name=reference.name, secret=row.name)
            answer.secrets.append(secrets_pb2.ResolvedSecret(reference=given, fields=fields))
        return answer

    async def _declared_by(self, package_id: str) -> tuple[str, str, frozenset[str]]:
        """Tenant, workflow and declared secrets of a package. A package never changes: what was read once is kept."""
        found = self._declared.get(package_id)
        if found is None:
            stored = await self._packages.package_contents(package_id)
            if stored is None:
                return "", "", frozenset()
            tenant_id, workflow_name, contents = stored
            found = tenant_id, workflow_name, frozenset(orjson.loads(contents)["secrets"])
            if len(self._declared) >= _MAX_PACKAGES:
                self._declared.clear()
            self._declared[package_id] = found
        return found

    def _keys(self) -> Keyring:
        if self._keyring is None:
            raise Unavailable(
                "secrets are not configured on this server: set CLOACINA_SECRET_KEK of the reconciler to base64 or "
                "hex of 32 bytes",
                code="secrets_not_configured",
            )
        return self._keyring

    def _new_row(self, tenant_id: str, name: str, fields: Mapping[str, str]) -> SecretRow:
        keyring = self._keys()
        _check(name, fields)
        sealed = keyring.seal(tenant_id, name, fields)
        now = time.time_ns() // 1000
        names = orjson.dumps(sorted(fields)).decode()
        return SecretRow(
            str(uuid4()), tenant_id, name, names, sealed.ciphertext, sealed.data_key, sealed.kek_id, 1, now, now
        )


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
            return _metadata(await self._secrets.create(request.tenant_id, request.name, request.fields))

    async def RotateSecret(self, request: Any, context: Any) -> secrets_pb2.SecretMetadata:
        with scope.bind(tenant_id=request.tenant_id):
            return _metadata(await self._secrets.rotate(request.tenant_id, request.name, request.fields))

    async def ListSecrets(self, request: Any, context: Any) -> secrets_pb2.ListSecretsResponse:
        rows = await self._secrets.of_tenant(request.tenant_id)
        return secrets_pb2.ListSecretsResponse(secrets=[_metadata(row) for row in rows])

    async def GetSecret(self, request: Any, context: Any) -> secrets_pb2.SecretMetadata:
        return _metadata(await self._secrets.get(request.tenant_id, request.name))

    async def DeleteSecret(self, request: Any, context: Any) -> secrets_pb2.DeleteSecretResponse:
        with scope.bind(tenant_id=request.tenant_id):
            await self._secrets.delete(request.tenant_id, request.name)
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


def _check(name: str, fields: Mapping[str, str]) -> None:
    _check_name("the name of a secret", [name])
    _check_name("the name of a field", fields)
    if not fields:
        raise InvalidRequest("a secret needs at least one field")
    size = len(orjson.dumps(dict(fields)))
    if size > MAX_FIELDS_BYTES:
        raise InvalidRequest(f"the fields of a secret have {size} bytes together, the limit is {MAX_FIELDS_BYTES}")


def _check_name(what: str, names: Iterable[str]) -> None:
    for name in names:
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
            raise InvalidRequest(
                f"{what} has 1 to {MAX_NAME} printable characters and no white space around it: "
                f"{name[:_SHOWN_NAME]!r} does not"
            )


def _sealed(row: SecretRow) -> Sealed:
    return Sealed(row.ciphertext, row.data_key, row.kek_id)


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


def _no_secret(name: str) -> NotFound:
    return NotFound(f"the tenant has no secret {name[:_SHOWN_NAME]!r}", code="secret_not_found")
