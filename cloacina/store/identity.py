"""The gateway's store: tenants and API keys."""

from __future__ import annotations

from typing import NamedTuple

from cloacina.store.database import Database, Statement


class TenantRow(NamedTuple):
    """A tenant; `created_at` in microseconds since the epoch."""

    name: str
    description: str | None
    created_at: int


class KeyRow(NamedTuple):
    """An API key. Of the key itself only the SHA-256 is kept. `tenant_id` is ``None`` for global keys."""

    key_id: str
    tenant_id: str | None
    name: str
    key_hash: bytes
    role: str
    is_admin: bool
    created_at: int
    revoked_at: int | None = None


class IdentityStore:
    """The only caller of the queries in ``sql/identity``.

    Args:
        database: an opened database of the store "identity".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_tenant(self, tenant: TenantRow) -> None:
        """Adds a tenant.

        Raises:
            StoreConflict: the name is taken.
        """
        await self._database.write([Statement("insert_tenant", [tenant], expect=1)])

    async def list_tenants(self) -> list[TenantRow]:
        """Every tenant, by name."""
        return [TenantRow(*row) for row in await self._database.fetch("tenants")]

    async def tenant_exists(self, name: str) -> bool:
        """Whether there is a tenant of this name."""
        return bool(await self._database.fetch("tenant", name))

    async def add_key(self, key: KeyRow) -> None:
        """Adds a key."""
        await self._database.write([Statement("insert_key", [key], expect=1)])

    async def find_key(self, key_hash: bytes) -> KeyRow | None:
        """The key with this SHA-256, revoked or not."""
        rows = await self._database.fetch("key_by_hash", key_hash)
        return _key(rows[0]) if rows else None

    async def list_keys(self, tenant_id: str | None) -> list[KeyRow]:
        """The keys of a tenant, or all with ``None``, oldest first."""
        return [_key(row) for row in await self._database.fetch("keys", tenant_id is None, tenant_id)]

    async def revoke_key(self, key_id: str, at: int) -> None:
        """Ends a key.

        Raises:
            StoreConflict: there is no such key, or it is revoked already.
        """
        await self._database.write([Statement("revoke_key", [(at, key_id)], expect=1)])

    async def has_admin_key(self) -> bool:
        """Whether a god-mode key is valid."""
        return bool((await self._database.fetch("admin_keys"))[0][0])


def _key(row: tuple[object, ...]) -> KeyRow:
    key = KeyRow(*row)  # type: ignore[arg-type]
    return key._replace(is_admin=bool(key.is_admin))
