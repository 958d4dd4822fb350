"""The reconciler's store of secrets: what is sealed, and what may be shown of it. It never sees a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cloacina.store.database import Database, Statement


class SecretRow(NamedTuple):
    """A secret. `field_names` is a JSON array, `version` counts its values from 1, times are microseconds.

    `ciphertext` holds the values under the data key, `data_key` that key wrapped by the key whose id is `kek_id`.
    """

    secret_id: str
    tenant_id: str
    name: str
    field_names: str
    ciphertext: bytes
    data_key: bytes
    kek_id: str
    version: int
    created_at: int
    updated_at: int


class SecretStore:
    """The only caller of the queries about secrets in ``sql/registry``.

    Args:
        database: an opened database of the store "registry".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, secret: SecretRow) -> None:
        """Adds a secret.

        Raises:
            StoreConflict: the tenant has one of this name.
        """
        await self._database.write([Statement("insert_secret", [secret], expect=1)])

    async def replace(self, secret: SecretRow) -> None:
        """Gives a secret other values; its id, its name and its creation stay, its version grows by one.

        Raises:
            StoreConflict: the tenant has none of this name.
        """
        changed = (
            secret.field_names,
            secret.ciphertext,
            secret.data_key,
            secret.kek_id,
            secret.updated_at,
            secret.tenant_id,
            secret.name,
        )
        await self._database.write([Statement("replace_secret", [changed], expect=1)])

    async def rewrap(self, secrets: Sequence[SecretRow]) -> None:
        """Keeps the values and changes what wraps their data keys. What was rotated meanwhile is left alone."""
        rows = [(each.data_key, each.kek_id, each.secret_id, each.version) for each in secrets]
        await self._database.write([Statement("rewrap_secret", rows)])

    async def delete(self, tenant_id: str, name: str) -> None:
        """Removes a secret.

        Raises:
            StoreConflict: the tenant has none of this name.
        """
        await self._database.write([Statement("delete_secret", [(tenant_id, name)], expect=1)])

    async def find(self, tenant_id: str, name: str) -> SecretRow | None:
        """A secret by its name."""
        rows = await self._database.fetch("secret", tenant_id, name, tenant=tenant_id)
        return _secret(rows[0]) if rows else None

    async def of_tenant(self, tenant_id: str) -> list[SecretRow]:
        """The secrets of a tenant, by name."""
        return [_secret(row) for row in await self._database.fetch("secrets_of_tenant", tenant_id, tenant=tenant_id)]

    async def under_other_keys(self, kek_id: str) -> list[SecretRow]:
        """Every secret whose data key another key than this one wraps."""
        return [_secret(row) for row in await self._database.fetch("secrets_under_other_keys", kek_id)]


def _secret(row: tuple[object, ...]) -> SecretRow:
    found = SecretRow(*row)  # type: ignore[arg-type]
    return found._replace(ciphertext=bytes(found.ciphertext), data_key=bytes(found.data_key))
