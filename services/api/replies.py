"""Making responses: JSON by orjson, times as RFC 3339."""

from __future__ import annotations

import time
from typing import Any

import orjson
from aiohttp import web

_JSON = {"Content-Type": "application/json"}


def reply(data: Any, status: int = 200) -> web.Response:
    """A JSON response.

    Args:
        data: dicts, lists, strings, numbers, ``orjson.Fragment`` for what is JSON already.
        status: HTTP status.
    """
    return web.Response(body=orjson.dumps(data), status=status, headers=_JSON)


def timestamp(micros: int) -> str:
    """A time as RFC 3339 in UTC with microseconds.

    Args:
        micros: microseconds since the epoch.
    """
    second, micro = divmod(micros, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{micro:06d}Z"


def timestamp_or_none(micros: int) -> str | None:
    """Like `timestamp`; ``None`` for 0, which stands for "not yet"."""
    return timestamp(micros) if micros else None
