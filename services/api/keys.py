"""Making API keys, and the first one: a god-mode key for a system that has none."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from pathlib import Path
from uuid import uuid4

from cloacina.errors import Conflict, InvalidRequest
from cloacina.store.identity import IdentityStore, KeyRow
from services.api.auth import KEY_FORM, hash_key

log = logging.getLogger(__name__)

BOOTSTRAP_FILE = "bootstrap-key"
_BOOTSTRAP_NAME = "bootstrap"


def new_key() -> str:
    """A fresh key: ``clk_`` and 32 random bytes, url-safe."""
    return f"clk_{secrets.token_urlsafe(32)}"


async def create_key(
    identity: IdentityStore, key: str, *, name: str, tenant_id: str | None, role: str, is_admin: bool = False
) -> KeyRow:
    """Stores a key; of the key itself only the SHA-256.

    Args:
        identity: the store.
        key: the key.
        name: what people call it.
        tenant_id: the tenant it belongs to; ``None`` for god mode.
        role: "read", "write" or "admin".
        is_admin: god mode.

    Raises:
        Conflict: the key is stored already, perhaps revoked.
    """
    row = KeyRow(str(uuid4()), tenant_id, name, hash_key(key), role, is_admin, time.time_ns() // 1000)
    await identity.add_key(row)
    return row


async def ensure_bootstrap_key(identity: IdentityStore, home: Path, supplied: str) -> None:
    """Gives a system without a valid god-mode key one (contract, section 6). The key is never logged.

    A supplied key is stored and written nowhere else: whoever supplies it keeps it. Otherwise a new key goes to
    ``<home>/bootstrap-key`` *before* it is stored: a crash between the two leaves a file whose key the next start takes
    up, and never a god-mode key that nobody knows.

    Args:
        identity: the store.
        home: the home folder.
        supplied: ``CLOACINA_BOOTSTRAP_KEY``; empty for none.

    Raises:
        InvalidRequest: the supplied key has the wrong form, or was revoked.
    """
    if supplied and not KEY_FORM.match(supplied):
        raise InvalidRequest(
            "CLOACINA_BOOTSTRAP_KEY is not valid: it must be clk_ and 20 to 252 letters, digits, '_' or '-'; "
            "make one with: python -c \"import secrets; print('clk_' + secrets.token_urlsafe(32))\""
        )
    if await identity.has_admin_key():
        if supplied:
            known = await identity.find_key(hash_key(supplied))
            if known is None or known.revoked_at is not None:
                log.warning("CLOACINA_BOOTSTRAP_KEY is ignored: there is a god-mode key already, and it is another")
        return
    if supplied:
        if not await _store(identity, supplied):
            raise InvalidRequest("CLOACINA_BOOTSTRAP_KEY names a key that was revoked: supply another")
        log.info("the bootstrap key of CLOACINA_BOOTSTRAP_KEY was stored")
        return
    path = home / BOOTSTRAP_FILE
    left_behind = _read(path)
    if left_behind is not None and await _store(identity, left_behind):
        log.info("the bootstrap key of an earlier start was stored", extra={"path": str(path)})
        return
    key = new_key()
    _write(path, key)
    await _store(identity, key)
    log.info("a bootstrap key was made: the first god-mode key", extra={"path": str(path)})


async def _store(identity: IdentityStore, key: str) -> bool:
    try:
        await create_key(identity, key, name=_BOOTSTRAP_NAME, tenant_id=None, role="admin", is_admin=True)
    except Conflict:  # it is there, and not valid: it was revoked, and stays so
        return False
    return True


def _read(path: Path) -> str | None:
    """The key in the file, if it is one that only its owner could have read."""
    try:
        if path.stat().st_mode & 0o077:
            return None
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return key if KEY_FORM.match(key) else None


def _write(path: Path, key: str) -> None:
    """Writes the file whole or not at all, readable by its owner only."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, f"{key}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
