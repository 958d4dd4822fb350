"""The errors every part of Cloacina raises: one small tree, each with a stable machine code.

A code is what a client sees in the ``code`` field of an error body. ``cloacina.rpc.errors`` maps the tree to and
from gRPC status in one place; ``services.api.errors`` maps it to HTTP status in one place. Messages are prose for a
person: they name the field that is wrong and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class CloacinaError(Exception):
    """Base of every error that may reach a client.

    Args:
        message: prose that names what is wrong and the remedy.
        code: overrides the class's machine code with a more specific one of the same kind.
    """

    default_code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class InvalidRequest(CloacinaError):
    """The request can never succeed as it stands (HTTP 400)."""

    default_code = "invalid_request"


class Unauthorized(CloacinaError):
    """No valid credentials were presented (HTTP 401)."""

    default_code = "unauthorized"


class Forbidden(CloacinaError):
    """The credentials are valid but do not allow this (HTTP 403)."""

    default_code = "insufficient_permissions"


class NotFound(CloacinaError):
    """The named thing does not exist, or not for this tenant (HTTP 404)."""

    default_code = "not_found"


class Conflict(CloacinaError):
    """The request contradicts the present state (HTTP 409)."""

    default_code = "conflict"


class PayloadTooLarge(CloacinaError):
    """The request body or a value in it is over its limit (HTTP 413)."""

    default_code = "payload_too_large"


class RateLimited(CloacinaError):
    """Too many requests from this caller (HTTP 429).

    Args:
        message: names the limit.
        code: see `CloacinaError`.
        retry_after_s: seconds after which it is worth trying again.
    """

    default_code = "rate_limited"

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class Unavailable(CloacinaError):
    """A service or store cannot be reached, or is over its capacity; try again later (HTTP 503)."""

    default_code = "unavailable"


class Internal(CloacinaError):
    """A defect of ours (HTTP 500). The message never carries internals; the log has the traceback."""

    default_code = "internal_error"
