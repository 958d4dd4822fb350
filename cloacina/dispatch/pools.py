"""Warm workers, one pool for each tenant and package.

A run goes to the first worker of its pool that has few others, so that runs gather on the lowest ones: what a module
keeps in its globals is there for the next attempt, and the last workers fall idle and end. Where none has few, another
is started while there are fewer workers than processor cores; after that all fill up evenly.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from cloacina.dispatch.artifacts import Artifact, Artifacts, explain
from cloacina.dispatch.runs import Run, task_log_level
from cloacina.domain.explanation import PACKAGE_UNAVAILABLE, Preparation
from cloacina.errors import CloacinaError
from cloacina.telemetry import scope, tracing
from cloacina.worker import frames
from cloacina.worker.hosting import Forge, LoadOrder, WorkerHandle
from cloacina.worker.redaction import Redactor

log = logging.getLogger(__name__)

_FEW = 8
"""Runs that a worker has before another is started for the next core."""
_CORES = len(os.sched_getaffinity(0))

WORKER_STATES = ("starting", "idle", "busy", "retired")


class PoolSettings(Protocol):
    """Limits and graces of workers; see `services.executor.settings.ExecutorSettings` for what each means."""

    @property
    def worker_tasks(self) -> int: ...
    @property
    def worker_idle_s(self) -> float: ...
    @property
    def worker_memory_mb(self) -> int: ...
    @property
    def worker_start_s(self) -> float: ...
    @property
    def max_context_bytes(self) -> int: ...
    @property
    def stop_grace_s(self) -> float: ...
    @property
    def retire_grace_s(self) -> float: ...


class Worker:
    """A worker process and what it runs.

    Args:
        pool: the pool it belongs to.
        settings: graces and periods.
        first: what it is started for.
    """

    def __init__(self, pool: Pool, settings: PoolSettings, first: Run) -> None:
        self._pool = pool
        self._settings = settings
        self.process: WorkerHandle | None = None
        self.runs: dict[int, Run] = {}
        self.stopping: set[int] = set()
        self.loaded = False
        self.retired = False
        self.broken: tuple[str, str] | None = None
        self._started_for = first.traceparent
        self._start_span = tracing.start_span("start worker", parent=first.traceparent)
        self._clock: asyncio.TimerHandle | None = None
        # for as long as the process lives: what a task once read, its package may keep, and print later
        self._redactor = Redactor()

    @property
    def state(self) -> str:
        """For the gauge of workers."""
        if self.retired:
            return "retired"
        if not self.loaded:
            return "starting"
        return "busy" if self.runs else "idle"

    @property
    def has_room(self) -> bool:
        """Whether it takes another run. Deferred ones wait without a slot, and take no room."""
        if self.retired or self.process is None:
            return False
        limit = self._settings.worker_tasks
        return len(self.runs) < limit or sum(not run.deferred for run in self.runs.values()) < limit

    def started(self, process: WorkerHandle) -> None:
        """The process is there, and loads the package."""
        self.process = process
        if process.placed and not self.loaded:
            self._set_clock(self._settings.worker_start_s, self._too_slow)

    def take(self, run: Run) -> None:
        """Gives it a run."""
        assert self.process is not None
        if not self.runs and self.loaded:
            self._set_clock(None)
        self.runs[run.claim_id] = run
        if run.secrets is not None:
            self._redactor.add(run.secrets.values())
            self.process.send(frames.SECRETS, {"claim": run.claim_id}, run.secrets.encode())
            run.secrets = None
        self.process.send(*run.order())
        run.worker = self.process
        if self.loaded:
            run.begin(self.process, self._timed_out)
        else:
            run.waits_with(self._started_for)
            run.prepare(Preparation.WORKER)

    # What its process says

    def on_frame(self, worker: WorkerHandle, header: dict[str, Any], body: bytes) -> None:
        kind = header["kind"]
        if kind == frames.SPAN:
            self._pool.forward_span(body, header.get("about", 0))
        elif kind == frames.PLACED:
            self._set_clock(self._settings.worker_start_s, self._too_slow)
        elif kind == frames.READY:
            self._on_ready()
        elif kind == frames.BROKEN:
            self.broken = str(header["error"]), str(header["details"])
        else:
            self._on_task_frame(kind, header, body)

    def _on_task_frame(self, kind: str, header: dict[str, Any], body: bytes) -> None:
        claim_id = header["claim"]
        run = self.runs.get(claim_id)
        if kind == frames.LOG:
            header = self._redacted(header)
            if run is not None:
                run.relay_log(header)
            elif claim_id == 0:
                log.log(int(header["level"]), str(header["message"]), extra={"worker_pid": worker_pid(self.process)})
        elif kind == frames.DEFERRED:
            if run is not None:
                run.defer(bool(header["deferred"]))
        elif kind in (frames.DONE, frames.FAILED):
            self.stopping.discard(claim_id)
            if run is None:  # it was reported already, at its timeout
                self._settle()
                return
            del self.runs[claim_id]
            if kind == frames.DONE:
                run.done(header, body, self._settings.max_context_bytes)
            else:
                run.fail(
                    str(header["reason"]),
                    self._redactor.text(str(header["error"])),
                    details=self._redactor.text(str(header["details"])),
                    transient=bool(header["transient"]),
                    retry=header["retry"],
                )
            self._settle()
            self._pool.on_room()

    def _redacted(self, header: dict[str, Any]) -> dict[str, Any]:
        """A log record without the values of secrets; its ids and its time are ours, and stay."""
        if not self._redactor:
            return header
        said = ("message", "exception", "logger", "fields")
        return header | {key: self._redactor.tree(header[key]) for key in said if key in header}

    def on_exit(self, worker: WorkerHandle, description: str) -> None:
        self._set_clock(None)
        self.retired = True
        details = ""
        if self.broken is not None:
            error, details = self.broken
        else:
            error = f"the worker process {description}"
        if not self.loaded:
            self._start_span.fail(error)
            self._start_span.end()
        runs, self.runs = self.runs, {}
        if runs or self.stopping:
            log.warning("a worker process ended", extra={"worker_pid": worker.pid, "error": error, "tasks": len(runs)})
        for run in runs.values():
            reason = "cancelled" if run.stopping else "infrastructure"
            run.fail(reason, error, details=details)
        self._pool.remove(self)

    def _on_ready(self) -> None:
        self.loaded = True
        self._start_span.end()
        self._set_clock(None)
        for run in self.runs.values():
            run.begin(run.worker or self._process(), self._timed_out)
        self._settle()
        self._pool.on_room()

    # Ending tasks, and itself

    def stop(self, run: Run) -> None:
        """Tells a run to stop; gives the worker up if it does not."""
        if run.stopping:
            return
        run.stopping = True
        self._end_soon(run)

    def _timed_out(self, run: Run) -> None:
        """Reported at once; whether the task can be stopped shows later."""
        self.runs.pop(run.claim_id, None)
        limit_s = run.assignment.timeout_ms / 1000
        run.fail("timeout", f"{run.noun} {run.assignment.task_name!r} ran longer than its timeout of {limit_s:g} s")
        self._end_soon(run)
        self._pool.on_room()

    def _end_soon(self, run: Run) -> None:
        self.stopping.add(run.claim_id)
        self._process().send(frames.CANCEL, {"claim": run.claim_id})
        asyncio.get_running_loop().call_later(self._settings.stop_grace_s, self._stop_or_retire, run)

    def _stop_or_retire(self, run: Run) -> None:
        if run.claim_id not in self.stopping:
            return
        if self.runs.pop(run.claim_id, None) is not None:
            run.fail("cancelled", "the task was stopped")
        self.retire("a task of it could not be stopped")

    def retire(self, why: str) -> None:
        """Takes no more runs; ends when those it has are over, at the latest after a grace."""
        if self.retired:
            return
        self.retired = True
        log.warning("a worker process is given up", extra={"worker_pid": worker_pid(self.process), "error": why})
        self._pool.on_room()
        self._set_clock(self._settings.retire_grace_s, self.kill)
        self._settle()

    def kill(self) -> None:
        """Ends the process at once."""
        self.retired = True
        if self.process is not None:
            self.process.kill()

    def _too_slow(self) -> None:
        self.broken = f"the package did not load within {self._settings.worker_start_s:g} s", ""
        self.kill()

    def _settle(self) -> None:
        """Nothing runs any more: a worker that was given up ends now, another waits for work for a while."""
        if self.runs or not self.loaded:
            return
        if self.retired:
            self.kill()
        elif not self.stopping:
            self._set_clock(self._settings.worker_idle_s, self._idle)

    def _idle(self) -> None:
        self.retired = True
        self._process().hang_up()

    def _process(self) -> WorkerHandle:
        assert self.process is not None
        return self.process

    def _set_clock(self, delay_s: float | None, ring: Any = None) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = None if delay_s is None else asyncio.get_running_loop().call_later(delay_s, ring)


@dataclass(frozen=True, slots=True)
class Supplies:
    """What pools make workers with.

    Args:
        forge: makes worker processes.
        artifacts: where packages come from.
        settings: limits and graces.
        forward_span: takes spans that workers encoded (`cloacina.telemetry.tracing.forward`).
    """

    forge: Forge
    artifacts: Artifacts
    settings: PoolSettings
    forward_span: Callable[[bytes, int], None]


class Pool:
    """The workers of one tenant's package, and the runs that wait for one.

    Args:
        key: tenant and package digest.
        supplies: what workers are made with.
        on_empty: called when it has neither workers nor runs.
    """

    def __init__(self, key: tuple[str, str], supplies: Supplies, on_empty: Callable[[], object]) -> None:
        self._tenant_id, self._digest = key
        self._supplies = supplies
        self.forward_span = supplies.forward_span
        self._on_empty = on_empty
        self.workers: list[Worker] = []
        self._waiting: deque[Run] = deque()
        self._starting: asyncio.Task[None] | None = None
        self._stage: Preparation | None = None

    def submit(self, run: Run) -> None:
        """Runs it on a worker, as soon as there is one."""
        worker = self._worker_with_room()
        if worker is None:
            self._waiting.append(run)
            self._start_if_needed()
            if self._stage is not None:
                run.prepare(self._stage)
            return
        if len(worker.runs) >= _FEW and len(self.workers) < _CORES and self._starting is None:
            self._start_for(run)
        worker.take(run)

    def _worker_with_room(self) -> Worker | None:
        """The first that has few runs, or else the one with the fewest; ``None`` when none has room."""
        best = None
        for worker in self.workers:
            if not worker.has_room:
                continue
            if len(worker.runs) < _FEW:
                return worker
            if best is None or len(worker.runs) < len(best.runs):
                best = worker
        return best

    def withdraw(self, run: Run) -> bool:
        """Takes back a run that still waits."""
        try:
            self._waiting.remove(run)
        except ValueError:
            return False
        return True

    def worker_of(self, run: Run) -> Worker | None:
        """The worker that has the run."""
        return next((worker for worker in self.workers if run.claim_id in worker.runs), None)

    def on_room(self) -> None:
        """There may be room for what waits."""
        while self._waiting:
            worker = self._worker_with_room()
            if worker is None:
                self._start_if_needed()
                return
            worker.take(self._waiting.popleft())

    def remove(self, worker: Worker) -> None:
        """A worker has gone."""
        if worker in self.workers:
            self.workers.remove(worker)
        self.on_room()
        if not self.workers and not self._waiting and self._starting is None:
            self._on_empty()

    async def stop(self) -> None:
        """Kills every worker."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        for worker in list(self.workers):
            worker.kill()

    def _start_if_needed(self) -> None:
        if self._starting is None and self._waiting:
            self._start_for(self._waiting[0])

    def _start_for(self, first: Run) -> None:
        """The fetch and the load are done for one run: its ids and its trace go along."""
        self._set_stage(Preparation.PACKAGE)
        self._starting = asyncio.create_task(self._start(first))

    def _set_stage(self, stage: Preparation | None) -> None:
        """What those that wait, wait for while a worker is started."""
        self._stage = stage
        if stage is not None:
            for run in self._waiting:
                run.prepare(stage)

    async def _start(self, first: Run) -> None:
        scope.attach(first.scope)
        try:
            artifact = await self._artifact(first)
            self._set_stage(Preparation.WORKER)
            order = LoadOrder(
                artifact.root,
                artifact.workflow_name,
                artifact.entry_module,
                self._supplies.settings.worker_memory_mb << 20,
                task_log_level(),
                self._supplies.settings.max_context_bytes,
                self._tenant_id,
                self._digest,
            )
            worker = Worker(self, self._supplies.settings, first)
            process = await self._supplies.forge.spawn(order, worker)
            if not process.gone:
                worker.started(process)
                self.workers.append(worker)
        except _PackageUnavailable as error:
            log.warning("a package is not available", extra={"package_digest": self._digest, "error": str(error)})
            self._fail_waiting(f"{PACKAGE_UNAVAILABLE}: {error}")
        except (CloacinaError, OSError) as error:
            log.warning("no worker process can be started", extra={"error": explain(error)})
            self._fail_waiting(explain(error))
        finally:
            self._starting = None
            self._set_stage(None)
        self.on_room()
        if not self.workers and not self._waiting and self._starting is None:
            self._on_empty()

    async def _artifact(self, first: Run) -> Artifact:
        try:
            with tracing.continue_from(first.traceparent):
                return await self._supplies.artifacts.get(self._digest)
        except (CloacinaError, OSError) as error:
            raise _PackageUnavailable(explain(error)) from error

    def _fail_waiting(self, error: str) -> None:
        failed, self._waiting = self._waiting, deque()
        for run in failed:
            run.fail("infrastructure", error)


