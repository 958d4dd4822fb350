"""Logging in and staying logged in: a session is shown as a key that expires and is replaced by a new one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from cloacina.errors import InvalidRequest, Unauthorized
from cloacina.store.accounts import AccountRow, AccountStore, SessionRow
from cloacina.store.database import StoreConflict
from cloacina.store.identity import KeyRow
from services.api.auth import hash_key
from services.api.call import Principal
from services.api.keys import new_key


@dataclass(frozen=True, slots=True)
class SessionKey:
    """What a person who is logged in shows.

    Args:
        key: the key itself; only its hash is stored.
        row: what is stored of it.
    """

    key: str
    row: KeyRow


class Sessions:
    """Begins, goes on with and ends sessions.

    Args:
        accounts: the store.
        key_s: seconds a key of a session is valid.
        session_s: seconds after which a session ends, however often it was refreshed.
        clock: microseconds since the epoch.
    """

    def __init__(
        self,
        accounts: AccountStore,
        key_s: float,
        session_s: float,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._accounts = accounts
        self._key = int(key_s * 1_000_000)
        self._session = int(session_s * 1_000_000)
        self._clock = clock

    async def begin(self, account: AccountRow) -> SessionKey:
        """Logs an account in."""
        now = self._clock()
        session = SessionRow(str(uuid4()), account.account_id, now, now + self._session)
        made = self._make_key(account, session, now)
        await self._accounts.begin_session(session, made.row)
        return made

    async def refresh(self, caller: Principal) -> SessionKey:
        """Puts a new key in the place of the caller's, which is good for nothing from then on.

        Raises:
            InvalidRequest: the caller shows an API key, which does not expire.
            Unauthorized: the session has ended or is past its deadline, its account was disabled, or another request
                was first with this key.
        """
        if caller.session_id is None:
            raise InvalidRequest(
                "this is an API key: it does not expire, and cannot be refreshed", code="not_a_session"
            )
        now = self._clock()
        session = await self._accounts.session(caller.session_id)
        account = await self._accounts.of_session(session) if session is not None else None
        if session is None or account is None or account.disabled_at is not None or now >= session.deadline_at:
            raise Unauthorized("the session has ended; log in again")
        made = self._make_key(account, session, now)
        try:
            await self._accounts.rotate_key(caller.key_id, made.row)
        except StoreConflict:
            raise Unauthorized("this key was replaced by another already; log in again") from None
        return made

    async def end(self, caller: Principal) -> bool:
        """Logs the caller out; returns whether there was a session."""
        if caller.session_id is None:
            return False
        await self._accounts.end_session(caller.session_id)
        return True

    def _make_key(self, account: AccountRow, session: SessionRow, now: int) -> SessionKey:
        key = new_key()
        row = KeyRow(
            key_id=str(uuid4()),
            tenant_id=account.tenant_id,
            name=account.username,
            key_hash=hash_key(key),
            role=account.role,
            is_admin=False,
            created_at=now,
            expires_at=min(now + self._key, session.deadline_at),
            session_id=session.session_id,
        )
        return SessionKey(key, row)
