"""How a process is told to end: once to drain, twice to end at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys


def listen_for_end(told: asyncio.Event) -> None:
    """Has SIGTERM and SIGINT set an event; the second one ends the process at once, with 128 and its number.

    Args:
        told: set by the first signal.
    """

    def on_signal(number: int) -> None:
        if told.is_set():
            print(f"second signal {number}: exiting at once", file=sys.stderr)  # noqa: T201 - logging may hang
            os._exit(128 + number)
        told.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
