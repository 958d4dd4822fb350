"""The engine's one executor in a daemon: what it assigns runs in worker processes of this machine.

A claim comes in by `assign` and goes out by a result, once; after the engine lost its store for a while, and closed the
session, the executor joins again with what it runs and tells its results again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from cloacina.dispatch.orders import assignment_message, poll_answer_from, poll_message, result_from, too_large
from cloacina.dispatch.polls import PollRun
from cloacina.dispatch.pools import WORKER_STATES, Pools
from cloacina.dispatch.runs import Run
from cloacina.dispatch.secrets import SecretSource, supply
from cloacina.domain.explanation import Preparation
from cloacina.domain.inputs import LARGEST_CONTEXT_BYTES
from cloacina.engine.engine import Engine
from cloacina.engine.model import Assignment, Joining, PollOrder, Result
from cloacina.errors import Unavailable
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.worker.client import WorkerForge
from cloacina.worker.secrets import Granted

log = logging.getLogger(__name__)

EXECUTOR_ID = "daemon"
"""The same at every start: what the process before it held is known to be free at once, without waiting for a lease."""

_JOIN_LONGEST_PAUSE_S = 1.0


class PooledExecutor:
    """Runs assignments in worker processes (the engine's `Session`, and the runs' `Reports`).

    Args:
        engine: whose tasks.
        pools: the worker processes.
        forge: what made them.
        slots: tasks that run at once.
        secrets: gives the tasks theirs; without it there are none.
    """

    def __init__(
        self, engine: Engine, pools: Pools, forge: WorkerForge, slots: int, secrets: SecretSource | None = None
    ) -> None:
        self._engine = engine
        self._secrets = secrets
        self._awaiting_secrets: dict[int, asyncio.Task[None]] = {}
        self._pools = pools
        self._forge = forge
        self._slots = slots
        self._runs: dict[int, Run] = {}
        self._polls: dict[int, PollRun] = {}
        self._told: dict[int, Result] = {}
        self._joining: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        self._draining = False

    async def start(self) -> None:
        """Joins the engine; assignments follow."""
        await self._engine.join(Joining(EXECUTOR_ID, self._slots), self)

    def offer(self, slots: int) -> None:
        """Changes how many tasks run at once; those that run go on."""
        self._slots = slots
        self._engine.heartbeat(EXECUTOR_ID, slots)

    async def drain(self, grace_s: float) -> None:
        """Takes no more, waits for what runs, and hands back what does not end.

        Args:
            grace_s: seconds to wait.
        """
        self._draining = True
        if self._joining is not None:
            self._joining.cancel()
        self._engine.heartbeat(EXECUTOR_ID, 0)
        for run in [run for run in self._runs.values() if run.deferred]:
            self._hand_back(run)  # what it waits for may be long in coming; it is asked again at the next start
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), grace_s)
        unfinished = list(self._runs.values())
        if unfinished:
            log.warning("tasks that did not end in time run again at the next start", extra={"tasks": len(unfinished)})
        for run in unfinished:
            self._hand_back(run)

    async def end(self) -> None:
        """Ends the worker processes."""
        await self._pools.stop()
        await self._forge.stop()

    @property
    def slots(self) -> int:
        """Tasks that may run at once."""
        return self._slots

    def count_workers(self) -> int:
        """Worker processes."""
        return sum(self._pools.count(state) for state in WORKER_STATES)

    # What the engine says

    def welcome(self) -> None:
        """The join is durable."""

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Runs tasks."""
        for assignment in assignments:
            if self._draining:
                self._engine.release(EXECUTOR_ID, self, assignment.claim_id)
            elif len(assignment.context) > LARGEST_CONTEXT_BYTES:
                self._tell(too_large(assignment))
            else:
                self._begin(Run(assignment_message(assignment), self))

    def _begin(self, run: Run) -> None:
        self._runs[run.claim_id] = run
        self._settled.clear()
        if run.assignment.secrets and self._secrets is not None:
            run.prepare(Preparation.SECRETS)
            self._awaiting_secrets[run.claim_id] = asyncio.create_task(self._submit_with_secrets(run, self._secrets))
            return
        if run.assignment.secrets:
            run.secrets = Granted(unconfigured=[each.name for each in run.assignment.secrets])
        self._pools.submit(run)

    async def _submit_with_secrets(self, run: Run, secrets: SecretSource) -> None:
        try:
            if await supply(run, secrets):
                self._pools.submit(run)
        finally:
            self._awaiting_secrets.pop(run.claim_id, None)

    def poll(self, orders: Sequence[PollOrder]) -> None:
        """Calls the functions of triggers; they take no slot."""
        for order in orders:
            if not self._draining:
                run = self._polls[order.poll_id] = PollRun(poll_message(order), self, self)
                self._pools.submit(run)

    def acknowledge(self, claims: Sequence[int]) -> None:
        """Results that are durable."""
        for claim_id in claims:
            self._told.pop(claim_id, None)
        self._settle()

    def renewed(self, slots: int) -> None:
        """It sends no heartbeats."""

    def queue_changed(self) -> None:
        """All it has is its one engine's."""

    def own(self, claims: Sequence[int]) -> None:
        """They are its one engine's anyway."""

    def stop(self, claims: Sequence[int]) -> None:
        """Stops what runs under these claims."""
        for claim_id in claims:
            run = self._runs.get(claim_id)
            waiting = self._awaiting_secrets.pop(claim_id, None)
            if waiting is not None and run is not None:
                waiting.cancel()
                run.fail("cancelled", "the task was stopped before it began")
            elif run is not None:
                self._pools.stop_run(run)

    def close(self) -> None:
        """The engine begins again from its store, or has stopped."""
        if not self._draining and self._joining is None:
            self._joining = asyncio.get_running_loop().create_task(self._join_again(), name="join again")

    async def _join_again(self) -> None:
        pause_s = 0.05
        try:
            while True:
                held = frozenset(self._runs) | frozenset(self._told)
                try:
                    await self._engine.join(Joining(EXECUTOR_ID, self._slots, held), self)
                except Unavailable:
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _JOIN_LONGEST_PAUSE_S)
                    continue
                for result in list(self._told.values()):
                    self._engine.report(self, result)
                return
        finally:
            self._joining = None

    # What runs say (`cloacina.dispatch.runs.Reports`, `cloacina.dispatch.polls.PollReports`)

    def started(self, claim_id: int, started_at: int) -> None:
        """A task has run for a while."""
        self._engine.report_started(EXECUTOR_ID, claim_id, started_at)

    def preparing(self, claim_id: int, stage: Preparation, since: int) -> None:
        """A task has not begun for a while."""
        self._engine.report_preparing(EXECUTOR_ID, claim_id, stage, since)

    def deferred(self, claim_id: int, deferred: bool) -> None:
        """A task waits without a slot, or goes on."""
        self._engine.report_deferred(EXECUTOR_ID, claim_id, deferred)

    def ended(self, result: scheduler_pb2.TaskResult) -> None:
        """An attempt ended."""
        self._runs.pop(result.claim_id, None)
        self._tell(result_from(result))

    def polled(self, result: Any) -> None:
        """A poll ended."""
        self._polls.pop(result.poll_id, None)
        self._engine.report_polled(result.poll_id, poll_answer_from(result))

    def _tell(self, result: Result) -> None:
        self._told[result.claim_id] = result
        self._settled.clear()
        self._engine.report(self, result)

    def _hand_back(self, run: Run) -> None:
        waiting = self._awaiting_secrets.pop(run.claim_id, None)
        if waiting is not None:
            waiting.cancel()
        self._pools.abandon(run)
        run.give_back()
        self._runs.pop(run.claim_id, None)
        self._engine.release(EXECUTOR_ID, self, run.claim_id)
        self._settle()

    def _settle(self) -> None:
        """Nothing runs, and every result is durable."""
        if not self._runs and not self._told:
            self._settled.set()
