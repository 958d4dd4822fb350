"""The reconciler's store of the signing keys that tenants trust."""

from __future__ import annotations

from typing import NamedTuple

from cloacina.store.database import Database, Statement


class SigningKeyRow(NamedTuple):
    """A public key that a tenant trusts, or trusted until `revoked_at`. Times are microseconds."""

    tenant_id: str
    key_id: str
    name: str
    public_key: bytes
    created_at: int
    created_by: str
    revoked_at: int | None = None
    revoked_by: str = ""


class SigningKeyStore:
    """The only caller of the queries about signing keys in ``sql/registry``.

    Args:
        database: an opened database of the store "registry".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: SigningKeyRow) -> None:
        """Adds a key.

        Raises:
            StoreConflict: the tenant has it, or had it before it was revoked.
        """
        await self._database.write([Statement("insert_signing_key", [key], expect=1)])

    async def revoke(self, tenant_id: str, key_id: str, at: int, by: str) -> None:
        """Notes that a key is trusted no longer.

        Raises:
            StoreConflict: the tenant has no such key, or has revoked it already.
        """
        await self._database.write([Statement("revoke_signing_key", [(at, by, tenant_id, key_id)], expect=1)])

    async def all(self) -> list[SigningKeyRow]:
        """The keys of every tenant, revoked ones too, oldest first."""
        rows = [SigningKeyRow(*row) for row in await self._database.fetch("signing_keys")]
        return [row._replace(public_key=bytes(row.public_key)) for row in rows]
