"""Identifiers: time-ordered UUIDs for executions, derived UUIDs for what belongs to them."""

from __future__ import annotations

import os
from uuid import UUID, uuid5


def new_execution_id(now_us: int) -> str:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits, so that new rows append to their index.

    Args:
        now_us: microseconds since the epoch.
    """
    value = (now_us // 1000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def task_execution_id(execution_id: str, task: str) -> str:
    """The UUID of one task of one execution; the same every time it is asked for."""
    return str(uuid5(UUID(execution_id), f"task/{task}"))


def event_id(execution_id: str, sequence: int) -> str:
    """The UUID of one event; the same every time it is asked for."""
    return str(uuid5(UUID(execution_id), f"event/{sequence}"))
