"""The log lines about requests that were refused with 503: one a second at most, however many there are."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context

import grpc

from cloacina.errors import Unavailable

log = logging.getLogger(__name__)

_SAID_EVERY_S = 1.0
"""Under overload clients ask again and again: each answer is counted, and has its access line."""


class RefusalLog:
    """Says that requests are refused: the first at once, and those of the second after it together."""

    def __init__(self) -> None:
        self._unsaid = 0
        self._last = ""
        self._resting = False

    def note(self, error: Unavailable) -> None:
        """A request was refused.

        Args:
            error: why. That a service is away is explained by its message, anything else by its traceback.
        """
        if self._resting:
            self._unsaid += 1
            self._last = error.message
            return
        explained = error.__cause__ is None or isinstance(error.__cause__, grpc.aio.AioRpcError)
        log.warning(
            "a request could not be served now",
            exc_info=None if explained else error,
            extra={"error": error.message, "refused": 1},
        )
        self._rest()

    def _rest(self) -> None:
        self._resting = True
        # of no request: those it speaks of have many ids, and an access line each
        asyncio.get_running_loop().call_later(_SAID_EVERY_S, self._say_rest, context=Context())

    def _say_rest(self) -> None:
        self._resting = False
        if self._unsaid:
            log.warning("requests could not be served", extra={"error": self._last, "refused": self._unsaid})
            self._unsaid = 0
            self._rest()
