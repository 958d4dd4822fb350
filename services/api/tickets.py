"""Tickets for WebSockets: browsers cannot send a key with an upgrade, and a key in a URL ends up in log files."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

from cloacina.errors import Unauthorized
from cloacina.store.identity import IdentityStore
from services.api.auth import Authenticator, hash_key
from services.api.call import Principal

TICKET_TTL_S = 60
"""Seconds a ticket is valid."""

_FORM = re.compile(r"wst_[A-Za-z0-9_-]{43}\Z")


class Tickets:
    """Issues tickets and takes them back, each once. They are in the store: any gateway redeems what another issued.

    Args:
        identity: the store.
        auth: who stands behind a key.
        clock: microseconds since the epoch.
    """

    def __init__(
        self,
        identity: IdentityStore,
        auth: Authenticator,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._identity = identity
        self._auth = auth
        self._clock = clock

    async def issue(self, caller: Principal) -> str:
        """A ticket, valid for `TICKET_TTL_S`, in the name of a caller.

        Raises:
            Unavailable: the store cannot be written.
        """
        ticket = f"wst_{secrets.token_urlsafe(32)}"
        now = self._clock()
        await self._identity.add_ws_ticket(hash_key(ticket), caller.key_id, now, now + TICKET_TTL_S * 1_000_000)
        return ticket

    async def redeem(self, ticket: str) -> Principal:
        """In whose name a ticket was issued. It is spent then, also if the key was revoked meanwhile.

        Raises:
            Unauthorized: it is malformed, unknown, spent or expired, or its key was revoked; the message does not say
                which.
            Unavailable: the store cannot be read or written.
        """
        key_id = None
        if _FORM.match(ticket):
            key_id = await self._identity.take_ws_ticket(hash_key(ticket), self._clock())
        caller = await self._auth.caller_of(key_id) if key_id is not None else None
        if caller is None:
            raise Unauthorized("invalid, spent or expired ticket; get another with POST /v1/auth/ws-ticket")
        return caller
