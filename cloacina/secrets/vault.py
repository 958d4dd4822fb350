"""A store of secrets and the operator's keys: what can be done with both. Values come out in `Vault.resolve` alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from uuid import uuid4

import orjson

from cloacina.errors import Conflict, InvalidRequest, NotFound, Unavailable
from cloacina.rpc.v1 import secrets_pb2
from cloacina.secrets.envelope import Keyring, Sealed, SecretUnreadable
from cloacina.store.database import StoreConflict
from cloacina.store.secrets import SecretRow, SecretStore
from cloacina.telemetry import scope

log = logging.getLogger(__name__)

MAX_NAME = 255
"""Characters of the name of a secret, and of a field."""
MAX_FIELDS_BYTES = 64 * 1024
"""Bytes of the fields of a secret together, as JSON."""
_SHOWN_NAME = 100


class Vault:
    """The secrets of a store.

    Args:
        store: where they are kept.
        keyring: the operator's keys; ``None`` without: then nothing can be done.
        remedy: what to do without, for messages.
    """

    def __init__(self, store: SecretStore, keyring: Keyring | None, remedy: str) -> None:
        self._store = store
        self._keyring = keyring
        self._remedy = remedy

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

    def check_configured(self) -> None:
        """Whether there is a key.

        Raises:
            Unavailable: see `create`.
        """
        self._keys()

    async def resolve(
        self, tenant_id: str, references: Iterable[secrets_pb2.SecretReference]
    ) -> secrets_pb2.ResolveSecretsResponse:
        """The values behind names, and the names behind which there is nothing. Who may ask for them the caller judges.

        Args:
            tenant_id: whose.
            references: declared names, each with the secret it is bound to, if it is.

        Raises:
            Unavailable: see `create`; or no key opens them.
        """
        keyring = self._keys()
        answer = secrets_pb2.ResolveSecretsResponse()
        for reference in references:
            row = await self._store.find(tenant_id, reference.secret or reference.name)
            if row is None:
                answer.missing.append(reference)
                continue
            fields = keyring.open(tenant_id, row.name, _sealed(row))
            given = secrets_pb2.SecretReference(name=reference.name, secret=row.name)
            answer.secrets.append(secrets_pb2.ResolvedSecret(reference=given, fields=fields))
        return answer

    def _keys(self) -> Keyring:
        if self._keyring is None:
            raise Unavailable(
                f"secrets are not configured: {self._remedy}, base64 or hex of 32 bytes", code="secrets_not_configured"
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


def _no_secret(name: str) -> NotFound:
    return NotFound(f"the tenant has no secret {name[:_SHOWN_NAME]!r}", code="secret_not_found")
