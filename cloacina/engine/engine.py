"""The engine: takes requests in, decides on them in groups, commits each group once, and only then lets it be known.

How groups follow one another is in `cloacina.engine.pipeline`: memory is ahead of the store by up to two of them.
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
from typing import Protocol, TypeVar

from cloacina.domain.decisions import (
    Cancel,
    ClaimRejected,
    ClaimTask,
    Command,
    IllegalTransition,
    Pause,
    ReportDeferred,
    ReportFailure,
    ReportStarted,
    ReportSuccess,
    Resume,
    RetryDue,
    RetryFailed,
    Start,
    VoidClaim,
    decide,
)
from cloacina.domain.execution import (
    EndReason,
    Event,
    ExecutionState,
    ExecutionStatus,
    FailureReason,
    TaskClaimed,
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
    WorkflowReopened,
    WorkflowResumed,
    WorkflowStarted,
    evolve,
)
from cloacina.domain.explanation import Explanation, Preparation, Surroundings, explain
from cloacina.engine import narration
from cloacina.engine.executors import Executor, Executors, ExecutorView
from cloacina.engine.families import CLAIMANT, MAX_DEPTH, Families
from cloacina.engine.ids import new_execution_id
from cloacina.engine.intake import IdempotencyKey, Intake, Request
from cloacina.engine.limits import Limits, lane_of
from cloacina.engine.live import LiveExecutions
from cloacina.engine.metrics import EngineMetrics
from cloacina.engine.model import (
    Assignment,
    Companion,
    Definition,
    Failure,
    Joining,
    Live,
    Origin,
    Parent,
    PollAnswer,
    PollOrder,
    Result,
    Session,
    Success,
)
from cloacina.engine.ownership import Ownership
from cloacina.engine.pipeline import GroupCommits, Steps
from cloacina.engine.ready import Lane, ReadyQueue
from cloacina.engine.surroundings import surroundings_of
from cloacina.engine.sweeper import sweep_leases
from cloacina.engine.timers import DueTimers
from cloacina.engine.watchers import Watchers
from cloacina.engine.window import ClaimWindow
from cloacina.engine.work import GroupWork, Transaction, restore_task
from cloacina.errors import CloacinaError, Conflict, Internal, NotFound, RateLimited, Unavailable
from cloacina.store.database import StoreConflict
from cloacina.store.executions import Batch, DefinitionRow, ExecutionStore, ExecutorRow, LiveExecution
from cloacina.store.owners import OwnerRow, OwnershipLost
from cloacina.telemetry import tracing
from cloacina.telemetry.turns import once_sent

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")
_COUNTER_BITS = 40
"""A fencing token is the number of the last adoption above a counter of this many bits: it grows over restarts and
adoptions too."""

_ADOPTION_DEADLINE_S = 2.0
"""Seconds that a retry waits for its scheduler to have larger claims to give than the last one's."""
_LOOK_S = 0.05
_FLUSH_DEADLINE_S = 5.0
"""Seconds that stopping waits for what is there to be committed."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Limits and periods of the engine.

    Args:
        lease_s: seconds an executor may stay silent before its claims are given to others.
        heartbeat_s: seconds between its heartbeats.
        max_group: requests that one commit takes at most.
        max_waiting: requests that may wait for a commit; more are refused as unavailable.
        max_waiting_bytes: bytes that those may hold.
        max_live: executions that may be unfinished at once; more are refused as unavailable.
        max_live_bytes: bytes that those may hold.
        tenant_share: share of each of these limits that one tenant may take.
        tenant_tasks: tasks of one tenant that may run at once; 0 for no limit.
        shared_claims: tasks that may be under way while some tenants have a queue and another has none, of tasks that
            take no time; 0 for as many as there are slots.
    """

    lease_s: float = 15.0
    heartbeat_s: float = 5.0
    max_group: int = 2000
    max_waiting: int = 20_000
    max_waiting_bytes: int = 256 << 20
    max_live: int = 200_000
    max_live_bytes: int = 1 << 30
    tenant_share: float = 0.75
    tenant_tasks: int = 0
    shared_claims: int = 10


DefinitionFinder = Callable[[str, str], Definition | None]
"""Gives the definition that a new execution of a tenant's workflow uses now."""


class DefinitionLoader(Protocol):
    """Makes a definition again from what `Definition.body` held."""

    def __call__(self, row: DefinitionRow) -> Definition: ...


def wall_clock() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


