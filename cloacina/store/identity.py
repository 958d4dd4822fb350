"""The gateway's store: tenants, API keys, tickets for WebSockets."""

from __future__ import annotations

from typing import NamedTuple

from cloacina.store.database import Database, Statement, StoreConflict


class TenantRow(NamedTuple):
    """A tenant; `created_at` in microseconds since the epoch. Of the quotas ``None`` is the default, 0 no limit."""

    name: str
    description: str | None
    created_at: int
    requests_per_s: float | None = None
    max_executions: int | None = None
    max_package_bytes: int | None = None


class KeyRow(NamedTuple):
    """An API key. Of the key itself only the SHA-256 is kept. `tenant_id` is ``None`` for global keys.

    What a person who is logged in shows is a key, too: it has a `session_id`, and expires.
    """

    key_id: str
    tenant_id: str | None
    name: str
    key_hash: bytes
    role: str
    is_admin: bool
    created_at: int
    revoked_at: int | None = None
    expires_at: int | None = None
    session_id: str | None = None


ACCESS = "access"
"""The revision that is raised whenever a key, a session or a tenant stops being valid."""

ACCESS_CHANGED = Statement("raise_revision", [(ACCESS,)], expect=1)
"""Part of every transaction that ends one."""


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
        await self._database.write(
            [
                Statement("insert_tenant", [tenant], expect=1),
                Statement("delete_keys_of_tenant", [(tenant.name,)]),  # nothing that outlived an earlier one opens it
                Statement("delete_accounts_of_tenant", [(tenant.name,)]),
            ]
        )

    async def list_tenants(self) -> list[TenantRow]:
        """Every tenant, by name."""
        return [TenantRow(*row) for row in await self._database.fetch("tenants")]

    async def tenant(self, name: str) -> TenantRow | None:
        """The tenant of this name; one that is being removed is not there any more."""
        rows = await self._database.fetch("tenant", name)
        return TenantRow(*rows[0]) if rows else None

    async def set_quotas(self, tenant: TenantRow) -> None:
        """Changes a tenant's quotas, at every gateway from the next request on.

        Raises:
            StoreConflict: there is no such tenant.
        """
        row = (tenant.requests_per_s, tenant.max_executions, tenant.max_package_bytes, tenant.name)
        await self._database.write([Statement("set_tenant_quotas", [row], expect=1), ACCESS_CHANGED])

    async def is_being_removed(self, name: str) -> bool:
        """Whether a removal has begun and has not come to its end."""
        return bool(await self._database.fetch("tenant_being_removed", name))

    async def being_removed(self) -> list[str]:
        """The tenants whose removal has begun and has not come to its end."""
        return [str(row[0]) for row in await self._database.fetch("tenants_being_removed")]

    async def begin_removal(self, name: str, at: int) -> int | None:
        """Closes a tenant: from now on its keys and sessions open nothing. To begin again changes nothing.

        Returns:
            How many API keys this revoked; ``None`` when there is no such tenant.
        """
        keys = int((await self._database.fetch("count_valid_keys_of_tenant", name, tenant=name))[0][0])
        try:
            await self._database.write(
                [
                    Statement("begin_tenant_removal", [(at, name)], expect=1),
                    Statement("revoke_keys_of_tenant", [(at, name)]),
                    Statement("delete_ws_tickets_of_tenant", [(name,)]),
                    Statement("delete_session_keys_of_tenant", [(name,)]),
                    Statement("delete_sessions_of_tenant", [(name,)]),
                    ACCESS_CHANGED,
                ]
            )
        except StoreConflict:
            return 0 if await self.is_being_removed(name) else None
        return keys

    async def end_removal(self, name: str) -> None:
        """Deletes a tenant that is being removed, with its keys and accounts.

        Raises:
            StoreConflict: it is not being removed; perhaps it is gone already.
        """
        await self._database.write(
            [
                Statement("delete_removed_tenant", [(name,)], expect=1),
                Statement("delete_request_allowance", [(name,)]),
                Statement("delete_keys_of_tenant", [(name,)]),
                Statement("delete_accounts_of_tenant", [(name,)]),
                ACCESS_CHANGED,
            ]
        )

    async def add_key(self, key: KeyRow) -> None:
        """Adds a key."""
        await self._database.write([Statement("insert_key", [key], expect=1)])

    async def find_key(self, key_hash: bytes) -> KeyRow | None:
        """The key with this SHA-256, revoked or not."""
        rows = await self._database.fetch("key_by_hash", key_hash)
        return _key(rows[0]) if rows else None

    async def get_key(self, key_id: str) -> KeyRow | None:
        """The key of this id, revoked or not."""
        rows = await self._database.fetch("key_by_id", key_id)
        return _key(rows[0]) if rows else None

    async def list_keys(self, tenant_id: str | None) -> list[KeyRow]:
        """The keys of a tenant, or all with ``None``, oldest first; not those of sessions."""
        return [_key(row) for row in await self._database.fetch("keys", tenant_id is None, tenant_id, tenant=tenant_id)]

    async def revoke_key(self, key_id: str, at: int) -> None:
        """Ends a key.

        Raises:
            StoreConflict: there is no such key, or it is revoked already.
        """
        await self._database.write([Statement("revoke_key", [(at, key_id)], expect=1), ACCESS_CHANGED])

    async def request_allowance(self, tenant_id: str) -> tuple[int, int]:
        """When a tenant has used up the requests that it has sent, and what time the store says it is: microseconds
        since the epoch. 0 for one that has sent none."""
        rows = await self._database.fetch("request_allowance", tenant_id, tenant=tenant_id)
        return int(rows[0][0]), int(rows[0][1])

    async def spend_request_allowance(self, tenant_id: str, due: int, then: int) -> None:
        """Moves the time at which a tenant's requests are used up.

        Args:
            tenant_id: whose.
            due: what the time was.
            then: what it is from now on.

        Raises:
            StoreConflict: it was another by now.
        """
        spent = Statement("spend_request_allowance", [(then, tenant_id, due)], expect=1)
        await self._database.write([Statement("open_request_allowance", [(tenant_id,)]), spent])

    async def add_ws_ticket(self, ticket_hash: bytes, key_id: str, now: int, expires_at: int) -> None:
        """Adds a ticket, and removes those that have expired.

        Args:
            ticket_hash: SHA-256 of the ticket.
            key_id: in whose name it opens a WebSocket.
            now, expires_at: microseconds since the epoch.
        """
        await self._database.write(
            [
                Statement("delete_expired_ws_tickets", [(now,)]),
                Statement("insert_ws_ticket", [(ticket_hash, key_id, expires_at)], expect=1),
            ]
        )

    async def take_ws_ticket(self, ticket_hash: bytes, now: int) -> str | None:
        """The key id of a ticket that is valid at `now`; whoever gets it, nobody gets it again."""
        rows = await self._database.fetch("ws_ticket", ticket_hash, now)
        if not rows:
            return None
        try:
            await self._database.write([Statement("take_ws_ticket", [(ticket_hash,)], expect=1)])
        except StoreConflict:
            return None
        return str(rows[0][0])

    async def access_revision(self) -> int:
        """Which revision of what is valid this is: what was remembered under another must be asked again."""
        return int((await self._database.fetch("revision", ACCESS))[0][0])

    def data_version(self) -> int | None:
        """See `cloacina.store.database.Database.data_version`."""
        return self._database.data_version()

    async def has_admin_key(self) -> bool:
        """Whether a god-mode key is valid."""
        return bool((await self._database.fetch("admin_keys"))[0][0])


def _key(row: tuple[object, ...]) -> KeyRow:
    key = KeyRow(*row)  # type: ignore[arg-type]
    return key._replace(is_admin=bool(key.is_admin))
