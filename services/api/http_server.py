"""The HTTP listener: aiohttp's low-level server with limits set on purpose, and a drain."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from ssl import SSLContext
from typing import Any

from aiohttp import web

from cloacina.rpc.server import ListenError

MAX_LINE_BYTES = 8190
"""Longest request line."""

MAX_HEADER_BYTES = 8190
"""Longest header."""

MAX_HEADERS = 100
"""Headers of a request."""

LINGER_S = 5.0
"""Seconds the rest of a body is read and thrown away after an answer was given early: closing at once would reset the
connection, and the client might never see the answer."""

BACKLOG = 1024

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Malformed = Callable[[web.BaseRequest, BaseException | None], web.StreamResponse]


class _Connection(web.RequestHandler):
    """A connection whose malformed requests are answered like all others."""

    def __init__(self, server: web.Server, malformed: Malformed, **options: Any) -> None:
        super().__init__(server, **options)
        self._malformed = malformed

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what aiohttp refuses by itself."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already; the connection is broken")
        return self._malformed(request, exc)


class _Server(web.Server):
    def __init__(self, handler: Handler, malformed: Malformed, **options: Any) -> None:
        # a client that goes away cancels what is done for it
        super().__init__(handler, handler_cancellation=True)
        self._malformed = malformed
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._malformed, loop=asyncio.get_running_loop(), **self._options)


class HttpServer:
    """Listens for HTTP.

    Args:
        handler: answers a request.
        malformed: answers what is not HTTP.
        host, port: where it listens; port 0 for any.
        keepalive_s: seconds a connection may be idle, or take to send the head of a request.
        drain_s: longest time `drain` waits.
        tls: what it shows of itself; ``None`` for plain HTTP.
    """

    def __init__(
        self,
        handler: Handler,
        malformed: Malformed,
        host: str,
        port: int,
        *,
        keepalive_s: float,
        drain_s: float,
        tls: SSLContext | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        server = _Server(
            handler,
            malformed,
            keepalive_timeout=keepalive_s,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER_S,
            auto_decompress=False,  # a compressed body is refused: a small one could hold gigabytes
            access_log=None,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=drain_s)

    async def start(self) -> int:
        """Listens.

        Returns:
            The port.

        Raises:
            ListenError: the address cannot be listened on; the message names port, setting and remedy.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, backlog=BACKLOG, ssl_context=self._tls).start()
        except OSError as error:
            raise ListenError(self._explain(error)) from error
        return int(self._runner.addresses[0][1])

    def _explain(self, error: OSError) -> str:
        place = f"the api cannot listen on {self._host}:{self._port} (HTTP)"
        if error.errno == errno.EADDRINUSE:
            return f"{place}: the port is in use; stop what uses it or set CLOACINA_API_PORT to a free port"
        if error.errno == errno.EACCES:
            return f"{place}: ports below 1024 need privileges; set CLOACINA_API_PORT to 1024 or above"
        return f"{place}: {error.strerror}; set CLOACINA_HOST to an address of this machine"

    async def drain(self) -> None:
        """Accepts no more connections, closes idle ones, and waits for the requests that are being handled."""
        await self._runner.cleanup()
