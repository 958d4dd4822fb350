"""``GET /metrics`` and ``GET /health`` of the services that serve no other HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry

from cloacina.rpc.server import ListenError
from cloacina.telemetry import scope
from cloacina.telemetry.metrics import expose


class MetricsServer:
    """A small HTTP server beside the gRPC one.

    Args:
        service: name of the service, for messages.
        registry: what it shows.
        host, port: where it listens.
    """

    def __init__(self, service: str, registry: CollectorRegistry, host: str, port: int) -> None:
        self._service = service
        self._registry = registry
        self._host = host
        self._port = port
        app = web.Application(middlewares=[_stamp])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", _health)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Listens.

        Raises:
            ListenError: the port is taken.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            raise ListenError(
                f"the {self._service} cannot listen on {self._host}:{self._port} (metrics): the port is in use; stop "
                f"what uses it or set CLOACINA_{self._service.upper()}_METRICS_PORT to a free port"
            ) from error

    async def stop(self) -> None:
        """Ends it."""
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = expose(self._registry, request.headers.get("Accept"))
        return web.Response(body=body, headers={"Content-Type": content_type})


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


@web.middleware
async def _stamp(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    request_id = scope.accept_request_id(request.headers.get("x-request-id"))
    stamped = {"x-request-id": request_id, "Server": "cloacina", "X-Content-Type-Options": "nosniff"}
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(stamped)
        raise
    response.headers.update(stamped)
    return response
