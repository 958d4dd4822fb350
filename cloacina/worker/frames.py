"""What an executor and a worker say to each other: frames of a small JSON header and a body of raw bytes.

A frame is two unsigned 32-bit lengths (network order), the header, the body. Contexts travel as bodies, so that neither
side parses what it only hands on.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import orjson

MAX_HEADER_BYTES = 1 << 20
"""A failure's traceback and a log line are cut long before this."""

MAX_BODY_BYTES = 8 << 20
"""The largest context there can be (`cloacina.domain.inputs.LARGEST_CONTEXT_BYTES`); this bounds what a hostile worker
can send."""

_LENGTHS = struct.Struct("!II")

RUN = "run"
"""To the worker: run a task; the body is its context."""
POLL = "poll"
"""To the worker: call the function of a trigger."""
SECRETS = "secrets"
"""To the worker, right before the run that may read them: the body is `cloacina.worker.secrets.Granted`."""
CANCEL = "cancel"
"""To the worker: stop a task if it can be stopped."""
PLACED = "placed"
"""From whoever hosts workers on a cluster: the process is there now, and loads the package."""
READY = "ready"
"""From the worker: the package is loaded."""
BROKEN = "broken"
"""From the worker: the package cannot be loaded, or the worker cannot go on."""
DONE = "done"
"""From the worker: a task succeeded; the body is its context, unless it is unchanged. Of a poll: whether it fires, and
the context if there is one."""
FAILED = "failed"
"""From the worker: an attempt failed."""
DEFERRED = "deferred"
"""From the worker: a task waits without a slot, or goes on."""
LOG = "log"
"""From the worker: a log record."""
SPAN = "span"
"""From the worker: an encoded span is the body; see `cloacina.telemetry.tracing.forward`, which is given it and
``about``."""


class FrameError(Exception):
    """The other side does not keep to the protocol; nothing it says can be trusted."""


def encode(kind: str, fields: Mapping[str, Any] | None = None, body: bytes = b"") -> bytes:
    """One frame.

    Args:
        kind: one of the kinds above.
        fields: JSON values.
        body: raw bytes.
    """
    header = orjson.dumps({"kind": kind, **(fields or {})}, option=orjson.OPT_NON_STR_KEYS)
    return b"".join((_LENGTHS.pack(len(header), len(body)), header, body))


class Decoder:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """Takes bytes; returns the frames they complete.

        Raises:
            FrameError: a length is over its bound, or a header is no JSON object.
        """
        self._data += data
        frames: list[tuple[dict[str, Any], bytes]] = []
        position = 0
        while len(self._data) - position >= _LENGTHS.size:
            header_length, body_length = _LENGTHS.unpack_from(self._data, position)
            if header_length > MAX_HEADER_BYTES or body_length > MAX_BODY_BYTES:
                raise FrameError(f"a frame of {header_length} + {body_length} bytes is over the limit")
            begin = position + _LENGTHS.size
            end = begin + header_length + body_length
            if len(self._data) < end:
                break
            frames.append(
                (_header(self._data[begin : begin + header_length]), bytes(self._data[end - body_length : end]))
            )
            position = end
        del self._data[:position]
        return frames


def _header(raw: bytearray) -> dict[str, Any]:
    try:
        header = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise FrameError(f"a header is not JSON: {error}") from None
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise FrameError("a header is not an object with a kind")
    return header
