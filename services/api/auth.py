"""Who calls, and whether they may: Bearer keys, and a short-lived cache of them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from cloacina.errors import NotFound, Unauthorized
from cloacina.store.identity import IdentityStore, KeyRow, TenantRow
from services.api.access import Level
from services.api.call import Principal
from services.api.identity_metrics import IdentityMetrics
from services.api.revision import AccessRevision

TENANT_NAME = re.compile(r"[a-z0-9_]{1,63}\Z")
"""Names a tenant may have (contract, section 6)."""

KEY_FORM = re.compile(r"clk_[A-Za-z0-9_-]{20,252}\Z")
"""What is looked up at all. Keys made here are ``clk_`` and 43 characters; supplied ones may be longer."""

_CACHED_KEYS = 10_000
_CACHED_TENANTS = 10_000

_Value = TypeVar("_Value")


def hash_key(key: str) -> bytes:
    """What is stored of a key. A plain SHA-256 is enough: keys have 256 random bits, so there is nothing to guess."""
    return hashlib.sha256(key.encode()).digest()


class _Cache(Generic[_Value]):
    """Remembers what lookups found, for a short time and up to a bound. Misses are not remembered.

    A lookup that began before `forget` was called is not remembered either: it may have read what was just changed.
    """

    def __init__(self, ttl_s: float, capacity: int, clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._capacity = capacity
        self._clock = clock
        self._entries: OrderedDict[bytes | str, tuple[float, _Value]] = OrderedDict()
        self._lookups: dict[bytes | str, asyncio.Task[_Value | None]] = {}
        self._generation = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes | str) -> _Value | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] < self._clock():
            del self._entries[key]
            return None
        return entry[1]

    async def look_up(
        self, key: bytes | str, lookup: Callable[[], Coroutine[Any, Any, _Value | None]]
    ) -> _Value | None:
        """Asks once, however many callers wait for the same key."""
        task = self._lookups.get(key)
        if task is None:
            task = asyncio.create_task(self._remember(key, lookup))
            self._lookups[key] = task
            task.add_done_callback(lambda done: self._settled(key, done))
        return await asyncio.shield(task)

    async def _remember(
        self, key: bytes | str, lookup: Callable[[], Coroutine[Any, Any, _Value | None]]
    ) -> _Value | None:
        generation = self._generation
        value = await lookup()
        if value is not None and generation == self._generation:
            self._entries[key] = (self._clock() + self._ttl_s, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        return value

    def _settled(self, key: bytes | str, task: asyncio.Task[_Value | None]) -> None:
        if self._lookups.get(key) is task:
            del self._lookups[key]
        if not task.cancelled():
            task.exception()  # every caller may have gone: then nobody else takes it

    def forget(self, concerns: Callable[[_Value], bool]) -> None:
        """Drops what is concerned, and what is being looked up at this moment."""
        self._generation += 1
        self._lookups.clear()
        for key in [key for key, (_, value) in self._entries.items() if concerns(value)]:
            del self._entries[key]


class Authenticator:
    """Turns an ``Authorization`` header into a `Principal`.

    Args:
        identity: the store.
        ttl_s: seconds a key is believed without looking it up again. What is revoked, by whichever gateway, is refused
            from the next request on: each asks first whether anything was revoked, which is cheap.
        clock: monotonic seconds.
        metrics: what lookups are counted in.
    """

    def __init__(
        self,
        identity: IdentityStore,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
        metrics: IdentityMetrics | None = None,
    ) -> None:
        self._identity = identity
        self._metrics = metrics
        self._access = AccessRevision(identity)
        self._revision = -1
        self._keys: _Cache[Principal] = _Cache(ttl_s, _CACHED_KEYS, clock)
        self._tenants: _Cache[TenantRow] = _Cache(ttl_s, _CACHED_TENANTS, clock)

    @property
    def cached_keys(self) -> int:
        """Keys in the cache."""
        return len(self._keys)

    async def authenticate(self, authorization: str | None) -> Principal:
        """The caller.

        Args:
            authorization: the header's value.

        Raises:
            Unauthorized: it is missing or malformed, or the key is unknown or revoked; the message does not say which.
            Unavailable: the store cannot be read.
        """
        if authorization is None:
            raise Unauthorized("missing Authorization header; send 'Authorization: Bearer clk_…'")
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not KEY_FORM.match(key):
            raise Unauthorized("malformed Authorization header; send 'Authorization: Bearer clk_…'")
        await self._refresh()
        digest = hash_key(key)
        principal = self._keys.get(digest)
        if self._metrics is not None:
            self._metrics.looked_up(hit=principal is not None)
        if principal is None:
            principal = await self._keys.look_up(digest, lambda: self._find(digest))
        if principal is None or _expired(principal):
            raise Unauthorized("invalid or revoked API key")
        return principal

    async def _refresh(self) -> None:
        """Forgets everything if anything was revoked since."""
        revision = await self._access.current()
        if revision != self._revision:
            self._keys.forget(lambda _: True)
            self._tenants.forget(lambda _: True)
            self._revision = revision

    async def _find(self, digest: bytes) -> Principal | None:
        row = await self._identity.find_key(digest)
        if row is None or row.revoked_at is not None or not hmac.compare_digest(row.key_hash, digest):
            return None
        return principal_of(row)

    async def caller_of(self, key_id: str) -> Principal | None:
        """Whose key has this id, asked of the store; ``None`` if it opens nothing any more.

        Raises:
            Unavailable: the store cannot be read.
        """
        row = await self._identity.get_key(key_id)
        caller = principal_of(row) if row is not None and row.revoked_at is None else None
        return None if caller is None or _expired(caller) else caller

    async def is_valid(self, caller: Principal) -> bool:
        """Whether what a caller showed still opens what it did.

        Raises:
            Unavailable: the store cannot be read.
        """
        return await self.caller_of(caller.key_id) == caller

    async def tenant(self, name: str) -> TenantRow:
        """The tenant of this name, with its quotas.

        Raises:
            NotFound: there is none.
        """
        known = self._tenants.get(name)
        if known is None and TENANT_NAME.match(name):
            known = await self._tenants.look_up(name, lambda: self._find_tenant(name))
        if known is None:
            raise NotFound(f"there is no tenant {name!r}", code="tenant_not_found")
        return known

    async def _find_tenant(self, name: str) -> TenantRow | None:
        return await self._identity.tenant(name)


def principal_of(row: KeyRow) -> Principal:
    """The caller that a valid key stands for."""
    return Principal(
        row.key_id,
        row.name,
        row.tenant_id,
        row.role,
        Level.of(row.role),
        row.is_admin,
        row.expires_at,
        row.session_id,
    )


def _expired(caller: Principal) -> bool:
    return caller.expires_at is not None and time.time_ns() // 1000 >= caller.expires_at