class _PackageUnavailable(Exception):
    """The package cannot be had now."""


class Pools:
    """All pools of this executor.

    Args:
        supplies: what workers are made with.
    """

    def __init__(self, supplies: Supplies) -> None:
        self._supplies = supplies
        self._pools: dict[tuple[str, str], Pool] = {}

    def submit(self, run: Run) -> None:
        """Runs it."""
        pool = self._pools.get(run.pool_key)
        if pool is None:
            pool = Pool(run.pool_key, self._supplies, partial(self._pools.pop, run.pool_key, None))
            self._pools[run.pool_key] = pool
        pool.submit(run)

    def stop_run(self, run: Run) -> None:
        """Stops a run, wherever it is."""
        pool = self._pools.get(run.pool_key)
        if pool is None:
            return
        if pool.withdraw(run):
            run.fail("cancelled", "the task was stopped before it began")
            return
        worker = pool.worker_of(run)
        if worker is not None:
            worker.stop(run)

    def abandon(self, run: Run) -> None:
        """Forgets a run that is handed back; its worker is killed by `stop`."""
        pool = self._pools.get(run.pool_key)
        if pool is not None and not pool.withdraw(run):
            worker = pool.worker_of(run)
            if worker is not None:
                del worker.runs[run.claim_id]

    def count(self, state: str) -> int:
        """Workers in a state."""
        return sum(worker.state == state for pool in self._pools.values() for worker in pool.workers)

    async def stop(self) -> None:
        """Kills every worker."""
        for pool in list(self._pools.values()):
            with contextlib.suppress(asyncio.CancelledError):
                await pool.stop()


def worker_pid(process: WorkerHandle | None) -> int:
    """The process id; 0 while it is not known."""
    return process.pid if process is not None else 0