class Engine:
    """The unfinished executions that one owner has, and the executors that run their tasks.

    Args:
        store: where executions are durable. The engine is the only writer of what it owns.
        metrics: what transitions are counted in.
        load_definition: makes definitions again after a restart.
        settings: limits and periods.
        clock: the wall clock, microseconds since the epoch.
        find_definition: gives the workflows that tasks execute; without it there are none.
        ownership: its membership among the schedulers of the store; without it the store is its alone.
    """

    def __init__(
        self,
        store: ExecutionStore,
        metrics: EngineMetrics,
        load_definition: DefinitionLoader,
        settings: EngineSettings | None = None,
        clock: Callable[[], int] = wall_clock,
        *,
        find_definition: DefinitionFinder = lambda tenant_id, workflow_name: None,
        ownership: Ownership | None = None,
    ) -> None:
        self.settings = limits = settings or EngineSettings()
        self._store = store
        self._metrics = metrics
        self._load_definition = load_definition
        self._now = clock
        self.watchers = Watchers()
        self._live = LiveExecutions(limits.max_live, limits.max_live_bytes, limits.tenant_share)
        self._executors = Executors()
        self._find_definition = find_definition
        self._ready = ReadyQueue()
        self._limits = Limits(limits.tenant_tasks)
        self._window = ClaimWindow(limits.shared_claims)
        self._opens: asyncio.TimerHandle | None = None
        self._families = Families()
        self._ended: list[Live] = []
        self.reopening = asyncio.Lock()
        """Held while what was read of executions that have ended must stay true."""
        self._retries = DueTimers(clock, self._retry_due)
        self._stored_definitions: set[str] = set()
        self._intake = Intake(limits.max_waiting, limits.max_waiting_bytes, limits.tenant_share)
        steps = Steps(
            self._check_owner,
            self._group,
            self._find_key,
            self._conclude,
            self._commit,
            self._publish,
            self._reset,
        )
        self._commits = GroupCommits(self._intake, steps, limits.max_group)
        self._tasks: list[asyncio.Task[None]] = []
        self._late: set[asyncio.Task[None]] = set()
        self._companion: Companion | None = None
        self._healthy = False
        self._stopping = False
        self.ownership = ownership or Ownership(store.owners)
        self._lost: OwnershipLost | None = None
        self._loads = 0
        self._adoption = 0
        self._claims_made = 0
        self._waiting = 0
        metrics.watch(lambda: len(self._intake), self._live, lambda: self._waiting)
        metrics.shared_claims.set_function(lambda: len(self._window))
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
            "ready_tasks": self._waiting,
            "requests_waiting": len(self._intake),
            "retries_waiting": len(self._retries),
            "held_by_limits": self._limits.waiting + len(self._ready) - self._waiting,
            "executors": len(self._executors),
            "free_slots": self._executors.free_slots,
            "epoch": self.ownership.owner.epoch,
            "owners": len(self.ownership.owners),
            "keeps_schedules": float(self.ownership.keeps_schedules),
        }

    def executors(self) -> list[ExecutorView]:
        """The executors that are connected, or hold a lease that has not lapsed, by id."""
        renewed = asyncio.get_running_loop().time() + self.settings.lease_s
        views = [
            ExecutorView(
                executor.executor_id,
                executor.version,
                executor.session is not None,
                executor.slots,
                max(executor.free, 0),
                len(executor.claims),
                max(renewed - executor.lease_until, 0.0),
            )
            for executor in self._executors
        ]
        return sorted(views)

    @property
    def waiting(self) -> int:
        """Tasks that wait for a slot; not those that a limit holds back."""
        return self._waiting

    def find(self, execution_id: str) -> Live | None:
        """The unfinished execution of this id; for looking only."""
        return self._live.get(execution_id)

    def package_digests(self) -> set[str]:
        """The packages that unfinished executions run on."""
        return {live.definition.package_digest for live in self._live.values()}

    async def start(self) -> None:
        """Loads what is unfinished and begins to work.

        Raises:
            Unavailable: the store cannot be read.
        """
        await self._load()
        self._tasks = [
            asyncio.create_task(self._commits.run(), name="commit groups"),
            asyncio.create_task(sweep_leases(self.settings.lease_s / 5, self._sweep), name="sweep leases"),
            asyncio.create_task(self.ownership.keep(self._take_adopted, self._lose), name="keep the ownership"),
        ]

    async def stop(self) -> None:
        """Commits what is there, refuses what comes from now on, and ends."""
        first, self._stopping = not self._stopping, True
        self.watchers.close()
        if self._opens is not None:
            self._opens.cancel()
        if first and self._healthy:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._flush(), _FLUSH_DEADLINE_S)
        for task in (*self._tasks, *self._late):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._late, return_exceptions=True)
        if first and self._healthy:
            with contextlib.suppress(TimeoutError):  # then it lapses
                await asyncio.wait_for(self.ownership.leave(), _FLUSH_DEADLINE_S)
        for request in self._intake.clear():
            request.refuse(Unavailable("the scheduler is stopping", code="draining"))
        self._retries.clear()
        for executor in self._executors:
            if executor.session is not None:
                executor.session.close()

    async def _flush(self) -> None:
        """Returns once all that waits is committed."""
        more = True
        while more:
            more = len(self._intake) > 0
            flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._put(Request(lambda _: None, flushed))
            await flushed

    # Requests

    async def submit(
        self,
        definition: Definition,
        context: bytes,
        origin: Origin,
        *,
        trigger_origin: str = "manual",
        idempotency_key: str | None = None,
        priority: int = 0,
        max_unfinished: int = 0,
        execution_id: str = "",
    ) -> tuple[str, bool]:
        """Starts an execution.

        Args:
            definition: what to run.
            context: its input, a JSON object.
            origin: the request that asks for it.
            trigger_origin: "manual", "cron" or "trigger".
            idempotency_key: names it: the tenant's workflow is never started twice under the same key.
            priority: its tasks are claimed before those of the tenant's executions with a lower one.
            max_unfinished: executions that the tenant may have unfinished, this one included; 0 for no limit.
            execution_id: the UUID it is to have, which no other has; empty for a new one.

        Returns:
            The id of the execution, once it is durable, and whether it is new: ``False`` where the key names one.

        Raises:
            RateLimited: the tenant has as many unfinished executions as it may (code execution_quota_exceeded).
            Unavailable: too much is in flight, or the store cannot be written.
        """
        live = self._new_live(self._now(), definition, context, origin, trigger_origin)
        self._check_live(1, live.tenant_id, len(context))
        live.execution_id = execution_id or live.execution_id
        live.idempotency_key, live.priority = idempotency_key, priority
        key = None if idempotency_key is None else (live.tenant_id, live.workflow_name, idempotency_key)
        admit = functools.partial(self._admit, live=live, size=len(context), max_unfinished=max_unfinished)
        execution_id = str(await self._ask(admit, key, tenant_id=live.tenant_id, size=len(context)))
        return execution_id, execution_id == live.execution_id

    def unfinished(self, tenant_id: str) -> list[str]:
        """The ids of a tenant's unfinished executions."""
        return self._live.of_tenant(tenant_id)

    def _check_quota(self, tenant_id: str, max_unfinished: int) -> None:
        unfinished = self._live.count(tenant_id)
        if max_unfinished and unfinished >= max_unfinished:
            raise RateLimited(
                f"the tenant has {unfinished} unfinished executions and may have {max_unfinished}; try again when one "
                "has ended",
                code="execution_quota_exceeded",
            )

    def _admit(self, work: GroupWork, live: Live, size: int, max_unfinished: int) -> str:
        self._check_quota(live.tenant_id, max_unfinished)
        self._check_live(1, live.tenant_id, size)  # others may have come in between
        return self._begin(work, live)

    def _check_live(self, executions: int, tenant_id: str = "", size: int = 0) -> None:
        try:
            self._live.check_room(executions, tenant_id, size)
        except Unavailable:
            self._metrics.refused["live"].inc()
            raise

    def _new_live(self, now: int, definition: Definition, context: bytes, origin: Origin, trigger_origin: str) -> Live:
        return Live(
            execution_id=new_execution_id(now),
            definition=definition,
            state=ExecutionState.new(definition.spec, context),
            origin=origin,
            created_at=now,
            trigger_origin=trigger_origin,
        )

    # What is kept beside executions

    def attach(self, companion: Companion) -> None:
        """Names what else is loaded from the store; before `start`."""
        self._companion = companion

    async def transact(self, apply: Callable[[GroupWork], _Answer]) -> _Answer:
        """Runs `apply` inside a group commit.

        Args:
            apply: decides, and changes what is to be written. It must not raise once it has changed something.

        Returns:
            What it returned, once the group is durable.

        Raises:
            CloacinaError: what it raised.
            Unavailable: too much is in flight, or the store cannot be written.
        """
        answer = await self._ask(apply)
        return answer  # type: ignore[return-value]

    def check_room(self, executions: int) -> None:
        """Inside a group, before anything is changed.

        Raises:
            Unavailable: so many further executions are too many.
        """
        self._check_live(executions)

    def begin(
        self, work: GroupWork, definition: Definition, context: bytes, origin: Origin, trigger_origin: str
    ) -> str:
        """Starts an execution inside a group; see `submit`.

        Returns:
            Its id.
        """
        return self._begin(work, self._new_live(work.now, definition, context, origin, trigger_origin))

    def new_poll_id(self) -> int:
        """A number for a poll, of the same kind as claim ids and never used for another."""
        return self._next_claim()

    def poll(self, order: PollOrder) -> Session | None:
        """Has an executor call a trigger's function; the answer comes to the companion. It takes no slot.

        Returns:
            The executor's session; ``None`` when none is connected.
        """
        executor = self._executors.for_poll()
        if executor is None or executor.session is None or not self._healthy:
            return None
        executor.session.poll([order])
        return executor.session

    def knows(self, session: Session) -> bool:
        """Whether an executor is connected by this session."""
        return any(executor.session is session for executor in self._executors)

    def report_polled(self, poll_id: int, answer: PollAnswer) -> None:
        """A trigger's function was called."""
        if self._companion is not None:
            self._companion.answered(poll_id, answer)

    async def change(self, tenant_id: str, execution_id: str, command: Cancel | Pause | Resume) -> None:
        """Cancels, pauses or resumes an execution.

        Raises:
            NotFound: the tenant has no unfinished execution of this id.
            Conflict: the execution's state does not allow it.
            Unavailable: the store cannot be written.
        """
        change = functools.partial(self._change, tenant_id=tenant_id, execution_id=execution_id, command=command)
        await self._ask(change, tenant_id=tenant_id)

    async def retry(self, tenant_id: str, execution_id: str) -> None:
        """Runs again what did not succeed, in an execution that failed or was cancelled.

        Raises:
            NotFound: the tenant has no execution of this id.
            Conflict: it has not ended, or nothing of it failed.
            Unavailable: the store cannot be read or written.
        """
        async with self.reopening:  # until it is decided on
            if execution_id not in self._live:
                row = await self._store.load_one(tenant_id, execution_id)
                if row is None:
                    raise NotFound(f"there is no execution {execution_id}", code="execution_not_found")
                (definition,) = await self._store.load_definitions([row.execution.definition_id], tenant_id)
                live = _restore(row, self._load_definition(definition))
                await self._grow_beyond(live)
                await self._ask(lambda work: self._reopen(work, live))
            elif (found := self._live[execution_id]).tenant_id == tenant_id:
                raise Conflict(
                    f"cannot retry an execution that is {found.state.status}", code=IllegalTransition.default_code
                )
            else:
                raise NotFound(f"there is no execution {execution_id}", code="execution_not_found")

    async def _grow_beyond(self, live: Live) -> None:
        """Returns once new claims are larger than those of an execution that another owner ended, who may have joined
        later: one more adoption sees to it, also where there is nothing to adopt."""
        largest = max(task.claim_id for task in live.state.tasks.values()) >> _COUNTER_BITS
        try:
            async with asyncio.timeout(_ADOPTION_DEADLINE_S):
                while self._adoption < largest:
                    self.ownership.look()
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise Unavailable("the schedulers are changing hands; try again shortly", code="moving") from None

    async def explain(
        self, tenant_id: str, execution_id: str, since: Mapping[tuple[str, str], int]
    ) -> Explanation | None:
        """Why an unfinished execution is not done; ``None`` when the tenant has none of this id.

        Args:
            tenant_id: whose.
            execution_id: which.
            since: when events of it were recorded last (see `cloacina.domain.explanation.Surroundings`).

        Raises:
            Unavailable: the store cannot be written, which holds everything up.
        """
        explanation = await self._ask(lambda work: self._explain(work, tenant_id, execution_id, since))
        return explanation if isinstance(explanation, Explanation) else None

    async def explain_ended(self, tenant_id: str, execution_id: str) -> Explanation | None:
        """How an execution ended; ``None`` when the tenant has none of this id, or it has not.

        Raises:
            Unavailable: the store cannot be read.
        """
        row = await self._store.load_one(tenant_id, execution_id)
        if row is None or row.execution.finished_at is None:
            return None
        (definition,) = await self._store.load_definitions([row.execution.definition_id], tenant_id)
        live = _restore(row, self._load_definition(definition))
        live.state.reason, live.state.error = EndReason(row.execution.reason or "ok"), row.execution.error
        return explain(live.state, Surroundings(), self._now())

    async def join(self, joining: Joining, session: Session) -> None:
        """An executor connected, for the first time or again. Returns once that is durable.

        Args:
            joining: who it is and what it holds.
            session: the way to it.
        """
        void = await self._void_among(joining)
        await self._ask(lambda work: self._join(work, joining, void, session))

    async def _void_among(self, joining: Joining) -> set[int]:
        """The claims that an executor holds and nobody knows of any more, this owner or another."""
        executor = self._executors.get(joining.executor_id)
        unknown = joining.held - (set() if executor is None else executor.claims.keys())
        void = set()
        for claim_id in unknown:
            execution_id = joining.executions.get(claim_id)
            if execution_id is None or not await self._store.is_held(execution_id, claim_id):
                void.add(claim_id)
        return void

    def leave(self, executor_id: str, session: Session) -> None:
        """The way to an executor broke. Its claims stay its own until its lease lapses."""
        executor = self._executors.get(executor_id)
        if executor is None or executor.session is not session:
            return
        executor.session = None
        if executor.slots == 0 and not executor.claims:  # it drained, and will not come back
            self._put(Request(functools.partial(self._lapse, executor, drained=True)))

    def heartbeat(self, executor_id: str, slots: int, session: Session | None = None) -> None:
        """An executor renews its lease and says how many tasks it takes from now on.

        Args:
            executor_id: which.
            slots: how many.
            session: what is told once that counts.
        """
        self._put(Request(lambda work: self._renew(work, executor_id, slots, session)))

    def report_started(self, executor_id: str, claim_id: int, started_at: int) -> None:
        """A task has begun to run and is not done yet."""
        self._put(Request(lambda work: self._report_started(work, executor_id, claim_id, started_at)))

    def report_preparing(self, executor_id: str, claim_id: int, stage: Preparation, since: int) -> None:
        """What a claimed task waits for before it begins, for `explain`: of this moment, and not stored."""
        executor = self._executors.get(executor_id)
        if executor is not None:
            executor.prepares(claim_id, stage, since)

    def report_deferred(self, executor_id: str, claim_id: int, deferred: bool) -> None:
        """A task gave its slot back to wait, or holds one again."""
        self._put(Request(lambda work: self._report_deferred(work, executor_id, claim_id, deferred)))

    def report(self, session: Session, result: Result) -> None:
        """An attempt ended. It is acknowledged on the session once that is durable, or refused for good."""
        self._put(Request(lambda work: self._report(work, session, result)))

    def release(self, executor_id: str, session: Session, claim_id: int) -> None:
        """An executor hands a claim back unfinished; the task is Ready at once. Acknowledged like a result."""
        self._put(Request(lambda work: self._release(work, executor_id, session, claim_id)))

    async def room(self) -> None:
        """Returns once more may be reported: whoever reads from executors waits for it, and lets them wait."""
        await self._intake.room()

    async def _ask(
        self,
        apply: Callable[[GroupWork], object],
        key: IdempotencyKey | None = None,
        *,
        tenant_id: str = "",
        size: int = 0,
    ) -> object:
        if self._stopping or not self._healthy:
            if self._stopping:
                raise Unavailable("the scheduler is stopping", code="draining")
            raise Unavailable("the scheduler's store is unavailable")
        try:
            self._intake.check_room(tenant_id, size)
        except Unavailable:
            self._metrics.refused["waiting"].inc()
            raise
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._put(Request(apply, done, key, tenant_id, size))
        return await done

    def _put(self, request: Request) -> None:
        self._intake.put(request)

    def _retry_due(self, execution_id: str, task: str) -> None:
        self._put(Request(lambda work: self._command(work, execution_id, RetryDue(task))))

    # The steps of the group commit, see `cloacina.engine.pipeline`

    def _check_owner(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _group(self, open_group: GroupWork | None) -> GroupWork:
        if open_group is None:
            return GroupWork(self._now(), self.ownership.owner)
        open_group.now = self._now()
        return open_group

    async def _find_key(self, key: IdempotencyKey) -> str | None:
        return await self._store.find_by_idempotency_key(*key)

    def _conclude(self, work: GroupWork) -> None:
        self._advance(work)
        self._claim_ready(work)

    async def _commit(self, work: GroupWork, batch: Batch) -> None:
        began = time.time_ns()
        with tracing.as_exemplar(work.traceparent()):
            rows = await self._store.commit(batch)
        self._stored_definitions.update(work.definitions)
        if rows and tracing.enabled():
            work.transaction = Transaction(rows, began, time.time_ns())

    def _publish(self, work: GroupWork, requests: Sequence[Request]) -> None:
        """The group is durable: say so, to whoever waits for it. First what others can go on with: to count it and to
        write it down takes longer than to send it."""
        try:
            for session, claims in work.acknowledged.items():
                session.acknowledge(claims)
            for session, assignments in work.assignments.items():
                session.assign(assignments)
            for session, claims in work.stops.items():
                session.stop(claims)
            self.watchers.tell(work.events)
            for afterwards in work.afterwards:
                afterwards()
        finally:
            for request in requests:
                request.settle()
        once_sent(self._narrate, work)

    def _narrate(self, work: GroupWork) -> None:
        if work.transaction is not None:
            narration.commit(work, work.transaction, self._store.system)
        for live, event in work.history:
            self._metrics.observe(live, event)
            narration.event(live, event)

    async def _reset(self, error: BaseException, refused: Sequence[Request], backoff_s: float) -> None:
        """A commit failed: nothing of its group happened, nor of what was decided after it. Begin again from the
        store."""
        self._healthy = False
        reason: CloacinaError
        if isinstance(error, OwnershipLost):
            self._lost = None
            reason = error
        elif isinstance(error, StoreConflict):  # one request's conflict is not the others', who can ask again
            log.error("a commit failed; reloading from the store", extra={"error": str(error)})
            reason = Unavailable("the store refused what was to be written with this; try again")
        elif isinstance(error, CloacinaError):
            log.error("a commit failed; reloading from the store", extra={"error": str(error)})
            reason = error
        else:
            log.error("a group could not be decided; reloading from the store", exc_info=error)
            reason = Internal("internal error")
        for request in (*refused, *self._intake.clear()):
            request.refuse(reason)
        for executor in self._executors:
            if executor.session is not None:
                executor.session.close()
        while True:
            await asyncio.sleep(backoff_s)
            try:
                await self._load()
                return
            except Exception as again:
                backoff_s = min(backoff_s * 2, 2.0)
                log.error(
                    "the store cannot be read; trying again", extra={"error": str(again), "retry_in_s": backoff_s}
                )

    # Loading

    async def _load(self) -> None:
        """Joins the owners, and takes up what the store says is unfinished and its own. Executors get a whole lease to
        connect again."""
        if await self.ownership.was_taken_over():
            self._metrics.ownership_lost.inc()
            log.error(
                "others have taken over what this scheduler owned; joining again",
                extra={"owner_id": self.ownership.owner_id, "epoch": self.ownership.owner.epoch},
            )
        owner = await self.ownership.join()
        self._loads += 1
        self._lost, self._claims_made = None, 0
        rows = await self._store.load_live(owner.epoch)
        definitions = await self._definitions_of(rows)
        self._adoption = await self._store.owners.last_adoption(owner)
        self._live.clear()
        self._executors.clear()
        self._retries.clear()
        self._limits.clear()
        self._window.clear()
        self._families.clear()
        self._ended.clear()
        self._ready = ReadyQueue()
        self._stored_definitions = set(definitions)
        self._take_up_all(rows, definitions)
        self._waiting = self._ready.count(self._limits.allow)
        if self._companion is not None:
            await self._companion.load()
        self._healthy = True
        if self._live:
            log.info("took up unfinished executions", extra={"executions": len(self._live)})
            self._put(Request(self._find_orphans))
        self.watchers.doubt()  # the commit that failed may have been made after all

    async def _definitions_of(self, rows: Sequence[LiveExecution]) -> dict[str, Definition]:
        return {
            row.definition_id: self._load_definition(row)
            for row in await self._store.load_definitions({row.execution.definition_id for row in rows})
        }

    def _take_up_all(self, rows: Sequence[LiveExecution], definitions: Mapping[str, Definition]) -> list[Live]:
        lease_until = asyncio.get_running_loop().time() + self.settings.lease_s
        taken = [_restore(row, definitions[row.execution.definition_id]) for row in rows]
        for live in taken:
            self._take_up(live, lease_until)
        for live in taken:
            if live.parent is not None:
                self._families.add(live, live.parent)
        return taken

    async def _take_adopted(self, gone: list[OwnerRow]) -> None:
        """Takes up what the store gave this owner when others were gone."""
        owner, loads = self.ownership.owner, self._loads
        rows = await self._store.load_live(owner.epoch, adopted_after=self._adoption)
        definitions = await self._definitions_of(rows)
        adoption = await self._store.owners.last_adoption(owner)
        if loads != self._loads or not self._healthy:
            return  # all is loaded anew, or about to be, and this with it
        self._adoption = max(self._adoption, adoption)
        taken = self._take_up_all(rows, definitions)
        self._stored_definitions.update(definitions)
        self._metrics.adoptions.inc(len(taken))
        narration.adopted(gone, len(taken), self.ownership.owner)
        ids = {live.execution_id for live in taken}
        for executor in self._executors:
            adopted = [claim for claim, (execution_id, _) in executor.claims.items() if execution_id in ids]
            if adopted and executor.session is not None:
                executor.session.own(adopted)
        if taken:
            self._put(Request(self._find_orphans))
        if self._companion is not None:
            await self._companion.adopted()

    def _lose(self, lost: OwnershipLost) -> None:
        """Others have taken over: begin again, as after a commit that failed."""
        self._lost = lost
        self._intake.wake()

    def _take_up(self, live: Live, lease_until: float) -> None:
        self._live[live.execution_id] = live
        if live.state.status is ExecutionStatus.PENDING:
            self._limits.hold(live)
            return
        self._limits.execution_started(live)
        for name, task in live.state.tasks.items():
            if task.status is TaskStatus.READY:
                self._queue(live, name)
            elif task.status is TaskStatus.PENDING and task.retry_due is not None:
                self._retries.add(self._still_due(live, name, task.retry_due), live.execution_id, name)
            elif task.claimed and task.executor_id != CLAIMANT:
                executor = self._executors.get(task.executor_id)
                if executor is None:
                    executor = Executor(task.executor_id, 0, "", lease_until)
                    self._executors.add(executor)
                executor.claims[task.claim_id] = (live.execution_id, name)
                self._limits.task_started(live)
                if task.deferred:
                    executor.deferred.add(task.claim_id)

    def _still_due(self, live: Live, name: str, due: int) -> int:
        """When a retry is due that was stored as due at `due`: the clock may have been set back since, and no retry
        waits for longer than its policy says."""
        retry = live.definition.spec.task_of(name).retry
        failed_attempt = live.state.tasks[name].attempt - 1
        return min(due, self._now() + retry.delay_us(attempt=failed_attempt, spread=1.0))

    def _find_orphans(self, work: GroupWork) -> None:
        """After a restart: tasks that wait for a child that is not there start another, and what a limit held back
        that is none any more (it may have been changed) goes on."""
        for live in list(self._live.values()):
            if live.state.status is ExecutionStatus.PENDING:
                self._ended.append(live)
            for name, task in live.state.tasks.items():
                waits = task.claimed and task.executor_id == CLAIMANT
                if waits and not self._families.has_child(live.execution_id, name):
                    self._decide(work, live, VoidClaim(name, task.claim_id, lost=False))

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
                self._queue(live, event.task)
            case TaskClaimed():
                if event.executor_id != CLAIMANT:
                    self._limits.task_started(live)
            case TaskReset():
                self._drop_claim(live, event.task)
                self._queue(live, event.task)
            case TaskRetryScheduled():
                self._drop_claim(live, event.task)
                self._retries.add(event.due, live.execution_id, event.task)
            case WorkflowStarted() | WorkflowReopened():
                self._limits.execution_started(live)
            case WorkflowResumed():
                for name, task in live.state.tasks.items():
                    if task.status is TaskStatus.READY:
                        self._queue(live, name)
            case WorkflowCompleted() | WorkflowFailed() | WorkflowCancelled():
                self._live.pop(live.execution_id, None)
                if live.state.status is not ExecutionStatus.PENDING:
                    self._limits.execution_ended(live)
                self._ended.append(live)
            case TaskCompleted() | TaskFailed() | TaskSkipped():
                self._drop_claim(live, event.task)
            case _:
                pass

    def _queue(self, live: Live, task: str) -> None:
        """A task is ready: for a slot, or to start the execution it stands for."""
        if live.definition.spec.task_of(task).workflow is not None:
            self._families.due.append((live.execution_id, task))
        else:
            self._ready.push(lane_of(live), live.execution_id, task, created_at=live.created_at, priority=live.priority)

    def _drop_claim(self, live: Live, name: str) -> None:
        task = live.state.tasks[name]
        if not task.claimed or task.executor_id == CLAIMANT:
            return
        executor = self._executors.get(task.executor_id)
        if executor is not None:
            executor.claims.pop(task.claim_id, None)
            executor.deferred.discard(task.claim_id)
        self._limits.task_ended(live)
        self._window.ended(task.claim_id)

    def _begin(self, work: GroupWork, live: Live) -> str:
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
        if self._limits.admits(live):
            self._decide(work, live, Start())
        else:
            self._limits.hold(live)
        return live.execution_id

    def _explain(
        self, work: GroupWork, tenant_id: str, execution_id: str, since: Mapping[tuple[str, str], int]
    ) -> Explanation | None:
        work.must_own = True
        live = self._live.get(execution_id)
        if live is None or live.tenant_id != tenant_id:
            return None
        around = surroundings_of(
            live,
            self._executors,
            self._limits,
            self._families,
            others=self._live.values(),
            ready_tasks=self._waiting,
            since=since,
            lease_s=self.settings.lease_s,
            now=work.now,
            monotonic=asyncio.get_running_loop().time(),
        )
        return explain(live.state, around, work.now)

    def _reopen(self, work: GroupWork, live: Live) -> None:
        decide(live.state, RetryFailed(), work.now)  # refuses before anything is changed
        self._live[live.execution_id] = live
        work.reopened.append(live.execution_id)
        self._decide(work, live, RetryFailed())

    # What follows from what was decided, inside the same group

    def _advance(self, work: GroupWork) -> None:
        """Starts children, tells parents, and admits what waited for what has ended, until nothing follows any more."""
        while self._ended or self._families.due:
            ended, self._ended = self._ended, []
            for live in ended:
                if live.parent is not None:
                    self._tell_parent(work, live, live.parent)
                self._admit_next(work, live)
            due, self._families.due = self._families.due, []
            for execution_id, task in due:
                self._start_child(work, execution_id, task)

    def _admit_next(self, work: GroupWork, ended: Live) -> None:
        while (execution_id := self._limits.next_held(ended)) is not None:
            held = self._live.get(execution_id)
            if held is None or held.state.status is not ExecutionStatus.PENDING:
                continue  # it was cancelled while it waited
            if not self._limits.admits(held):
                self._limits.hold(held)
                return
            self._decide(work, held, Start())

    def _start_child(self, work: GroupWork, execution_id: str, task: str) -> None:
        live = self._live.get(execution_id)
        if live is None or live.state.tasks[task].status is not TaskStatus.READY:
            return
        claim_id = self._next_claim()
        self._decide(work, live, ClaimTask(task, claim_id, CLAIMANT))
        if live.state.tasks[task].claim_id != claim_id:  # paused: it is queued again when the execution is resumed
            return
        self._decide(work, live, ReportStarted(task, claim_id, work.now))
        name = live.definition.spec.task_of(task).workflow or ""
        depth = 1 if live.parent is None else live.parent.depth + 1
        definition = self._find_definition(live.tenant_id, name)
        if definition is None or depth > MAX_DEPTH:
            error = (
                f"task {task!r} executes the workflow {name!r}, which does not exist"
                if definition is None
                else f"{MAX_DEPTH} executions are above this one: does a workflow execute itself?"
            )
            reason = FailureReason.VALIDATION_FAILED
            self._decide(work, live, ReportFailure(task, claim_id, None, reason, error, transient=False))
            return
        context = live.state.context_for(task)
        parent = Parent(execution_id, task, claim_id, depth)
        child = Live(
            execution_id=new_execution_id(work.now),
            definition=definition,
            state=ExecutionState.new(definition.spec, context),
            origin=live.origin,
            created_at=work.now,
            trigger_origin="workflow",
            priority=live.priority,
            parent=parent,
        )
        child.origin = narration.child_scheduled(child)
        self._families.add(child, parent)
        self._begin(work, child)

    def _tell_parent(self, work: GroupWork, child: Live, parent: Parent) -> None:
        self._families.remove(child, parent)
        live = self._live.get(parent.execution_id)
        if live is None:
            return
        state = child.state
        started_at = state.started_at or work.now
        command: Command
        if state.status is ExecutionStatus.COMPLETED:
            command = ReportSuccess(parent.task, parent.claim_id, started_at, state.output or b"{}")
        else:
            cancelled = state.status is ExecutionStatus.CANCELLED
            reason = FailureReason.CANCELLED if cancelled else FailureReason.TASK_ERROR
            error = (
                f"execution {child.execution_id} of workflow {child.workflow_name!r} is {state.status}: {state.error}"
            )
            command = ReportFailure(parent.task, parent.claim_id, started_at, reason, error)
        with contextlib.suppress(ClaimRejected):
            self._decide(work, live, command)

    def _next_claim(self) -> int:
        """A fencing token larger than any before."""
        self._claims_made += 1
        return self._adoption << _COUNTER_BITS | self._claims_made

    def _change(self, work: GroupWork, tenant_id: str, execution_id: str, command: Command) -> None:
        live = self._live.get(execution_id)
        if live is None or live.tenant_id != tenant_id:
            raise NotFound(f"no unfinished execution {execution_id}", code="execution_not_found")
        self._decide(work, live, command)
        for child_id in self._families.children(execution_id):
            with contextlib.suppress(CloacinaError):  # it is in that state already, or has just ended
                self._change(work, tenant_id, child_id, command)
        if isinstance(command, Cancel):
            for task in live.state.tasks.values():
                executor = self._executors.get(task.executor_id)
                if task.status is TaskStatus.RUNNING and executor is not None and executor.session is not None:
                    work.stops[executor.session].append(task.claim_id)

    def _claim_ready(self, work: GroupWork) -> None:
        """Gives ready tasks to free slots: in the very commit that made them ready, if there is a slot."""
        waited = self._waiting > 0
        if self._ready:
            self._claim_what_fits(work)
        self._waiting = self._ready.count(self._limits.allow)
        if self._waiting and self._executors.freest() is None:
            self._metrics.contended.inc()
        elif self._waiting:
            self._metrics.held_back.inc()
            self._claim_again_at(self._window.opens_at)
        if waited != (self._waiting > 0):
            work.afterwards.append(self._tell_waiting)

    def _tell_waiting(self) -> None:
        """Executors share their slots out by what waits."""
        for executor in self._executors:
            if executor.session is not None:
                executor.session.queue_changed()

    def _claim_what_fits(self, work: GroupWork) -> None:
        now = asyncio.get_running_loop().time()
        self._window.lapse(now)

        def allows(lane: Lane) -> bool:
            return self._limits.allow(lane) and self._window.allows(lane.tenant_id, now)

        while (executor := self._executors.freest()) is not None:
            entry = self._ready.pop(allows)
            if entry is None:
                break
            live = self._live.get(entry[0])
            if live is not None and live.state.tasks[entry[1]].status is TaskStatus.READY:
                self._claim(work, live, entry[1], executor, now)

    def _claim_again_at(self, at: float | None) -> None:
        """What the window holds back goes on at this time of the loop, also if nothing happens until then."""
        if self._opens is None and at is not None:
            self._opens = asyncio.get_running_loop().call_at(at, self._claim_again)

    def _claim_again(self) -> None:
        self._opens = None
        self._put(Request(lambda _: None))

    def _claim(self, work: GroupWork, live: Live, name: str, executor: Executor, now: float) -> None:
        claim_id = self._next_claim()
        self._decide(work, live, ClaimTask(name, claim_id, executor.executor_id))
        task = live.state.tasks[name]
        if task.claim_id != claim_id:  # paused: it is queued again when the execution is resumed
            return
        executor.claims[claim_id] = (live.execution_id, name)
        assert executor.session is not None
        context = live.state.context_for(name)
        work.assignments[executor.session].append(Assignment(claim_id, live, name, task.attempt, context))
        self._window.claimed(live.tenant_id, claim_id, now, queue=self._ready.of_tenant(live.tenant_id))
        self._metrics.claimed.inc()

    # Executors, inside a group

    def _join(self, work: GroupWork, joining: Joining, void: set[int], session: Session) -> None:
        executor = self._executors.get(joining.executor_id)
        if executor is None:
            executor = Executor(joining.executor_id, joining.slots, joining.version, 0.0)
            self._executors.add(executor)
        if executor.session is not None and executor.session is not session:
            executor.session.close()
        executor.version, executor.session = joining.version, session
        self._renew(work, joining.executor_id, joining.slots, None)
        executor.joining = True
        for claim_id, (execution_id, task) in list(executor.claims.items()):
            if claim_id not in joining.held:  # it never got the assignment
                self._command(work, execution_id, VoidClaim(task, claim_id, lost=False))
                executor.claims.pop(claim_id, None)
        for claim_id in joining.held:
            found = executor.claims.get(claim_id)
            live = None if found is None else self._live.get(found[0])
            cancelled = live is not None and live.state.cancelling is not None
            if cancelled or (live is None and claim_id in void):
                work.stops[session].append(claim_id)
        work.afterwards.append(lambda: self._welcome(executor, session))
        own = [claim_id for claim_id in joining.held if claim_id in executor.claims]
        work.afterwards.append(lambda: session.own(own))
        work.afterwards.append(session.queue_changed)
        work.afterwards.append(lambda: narration.executor_joined(joining))

    def _welcome(self, executor: Executor, session: Session) -> None:
        executor.joining = False
        executor.lease_until = asyncio.get_running_loop().time() + self.settings.lease_s
        session.welcome()

    def _renew(self, work: GroupWork, executor_id: str, slots: int, session: Session | None) -> None:
        executor = self._executors.get(executor_id)
        if executor is None:
            return
        executor.slots = slots
        executor.lease_until = asyncio.get_running_loop().time() + self.settings.lease_s
        lease_ends = work.now + int(self.settings.lease_s * 1e6)
        epoch = self.ownership.owner.epoch
        work.executors[executor_id] = ExecutorRow(epoch, executor_id, slots, executor.version, lease_ends, work.now)
        work.executors_gone.discard(executor_id)
        work.afterwards.append(self._metrics.heartbeat_writes.inc)
        if session is not None:
            work.afterwards.append(lambda: session.renewed(slots))
        if executor.free > 0 and not self._waiting:
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
            # the end itself may be of this very group: not looked up, or acknowledged, before it is durable
            work.afterwards.append(lambda: self._late_result(session, result))
            return
        self._window.ended(result.claim_id, result.run_us)
        try:
            self._decide(work, live, _result_command(result))
        except ClaimRejected:
            work.afterwards.append(lambda: self._count_rejected(live, result))
        else:
            if isinstance(result.outcome, Success) and result.outcome.context is not None:
                self._live.grow(live.execution_id, len(result.outcome.context))
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
            found = await self._store.task_claim(result.execution_id, result.task)
        except Unavailable:
            return  # not acknowledged, so it comes again
        current = found is not None and found.claim_id == result.claim_id
        if found is not None and found.owner is not None and current:
            return  # another owner waits for it: not acknowledged, so that it goes there
        if not current:
            self._metrics.claim_lost.inc()
            narration.result_too_late(result)
        session.acknowledge([result.claim_id])

    def _release(self, work: GroupWork, executor_id: str, session: Session, claim_id: int) -> None:
        self._report_of_claim(work, executor_id, claim_id, lambda task: VoidClaim(task, claim_id, lost=False))
        work.acknowledged[session].append(claim_id)

    # Leases

    def _sweep(self, stall_s: float) -> None:
        """Voids the claims of executors whose lease lapsed; a stall of this process is not their silence."""
        if not self._healthy:
            return  # nothing can be decided; what is loaded again begins with whole leases
        if self._intake.crowded:  # what is not read yet may be their heartbeats
            stall_s = max(stall_s, self.settings.lease_s / 5)
        for executor in self._executors:
            executor.lease_until += stall_s
        for executor in self._executors.lapsed(asyncio.get_running_loop().time()):
            self._put(Request(functools.partial(self._lapse, executor)))

    def _lapse(self, executor: Executor, work: GroupWork, *, drained: bool = False) -> None:
        if self._executors.get(executor.executor_id) is not executor:
            return  # it lapsed before, and may have connected again since
        if drained and (executor.session is not None or executor.claims):
            return  # it is there again
        if not drained and not executor.lapsed(asyncio.get_running_loop().time()):
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
        if not drained:
            work.afterwards.append(lambda: self._metrics.stale_claims_swept.inc(len(claims)))
            work.afterwards.append(lambda: narration.lease_lapsed(executor.executor_id, len(claims)))


def _restore(row: LiveExecution, definition: Definition) -> Live:
    """An execution as it was when its rows were written."""
    execution = row.execution
    state = ExecutionState.new(definition.spec, execution.input)
    state.status = ExecutionStatus(execution.status)
    state.cancelling = execution.cancelling
    state.sequence = execution.sequence
    state.started_at, state.finished_at = execution.started_at, execution.finished_at
    state.tasks.update((task.task_name, restore_task(task)) for task in row.tasks)
    state.recount()
    parent = None
    if execution.parent_execution_id is not None:
        parent = Parent(
            execution.parent_execution_id, execution.parent_task or "", execution.parent_claim_id or 0, execution.depth
        )
    return Live(
        execution_id=execution.execution_id,
        definition=definition,
        state=state,
        origin=Origin(execution.request_id, execution.traceparent),
        created_at=execution.created_at,
        trigger_origin=execution.trigger_origin,
        idempotency_key=execution.idempotency_key,
        priority=execution.priority,
        parent=parent,
    )


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
