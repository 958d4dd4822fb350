"""What keeps passwords from being guessed: attempts are counted by account and by address, in the store, before the
password is looked at. So they hold at every gateway, over restarts, and however many are sent at once.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable, Sequence

from cloacina.errors import RateLimited
from cloacina.store.accounts import AccountStore

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ADDRESS_FACTOR = 5
"""Attempts an address has for each that an account has: people behind one address share it."""


class LoginThrottle:
    """Counts attempts to log in.

    Args:
        accounts: the store.
        attempts: failed attempts an account has in a window.
        window_s: seconds from the first attempt until all are forgotten.
        clock: microseconds since the epoch.
    """

    def __init__(
        self,
        accounts: AccountStore,
        attempts: int,
        window_s: float,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._accounts = accounts
        self._attempts = attempts
        self._window = int(window_s * 1_000_000)
        self._clock = clock

    async def admit(self, tenant_id: str, username: str, address: str) -> None:
        """Counts an attempt that is about to be made. An account that does not exist is counted like any other.

        Raises:
            RateLimited: there were too many; with the seconds until they are forgotten.
        """
        now = self._clock()
        limits = {_account(tenant_id, username): self._attempts, _address(address): self._attempts * ADDRESS_FACTOR}
        await self._check(limits, now, counted=0)  # who is refused does not make the store write
        await self._accounts.count_attempt(list(limits), now, now + self._window)
        await self._check(limits, now, counted=1)

    async def _check(self, limits: dict[bytes, int], now: int, *, counted: int) -> None:
        for subject, limit in limits.items():
            attempts, ends_at = await self._accounts.attempts(subject, now)
            if attempts >= limit + counted:
                seconds = max(1, -((now - ends_at) // 1_000_000))
                raise RateLimited(f"too many attempts to log in; try again in {seconds} s", retry_after_s=seconds)

    async def succeeded(self, tenant_id: str, username: str, address: str) -> None:
        """Forgets what was counted against an account that has just logged in."""
        await self._accounts.forget_attempts(_account(tenant_id, username), _address(address))


def _account(tenant_id: str, username: str) -> bytes:
    return hashlib.sha256(f"account\0{tenant_id}\0{username}".encode(errors="surrogatepass")).digest()


def _address(address: str) -> bytes:
    """One machine has a whole /64 of IPv6 addresses to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        subject = address
    else:
        subject = str(parsed if parsed.version == 4 else ipaddress.ip_network((parsed, 64), strict=False))
    return hashlib.sha256(f"address\0{subject}".encode()).digest()


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Whose request it is, as far as it can be known.

    Args:
        peer: the other end of the connection.
        forwarded: the values of ``X-Forwarded-For``, in order.
        trusted: networks of the proxies whose word is taken. From the right, the first address that is not one of
            theirs is the client's: what is left of it, anyone can have written.
    """
    address = peer or "unknown"
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    while hops and _trusts(address, trusted):
        address = hops.pop()
    return address


def _trusts(address: str, trusted: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)
