"""The engine's one executor in an embedded runner: this process. Its methods run on the runner's event loop.

A claim comes in by `assign` and goes out by a result, once; after the engine lost its store for a while, and closed the
session, the executor joins again with what it runs and tells its results again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cloacina.authoring.triggers import TriggerDefinition, registered_triggers
from cloacina.domain.execution import FailureReason
from cloacina.domain.graph import parent_of
from cloacina.embedded.attempt import Attempt
from cloacina.embedded.threads import TaskThreads
from cloacina.embedded.workflows import LocalWorkflows
from cloacina.engine.engine import Engine
from cloacina.engine.model import Assignment, Failure, Joining, PollAnswer, PollOrder, Result, Success
from cloacina.errors import Unavailable
from cloacina.telemetry import scope
from cloacina.worker.execution import Outcome
from cloacina.worker.polling import PollOutcome, poll_async, poll_sync

log = logging.getLogger(__name__)

EXECUTOR_ID = "embedded"
"""The same at every start: what the process before it held is known to be free at once, without waiting for a lease."""

_SAID_TO_RUN_AFTER_S = 0.1
"""Tasks that end within this time are never reported as started: their result says when they were."""

_STOP_GRACE_S = 5.0
"""Seconds that a cancelled task may take to end; after that its execution goes on to its end without it."""

_JOIN_LONGEST_PAUSE_S = 1.0


@dataclass(slots=True, eq=False)
class _Held:
    """An attempt that runs, and its clocks: `left_s` of its time were left when its timeout was last set, for `until`
    on the loop's clock."""

    attempt: Attempt
    limit_s: float | None
    started: asyncio.TimerHandle | None = None
    timeout: asyncio.TimerHandle | None = None
    grace: asyncio.TimerHandle | None = None
    left_s: float = 0.0
    until: float = 0.0

    def end_clocks(self) -> None:
        for clock in (self.started, self.timeout, self.grace):
            if clock is not None:
                clock.cancel()


