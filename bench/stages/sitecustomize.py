"""Stamps the way of an execution: loaded by the services' interpreters when this folder is in PYTHONPATH.

Each stamp is a line "nanoseconds stage" (CLOCK_MONOTONIC, one clock for all processes) in the file that
BENCH_STAGES_FOLDER holds for the process, written when it ends.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import inspect
import os
import sys
import time
from pathlib import Path

_POINTS = {
    "services.api": [
        ("services.api.middleware", "Edge.__call__", "api: request read", "api: answer made"),
        ("cloacina.rpc.batched", "BatchedExecutes.call", "api: call sent", "api: call answered"),
    ],
    "services.scheduler": [
        ("services.scheduler.service", "Handlers.Execute", "scheduler: call received", None),
        ("services.scheduler.dispatch", "Dispatch._receive", "scheduler: results received", None),
        ("cloacina.engine.work", "GroupWork.__init__", "scheduler: group begun", None),
        ("cloacina.store.executions", "ExecutionStore.commit", "scheduler: group decided", "scheduler: group durable"),
        ("services.scheduler.dispatch", "Outgoing.assign", "scheduler: published", None),
        ("services.scheduler.dispatch", "assignment_message", "scheduler: assignment sent", None),
    ],
    "services.executor": [
        ("services.executor.service", "Executor.assign", "executor: assignment received", "executor: task sent"),
        ("cloacina.worker.client", "WorkerProcess.data_received", "executor: outcome received", None),
        ("services.executor.link", "Link._gather", None, "executor: result sent"),
    ],
}
_stamps: list[tuple[int, str]] = []


def _stamp(stage: str | None) -> None:
    if stage is not None:
        _stamps.append((time.monotonic_ns(), stage))


def _patch(module_name: str, path: str, before: str | None, after: str | None) -> None:
    owner = importlib.import_module(module_name)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    inner = getattr(owner, name)
    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def stamped(*arguments, **named):
            _stamp(before)
            try:
                return await inner(*arguments, **named)
            finally:
                _stamp(after)
    else:

        @functools.wraps(inner)
        def stamped(*arguments, **named):
            _stamp(before)
            try:
                return inner(*arguments, **named)
            finally:
                _stamp(after)

    setattr(owner, name, stamped)


def _write(folder: str, service: str) -> None:
    lines = "".join(f"{at} {stage}\n" for at, stage in _stamps)
    (Path(folder) / f"{service}.{os.getpid()}").write_text(lines)


_folder = os.environ.get("BENCH_STAGES_FOLDER")
_service = next((name for name in _POINTS if name in sys.orig_argv), None)
if _folder and _service:
    for point in _POINTS[_service]:
        _patch(*point)
    atexit.register(_write, _folder, _service)
