"""Passwords: hashed with argon2id, never faster for a name that does not exist, never more at once than fits."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from cloacina.errors import Unavailable

MIN_LENGTH = 8
MAX_LENGTH = 1024

_Answer = TypeVar("_Answer")
_THREADS = 2
_MAX_WAITING = 64
"""Passwords that may wait for a thread: some seconds of work. More are refused at once."""


class Passwords:
    """Hashes and checks passwords on threads of its own: each takes some 50 ms and 64 MiB, on purpose."""

    def __init__(self) -> None:
        self._hasher = argon2.PasswordHasher()  # argon2id with the parameters of RFC 9106, section 4, second choice
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="password")
        self._waiting = 0
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        """The hash to store, with its salt and parameters in it.

        Raises:
            Unavailable: too many passwords are being checked.
        """
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether a password is the one that was hashed.

        Args:
            stored: the hash; ``None`` where there is no such account: that takes as long, and is never true.
            password: what was sent.

        Raises:
            Unavailable: too many passwords are being checked.
        """
        return await self._run(lambda: self._verify(stored, password))

    def outdated(self, stored: str) -> bool:
        """Whether the hash was made with other parameters than those in use now."""
        return self._hasher.check_needs_rehash(stored)

    def _verify(self, stored: str | None, password: str) -> bool:
        if stored is None and self._nobodys is None:
            self._nobodys = self._hasher.hash(secrets.token_urlsafe(16))
        try:
            return self._hasher.verify(stored or self._nobodys or "", password) and stored is not None
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    async def _run(self, work: Callable[[], _Answer]) -> _Answer:
        if self._waiting >= _MAX_WAITING:
            raise Unavailable("too many passwords are being checked; try again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Ends the threads once their work is done."""
        self._threads.shutdown(wait=False, cancel_futures=True)
