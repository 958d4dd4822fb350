"""The engine: takes requests in, decides on them in groups, commits each group once, and only then lets it be known.

What is decided, and on what, is in `cloacina.engine.memory`. How groups follow one another is in
`cloacina.engine.pipeline`: memory is ahead of the store by up to two of them.
Whatever goes wrong with a commit leads to one place, `_reset`: the group is refused, executors are sent away to connect
again, and the state is loaded from the store, which is the truth. Starting is the same load.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from cloacina.domain.decisions import (
    Cancel,
    IllegalTransition,
    Pause,
    Resume,
)
from cloacina.domain.execution import (
    EndReason,
    ExecutionState,
)
from cloacina.domain.explanation import Explanation, Preparation, Surroundings, explain
from cloacina.engine import narration
from cloacina.engine.executors import ExecutorView
from cloacina.engine.ids import new_execution_id
from cloacina.engine.intake import IdempotencyKey, Intake, Request
from cloacina.engine.memory import CLAIM_COUNTER_BITS, Memory
from cloacina.engine.metrics import EngineMetrics
from cloacina.engine.model import (
    Companion,
    Definition,
    DefinitionFinder,
    Joining,
    Live,
    Origin,
    PollAnswer,
    PollOrder,
    Result,
    Session,
)
from cloacina.engine.ownership import Ownership
from cloacina.engine.pipeline import GroupCommits, Steps
from cloacina.engine.restoring import restore
from cloacina.engine.settings import EngineSettings
from cloacina.engine.sweeper import sweep_leases
from cloacina.engine.watchers import Watchers
from cloacina.engine.work import GroupWork, Transaction
from cloacina.errors import CloacinaError, Conflict, Internal, NotFound, RateLimited, Unavailable
from cloacina.store.database import StoreConflict
from cloacina.store.executions import Batch, DefinitionRow, ExecutionStore, LiveExecution
from cloacina.store.owners import OwnerRow, OwnershipLost
from cloacina.telemetry import tracing
from cloacina.telemetry.turns import once_sent

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")
_ADOPTION_DEADLINE_S = 2.0
"""Seconds that a retry waits for its scheduler to have larger claims to give than the last one's."""
_LOOK_S = 0.05
_FLUSH_DEADLINE_S = 5.0
"""Seconds that stopping waits for what is there to be committed."""


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
        self.reopening = asyncio.Lock()
        """Held while what was read of executions that have ended must stay true."""
        self._intake = Intake(limits.max_waiting, limits.max_waiting_bytes, limits.tenant_share)
        self._memory = memory = Memory(
            limits,
            metrics,
            clock,
            find_definition=find_definition,
            epoch=lambda: self.ownership.owner.epoch,
            put=self._put,
            late=self._late_result,
        )
        steps = Steps(
            self._check_owner,
            self._group,
            self._find_key,
            memory.conclude,
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
        metrics.watch(lambda: len(self._intake), memory.live, lambda: memory.waiting)

    # What shells see of the engine

    @property
    def healthy(self) -> bool:
        """Whether the engine can commit, as far as it knows."""
        return self._healthy

    def figures(self) -> Mapping[str, float]:
        """Figures for operators, by name."""
        return {
            **self._memory.figures(),
            "requests_waiting": len(self._intake),
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
            for executor in self._memory.executors
        ]
        return sorted(views)

    @property
    def waiting(self) -> int:
        """Tasks that wait for a slot; not those that a limit holds back."""
        return self._memory.waiting

    def find(self, execution_id: str) -> Live | None:
        """The unfinished execution of this id; for looking only."""
        return self._memory.live.get(execution_id)

    def package_digests(self) -> set[str]:
        """The packages that unfinished executions run on."""
        return {live.definition.package_digest for live in self._memory.live.values()}

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
        self._memory.close()

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
        return self._memory.live.of_tenant(tenant_id)

    def _check_quota(self, tenant_id: str, max_unfinished: int) -> None:
        unfinished = self._memory.live.count(tenant_id)
        if max_unfinished and unfinished >= max_unfinished:
            raise RateLimited(
                f"the tenant has {unfinished} unfinished executions and may have {max_unfinished}; try again when one "
                "has ended",
                code="execution_quota_exceeded",
            )

    def _admit(self, work: GroupWork, live: Live, size: int, max_unfinished: int) -> str:
        self._check_quota(live.tenant_id, max_unfinished)
        self._check_live(1, live.tenant_id, size)  # others may have come in between
        return self._memory.begin(work, live)

    def _check_live(self, executions: int, tenant_id: str = "", size: int = 0) -> None:
        try:
            self._memory.live.check_room(executions, tenant_id, size)
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
        return self._memory.begin(work, self._new_live(work.now, definition, context, origin, trigger_origin))

    def new_poll_id(self) -> int:
        """A number for a poll, of the same kind as claim ids and never used for another."""
        return self._memory.next_claim()

    def poll(self, order: PollOrder) -> Session | None:
        """Has an executor call a trigger's function; the answer comes to the companion. It takes no slot.

        Returns:
            The executor's session; ``None`` when none is connected.
        """
        executor = self._memory.executors.for_poll()
        if executor is None or executor.session is None or not self._healthy:
            return None
        executor.session.poll([order])
        return executor.session

    def knows(self, session: Session) -> bool:
        """Whether an executor is connected by this session."""
        return any(each is session for each in self._memory.executors.sessions)

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
        change = functools.partial(self._memory.change, tenant_id=tenant_id, execution_id=execution_id, command=command)
        await self._ask(change, tenant_id=tenant_id)

    async def retry(self, tenant_id: str, execution_id: str) -> None:
        """Runs again what did not succeed, in an execution that failed or was cancelled.

        Raises:
            NotFound: the tenant has no execution of this id.
            Conflict: it has not ended, or nothing of it failed.
            Unavailable: the store cannot be read or written.
        """
        async with self.reopening:  # until it is decided on
            if execution_id not in self._memory.live:
                row = await self._store.load_one(tenant_id, execution_id)
                if row is None:
                    raise NotFound(f"there is no execution {execution_id}", code="execution_not_found")
                (definition,) = await self._store.load_definitions([row.execution.definition_id], tenant_id)
                live = restore(row, self._load_definition(definition))
                await self._grow_beyond(live)
                await self._ask(lambda work: self._memory.reopen(work, live))
            elif (found := self._memory.live[execution_id]).tenant_id == tenant_id:
                raise Conflict(
                    f"cannot retry an execution that is {found.state.status}", code=IllegalTransition.default_code
                )
            else:
                raise NotFound(f"there is no execution {execution_id}", code="execution_not_found")

    async def _grow_beyond(self, live: Live) -> None:
        """Returns once new claims are larger than those of an execution that another owner ended, who may have joined
        later: one more adoption sees to it, also where there is nothing to adopt."""
        largest = max(task.claim_id for task in live.state.tasks.values()) >> CLAIM_COUNTER_BITS
        try:
            async with asyncio.timeout(_ADOPTION_DEADLINE_S):
                while self._memory.adoption < largest:
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
        explanation = await self._ask(lambda work: self._memory.explain(work, tenant_id, execution_id, since))
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
        live = restore(row, self._load_definition(definition))
        live.state.reason, live.state.error = EndReason(row.execution.reason or "ok"), row.execution.error
        return explain(live.state, Surroundings(), self._now())

    async def join(self, joining: Joining, session: Session) -> None:
        """An executor connected, for the first time or again. Returns once that is durable.

        Args:
            joining: who it is and what it holds.
            session: the way to it.
        """
        void = await self._void_among(joining)
        await self._ask(lambda work: self._memory.join(work, joining, void, session))

    async def _void_among(self, joining: Joining) -> set[int]:
        """The claims that an executor holds and nobody knows of any more, this owner or another."""
        executor = self._memory.executors.get(joining.executor_id)
        unknown = joining.held - (set() if executor is None else executor.claims.keys())
        void = set()
        for claim_id in unknown:
            execution_id = joining.executions.get(claim_id)
            if execution_id is None or not await self._store.is_held(execution_id, claim_id):
                void.add(claim_id)
        return void

    def leave(self, executor_id: str, session: Session) -> None:
        """The way to an executor broke. Its claims stay its own until its lease lapses."""
        executor = self._memory.executors.get(executor_id)
        if executor is None or executor.session is not session:
            return
        executor.session = None
        if executor.slots == 0 and not executor.claims:  # it drained, and will not come back
            self._put(Request(functools.partial(self._memory.lapse, executor, drained=True)))

    def heartbeat(self, executor_id: str, slots: int, session: Session | None = None) -> None:
        """An executor renews its lease and says how many tasks it takes from now on.

        Args:
            executor_id: which.
            slots: how many.
            session: what is told once that counts.
        """
        self._put(Request(lambda work: self._memory.renew(work, executor_id, slots, session)))

    def report_started(self, executor_id: str, claim_id: int, started_at: int) -> None:
        """A task has begun to run and is not done yet."""
        self._put(Request(lambda work: self._memory.report_started(work, executor_id, claim_id, started_at)))

    def report_preparing(self, executor_id: str, claim_id: int, stage: Preparation, since: int) -> None:
        """What a claimed task waits for before it begins, for `explain`: of this moment, and not stored."""
        executor = self._memory.executors.get(executor_id)
        if executor is not None:
            executor.prepares(claim_id, stage, since)

    def report_deferred(self, executor_id: str, claim_id: int, deferred: bool) -> None:
        """A task gave its slot back to wait, or holds one again."""
        self._put(Request(lambda work: self._memory.report_deferred(work, executor_id, claim_id, deferred)))

    def report(self, session: Session, result: Result) -> None:
        """An attempt ended. It is acknowledged on the session once that is durable, or refused for good."""
        self._put(Request(lambda work: self._memory.report(work, session, result)))

    def release(self, executor_id: str, session: Session, claim_id: int) -> None:
        """An executor hands a claim back unfinished; the task is Ready at once. Acknowledged like a result."""
        self._put(Request(lambda work: self._memory.release(work, executor_id, session, claim_id)))

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

    async def _commit(self, work: GroupWork, batch: Batch) -> None:
        began = time.time_ns()
        with tracing.as_exemplar(work.traceparent()):
            rows = await self._store.commit(batch)
        self._memory.stored_definitions.update(work.definitions)
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
        self._memory.hang_up()
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
        self._lost = None
        rows = await self._store.load_live(owner.epoch)
        definitions = await self._definitions_of(rows)
        self._memory.clear(await self._store.owners.last_adoption(owner))
        self._memory.take_up(rows, definitions)
        if self._companion is not None:
            await self._companion.load()
        self._healthy = True
        if self._memory.live:
            log.info("took up unfinished executions", extra={"executions": len(self._memory.live)})
            self._put(Request(self._memory.find_orphans))
        self.watchers.doubt()  # the commit that failed may have been made after all

    async def _definitions_of(self, rows: Sequence[LiveExecution]) -> dict[str, Definition]:
        return {
            row.definition_id: self._load_definition(row)
            for row in await self._store.load_definitions({row.execution.definition_id for row in rows})
        }

    async def _take_adopted(self, gone: list[OwnerRow]) -> None:
        """Takes up what the store gave this owner when others were gone."""
        owner, loads = self.ownership.owner, self._loads
        rows = await self._store.load_live(owner.epoch, adopted_after=self._memory.adoption)
        definitions = await self._definitions_of(rows)
        adoption = await self._store.owners.last_adoption(owner)
        if loads != self._loads or not self._healthy:
            return  # all is loaded anew, or about to be, and this with it
        self._memory.adoption = max(self._memory.adoption, adoption)
        taken = self._memory.take_up(rows, definitions)
        self._metrics.adoptions.inc(len(taken))
        narration.adopted(gone, len(taken), self.ownership.owner)
        ids = {live.execution_id for live in taken}
        for executor in self._memory.executors:
            adopted = [claim for claim, (execution_id, _) in executor.claims.items() if execution_id in ids]
            if adopted and executor.session is not None:
                executor.session.own(adopted)
        if taken:
            self._put(Request(self._memory.find_orphans))
        if self._companion is not None:
            await self._companion.adopted()

    def _lose(self, lost: OwnershipLost) -> None:
        """Others have taken over: begin again, as after a commit that failed."""
        self._lost = lost
        self._intake.wake()

    # Results of executions that have ended

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

    # Leases

    def _sweep(self, stall_s: float) -> None:
        """Voids the claims of executors whose lease lapsed; a stall of this process is not their silence."""
        if not self._healthy:
            return  # nothing can be decided; what is loaded again begins with whole leases
        if self._intake.crowded:  # what is not read yet may be their heartbeats
            stall_s = max(stall_s, self.settings.lease_s / 5)
        for executor in self._memory.executors:
            executor.lease_until += stall_s
        for executor in self._memory.executors.lapsed(asyncio.get_running_loop().time()):
            self._put(Request(functools.partial(self._memory.lapse, executor)))
