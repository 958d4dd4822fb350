"""A stream of requests that is refused before its end.

A gRPC server may end a call while the client still sends, but then what the client sees depends on what crosses what:
the status, or that the way is gone. So whoever refuses says so in the initial metadata, reads what is under way until
the client has stopped, and ends the call then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, TypeVar

import grpc

REFUSED = "x-cloacina-refused"
_STOP_DEADLINE_S = 5.0
"""Seconds a client has to stop sending."""

_Message = TypeVar("_Message")


async def until_stopped(requests: AsyncIterator[Any], context: Any) -> None:
    """For a server that will refuse a call: tells the client, and returns when that has stopped sending.

    Args:
        requests: what it sends.
        context: of the call.
    """
    await context.send_initial_metadata(((REFUSED, "1"),))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STOP_DEADLINE_S):
            async for _ in requests:
                pass


class Sending:
    """For a client: the messages of a call, which end early when the call is refused.

    Args:
        messages: all of them.
    """

    def __init__(self, messages: AsyncIterable[_Message]) -> None:
        self._messages = aiter(messages)
        self._refused = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Any]:
        refused = asyncio.ensure_future(self._refused.wait())
        following: asyncio.Future[Any] | None = None
        try:
            while not self._refused.is_set():
                following = asyncio.ensure_future(_next(self._messages))
                await asyncio.wait((following, refused), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    return
                if not (found := following.result()):
                    return
                yield found[0]
        finally:
            refused.cancel()
            if following is not None:
                following.cancel()

    async def watch(self, call: Any) -> None:
        """Ends the messages when the server of `call` refuses it. Runs beside the call."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            if any(key == REFUSED for key, _ in await call.initial_metadata() or ()):
                self._refused.set()


async def _next(messages: AsyncIterator[_Message]) -> tuple[_Message, ...]:
    """The next one; nothing at the end."""
    async for message in messages:
        return (message,)
    return ()