class LocalExecutor:
    """Runs assignments in this process (the engine's `Session` and the attempts' `Reports`).

    Args:
        engine: whose tasks.
        workflows: where their code is.
        slots: tasks that run at once.
        task_timeout_s: seconds for an attempt of a task that has no timeout of its own.
        earliest: executions created before this time (microseconds since the epoch) are left alone.
        on_rejoin: awaited after the engine began again from its store.
    """

    def __init__(
        self,
        engine: Engine,
        workflows: LocalWorkflows,
        slots: int,
        task_timeout_s: float,
        *,
        earliest: int,
        on_rejoin: Callable[[], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._workflows = workflows
        self._slots = slots
        self._task_timeout_s = task_timeout_s
        self._earliest = earliest
        self._on_rejoin = on_rejoin
        self._loop = asyncio.get_running_loop()
        self._threads = TaskThreads("cloacina task")
        self._async_loop: asyncio.AbstractEventLoop | None = None
        self._held: dict[int, _Held] = {}
        self._parked: dict[int, Assignment] = {}
        self._told: dict[int, Result] = {}
        self._joining: asyncio.Task[None] | None = None
        self._nothing_runs = asyncio.Event()
        self._nothing_runs.set()
        self._draining = False
        self._unknown_triggers: set[str] = set()

    async def start(self) -> None:
        """Joins the engine; assignments follow."""
        await self._engine.join(Joining(EXECUTOR_ID, self._slots), self)

    async def drain(self, grace_s: float) -> None:
        """Takes no more, waits for what runs, and hands back what does not end.

        Args:
            grace_s: seconds to wait.
        """
        self._draining = True
        if self._joining is not None:
            self._joining.cancel()
        self._engine.heartbeat(EXECUTOR_ID, 0)
        for held in list(self._held.values()):
            if not held.attempt.slot_held():
                self._hand_back(held)  # what it waits for may be long in coming; it is asked again at the next start
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._nothing_runs.wait(), grace_s)
        for held in list(self._held.values()):
            log.warning("a task still runs; it runs again when a runner starts on this database", extra=_about(held))
            self._hand_back(held)

    def close_threads(self) -> None:
        """Ends the threads; one that runs a body which does not end is left to itself."""
        self._threads.close()
        if self._async_loop is not None:
            self._async_loop.call_soon_threadsafe(self._async_loop.stop)

    def registered(self, workflow_name: str) -> None:
        """A workflow became known: executions that waited for it go on."""
        for assignment in list(self._parked.values()):
            if assignment.live.workflow_name == workflow_name and assignment.live.created_at >= self._earliest:
                del self._parked[assignment.claim_id]
                self._engine.release(EXECUTOR_ID, self, assignment.claim_id)  # it comes again when a slot is free

    # What the engine says

    def welcome(self) -> None:
        """The join is durable."""

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Runs tasks; those whose code this process does not have wait without a slot."""
        missing: defaultdict[str, int] = defaultdict(int)
        for assignment in assignments:
            live = assignment.live
            if self._draining:
                self._engine.release(EXECUTOR_ID, self, assignment.claim_id)
                continue
            if live.created_at < self._earliest:
                self._park(assignment)
                continue
            try:
                tasks = self._workflows.code(live)
            except ValueError as error:
                self._refuse(assignment, str(error))
                continue
            if tasks is None:
                missing[live.workflow_name] += 1
                self._park(assignment)
            elif (name := parent_of(assignment.task)) not in tasks:
                self._refuse(
                    assignment,
                    f"workflow {live.workflow_name!r} as it is registered now has no task {name!r}; it has "
                    f"{', '.join(sorted(tasks))}",
                )
            else:
                timeout_s = live.definition.spec.tasks[name].timeout_s or self._task_timeout_s
                self._begin(Attempt(assignment, tasks[name], self), timeout_s)
        for workflow_name, count in missing.items():
            log.warning(
                "tasks wait until their workflow is registered in this process",
                extra={"workflow_name": workflow_name, "tasks": count},
            )

    def poll(self, orders: Sequence[PollOrder]) -> None:
        """Calls the functions of triggers, on threads of their own: they take no slot."""
        for order in orders:
            trigger = registered_triggers().get(order.trigger)
            if trigger is None:
                self._skip_unknown(order)
            elif asyncio.iscoroutinefunction(trigger.function):
                asyncio.run_coroutine_threadsafe(self._poll_async(order, trigger), self._event_loop())
            else:
                self._threads.run(lambda order=order, trigger=trigger: self._poll_sync(order, trigger))  # type: ignore[misc]

    def _skip_unknown(self, order: PollOrder) -> None:
        if order.trigger not in self._unknown_triggers:
            self._unknown_triggers.add(order.trigger)
            extra = {"schedule": order.trigger}
            log.warning("a stored trigger is not declared in this process; it fires when it is", extra=extra)
        self._loop.call_soon(self._engine.report_polled, order.poll_id, PollAnswer())  # the poll is not known yet

    def _poll_sync(self, order: PollOrder, trigger: TriggerDefinition) -> None:
        with _about_poll(order):
            self._polled(order, poll_sync(trigger))

    async def _poll_async(self, order: PollOrder, trigger: TriggerDefinition) -> None:
        with _about_poll(order):
            try:
                outcome = await asyncio.wait_for(poll_async(trigger), order.timeout_s)
            except TimeoutError:
                outcome = PollOutcome(error=f"trigger {order.trigger!r} ran longer than {order.timeout_s:g} s")
            self._polled(order, outcome)

    def _polled(self, order: PollOrder, outcome: PollOutcome) -> None:
        answer = PollAnswer(outcome.fires, outcome.context, outcome.error, outcome.details)
        self._soon(self._engine.report_polled, order.poll_id, answer)

    def acknowledge(self, claims: Sequence[int]) -> None:
        """Results that are durable."""
        for claim_id in claims:
            self._told.pop(claim_id, None)

    def renewed(self, slots: int) -> None:
        """It sends no heartbeats."""

    def queue_changed(self) -> None:
        """All it has is its one engine's."""

    def own(self, claims: Sequence[int]) -> None:
        """They are its one engine's anyway."""

    def stop(self, claims: Sequence[int]) -> None:
        """Cancels what runs under these claims."""
        for claim_id in claims:
            parked = self._parked.pop(claim_id, None)
            if parked is not None:
                self._tell(parked, None, Failure(FailureReason.CANCELLED, "the task was stopped before it began"))
            held = self._held.get(claim_id)
            if held is not None and held.grace is None:
                held.attempt.stop()
                held.grace = self._loop.call_later(_STOP_GRACE_S, self._give_up, held)

    def close(self) -> None:
        """The engine begins again from its store, or has stopped."""
        self._parked.clear()  # not held: their claims are void, and they are assigned again
        if not self._draining and self._joining is None:
            self._joining = self._loop.create_task(self._join_again(), name="join again")

    async def _join_again(self) -> None:
        pause_s = 0.05
        try:
            while True:
                held = frozenset(self._held) | frozenset(self._told)
                try:
                    await self._engine.join(Joining(EXECUTOR_ID, self._slots, held), self)
                    for result in list(self._told.values()):
                        self._engine.report(self, result)
                    await self._on_rejoin()
                    return
                except Unavailable:
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _JOIN_LONGEST_PAUSE_S)
        finally:
            self._joining = None

    # Running

    def _begin(self, attempt: Attempt, limit_s: float) -> None:
        attempt.started_at = time.time_ns() // 1000
        held = self._held[attempt.claim_id] = _Held(attempt, limit_s or None, left_s=limit_s)
        self._nothing_runs.clear()
        held.started = self._loop.call_later(_SAID_TO_RUN_AFTER_S, self._say_started, held)
        self._wind_up(held)
        if attempt.task.is_async:
            attempt.begin(self._event_loop())
        else:
            self._threads.run(attempt.run)

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the async tasks: not the runner's own, so that a body that blocks cannot stop the engine."""
        if self._async_loop is None:
            self._async_loop = asyncio.new_event_loop()
            threading.Thread(target=self._async_loop.run_forever, name="cloacina async tasks", daemon=True).start()
        return self._async_loop

    def _say_started(self, held: _Held) -> None:
        self._engine.report_started(EXECUTOR_ID, held.attempt.claim_id, held.attempt.started_at)

    def _wind_up(self, held: _Held) -> None:
        if held.limit_s is not None:
            held.until = self._loop.time() + held.left_s
            held.timeout = self._loop.call_later(held.left_s, self._time_out, held)

    def _time_out(self, held: _Held) -> None:
        """Its time is up: that is told at once. A coroutine is cancelled; a plain function cannot be, and goes on
        without consequence."""
        attempt = held.attempt
        goes_on = "" if attempt.task.is_async else "; its thread cannot be stopped and goes on"
        with scope.bind(**_ids(attempt.assignment)):
            log.warning("a task ran longer than its timeout%s", goes_on, extra={"timeout_s": held.limit_s})
        message = f"task {attempt.task.id!r} ran longer than its timeout of {held.limit_s:g} s"
        self._end(held, Failure(FailureReason.TIMEOUT, message))
        attempt.stop()

    def _give_up(self, held: _Held) -> None:
        with scope.bind(**_ids(held.attempt.assignment)):
            log.warning("a cancelled task did not end; its thread cannot be stopped and goes on")
        self._end(held, Failure(FailureReason.CANCELLED, "the task was stopped, and did not end in time"))

    def _hand_back(self, held: _Held) -> None:
        self._forget(held)
        held.attempt.stop()
        self._engine.release(EXECUTOR_ID, self, held.attempt.claim_id)

    def _park(self, assignment: Assignment) -> None:
        self._parked[assignment.claim_id] = assignment
        self._engine.report_deferred(EXECUTOR_ID, assignment.claim_id, True)  # so that it takes no slot

    def _refuse(self, assignment: Assignment, error: str) -> None:
        self._tell(assignment, None, Failure(FailureReason.TASK_NOT_FOUND, error, transient=False, retry=False))

    def _end(self, held: _Held, outcome: Success | Failure) -> None:
        self._forget(held)
        self._tell(held.attempt.assignment, held.attempt.started_at, outcome)

    def _forget(self, held: _Held) -> None:
        held.attempt.reported = True
        held.end_clocks()
        self._held.pop(held.attempt.claim_id, None)
        if not self._held:
            self._nothing_runs.set()

    def _tell(self, assignment: Assignment, started_at: int | None, outcome: Success | Failure) -> None:
        live = assignment.live
        result = Result(assignment.claim_id, live.execution_id, assignment.task, started_at, outcome)
        self._told[result.claim_id] = result
        self._engine.report(self, result)

    # What attempts say, on threads of their own

    def deferred(self, attempt: Attempt, deferred: bool) -> None:
        """An attempt gave its slot back to wait, or goes on."""
        self._soon(self._defer, attempt, deferred)

    def ended(self, attempt: Attempt, outcome: Outcome) -> None:
        """An attempt's body has ended."""
        self._soon(self._settle, attempt, outcome)

    def _soon(self, *call: object) -> None:
        with contextlib.suppress(RuntimeError):  # the runner is gone: its database says that the task is unfinished
            self._loop.call_soon_threadsafe(*call)  # type: ignore[arg-type]

    def _defer(self, attempt: Attempt, deferred: bool) -> None:
        held = self._held.get(attempt.claim_id)
        if held is None:
            return
        if held.timeout is not None:  # its time stands still while it waits
            if deferred:
                held.left_s = max(0.0, held.until - self._loop.time())
                held.timeout.cancel()
            else:
                self._wind_up(held)
        self._engine.report_deferred(EXECUTOR_ID, attempt.claim_id, deferred)

    def _settle(self, attempt: Attempt, outcome: Outcome) -> None:
        held = self._held.get(attempt.claim_id)
        if held is None or attempt.reported:
            with scope.bind(**_ids(attempt.assignment)):
                log.info("a task that had been given up has ended; its outcome is dropped")
            return
        self._end(held, Success(outcome.context) if outcome.succeeded else _failure(outcome))


def _failure(outcome: Outcome) -> Failure:
    try:
        reason = FailureReason(outcome.reason)
    except ValueError:
        reason = FailureReason.UNKNOWN
    return Failure(reason, outcome.error, outcome.details, outcome.transient, outcome.retry)


def _about_poll(order: PollOrder) -> scope.bind:
    return scope.bind(request_id=order.origin.request_id, tenant_id=order.tenant_id, workflow_name=order.workflow_name)


def _ids(assignment: Assignment) -> dict[str, object]:
    live = assignment.live
    return {
        "request_id": live.origin.request_id or None,
        "tenant_id": live.tenant_id,
        "workflow_name": live.workflow_name,
        "execution_id": live.execution_id,
        "task_name": assignment.task,
        "attempt": assignment.attempt,
    }


def _about(held: _Held) -> dict[str, object]:
    return {name: value for name, value in _ids(held.attempt.assignment).items() if value is not None}
