"""When what is to be told of something is told: behind what others wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def once_sent(tell: Callable[..., object], *arguments: Any) -> None:
    """Calls it two turns of the running loop on: whoever is woken now to send something has sent it by then.

    Args:
        tell: counts, or writes a line; that takes longer than sending.
        arguments: its own.
    """
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, tell, *arguments)
