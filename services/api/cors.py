"""Which pages of other origins may read answers: none, unless the operator lists theirs.

Browsers ask before they send a request with a key from a page of another origin (a preflight), and keep answers from
the page that do not name its origin. Keys are shown in a header, never in a cookie, so credentials of the browser's own
are never asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from services.api.errors import MethodNotAllowed

MAX_AGE_S = 600
"""Seconds that a browser believes the answer to a preflight."""

_HEADERS = "Authorization, Content-Type, Idempotency-Key, traceparent, tracestate, x-request-id"
_EXPOSED = "Retry-After, WWW-Authenticate, x-request-id"


class Cors:
    """The list.

    Args:
        origins: ``scheme://host[:port]`` each, as browsers send them.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)

    def preflight(self, http: web.BaseRequest, refusal: Exception | None) -> web.Response | None:
        """The answer to a preflight from a listed origin; ``None`` when it is something else.

        Args:
            http: the request.
            refusal: why no route was found for it: what the path takes is in a `MethodNotAllowed`.
        """
        asked = http.method == "OPTIONS" and "Access-Control-Request-Method" in http.headers
        if not asked or not isinstance(refusal, MethodNotAllowed) or http.headers.get("Origin") not in self._origins:
            return None
        headers = {
            "Access-Control-Allow-Methods": refusal.allowed,
            "Access-Control-Allow-Headers": _HEADERS,
            "Access-Control-Max-Age": str(MAX_AGE_S),
        }
        return web.Response(status=204, headers=headers)

    def stamp(self, http: web.BaseRequest, response: web.StreamResponse) -> None:
        """Names the origin, if it is listed."""
        response.headers["Vary"] = "Origin"
        origin = http.headers.get("Origin")
        if origin in self._origins:
            response.headers["Access-Control-Allow-Origin"] = str(origin)
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED
