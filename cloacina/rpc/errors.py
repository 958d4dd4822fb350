"""The one place where errors become gRPC statuses and gRPC statuses errors.

The machine code of an error travels as trailing metadata, so that it survives any number of hops.
"""

from __future__ import annotations

from typing import Any

import grpc

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
from cloacina.rpc.options import MAX_MESSAGE_BYTES


class Unreachable(Unavailable):
    """No answer came from a service: it was not reached, or it is not known whether it did what was asked."""

    default_code = "unavailable"


CODE_METADATA = "cloacina-code"
"""Trailing metadata key of the machine code."""

_STATUS: tuple[tuple[type[CloacinaError], grpc.StatusCode], ...] = (
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (Unauthorized, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Conflict, grpc.StatusCode.FAILED_PRECONDITION),
    (PayloadTooLarge, grpc.StatusCode.OUT_OF_RANGE),
    (RateLimited, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
)
_ERROR = {status: kind for kind, status in _STATUS}


def to_status(error: BaseException) -> tuple[grpc.StatusCode, str, str]:
    """The status, message and machine code of an error. What is not ours is INTERNAL and says nothing."""
    if isinstance(error, CloacinaError):
        for kind, status in _STATUS:
            if isinstance(error, kind):
                return status, error.message, error.code
        return grpc.StatusCode.INTERNAL, error.message, error.code
    return grpc.StatusCode.INTERNAL, "internal error", Internal.default_code


def from_rpc_error(error: grpc.aio.AioRpcError, service: str) -> CloacinaError:
    """The error that a failed call stands for.

    Args:
        error: what grpc raised.
        service: the service that was called, for messages about the way there.
    """
    trailing: Any = error.trailing_metadata() or ()
    code = next((str(value) for key, value in trailing if key == CODE_METADATA), None)
    status, details = error.code(), error.details() or ""
    if code is None:  # not said by the service: the way there failed
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unreachable(f"the {service} did not answer in time")
        if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return Unreachable(f"the {service} cannot be reached")
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return PayloadTooLarge(
                f"a message to or from the {service} is over the limit of {MAX_MESSAGE_BYTES // 2**20} MiB"
            )
        if status is grpc.StatusCode.UNAUTHENTICATED:
            return Internal(f"the {service} refuses this service's token: check CLOACINA_RPC_TOKEN on both")
        return Internal(f"the call to the {service} failed: {status.name}")
    return error_of(status, details, code)


def error_of(status: grpc.StatusCode, message: str, code: str) -> CloacinaError:
    """The error that a service said: the inverse of `to_status`."""
    return _ERROR.get(status, Internal)(message, code=code)
