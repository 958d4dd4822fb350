"""The gateway's store of accounts, of the sessions of those who are logged in, and of attempts to log in."""

from __future__ import annotations

from typing import NamedTuple

from cloacina.store.database import Database, Statement, StoreConflict
from cloacina.store.identity import ACCESS_CHANGED, KeyRow


class AccountRow(NamedTuple):
    """A person's account in a tenant; times in microseconds since the epoch."""

    account_id: str
    tenant_id: str
    username: str
    password_hash: str | None
    role: str
    disabled_at: int | None
    created_at: int


class SessionRow(NamedTuple):
    """From a login to a logout, or to its deadline, whatever is refreshed until then."""

    session_id: str
    account_id: str
    started_at: int
    deadline_at: int


class OidcLoginRow(NamedTuple):
    """A login with an OpenID provider that is under way. Of its state only the SHA-256 is kept."""

    state_hash: bytes
    nonce: str
    code_verifier: str
    expires_at: int


class AccountStore:
    """The only caller of the queries about accounts and sessions in ``sql/identity``.

    Args:
        database: an opened database of the store "identity".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, account: AccountRow) -> None:
        """Adds an account.

        Raises:
            StoreConflict: the tenant has an account of this name.
        """
        await self._database.write([Statement("insert_account", [account], expect=1)])

    async def get(self, tenant_id: str, account_id: str) -> AccountRow | None:
        """An account of a tenant."""
        return _first(await self._database.fetch("account", tenant_id, account_id, tenant=tenant_id))

    async def of_session(self, session: SessionRow) -> AccountRow | None:
        """Whose session it is."""
        return _first(await self._database.fetch("account_by_id", session.account_id))

    async def find(self, tenant_id: str, username: str) -> AccountRow | None:
        """The account of this name."""
        return _first(await self._database.fetch("account_by_name", tenant_id, username, tenant=tenant_id))

    async def of_tenant(self, tenant_id: str) -> list[AccountRow]:
        """The accounts of a tenant, by name."""
        return [AccountRow(*row) for row in await self._database.fetch("accounts", tenant_id, tenant=tenant_id)]

    async def disable(self, tenant_id: str, account_id: str, at: int) -> None:
        """Ends an account and its sessions. One that is disabled stays so.

        Raises:
            StoreConflict: the tenant has no such account.
        """
        disabled = Statement("disable_account", [(at, tenant_id, account_id)], expect=1)
        await self._database.write([disabled, *_ended_sessions(account_id)])

    async def set_password(self, tenant_id: str, account_id: str, password_hash: str) -> None:
        """Changes a password and ends the sessions that the old one began.

        Raises:
            StoreConflict: the tenant has no such account.
        """
        changed = Statement("set_password", [(password_hash, tenant_id, account_id)], expect=1)
        await self._database.write([changed, *_ended_sessions(account_id)])

    async def rehash(self, account: AccountRow, password_hash: str) -> None:
        """Keeps the same password under a newer hash."""
        await self._database.write(
            [Statement("set_password", [(password_hash, account.tenant_id, account.account_id)], expect=1)]
        )

    # Sessions

    async def begin_session(self, session: SessionRow, key: KeyRow) -> None:
        """Adds a session and its first key, and removes sessions and their keys that have expired."""
        await self._database.write(
            [
                Statement("delete_expired_session_keys", [(session.started_at,)]),
                Statement("delete_expired_sessions", [(session.started_at,)]),
                Statement("insert_session", [session], expect=1),
                Statement("insert_key", [key], expect=1),
            ]
        )

    async def session(self, session_id: str) -> SessionRow | None:
        """A session, past its deadline or not."""
        rows = await self._database.fetch("session", session_id)
        return SessionRow(*rows[0]) if rows else None

    async def rotate_key(self, old_key_id: str, key: KeyRow) -> None:
        """Puts a session's new key in the place of its old one.

        Raises:
            StoreConflict: the old one is gone: somebody else was first, or the session has ended.
        """
        await self._database.write(
            [
                Statement("delete_session_key", [(old_key_id,)], expect=1),
                Statement("insert_key", [key], expect=1),
                ACCESS_CHANGED,
            ]
        )

    async def end_session(self, session_id: str) -> None:
        """Ends a session; to end it again changes nothing."""
        await self._database.write(
            [
                Statement("delete_keys_of_session", [(session_id,)]),
                Statement("delete_session", [(session_id,)]),
                ACCESS_CHANGED,
            ]
        )

    # Logins with an OpenID provider

    async def begin_oidc_login(self, login: OidcLoginRow, now: int) -> None:
        """Notes a login that has begun, and removes those that were never finished."""
        await self._database.write(
            [
                Statement("delete_expired_oidc_logins", [(now,)]),
                Statement("insert_oidc_login", [login], expect=1),
            ]
        )

    async def take_oidc_login(self, state_hash: bytes, now: int) -> tuple[str, str] | None:
        """Nonce and code verifier of a login that is under way; whoever gets them, nobody gets them again."""
        rows = await self._database.fetch("oidc_login", state_hash, now)
        if not rows:
            return None
        try:
            await self._database.write([Statement("take_oidc_login", [(state_hash,)], expect=1)])
        except StoreConflict:
            return None
        return str(rows[0][0]), str(rows[0][1])

    async def set_role(self, account: AccountRow, role: str) -> None:
        """Changes what an account may do from its next login on."""
        await self._database.write(
            [Statement("set_account_role", [(role, account.tenant_id, account.account_id)], expect=1)]
        )

    # Attempts to log in

    async def attempts(self, subject: bytes, now: int) -> tuple[int, int]:
        """How many attempts are counted against a subject, and when they are forgotten."""
        rows = await self._database.fetch("login_attempts", subject, now)
        return (int(rows[0][0]), int(rows[0][1])) if rows else (0, 0)

    async def count_attempt(self, subjects: list[bytes], now: int, window_ends_at: int) -> None:
        """Counts an attempt against each subject; the first in a window sets its end. Forgets past windows."""
        await self._database.write(
            [
                Statement("delete_past_login_attempts", [(now,)]),
                Statement("count_login_attempt", [(subject, window_ends_at) for subject in sorted(subjects)]),
            ]
        )

    async def forget_attempts(self, account: bytes, address: bytes) -> None:
        """After a login: nothing counts against the account, and this attempt not against the address."""
        await self._database.write(
            [
                Statement("forget_login_attempts", [(account,)]),
                Statement("uncount_login_attempt", [(address,)]),
            ]
        )


def _first(rows: list[tuple[object, ...]]) -> AccountRow | None:
    return AccountRow(*rows[0]) if rows else None  # type: ignore[arg-type]


def _ended_sessions(account_id: str) -> list[Statement]:
    return [
        Statement("delete_keys_of_account", [(account_id,)]),
        Statement("delete_sessions_of_account", [(account_id,)]),
        ACCESS_CHANGED,
    ]
