"""The engine: takes requests in, decides on them in groups, commits each group once, and only then lets it be known.

While one commit is in flight the next group gathers, so an idle engine adds no delay and a busy one commits rarely.
Whatever goes wrong with a commit leads to one place, `_reset`: the group is refused, executors are sent away to connect
again, and the state is loaded from the store, which is the truth. Starting is the same load.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cloacina.domain.decisions import (
    Cancel,
    ClaimRejected,
    ClaimTask,
    Command,
    Pause,
    ReportDeferred,
    ReportFailure,
    ReportStarted,
    ReportSuccess,
    Resume,
    RetryDue,
    Start,
    VoidClaim,
    decide,
)
from cloacina.domain.execution import (
    Event,
    ExecutionState,
    ExecutionStatus,
    TaskCompleted,
    TaskFailed,
    TaskMarkedReady,
    TaskReset,
    TaskRetryScheduled,
    TaskSkipped,
    TaskStatus,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowResumed,
    evolve,
)
from cloacina.engine import narration
from cloacina.engine.executors import Executor, Executors
from cloacina.engine.ids import new_execution_id
from cloacina.engine.metrics import EngineMetrics
from cloacina.engine.model import Assignment, Definition, Failure, Joining, Live, Origin, Result, Session, Success
from cloacina.engine.ready import ReadyQueue
from cloacina.engine.sweeper import sweep_leases
from cloacina.engine.timers import DueTimers
from cloacina.engine.work import GroupWork, restore_task
from cloacina.errors import CloacinaError, Internal, NotFound, Unavailable
from cloacina.store.executions import DefinitionRow, ExecutionStore, ExecutorRow
from cloacina.telemetry import tracing

log = logging.getLogger(__name__)

_COUNTER_BITS = 40
"""A fencing token is the store's epoch above a counter of this many bits: it grows over restarts too."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Limits and periods of the engine.

    Args:
        lease_s: seconds an executor may stay silent before its claims are given to others.
        heartbeat_s: seconds between its heartbeats.
        max_group: requests that one commit takes at most.
        max_waiting: requests that may wait for a commit; more are refused as unavailable.
        max_live: executions that may be unfinished at once; more are refused as unavailable.
    """

    lease_s: float = 15.0
    heartbeat_s: float = 5.0
    max_group: int = 2000
    max_waiting: int = 20_000
    max_live: int = 200_000


class DefinitionLoader(Protocol):
    """Makes a definition again from what `Definition.body` held."""

    def __call__(self, row: DefinitionRow) -> Definition: ...


def wall_clock() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


@dataclass(slots=True, eq=False)
class _Request:
    """Something to decide on. `apply` runs inside a group; `done` is resolved once the group is durable."""

    apply: Callable[[GroupWork], object]
    done: asyncio.Future[None] | None = None

    def refuse(self, error: BaseException) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)

    def accept(self) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(None)


class Engine:
    """All unfinished executions of one store, and the executors that run their tasks.

    Args:
        store: where executions are durable. The engine is its only writer.
        metrics: what transitions are counted in.
        load_definition: makes definitions again after a restart.
        settings: limits and periods.
        clock: the wall clock, microseconds since the epoch.
    """

    def __init__(
        self,
        store: ExecutionStore,
        metrics: EngineMetrics,
        load_definition: DefinitionLoader,
        settings: EngineSettings | None = None,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self.settings = settings or EngineSettings()
        self._store = store
        self._metrics = metrics
        self._load_definition = load_definition
        self._now = clock
        self._live: dict[str, Live] = {}
        self._executors = Executors()
        self._ready = ReadyQueue()
        self._retries = DueTimers(clock, self._retry_due)
        self._stored_definitions: set[str] = set()
        self._inbox: list[_Request] = []
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._late: set[asyncio.Task[None]] = set()
        self._healthy = False
        self._stopping = False
        self._epoch = 0
        self._claims_made = 0
        metrics.active_workflows.set_function(lambda: len(self._live))
        metrics.active_tasks.set_function(lambda: sum(live.state.running for live in self._live.values()))

    # What shells see of the engine

    @property
    def healthy(self) -> bool:
        """Whether the engine can commit, as far as it knows."""
        return self._healthy

    def figures(self) -> Mapping[str, float]:
        """Figures for operators, by name."""
        return {
            "active_workflows": len(self._live),
            "active_tasks": sum(live.state.running for live in self._live.values()),
            "ready_tasks": len(self._ready),
            "retries_waiting": len(self._retries),
            "executors": len(self._executors),
            "free_slots": self._executors.free_slots,
        }

    def find(self, execution_id: str) -> Live | None:
        """The unfinished execution of this id; for looking only."""
        return self._live.get(execution_id)

    async def start(self) -> None:
        """Loads what is unfinished and begins to work.

        Raises:
            Unavailable: the store cannot be read.
        """
        await self._load()
        self._tasks = [
            asyncio.create_task(self._commit_groups(), name="commit groups"),
            asyncio.create_task(sweep_leases(self.settings.lease_s / 5, self._sweep), name="sweep leases"),
        ]

    async def stop(self) -> None:
        """Commits what is there, refuses what comes from now on, and ends."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._ask(lambda _: None), timeout=5.0)
        self._stopping = True
        for task in (*self._tasks, *self._late):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._late, return_exceptions=True)
        self._retries.clear()
        for executor in self._executors:
            if executor.session is not None:
                executor.session.close()

    # Requests

    async def submit(
        self,
        definition: Definition,
        context: bytes,
        origin: Origin,
        *,
        trigger_origin: str = "manual",
        idempotency_key: str | None = None,
    ) -> str:
        """Starts an execution.

        Args:
            definition: what to run.
            context: its input, a JSON object.
            origin: the request that asks for it.
            trigger_origin: "manual", "cron" or "trigger".
            idempotency_key: stored with it; unique per tenant and workflow.

        Returns:
            The id of the execution, once it is durable.

        Raises:
            Unavailable: too much is in flight, or the store cannot be written.
            Conflict: the idempotency key is taken.
        """
        if len(self._live) >= self.settings.max_live:
            raise Unavailable(f"{len(self._live)} executions are unfinished; try again when some have ended")
        now = self._now()
        live = Live(
            execution_id=new_execution_id(now),
            definition=definition,
            state=ExecutionState.new(definition.spec, context),
            origin=origin,
            created_at=now,
            trigger_origin=trigger_origin,
            idempotency_key=idempotency_key,
        )
        await self._ask(lambda work: self._begin(work, live))
        return live.execution_id

    async def change(self, tenant_id: str, execution_id: str, command: Cancel | Pause | Resume) -> None:
        """Cancels, pauses or resumes an execution.

        Raises:
            NotFound: the tenant has no unfinished execution of this id.
            Conflict: the execution's state does not allow it.
            Unavailable: the store cannot be written.
        """
        await self._ask(lambda work: self._change(work, tenant_id, execution_id, command))

    async def join(self, joining: Joining, session: Session) -> None:
        """An executor connected, for the first time or again. Returns once that is durable.

        Args:
            joining: who it is and what it holds.
            session: the way to it.
        """
        await self._ask(lambda work: self._join(work, joining, session))

    def leave(self, executor_id: str, session: Session) -> None:
        """The way to an executor broke. Its claims stay its own until its lease lapses."""
        executor = self._executors.get(executor_id)
        if executor is not None and executor.session is session:
            executor.session = None

    def heartbeat(self, executor_id: str, slots: int) -> None:
        """An executor renews its lease and says how many tasks it takes from now on."""
        self._put(_Request(lambda work: self._renew(work, executor_id, slots)))

    def report_started(self, executor_id: str, claim_id: int, started_at: int) -> None:
        """A task has begun to run and is not done yet."""
        self._put(_Request(lambda work: self._report_started(work, executor_id, claim_id, started_at)))

    def report_deferred(self, executor_id: str, claim_id: int, deferred: bool) -> None:
        """A task gave its slot back to wait, or holds one again."""
        self._put(_Request(lambda work: self._report_deferred(work, executor_id, claim_id, deferred)))

    def report(self, session: Session, result: Result) -> None:
        """An attempt ended. It is acknowledged on the session once that is durable, or refused for good."""
        self._put(_Request(lambda work: self._report(work, session, result)))

    def release(self, executor_id: str, session: Session, claim_id: int) -> None:
        """An executor hands a claim back unfinished; the task is Ready at once. Acknowledged like a result."""
        self._put(_Request(lambda work: self._release(work, executor_id, session, claim_id)))

    async def _ask(self, apply: Callable[[GroupWork], object]) -> None:
        if self._stopping or not self._healthy:
            raise Unavailable("the scheduler is stopping" if self._stopping else "the scheduler's store is unavailable")
        if len(self._inbox) >= self.settings.max_waiting:
            raise Unavailable(f"{len(self._inbox)} requests wait to be stored; try again shortly")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Request(apply, done))
        await done

    def _put(self, request: _Request) -> None:
        self._inbox.append(request)
        self._wake.set()

    def _retry_due(self, execution_id: str, task: str) -> None:
        self._put(_Request(lambda work: self._command(work, execution_id, RetryDue(task))))

    # The group commit

    async def _commit_groups(self) -> None:
        backoff = 0.05
        while True:
            await self._wake.wait()
            requests = self._inbox[: self.settings.max_group]
            del self._inbox[: self.settings.max_group]
            if not self._inbox:
                self._wake.clear()
            work = GroupWork(self._now())
            try:
                accepted = [request for request in requests if self._apply(request, work)]
                self._claim_ready(work)
                await self._commit(work)
            except Exception as error:
                await self._reset(error, requests, backoff)
                backoff = min(backoff * 2, 2.0)
                continue
            backoff = 0.05
            self._publish(work)
            for request in accepted:
                request.accept()

    def _apply(self, request: _Request, work: GroupWork) -> bool:
        try:
            request.apply(work)
        except CloacinaError as error:
            request.refuse(error)
            return False
        return True

    async def _commit(self, work: GroupWork) -> None:
        batch = work.batch()
        if not batch.statements():
            return
        began = time.time_ns()
        await self._store.commit(batch)
        self._stored_definitions.update(work.definitions)
        if tracing.enabled():
            narration.commit(work, began, time.time_ns())

    def _publish(self, work: GroupWork) -> None:
        """The group is durable: say so, to whoever waits for it."""
        for session, claims in work.acknowledged.items():
            session.acknowledge(claims)
        for session, assignments in work.assignments.items():
            session.assign(assignments)
        for session, claims in work.stops.items():
            session.stop(claims)
        for live, event in work.history:
            self._metrics.observe(live, event)
            narration.event(live, event)
        for afterwards in work.afterwards:
            afterwards()

    async def _reset(self, error: BaseException, refused: Sequence[_Request], backoff: float) -> None:
        """A commit failed: nothing of its group happened. Begin again from the store."""
        self._healthy = False
        if isinstance(error, CloacinaError):
            log.error("a commit failed; reloading from the store", extra={"error": str(error)})
            reason = error
        else:
            log.error("a group could not be decided; reloading from the store", exc_info=error)
            reason = Internal("internal error")
        waiting, self._inbox = self._inbox, []
        for request in (*refused, *waiting):
            request.refuse(reason)
        for executor in self._executors:
            if executor.session is not None:
                executor.session.close()
        while True:
            await asyncio.sleep(backoff)
            try:
                await self._load()
                return
            except Exception as again:
                backoff = min(backoff * 2, 2.0)
                log.error("the store cannot be read; trying again", extra={"error": str(again), "retry_in_s": backoff})

    # Loading

    async def _load(self) -> None:
        """Takes up what the store says is unfinished. Executors get a whole lease to connect again."""
        self._epoch = await self._store.next_epoch()
        self._claims_made = 0
        rows = await self._store.load_live()
        definitions = {
            row.definition_id: self._load_definition(row)
            for row in await self._store.load_definitions({row.execution.definition_id for row in rows})
        }
        self._live.clear()
        self._executors.clear()
        self._retries.clear()
        self._ready = ReadyQueue()
        self._stored_definitions = set(definitions)
        lease_until = asyncio.get_running_loop().time() + self.settings.lease_s
        for known in await self._store.load_executors():
            self._executors.add(Executor(known.executor_id, 0, known.version, lease_until))
        for row in rows:
            execution = row.execution
            definition = definitions[execution.definition_id]
            state = ExecutionState.new(definition.spec, execution.input)
            state.status = ExecutionStatus(execution.status)
            state.cancelling = execution.cancelling
            state.sequence = execution.sequence
            state.started_at = execution.started_at
            state.tasks.update((task.task_name, restore_task(task)) for task in row.tasks)
            state.recount()
            live = Live(
                execution_id=execution.execution_id,
                definition=definition,
                state=state,
                origin=Origin(execution.request_id, execution.traceparent),
                created_at=execution.created_at,
                trigger_origin=execution.trigger_origin,
                idempotency_key=execution.idempotency_key,
            )
            self._take_up(live, lease_until)
        self._healthy = True
        if self._live:
            log.info("took up unfinished executions", extra={"executions": len(self._live)})

    def _take_up(self, live: Live, lease_until: float) -> None:
        self._live[live.execution_id] = live
        for name, task in live.state.tasks.items():
            if task.status is TaskStatus.READY:
                self._ready.push(live.tenant_id, live.execution_id, name)
            elif task.status is TaskStatus.PENDING and task.retry_due is not None:
                self._retries.add(task.retry_due, live.execution_id, name)
            elif task.status is TaskStatus.RUNNING:
                executor = self._executors.get(task.executor_id)
                if executor is None:
                    executor = Executor(task.executor_id, 0, "", lease_until)
                    self._executors.add(executor)
                executor.claims[task.claim_id] = (live.execution_id, name)
                if task.deferred:
                    executor.deferred.add(task.claim_id)

    # Deciding, inside a group

    def _command(self, work: GroupWork, execution_id: str, command: Command) -> None:
        live = self._live.get(execution_id)
        if live is not None:
            self._decide(work, live, command)

    def _decide(self, work: GroupWork, live: Live, command: Command) -> None:
        """Decides, applies, and keeps queue, claims and timers in step with the execution."""
        for event in decide(live.state, command, work.now):
            self._note(live, event)
            evolve(live.state, event)
            work.record(live, event)

    def _note(self, live: Live, event: Event) -> None:
        match event:
            case TaskMarkedReady():
                self._ready.push(live.tenant_id, live.execution_id, event.task)
            case TaskReset():
                self._drop_claim(live, event.task)
                self._ready.push(live.tenant_id, live.execution_id, event.task)
            case TaskRetryScheduled():
                self._drop_claim(live, event.task)
                self._retries.add(event.due, live.execution_id, event.task)
            case WorkflowResumed():
                for name, task in live.state.tasks.items():
                    if task.status is TaskStatus.READY:
                        self._ready.push(live.tenant_id, live.execution_id, name)
            case WorkflowCompleted() | WorkflowFailed() | WorkflowCancelled():
                self._live.pop(live.execution_id, None)
            case TaskCompleted() | TaskFailed() | TaskSkipped():
                self._drop_claim(live, event.task)
            case _:
                pass

    def _drop_claim(self, live: Live, name: str) -> None:
        task = live.state.tasks[name]
        executor = self._executors.get(task.executor_id)
        if executor is not None:
            executor.claims.pop(task.claim_id, None)
            executor.deferred.discard(task.claim_id)

    def _begin(self, work: GroupWork, live: Live) -> None:
        definition = live.definition
        if definition.definition_id not in self._stored_definitions:
            work.definitions[definition.definition_id] = DefinitionRow(
                definition.definition_id,
                definition.tenant_id,
                definition.spec.name,
                definition.package_id,
                definition.package_digest,
                definition.body,
            )
        self._live[live.execution_id] = live
        work.create(live)
        self._decide(work, live, Start())

    def _change(self, work: GroupWork, tenant_id: str, execution_id: str, command: Command) -> None:
        live = self._live.get(execution_id)
        if live is None or live.tenant_id != tenant_id:
            raise NotFound(f"no unfinished execution {execution_id}", code="execution_not_found")
        self._decide(work, live, command)
        if isinstance(command, Cancel):
            for task in live.state.tasks.values():
                executor = self._executors.get(task.executor_id)
                if task.status is TaskStatus.RUNNING and executor is not None and executor.session is not None:
                    work.stops[executor.session].append(task.claim_id)

    def _claim_ready(self, work: GroupWork) -> None:
        """Gives ready tasks to free slots: in the very commit that made them ready, if there is a slot."""
        if not self._ready:
            return
        while (executor := self._executors.freest()) is not None:
            entry = self._ready.pop()
            if entry is None:
                return
            live = self._live.get(entry[0])
            if live is None or live.state.tasks[entry[1]].status is not TaskStatus.READY:
                continue
            self._claim(work, live, entry[1], executor)
        if self._ready:
            self._metrics.contended.inc()

    def _claim(self, work: GroupWork, live: Live, name: str, executor: Executor) -> None:
        self._claims_made += 1
        claim_id = self._epoch << _COUNTER_BITS | self._claims_made
        self._decide(work, live, ClaimTask(name, claim_id, executor.executor_id))
        task = live.state.tasks[name]
        if task.claim_id != claim_id:  # paused: it is queued again when the execution is resumed
            return
        executor.claims[claim_id] = (live.execution_id, name)
        assert executor.session is not None
        context = live.state.context_for(name)
        work.assignments[executor.session].append(Assignment(claim_id, live, name, task.attempt, context))
        self._metrics.claimed.inc()

    # Executors, inside a group

    def _join(self, work: GroupWork, joining: Joining, session: Session) -> None:
        executor = self._executors.get(joining.executor_id)
        if executor is None:
            executor = Executor(joining.executor_id, joining.slots, joining.version, 0.0)
            self._executors.add(executor)
        if executor.session is not None and executor.session is not session:
            executor.session.close()
        executor.version, executor.session = joining.version, session
        self._renew(work, joining.executor_id, joining.slots)
        for claim_id, (execution_id, task) in list(executor.claims.items()):
            if claim_id not in joining.held:  # it never got the assignment
                self._command(work, execution_id, VoidClaim(task, claim_id, lost=False))
                executor.claims.pop(claim_id, None)
        for claim_id in joining.held:
            found = executor.claims.get(claim_id)
            live = None if found is None else self._live.get(found[0])
            if live is None or live.state.cancelling is not None:
                work.stops[session].append(claim_id)
        work.afterwards.append(session.welcome)
        work.afterwards.append(lambda: narration.executor_joined(joining))

    def _renew(self, work: GroupWork, executor_id: str, slots: int) -> None:
        executor = self._executors.get(executor_id)
        if executor is None:
            return
        executor.slots = slots
        executor.lease_until = asyncio.get_running_loop().time() + self.settings.lease_s
        lease_ends = work.now + int(self.settings.lease_s * 1e6)
        work.executors[executor_id] = ExecutorRow(executor_id, slots, executor.version, lease_ends, work.now)
        work.afterwards.append(self._metrics.heartbeat_writes.inc)
        if executor.free > 0 and not self._ready:
            self._metrics.empty.inc()

    def _report_started(self, work: GroupWork, executor_id: str, claim_id: int, started_at: int) -> None:
        self._report_of_claim(work, executor_id, claim_id, lambda task: ReportStarted(task, claim_id, started_at))

    def _report_deferred(self, work: GroupWork, executor_id: str, claim_id: int, deferred: bool) -> None:
        executor = self._report_of_claim(
            work, executor_id, claim_id, lambda task: ReportDeferred(task, claim_id, deferred)
        )
        if executor is not None:
            (executor.deferred.add if deferred else executor.deferred.discard)(claim_id)

    def _report_of_claim(
        self, work: GroupWork, executor_id: str, claim_id: int, command: Callable[[str], Command]
    ) -> Executor | None:
        """Passes on what is said of a claim that is held; what comes late is of no use and dropped."""
        executor = self._executors.get(executor_id)
        found = None if executor is None else executor.claims.get(claim_id)
        if found is None:
            return None
        self._command(work, found[0], command(found[1]))
        return executor

    def _report(self, work: GroupWork, session: Session, result: Result) -> None:
        live = self._live.get(result.execution_id)
        if live is None:
            self._late_result(session, result)
            return
        try:
            self._decide(work, live, _result_command(result))
        except ClaimRejected:
            work.afterwards.append(lambda: self._count_rejected(live, result))
        work.acknowledged[session].append(result.claim_id)

    def _count_rejected(self, live: Live, result: Result) -> None:
        self._metrics.claim_lost.inc()
        narration.result_rejected(live, result)

    def _late_result(self, session: Session, result: Result) -> None:
        """A result of an execution that has ended: the same one again, or one of a claim that was given up."""
        task = asyncio.get_running_loop().create_task(self._settle_late(session, result))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _settle_late(self, session: Session, result: Result) -> None:
        try:
            claim = await self._store.task_claim(result.execution_id, result.task)
        except Unavailable:
            return  # not acknowledged, so it comes again
        if claim != result.claim_id:
            self._metrics.claim_lost.inc()
            narration.result_too_late(result)
        session.acknowledge([result.claim_id])

    def _release(self, work: GroupWork, executor_id: str, session: Session, claim_id: int) -> None:
        self._report_of_claim(work, executor_id, claim_id, lambda task: VoidClaim(task, claim_id, lost=False))
        work.acknowledged[session].append(claim_id)

    # Leases

    def _sweep(self, stall_s: float) -> None:
        """Voids the claims of executors whose lease lapsed; a stall of this process is not their silence."""
        for executor in self._executors:
            executor.lease_until += stall_s
        for executor in self._executors.lapsed(asyncio.get_running_loop().time()):
            self._put(_Request(functools.partial(self._lapse, executor)))

    def _lapse(self, executor: Executor, work: GroupWork) -> None:
        if executor.lease_until > asyncio.get_running_loop().time():
            return  # it spoke while this request waited
        claims = list(executor.claims.items())
        self._executors.remove(executor)
        executor.claims.clear()
        work.executors.pop(executor.executor_id, None)
        work.executors_gone.add(executor.executor_id)
        for claim_id, (execution_id, task) in claims:
            self._command(work, execution_id, VoidClaim(task, claim_id, lost=True))
        if executor.session is not None:
            work.afterwards.append(executor.session.close)
        work.afterwards.append(lambda: self._metrics.stale_claims_swept.inc(len(claims)))
        work.afterwards.append(lambda: narration.lease_lapsed(executor.executor_id, len(claims)))


def _result_command(result: Result) -> Command:
    match result.outcome:
        case Success(context):
            started_at = result.started_at or 0
            return ReportSuccess(result.task, result.claim_id, started_at, context)
        case Failure() as failure:
            return ReportFailure(
                result.task,
                result.claim_id,
                result.started_at,
                failure.reason,
                failure.error,
                failure.details,
                failure.transient,
                failure.retry,
                random.random(),  # noqa: S311 - jitter, not a secret
            )
