"""The way of every request, outermost first: request id → limits and route → span, metrics, access line → errors →
key and role → handler.

The order matters. The request id is outermost, so that no answer is without it; errors become answers inside the
observation, so that what is measured and logged is what the client got; and a request is routed before its key is asked
for, so that an unknown path is a 404 for everyone.

aiohttp's own low-level server is used rather than ``web.Application``: an application answers some requests (malformed
HTTP, ``Expect``) before its middlewares see them, and sends ``100 Continue`` before the key was looked at.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from cloacina.errors import CloacinaError, Forbidden, Internal, InvalidRequest, NotFound, Unauthorized, Unavailable
from cloacina.telemetry import scope, tracing
from services.api.access import Reach, authorize
from services.api.bodies import check_expectation
from services.api.call import Call
from services.api.cors import Cors
from services.api.errors import HeadersTooLarge, HttpError, answer, status_of
from services.api.metrics import KNOWN_METHODS, OTHER
from services.api.refusals import RefusalLog
from services.api.routing import Route

if TYPE_CHECKING:
    from services.api.admission import Admission
    from services.api.app import Gateway

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status in metrics and logs of a request whose client went away before the answer."""

_STRICT_TRANSPORT = "max-age=31536000"
_POLICY_OF_DATA = "default-src 'none'; frame-ancestors 'none'"
_POLICY_OF_PAGES = "base-uri 'none'; object-src 'none'; frame-ancestors 'none'"
_SHOWN_PATH = 200
_INTERNAL = "internal error; report the x-request-id of this response"


