"""Cursors of lists: where a page ended, opaque to clients."""

from __future__ import annotations

import base64
import binascii

from cloacina.errors import InvalidRequest


def encode_cursor(created_at: int, execution_id: str) -> str:
    """The cursor after a row, given its creation time in microseconds and its id."""
    return base64.urlsafe_b64encode(f"{created_at}/{execution_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[int, str]:
    """The creation time and id a cursor stands for.

    Raises:
        InvalidRequest: it is none of ours.
    """
    try:
        created_at, execution_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split("/", 1)
        return int(created_at), execution_id
    except (ValueError, binascii.Error):
        message = "'cursor' is not one that a page returned; leave it out to begin at the newest"
        raise InvalidRequest(message, code="invalid_pagination") from None
