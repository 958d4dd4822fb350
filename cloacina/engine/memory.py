"""What the engine has in memory: unfinished executions, executors, the claims between them, and how requests change it.

All changes are made inside of groups (`cloacina.engine.pipeline`), at once and without waiting for anything. Memory is
ahead of the store until a group is written, and where it cannot be, memory is cleared and loaded again. What is to be
written, and what is to be said once it is, goes into the `GroupWork`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence

from cloacina.domain.decisions import (
    Cancel,
    ClaimRejected,
    ClaimTask,
    Command,
    ReportDeferred,
    ReportFailure,
    ReportStarted,
    ReportSuccess,
    RetryDue,
    RetryFailed,
    Start,
    VoidClaim,
    decide,
)
from cloacina.domain.execution import (
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
from cloacina.domain.explanation import Explanation, explain
from cloacina.engine import narration
from cloacina.engine.executors import Executor, Executors
from cloacina.engine.families import CLAIMANT, MAX_DEPTH, Families
from cloacina.engine.ids import new_execution_id
from cloacina.engine.intake import Request
from cloacina.engine.limits import Limits, lane_of
from cloacina.engine.live import LiveExecutions
from cloacina.engine.metrics import EngineMetrics
from cloacina.engine.model import (
    Assignment,
    Definition,
    DefinitionFinder,
    Failure,
    Joining,
    Live,
    Parent,
    Result,
    Session,
    Success,
)
from cloacina.engine.ready import Lane, ReadyQueue
from cloacina.engine.restoring import restore
from cloacina.engine.settings import EngineSettings
from cloacina.engine.surroundings import surroundings_of
from cloacina.engine.timers import DueTimers
from cloacina.engine.window import ClaimWindow
from cloacina.engine.work import GroupWork
from cloacina.errors import CloacinaError, NotFound
from cloacina.store.executions import DefinitionRow, ExecutorRow, LiveExecution

CLAIM_COUNTER_BITS = 40
"""A fencing token is the number of the last adoption above a counter of this many bits: it grows over restarts and
adoptions too."""


class Memory:
    """Unfinished executions, executors, and what follows from one for the other.

    Args:
        settings: limits and periods.
        metrics: what happens is counted in.
        clock: the wall clock, microseconds since the epoch.
        find_definition: gives the workflows that tasks execute.
        epoch: gives the number of the owner whose all of this is.
        put: brings a request of its own into a group to come.
        late: called, once the group is durable, with the result of an execution that is not there.
    """

    def __init__(
        self,
        settings: EngineSettings,
        metrics: EngineMetrics,
        clock: Callable[[], int],
        *,
        find_definition: DefinitionFinder,
        epoch: Callable[[], int],
        put: Callable[[Request], None],
        late: Callable[[Session, Result], None],
    ) -> None:
        self._lease_s = settings.lease_s
        self._metrics = metrics
        self._now = clock
        self._find_definition = find_definition
        self._epoch = epoch
        self._put = put
        self._late = late
        self.live = LiveExecutions(settings.max_live, settings.max_live_bytes, settings.tenant_share)
        self.executors = Executors()
        self.stored_definitions: set[str] = set()
        """Ids of those that need not be written again."""
        self.adoption = 0
        """The number of the last adoption."""
        self.waiting = 0
        """Tasks that wait for a slot; not those that a limit holds back."""
        self._claims_made = 0
        self._ready = ReadyQueue()
        self._limits = Limits(settings.tenant_tasks)
        self._window = ClaimWindow(settings.shared_claims)
        self._opens: asyncio.TimerHandle | None = None
        self._families = Families()
        self._ended: list[Live] = []
        self._retries = DueTimers(clock, self._retry_due)
        metrics.shared_claims.set_function(lambda: len(self._window))
        metrics.active_workflows.set_function(lambda: len(self.live))
        metrics.active_tasks.set_function(lambda: self.live.tasks_running)

    def figures(self) -> Mapping[str, float]:
        """Figures for operators, by name."""
        return {
            "active_workflows": len(self.live),
            "active_tasks": self.live.tasks_running,
            "ready_tasks": self.waiting,
            "retries_waiting": len(self._retries),
            "held_by_limits": self._limits.waiting + len(self._ready) - self.waiting,
            "executors": len(self.executors),
            "free_slots": self.executors.free_slots,
        }

    def close(self) -> None:
        """Ends its timers, and hangs up on executors."""
        self._retries.clear()
        if self._opens is not None:
            self._opens.cancel()
        self.hang_up()

    def hang_up(self) -> None:
        """Sends every executor away, to connect again."""
        for session in self.executors.sessions:
            session.close()

    # Loading

    def clear(self, adoption: int) -> None:
        """Forgets everything, to be loaded anew.

        Args:
            adoption: the number of the last adoption.
        """
        self.adoption, self._claims_made = adoption, 0
        self.live.clear()
        self.executors.clear()
        self._retries.clear()
        self._limits.clear()
        self._window.clear()
        self._families.clear()
        self._ended.clear()
        self._ready = ReadyQueue()
        self.stored_definitions = set()

    def take_up(self, rows: Sequence[LiveExecution], definitions: Mapping[str, Definition]) -> list[Live]:
        """Goes on with executions as their rows say. Executors get a whole lease to connect again.

        Args:
            rows: executions that have not ended, and their tasks.
            definitions: all of theirs, by id.
        """
        lease_until = asyncio.get_running_loop().time() + self._lease_s
        taken = [restore(row, definitions[row.execution.definition_id]) for row in rows]
        for live in taken:
            self._take_up(live, lease_until)
        for live in taken:
            if live.parent is not None:
                self._families.add(live, live.parent)
        self.stored_definitions.update(definitions)
        self.waiting = self._ready.count(self._limits.allow)
        return taken

    def _take_up(self, live: Live, lease_until: float) -> None:
        self.live[live.execution_id] = live
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
                executor = self.executors.get(task.executor_id)
                if executor is None:
                    executor = Executor(task.executor_id, 0, "", lease_until)
                    self.executors.add(executor)
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

    def find_orphans(self, work: GroupWork) -> None:
        """After a restart: tasks that wait for a child that is not there start another, and what a limit held back
        that is none any more (it may have been changed) goes on."""
        for live in list(self.live.values()):
            if live.state.status is ExecutionStatus.PENDING:
                self._ended.append(live)
            for name, task in live.state.tasks.items():
                waits = task.claimed and task.executor_id == CLAIMANT
                if waits and not self._families.has_child(live.execution_id, name):
                    self._decide(work, live, VoidClaim(name, task.claim_id, lost=False))

    # Deciding

    def _retry_due(self, execution_id: str, task: str) -> None:
        self._put(Request(lambda work: self.command(work, execution_id, RetryDue(task))))

    def command(self, work: GroupWork, execution_id: str, command: Command) -> None:
        """Decides on a command to an execution, if it is there."""
        live = self.live.get(execution_id)
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
                self.live.pop(live.execution_id, None)
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
        executor = self.executors.get(task.executor_id)
        if executor is not None:
            executor.claims.pop(task.claim_id, None)
            executor.deferred.discard(task.claim_id)
        self._limits.task_ended(live)
        self._window.ended(task.claim_id)

    def begin(self, work: GroupWork, live: Live) -> str:
        """Starts an execution, or holds it back where a limit says so; returns its id."""
        definition = live.definition
        if definition.definition_id not in self.stored_definitions:
            work.definitions[definition.definition_id] = DefinitionRow(
                definition.definition_id,
                definition.tenant_id,
                definition.spec.name,
                definition.package_id,
                definition.package_digest,
                definition.body,
            )
        self.live[live.execution_id] = live
        work.create(live)
        if self._limits.admits(live):
            self._decide(work, live, Start())
        else:
            self._limits.hold(live)
        return live.execution_id

    def explain(
        self, work: GroupWork, tenant_id: str, execution_id: str, since: Mapping[tuple[str, str], int]
    ) -> Explanation | None:
        """Why an execution of a tenant is not done; ``None`` where there is none of this id.

        Args:
            work: becomes one that is written only by who owns the execution.
            tenant_id, execution_id: whose, and which.
            since: see `Surroundings`.
        """
        work.must_own = True
        live = self.live.get(execution_id)
        if live is None or live.tenant_id != tenant_id:
            return None
        around = surroundings_of(
            live,
            self.executors,
            self._limits,
            self._families,
            others=self.live.values(),
            ready_tasks=self.waiting,
            since=since,
            lease_s=self._lease_s,
            now=work.now,
            monotonic=asyncio.get_running_loop().time(),
        )
        return explain(live.state, around, work.now)

    def reopen(self, work: GroupWork, live: Live) -> None:
        """Goes on with an execution that has ended without success.

        Raises:
            IllegalTransition: its state does not allow it; nothing is changed.
        """
        decide(live.state, RetryFailed(), work.now)  # refuses before anything is changed
        self.live[live.execution_id] = live
        work.reopened.append(live.execution_id)
        self._decide(work, live, RetryFailed())

    # What follows from what was decided, inside the same group

    def conclude(self, work: GroupWork) -> None:
        """What follows from what was decided: see `_advance`, and tasks that are ready are given to free slots."""
        self._advance(work)
        self._claim_ready(work)

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
            held = self.live.get(execution_id)
            if held is None or held.state.status is not ExecutionStatus.PENDING:
                continue  # it was cancelled while it waited
            if not self._limits.admits(held):
                self._limits.hold(held)
                return
            self._decide(work, held, Start())

    def _start_child(self, work: GroupWork, execution_id: str, task: str) -> None:
        live = self.live.get(execution_id)
        if live is None or live.state.tasks[task].status is not TaskStatus.READY:
            return
        claim_id = self.next_claim()
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
        self.begin(work, child)

    def _tell_parent(self, work: GroupWork, child: Live, parent: Parent) -> None:
        self._families.remove(child, parent)
        live = self.live.get(parent.execution_id)
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

    def next_claim(self) -> int:
        """A fencing token larger than any before."""
        self._claims_made += 1
        return self.adoption << CLAIM_COUNTER_BITS | self._claims_made

    def change(self, work: GroupWork, tenant_id: str, execution_id: str, command: Command) -> None:
        """Cancels, pauses or resumes an execution of a tenant, and those that its tasks wait for.

        Raises:
            NotFound: it is not there.
            IllegalTransition: its state does not allow it; nothing is changed.
        """
        live = self.live.get(execution_id)
        if live is None or live.tenant_id != tenant_id:
            raise NotFound(f"no unfinished execution {execution_id}", code="execution_not_found")
        self._decide(work, live, command)
        for child_id in self._families.children(execution_id):
            with contextlib.suppress(CloacinaError):  # it is in that state already, or has just ended
                self.change(work, tenant_id, child_id, command)
        if isinstance(command, Cancel):
            for task in live.state.tasks.values():
                executor = self.executors.get(task.executor_id)
                if task.status is TaskStatus.RUNNING and executor is not None and executor.session is not None:
                    work.stops[executor.session].append(task.claim_id)

    def _claim_ready(self, work: GroupWork) -> None:
        """Gives ready tasks to free slots: in the very commit that made them ready, if there is a slot."""
        waited = self.waiting > 0
        if self._ready:
            self._claim_what_fits(work)
        self.waiting = self._ready.count(self._limits.allow)
        if self.waiting and self.executors.freest() is None:
            self._metrics.contended.inc()
        elif self.waiting:
            self._metrics.held_back.inc()
            self._claim_again_at(self._window.opens_at)
        if waited != (self.waiting > 0):
            work.afterwards.append(self._tell_waiting)

    def _tell_waiting(self) -> None:
        """Executors share their slots out by what waits."""
        for session in self.executors.sessions:
            session.queue_changed()

    def _claim_what_fits(self, work: GroupWork) -> None:
        now = asyncio.get_running_loop().time()
        self._window.lapse(now)

        def allows(lane: Lane) -> bool:
            return self._limits.allow(lane) and self._window.allows(lane.tenant_id, now)

        while (executor := self.executors.freest()) is not None:
            entry = self._ready.pop(allows)
            if entry is None:
                break
            live = self.live.get(entry[0])
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
        claim_id = self.next_claim()
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

    # Executors

    def join(self, work: GroupWork, joining: Joining, void: set[int], session: Session) -> None:
        """An executor connected.

        Args:
            work: the group.
            joining: who it is and what it holds.
            void: claims that it holds and nobody knows of any more.
            session: the way to it.
        """
        executor = self.executors.get(joining.executor_id)
        if executor is None:
            executor = Executor(joining.executor_id, joining.slots, joining.version, 0.0)
            self.executors.add(executor)
        if executor.session is not None and executor.session is not session:
            executor.session.close()
        executor.version, executor.session = joining.version, session
        self.renew(work, joining.executor_id, joining.slots, None)
        executor.joining = True
        for claim_id, (execution_id, task) in list(executor.claims.items()):
            if claim_id not in joining.held:  # it never got the assignment
                self.command(work, execution_id, VoidClaim(task, claim_id, lost=False))
                executor.claims.pop(claim_id, None)
        for claim_id in joining.held:
            found = executor.claims.get(claim_id)
            live = None if found is None else self.live.get(found[0])
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
        executor.lease_until = asyncio.get_running_loop().time() + self._lease_s
        session.welcome()

    def renew(self, work: GroupWork, executor_id: str, slots: int, session: Session | None) -> None:
        """An executor renews its lease, and says how many tasks it takes; `session` is told once that counts."""
        executor = self.executors.get(executor_id)
        if executor is None:
            return
        executor.slots = slots
        executor.lease_until = asyncio.get_running_loop().time() + self._lease_s
        lease_ends = work.now + int(self._lease_s * 1e6)
        epoch = self._epoch()
        work.executors[executor_id] = ExecutorRow(epoch, executor_id, slots, executor.version, lease_ends, work.now)
        work.executors_gone.discard(executor_id)
        work.afterwards.append(self._metrics.heartbeat_writes.inc)
        if session is not None:
            work.afterwards.append(lambda: session.renewed(slots))
        if executor.free > 0 and not self.waiting:
            self._metrics.empty.inc()

    def report_started(self, work: GroupWork, executor_id: str, claim_id: int, started_at: int) -> None:
        """A task has begun to run."""
        self._report_of_claim(work, executor_id, claim_id, lambda task: ReportStarted(task, claim_id, started_at))

    def report_deferred(self, work: GroupWork, executor_id: str, claim_id: int, deferred: bool) -> None:
        """A task gave its slot back to wait, or holds one again."""
        executor = self._report_of_claim(
            work, executor_id, claim_id, lambda task: ReportDeferred(task, claim_id, deferred)
        )
        if executor is not None:
            (executor.deferred.add if deferred else executor.deferred.discard)(claim_id)

    def _report_of_claim(
        self, work: GroupWork, executor_id: str, claim_id: int, command: Callable[[str], Command]
    ) -> Executor | None:
        """Passes on what is said of a claim that is held; what comes late is of no use and dropped."""
        executor = self.executors.get(executor_id)
        found = None if executor is None else executor.claims.get(claim_id)
        if found is None:
            return None
        self.command(work, found[0], command(found[1]))
        return executor

    def report(self, work: GroupWork, session: Session, result: Result) -> None:
        """An attempt ended; acknowledged on its session once that is durable, or refused for good."""
        live = self.live.get(result.execution_id)
        if live is None:
            # the end itself may be of this very group: not looked up, or acknowledged, before it is durable
            work.afterwards.append(lambda: self._late(session, result))
            return
        self._window.ended(result.claim_id, result.run_us)
        try:
            self._decide(work, live, _result_command(result))
        except ClaimRejected:
            work.afterwards.append(lambda: self._count_rejected(live, result))
        else:
            if isinstance(result.outcome, Success) and result.outcome.context is not None:
                self.live.grow(live.execution_id, len(result.outcome.context))
        work.acknowledged[session].append(result.claim_id)

    def _count_rejected(self, live: Live, result: Result) -> None:
        self._metrics.claim_lost.inc()
        narration.result_rejected(live, result)

    def release(self, work: GroupWork, executor_id: str, session: Session, claim_id: int) -> None:
        """A claim is handed back unfinished; acknowledged like a result."""
        self._report_of_claim(work, executor_id, claim_id, lambda task: VoidClaim(task, claim_id, lost=False))
        work.acknowledged[session].append(claim_id)

    def lapse(self, executor: Executor, work: GroupWork, *, drained: bool = False) -> None:
        """An executor's lease has lapsed, or it has drained: it is forgotten, and its claims are void."""
        if self.executors.get(executor.executor_id) is not executor:
            return  # it lapsed before, and may have connected again since
        if drained and (executor.session is not None or executor.claims):
            return  # it is there again
        if not drained and not executor.lapsed(asyncio.get_running_loop().time()):
            return  # it spoke while this request waited
        claims = list(executor.claims.items())
        self.executors.remove(executor)
        executor.claims.clear()
        work.executors.pop(executor.executor_id, None)
        work.executors_gone.add(executor.executor_id)
        for claim_id, (execution_id, task) in claims:
            self.command(work, execution_id, VoidClaim(task, claim_id, lost=True))
        if executor.session is not None:
            work.afterwards.append(executor.session.close)
        if not drained:
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
