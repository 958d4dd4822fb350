"""A small HTTP/1.1 client for load: it must cost less than what it measures, because it shares the machine with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson


class HttpError(Exception):
    """The server hung up, or answered with what this client does not understand."""


class Connection(asyncio.Protocol):
    """One kept-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connects."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def close(self) -> None:
        """Hangs up."""
        if self._transport is not None:
            self._transport.close()

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Sends a whole request; returns status and body of its answer.

        Raises:
            HttpError: there is none.
        """
        if self._transport is None or self._transport.is_closing():
            raise HttpError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        at = head.lower().find(b"\r\ncontent-length:")
        if at < 0:
            self._fail("an answer without Content-Length")
            return
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        self._received = rest[length:]
        if not self._answer.done():
            self._answer.set_result((int(head[9:12]), rest[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the server hung up")

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(HttpError(why))


def encode(method: str, path: str, headers: Mapping[str, str], body: Any = None) -> bytes:
    """One request as bytes; a body is sent as JSON."""
    content = b"" if body is None else orjson.dumps(body)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content
