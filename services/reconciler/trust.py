"""Signing keys that tenants trust, and what the signature of a package is worth."""

from __future__ import annotations

import asyncio
import logging
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

from cloacina.errors import Conflict, InvalidRequest, NotFound
from cloacina.packages.errors import PackageRefused
from cloacina.packages.signature import key_id_of, public_pem, read_public_key, read_signature
from cloacina.rpc.v1 import reconciler_pb2, trust_pb2, trust_pb2_grpc
from cloacina.store.database import StoreConflict
from cloacina.store.registry import PackageRow
from cloacina.store.signing_keys import SigningKeyRow, SigningKeyStore
from cloacina.telemetry import scope
from services.reconciler.metrics import ReconcilerMetrics, SignatureOutcome

log = logging.getLogger(__name__)

MAX_KEYS = 100
"""Keys that a tenant may trust at a time."""

_MAX_NAME = 255


class SignatureStatus(StrEnum):
    """What is shown of a package's signature; see ``PackageSignature`` in the protos."""

    UNSIGNED = "unsigned"
    TRUSTED = "trusted"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


class Trust:
    """The keys of all tenants, in memory as in the store.

    Args:
        store: where they are kept.
        required: whether a package without the signature of a trusted key is refused.
        metrics: what judgements are counted in.
    """

    def __init__(self, store: SigningKeyStore, *, required: bool, metrics: ReconcilerMetrics) -> None:
        self._store = store
        self._required = required
        self._metrics = metrics
        self._keys: dict[tuple[str, str], SigningKeyRow] = {}
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Loads the keys."""
        self._keys = {(row.tenant_id, row.key_id): row for row in await self._store.all()}

    def forget_tenant(self, tenant_id: str) -> None:
        """A tenant's keys are gone from the store."""
        self._keys = {key: row for key, row in self._keys.items() if key[0] != tenant_id}

    async def trust(self, tenant_id: str, name: str, public_key: str, by: str) -> SigningKeyRow:
        """Trusts a key from now on.

        Args:
            tenant_id: whose packages it may sign.
            name: what people call it.
            public_key: PEM, or 32 bytes in base64.
            by: who says so.

        Raises:
            InvalidRequest: the name is not acceptable, or it is no key.
            Conflict: it is known, or was revoked, or there are too many.
        """
        if not 1 <= len(name) <= _MAX_NAME or not name.isprintable():
            raise InvalidRequest(f"'name' must be 1 to {_MAX_NAME} printable characters")
        raw = read_public_key(public_key)
        row = SigningKeyRow(tenant_id, key_id_of(raw), name, raw, time.time_ns() // 1000, by)
        async with self._changing:
            self._check_new(row)
            await self._store.add(row)
            self._keys[tenant_id, row.key_id] = row
        with scope.bind(tenant_id=tenant_id):
            log.info("signing key trusted", extra={"signing_key": row.key_id, "signing_key_name": name, "by": by})
        return row

    def _check_new(self, row: SigningKeyRow) -> None:
        known = self._keys.get((row.tenant_id, row.key_id))
        if known is not None and known.revoked_at is not None:
            raise Conflict("this key was revoked, which is for good; make a new one", code="signing_key_revoked")
        if known is not None:
            raise Conflict(f"this key is trusted already, as {known.name!r}", code="signing_key_exists")
        trusted = sum(each.revoked_at is None for each in self.of_tenant(row.tenant_id))
        if trusted >= MAX_KEYS:
            raise Conflict(
                f"the tenant trusts {MAX_KEYS} signing keys already; revoke one", code="too_many_signing_keys"
            )

    def of_tenant(self, tenant_id: str) -> list[SigningKeyRow]:
        """The keys of a tenant, revoked ones too, oldest first."""
        return [row for row in self._keys.values() if row.tenant_id == tenant_id]

    async def revoke(self, tenant_id: str, key_id: str, by: str) -> SigningKeyRow:
        """Takes back the trust in a key, for good.

        Raises:
            NotFound: the tenant has no such key.
        """
        async with self._changing:
            row = self._keys.get((tenant_id, key_id))
            if row is None:
                raise NotFound(f"there is no signing key {key_id[:_MAX_NAME]!r}", code="signing_key_not_found")
            if row.revoked_at is not None:
                return row
            row = row._replace(revoked_at=time.time_ns() // 1000, revoked_by=by)
            try:
                await self._store.revoke(tenant_id, key_id, row.revoked_at or 0, by)
            except StoreConflict:
                raise NotFound(f"there is no signing key {key_id!r}", code="signing_key_not_found") from None
            self._keys[tenant_id, key_id] = row
        with scope.bind(tenant_id=tenant_id):
            log.info("signing key revoked", extra={"signing_key": key_id, "signing_key_name": row.name, "by": by})
        return row

    async def judge(self, tenant_id: str, archive: Path) -> tuple[str, bool]:
        """Looks at the signature of an archive that came, before anything else of it is read.

        Args:
            tenant_id: whose it is to be.
            archive: the file.

        Returns:
            The id of the key it names, empty for none; and whether a trusted key made it.

        Raises:
            PackageRefused: it is none, or signatures are required and it is not of a trusted key.
        """
        outcome, signature = SignatureOutcome.INVALID, None
        try:
            signature = await asyncio.to_thread(read_signature, archive)
            if signature is None:
                outcome = SignatureOutcome.UNSIGNED
                self._refuse_where_required(
                    "the package is not signed, and this server takes signed packages only; sign it with: cloacinactl "
                    "package sign FILE --key KEYFILE",
                    "signature_required",
                )
                return "", False
            key = self._keys.get((tenant_id, signature.key_id))
            if key is None:
                outcome = SignatureOutcome.UNKNOWN
                self._refuse_where_required(
                    f"the package is signed by the key {signature.key_id}, which this tenant does not trust; an admin "
                    "of the tenant can add it with: cloacinactl signing-key add NAME KEYFILE.pub",
                    "signing_key_unknown",
                )
                return signature.key_id, False
            if not signature.made_by(key.public_key):
                raise PackageRefused(
                    f"the signature is not one of the key {key.name!r} on this archive: the archive was changed after "
                    "it was signed; sign it again",
                    code="signature_invalid",
                )
            if key.revoked_at is not None:
                outcome = SignatureOutcome.REVOKED
                raise PackageRefused(
                    f"the package is signed by the key {key.name!r}, which was revoked; sign it with another",
                    code="signing_key_revoked",
                )
            outcome = SignatureOutcome.TRUSTED
            return signature.key_id, True
        finally:
            self._metrics.judged(outcome)
            named = "" if signature is None else signature.key_id
            log.info("package signature judged", extra={"outcome": outcome.value, "signing_key": named})

    def _refuse_where_required(self, message: str, code: str) -> None:
        if self._required:
            raise PackageRefused(message, code=code)

    def shown(self, row: PackageRow) -> reconciler_pb2.PackageSignature:
        """What is shown of the signature of a stored package."""
        if not row.signed_by:
            return reconciler_pb2.PackageSignature(status=SignatureStatus.UNSIGNED)
        key = self._keys.get((row.tenant_id, row.signed_by))
        if not row.signature_verified or key is None:
            return reconciler_pb2.PackageSignature(status=SignatureStatus.UNKNOWN, key_id=row.signed_by)
        status = SignatureStatus.TRUSTED if key.revoked_at is None else SignatureStatus.REVOKED
        return reconciler_pb2.PackageSignature(status=status, key_id=row.signed_by, key_name=key.name)


class TrustHandlers(trust_pb2_grpc.TrustServiceServicer):
    """Handlers of TrustService: they translate.

    Args:
        trust: what acts.
    """

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    async def TrustKey(self, request: Any, context: Any) -> trust_pb2.SigningKey:
        return _key(await self._trust.trust(request.tenant_id, request.name, request.public_key, request.by))

    async def ListSigningKeys(self, request: Any, context: Any) -> trust_pb2.ListSigningKeysResponse:
        return trust_pb2.ListSigningKeysResponse(keys=map(_key, self._trust.of_tenant(request.tenant_id)))

    async def RevokeKey(self, request: Any, context: Any) -> trust_pb2.SigningKey:
        return _key(await self._trust.revoke(request.tenant_id, request.key_id, request.by))


def _key(row: SigningKeyRow) -> trust_pb2.SigningKey:
    return trust_pb2.SigningKey(
        key_id=row.key_id,
        tenant_id=row.tenant_id,
        name=row.name,
        public_key=public_pem(row.public_key).decode(),
        created_at=row.created_at,
        created_by=row.created_by,
        revoked_at=row.revoked_at or 0,
        revoked_by=row.revoked_by,
    )