class Edge:
    """Handles every request.

    Args:
        gateway: what handlers work with.
        admission: how many are handled at once; those for probes are not counted.
    """

    def __init__(self, gateway: Gateway, admission: Admission) -> None:
        self._gateway = gateway
        self._admission = admission
        self._refusals = RefusalLog()
        self._tls = gateway.settings.api_tls_cert is not None
        origins = gateway.settings.cors_origins
        self._cors = Cors(origins) if origins else None

    @property
    def in_flight(self) -> int:
        """Requests that are being handled."""
        return self._admission.in_flight

    async def __call__(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answers a request. Each runs in a task, and so in a context, of its own."""
        request_id = scope.accept_request_id(http.headers.get("x-request-id"))
        scope.attach(scope.Scope(request_id=request_id))
        call: Call | None = None
        refusal: CloacinaError | None = None
        try:
            call = Call(http, self._gateway, *self._gateway.router.find(http.method, http.rel_url.raw_path))
        except (NotFound, HttpError) as error:
            refusal = error
        response = await self._traced(http, call, refusal)
        stamp(response)
        if self._tls:
            response.headers["Strict-Transport-Security"] = _STRICT_TRANSPORT
        if self._cors is not None:
            self._cors.stamp(http, response)
        return response

    async def _traced(
        self, http: web.BaseRequest, call: Call | None, refusal: CloacinaError | None
    ) -> web.StreamResponse:
        route = call.route if call is not None else None
        gone: asyncio.CancelledError | None = None
        with tracing.span(
            _span_name(http.method, route),
            kind="server",
            parent=http.headers.get("traceparent"),
            attributes=_attributes(http, route) if tracing.enabled() else None,
        ) as span:
            try:
                response = await self._observed(http, call, refusal, span)
            except asyncio.CancelledError as error:  # no failure of ours: the span does not end in error
                span.set_attribute("http.response.status_code", CLIENT_GONE)
                gone = error
            else:
                span.set_attribute("http.response.status_code", response.status)
            tracing.annotate_current()  # with what became known since: tenant, workflow, execution
        if gone is not None:
            raise gone
        return response

    async def _observed(
        self, http: web.BaseRequest, call: Call | None, refusal: CloacinaError | None, span: tracing.Span
    ) -> web.StreamResponse:
        began = time.perf_counter()
        status = CLIENT_GONE
        try:
            response = await self._answered(http, call, refusal, span)
            status = response.status
            return response
        finally:  # also when the client has gone, which cancels the task
            seconds = time.perf_counter() - began
            self._gateway.metrics.observe(http.method, status, seconds, span.traceparent)
            _log_access(http, call, status, seconds)

    async def _answered(
        self, http: web.BaseRequest, call: Call | None, refusal: CloacinaError | None, span: tracing.Span
    ) -> web.StreamResponse:
        asks_for_key = call is not None and call.route.access.reach is not Reach.PUBLIC
        counted = asks_for_key and call is not None and not call.route.websocket
        admission, of_tenant = self._admission, ""
        admission.in_flight += counted
        try:
            if call is None:
                preflight = self._cors.preflight(http, refusal) if self._cors is not None else None
                if preflight is not None:
                    return preflight
                raise refusal or NotFound("no route matches this request")
            check_expectation(http)
            if counted:
                admission.check()
            if asks_for_key:
                await self._admit(call)
            if counted and (tenant_id := _tenant_of(call)):
                admission.enter(tenant_id)
                of_tenant = tenant_id
            return await call.route.handler(call)
        except CloacinaError as error:
            self._gateway.quotas.notice(error)
            if status_of(error) >= 500:
                span.set_attribute("error.type", error.code)
                span.fail(error)
                if isinstance(error, Unavailable):
                    self._refusals.note(error)
                else:
                    log.error("a request could not be served", exc_info=error, extra={"error": error.message})
            return answer(error)
        except ConnectionError as error:  # the client has gone
            raise asyncio.CancelledError from error
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.fail(error)
            log.error("a request failed unexpectedly", exc_info=error, extra={"error": type(error).__qualname__})
            return answer(Internal(_INTERNAL))
        finally:
            admission.in_flight -= counted
            if of_tenant:
                admission.leave(of_tenant)

    async def _admit(self, call: Call) -> None:
        """Asks for the key and decides by the table."""
        try:
            await self._decide(call)
        except (Unauthorized, Forbidden) as error:
            if call.route.websocket:
                self._gateway.deliveries.metrics.refused(error.code)
            raise

    async def _decide(self, call: Call) -> None:
        given = call.http.headers.getall("Authorization", ())
        if len(given) > 1:
            raise Unauthorized("more than one Authorization header")
        ticket = call.http.rel_url.query.get("token") if call.route.websocket and not given else None
        if ticket is not None:
            caller = await self._gateway.tickets.redeem(ticket)
        else:
            caller = await self._gateway.auth.authenticate(given[0] if given else None)
        call.caller = caller
        tenant_id = call.path.get("tenant_id")
        call.bind(tenant_id=caller.tenant_id or tenant_id)
        authorize(call.route.access, caller, tenant_id)
        if caller.is_admin and tenant_id is not None:  # the tenant of any other key is there
            call.tenant = await self._gateway.auth.tenant(tenant_id)
        elif caller.tenant_id is not None:
            call.tenant = await self._gateway.auth.tenant(caller.tenant_id)
            await self._gateway.quotas.admit(call.tenant)


def stamp(response: web.StreamResponse) -> None:
    """Puts on a response what every one carries. A handler that prepares its response itself (a stream, a WebSocket)
    calls it before that.
    """
    headers = response.headers
    headers["x-request-id"] = scope.current().request_id or scope.new_request_id()
    headers["Server"] = "cloacina"
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "no-referrer"
    headers.setdefault("Cache-Control", "no-store")
    page = headers.get("Content-Type", "").startswith("text/html")
    headers.setdefault("Content-Security-Policy", _POLICY_OF_PAGES if page else _POLICY_OF_DATA)


def _tenant_of(call: Call) -> str:
    """Whose request it is: of the tenant in its path, or of the key's."""
    return call.path.get("tenant_id") or (call.caller.tenant_id if call.caller is not None else None) or ""


def answer_malformed(request: web.BaseRequest, gateway: Gateway, error: BaseException | None) -> web.Response:
    """The answer to what is not HTTP, which no handler ever sees. There is no header to take a request id from."""
    request_id = scope.new_request_id()
    with scope.bind(request_id=request_id):
        refusal: CloacinaError
        if isinstance(error, LineTooLong):
            refusal = HeadersTooLarge("the request line or a header is too long")
        elif isinstance(error, BadHttpMessage) or error is None:
            refusal = InvalidRequest("this is not a valid HTTP/1.1 request")
        else:
            log.error("a request failed unexpectedly", exc_info=error)
            refusal = Internal(_INTERNAL)
        response = answer(refusal)
        gateway.metrics.observe(OTHER, response.status, 0.0)
        log.info(
            "malformed request",
            extra={"status": response.status, "client": request.remote, "error": type(error).__name__},
        )
        stamp(response)
    response.force_close()
    return response


def _log_access(http: web.BaseRequest, call: Call | None, status: int, seconds: float) -> None:
    extra: dict[str, object] = {"method": http.method}
    if call is not None:
        route = call.route.path
        extra["route"] = route
    else:
        route = "(no route)"
        extra["path"] = http.rel_url.raw_path[:_SHOWN_PATH]
    extra["status"] = status
    extra["duration_ms"] = round(seconds * 1000, 3)
    log.info(f"{http.method[:_SHOWN_PATH]} {route} {status}", extra=extra)


def _span_name(method: str, route: Route | None) -> str:
    known = method if method in KNOWN_METHODS else OTHER
    return f"request {known} {route.path}" if route else f"request {known}"


def _attributes(http: web.BaseRequest, route: Route | None) -> dict[str, object]:
    method = http.method
    attributes: dict[str, object] = {
        "http.request.method": method if method in KNOWN_METHODS else "_OTHER",
        "url.path": http.rel_url.raw_path[:2048],
        "url.scheme": http.scheme,
        "network.protocol.version": f"{http.version.major}.{http.version.minor}",
    }
    if method not in KNOWN_METHODS:
        attributes["http.request.method_original"] = method
    if route is not None:
        attributes["http.route"] = route.path
    if http.remote:
        attributes["client.address"] = http.remote
    agent = http.headers.get("User-Agent")
    if agent:
        attributes["user_agent.original"] = agent[:500]
    host, _, port = http.headers.get("Host", "").rpartition(":")
    if host and port.isdigit():
        attributes["server.address"], attributes["server.port"] = host, int(port)
    elif port:
        attributes["server.address"] = port
    return attributes
