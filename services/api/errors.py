"""The one place where errors become HTTP: status, envelope ``{"error", "code"}`` and headers."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import ClassVar

from aiohttp import web

from cloacina.errors import (
    CloacinaError,
    Conflict,
    Forbidden,
    Internal,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    Unauthorized,
    Unavailable,
)
from services.api.replies import reply

RETRY_AFTER_S = 1
"""Seconds a client is asked to wait after 503: upstreams are found again within that time."""

_STATUS: dict[type[CloacinaError], int] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    PayloadTooLarge: 413,
    RateLimited: 429,
    Internal: 500,
    Unavailable: 503,
}


class HttpError(CloacinaError):
    """An error that only HTTP knows."""

    status: ClassVar[int]


class MethodNotAllowed(HttpError):
    """The path exists, but not with this method.

    Args:
        method: what was asked for.
        allowed: what the path takes.
    """

    status = 405
    default_code = "method_not_allowed"

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        self.allowed = ", ".join(sorted(allowed))
        super().__init__(f"{method} is not allowed here; this path takes {self.allowed}")


class RequestTimeout(HttpError):
    """The client was too slow to send its request."""

    status = 408
    default_code = "request_timeout"


class UnsupportedMediaType(HttpError):
    """The body is encoded in a way that is not taken."""

    status = 415
    default_code = "unsupported_media_type"


class ExpectationFailed(HttpError):
    """The ``Expect`` header asks for something other than 100-continue."""

    status = 417
    default_code = "expectation_failed"


class HeadersTooLarge(HttpError):
    """A header, or the request line, is over its limit."""

    status = 431
    default_code = "headers_too_large"


def status_of(error: CloacinaError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, HttpError):
        return error.status
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 500


def answer(error: CloacinaError) -> web.Response:
    """The response that says an error."""
    status = status_of(error)
    response = reply({"error": error.message or HTTPStatus(status).phrase, "code": error.code}, status)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = error.allowed
    elif status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="cloacina"'
    elif isinstance(error, RateLimited):
        response.headers["Retry-After"] = str(error.retry_after_s)
    elif status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def not_found_as(error: NotFound, code: str) -> NotFound:
    """The same error with a code that names what is missing, unless it has one."""
    return error if error.code != NotFound.default_code else NotFound(error.message, code=code)
