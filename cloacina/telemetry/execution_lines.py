"""Log lines on their way to the store that keeps them with their executions: gathered, and handed on in batches.

Nothing waits for it. What gathers is bounded, in all and of each execution; what finds no room is dropped, counted, and
said among the execution's own lines. A batch that could not be handed on is tried again under the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import uuid4

import orjson
from prometheus_client import CollectorRegistry, Counter

from cloacina.errors import CloacinaError
from cloacina.telemetry import logs

log = logging.getLogger(__name__)

_GATHER_S = 0.25
"""Seconds that lines gather before they are handed on."""
_RETRY_S = 1.0
_LAST_S = 2.0
"""Seconds for what is there when the process stops."""
_MOST_BYTES = 16 << 20
_MOST_OF_ONE_BYTES = 1 << 20
_BATCH_BYTES = 2 << 20
_CHUNK_BYTES = 64 << 10
"""Bytes of one execution in a batch, unless one line alone is longer."""
_MOST_FULL = 10_000
_TRUSTED = frozenset(("executor", "scheduler"))
"""Services that name an execution only in lines about it, with or without its tenant."""


class Lines(NamedTuple):
    """Lines of one execution.

    Args:
        execution_id: which.
        tenant_id: whose it must be; empty where that need not be looked at.
        lines: JSON objects, each ended by a line break.
    """

    execution_id: str
    tenant_id: str
    lines: bytes


HandOn = Callable[[str, list[Lines]], Awaitable[Collection[str]]]
"""Stores a batch under its name; answers the ids of executions of which no more lines are wanted."""


@dataclass(slots=True)
class _Waiting:
    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    dropped: int = 0


class ExecutionLines:
    """Gathers and hands on.

    Args:
        service: the process' own name; its lines without a tenant are kept if it is one of `_TRUSTED`.
        hand_on: see there. `CloacinaError` means: not now.
        registry: where it counts.
        wants: whether a line, by its fields, is one to keep.
    """

    def __init__(
        self,
        service: str,
        hand_on: HandOn,
        registry: CollectorRegistry,
        wants: Callable[[Mapping[str, Any]], bool] = lambda line: True,
    ) -> None:
        self._service = service
        self._hand_on = hand_on
        self._wants = wants
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        self._bytes = 0
        self._full: dict[str, None] = {}
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self._awake = False
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._clock = logs.Clock()
        self._kept = Counter(
            "cloacina_log_lines_kept_total", "Log lines handed on to be kept with their executions.", registry=registry
        )
        dropped = Counter(
            "cloacina_log_lines_dropped_total",
            "Log lines not kept with their executions: too many at once (queue), or more than an execution may have "
            "(full).",
            ["reason"],
            registry=registry,
        )
        self._dropped = {reason: dropped.labels(reason) for reason in ("queue", "full")}

    def start(self) -> None:
        """Begins: takes what is logged from now on."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._run(), name="keep log lines")
        logs.keep_with(self.take)

    async def stop(self) -> None:
        """Takes no more, and hands on what is there, for a short while at most."""
        if self._task is None:
            return
        logs.keep_with(None)
        self._stopping.set()
        self._wake.set()
        task, self._task = self._task, None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(task, _LAST_S)

    def take(self, entry: Mapping[str, Any], line: bytes) -> None:
        """A line that is about an execution (`cloacina.telemetry.logs.Keep`); from any thread."""
        tenant_id = entry.get("tenant_id") or ""
        if (not tenant_id and self._service not in _TRUSTED) or not self._wants(entry):
            return
        key = str(entry["execution_id"]), str(tenant_id)
        with self._lock:
            if key[0] in self._full:
                self._dropped["full"].inc()
                return
            waiting = self._waiting.get(key)
            if waiting is None:
                waiting = self._waiting[key] = _Waiting()
            if self._bytes + len(line) > _MOST_BYTES or waiting.size + len(line) > _MOST_OF_ONE_BYTES:
                waiting.dropped += 1
                self._dropped["queue"].inc()
                return
            waiting.lines.append(line)
            waiting.size += len(line)
            self._bytes += len(line)
            if self._awake:
                return
            self._awake = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _GATHER_S)
            self._wake.clear()
            with self._lock:
                self._awake = False
            while batch := self._next_batch():
                await self._pass_on(batch)
            if self._stopping.is_set():
                return

    async def _pass_on(self, batch: list[Lines]) -> None:
        name = str(uuid4())
        while True:
            try:
                full = await self._hand_on(name, batch)
                break
            except CloacinaError as error:
                log.debug("log lines cannot be kept yet", extra={"error": error.message})
                await asyncio.sleep(_RETRY_S)
            except Exception:
                log.exception("log lines cannot be kept")
                return
        self._kept.inc(sum(each.lines.count(b"\n") for each in batch))
        with self._lock:
            self._full.update(dict.fromkeys(full))
            while len(self._full) > _MOST_FULL:
                del self._full[next(iter(self._full))]

    def _next_batch(self) -> list[Lines]:
        """Some of what waits, the first of each execution first."""
        batch: list[Lines] = []
        size = 0
        with self._lock:
            for key in list(self._waiting):
                if size >= _BATCH_BYTES:
                    break
                waiting = self._waiting[key]
                count = taken = 0
                while count < len(waiting.lines) and (not count or taken + len(waiting.lines[count]) <= _CHUNK_BYTES):
                    taken += len(waiting.lines[count])
                    count += 1
                lines = waiting.lines[:count]
                del waiting.lines[:count]
                waiting.size -= taken
                self._bytes -= taken
                if not waiting.lines:
                    del self._waiting[key]
                    if waiting.dropped:
                        lines.append(self._gap(*key, waiting.dropped))
                size += taken
                batch.append(Lines(*key, b"".join(lines)))
        return batch

    def _gap(self, execution_id: str, tenant_id: str, dropped: int) -> bytes:
        """The line that stands for those that found no room."""
        entry = {
            "timestamp": self._clock.format(time.time()),
            "level": "WARN",
            "target": __name__,
            "message": "lines are missing here: more came at once than could be kept",
            "service": self._service,
            **({"tenant_id": tenant_id} if tenant_id else {}),
            "execution_id": execution_id,
            "lines": dropped,
        }
        return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
