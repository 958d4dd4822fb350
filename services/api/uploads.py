"""The archive in a multipart form, passed on while it comes in: at most a few MiB of it are held at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import BadHttpMessage

from cloacina.errors import InvalidRequest
from cloacina.rpc.options import CHUNK_BYTES
from services.api.bodies import begin_body, too_large
from services.api.errors import RequestTimeout

ARCHIVE_LIMIT_BYTES = 100_000_000
"""Largest archive (contract, section 5)."""

FORM_ALLOWANCE_BYTES = 64 * 1024
"""What the form around the archive may take: boundaries, headers, other fields."""

_READ_BYTES = 256 * 1024
_PLAIN_ENCODINGS = frozenset(("", "binary", "8bit", "7bit"))
_FORM_FAULTS = (ValueError, AssertionError, RuntimeError, BadHttpMessage, web.RequestPayloadError)
"""What aiohttp raises for a form that is cut short or wrongly made: whatever was at hand."""

_Answer = TypeVar("_Answer")


class Archive:
    """The first file of a multipart form, whatever its field is called.

    Args:
        http: the request.
        idle_s: seconds the body may stand still.
    """

    def __init__(self, http: web.BaseRequest, *, idle_s: float) -> None:
        self._http = http
        self._idle_s = idle_s
        self._file: BodyPartReader | None = None

    async def open(self) -> None:
        """Reads the form up to where the archive begins.

        Raises:
            InvalidRequest: there is no file in it, or it is no form (code upload_failed).
            PayloadTooLarge: it is longer than an archive and its form may be.
            RequestTimeout: it stood still.
        """
        await begin_body(self._http, ARCHIVE_LIMIT_BYTES, allowance=FORM_ALLOWANCE_BYTES)
        if self._http.content_type != "multipart/form-data":
            raise _failed("send the archive as a file in a multipart/form-data body")
        try:
            form = await self._http.multipart()
            self._file = await self._find(form)
        except _FORM_FAULTS as error:
            raise _failed("the multipart form is malformed, or broke off") from error
        encoding = self._file.headers.get("Content-Transfer-Encoding", "").lower()
        if encoding not in _PLAIN_ENCODINGS or "Content-Encoding" in self._file.headers:
            raise _failed("the archive is encoded in the form; send its bytes as they are")

    async def _find(self, form: MultipartReader) -> BodyPartReader:
        skipped = 0
        while True:
            part = await self._in_time(form.next())
            if part is None:
                raise _failed("the multipart form holds no file: a part with a file name is needed")
            if not isinstance(part, BodyPartReader):
                raise _failed("the multipart form holds another form where the archive should be")
            if part.filename:
                return part
            while data := await self._in_time(part.read_chunk(_READ_BYTES)):
                skipped += len(data)
                if skipped > FORM_ALLOWANCE_BYTES:
                    raise too_large(ARCHIVE_LIMIT_BYTES)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The archive, in pieces of 1 MiB.

        Raises:
            InvalidRequest: it is empty, or broke off (code upload_failed).
            PayloadTooLarge: it is over the limit; it has not been yielded to its end then.
            RequestTimeout: it stood still.
        """
        assert self._file is not None, "open() comes first"
        gathered = bytearray()
        total = 0
        while not self._file.at_eof():
            data = await self._read(self._file)
            if not data and not self._file.at_eof():  # the body ended, and no boundary was there
                raise _failed("the upload broke off before the end of the form")
            total += len(data)
            if total > ARCHIVE_LIMIT_BYTES:
                raise too_large(ARCHIVE_LIMIT_BYTES)
            gathered += data
            while len(gathered) >= CHUNK_BYTES:
                yield bytes(gathered[:CHUNK_BYTES])
                del gathered[:CHUNK_BYTES]
        if total == 0:
            raise _failed("the archive is empty")
        if gathered:
            yield bytes(gathered)

    async def _read(self, file: BodyPartReader) -> bytes:
        try:
            return await self._in_time(file.read_chunk(_READ_BYTES))
        except _FORM_FAULTS as error:
            raise _failed("the upload broke off before the end of the form") from error

    async def _in_time(self, reading: Awaitable[_Answer]) -> _Answer:
        try:
            async with asyncio.timeout(self._idle_s):
                return await reading
        except TimeoutError:
            raise RequestTimeout(f"the upload stood still for {self._idle_s:.0f} seconds") from None


async def relay(
    source: AsyncIterator[bytes], send: Callable[[AsyncIterator[bytes]], Awaitable[_Answer]], *, timeout_s: float
) -> _Answer:
    """Sends what a source yields, and returns the answer.

    The two are tied together: a source that fails cancels the sending, which is never closed as if it were whole; a
    sending that ends early stops the reading, so that nobody reads the body once it is being answered.

    Args:
        source: where the pieces come from.
        send: sends an iterator of them; is cancelled if the source fails.
        timeout_s: seconds for all of it.

    Raises:
        RequestTimeout: the source was not read to its end in time.
    """
    waiting: asyncio.Queue[bytes | None] = asyncio.Queue(1)

    async def read() -> None:
        try:
            async with asyncio.timeout(timeout_s):
                async for piece in source:
                    await waiting.put(piece)
                await waiting.put(None)
        except TimeoutError:
            raise RequestTimeout(f"the upload did not arrive within {timeout_s:.0f} seconds") from None

    async def pieces() -> AsyncIterator[bytes]:
        while (piece := await waiting.get()) is not None:
            yield piece

    async def sent() -> _Answer:
        return await send(pieces())

    reading, sending = asyncio.create_task(read()), asyncio.create_task(sent())
    try:
        await asyncio.wait((reading, sending), return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
        return await sending
    finally:
        reading.cancel()
        sending.cancel()
        await asyncio.gather(reading, sending, return_exceptions=True)
        while not waiting.empty():
            waiting.get_nowait()
        waiting.put_nowait(None)  # whoever still waits for a piece of the ended sending


def _failed(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="upload_failed")
