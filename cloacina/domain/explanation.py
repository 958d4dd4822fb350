"""Why an execution is not done yet, or how it ended: in plain words, with since when, and the ids to follow.

`explain` is a function of a snapshot: the state of the execution, what surrounds it, and the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cloacina.domain import rules
from cloacina.domain.execution import ExecutionState, ExecutionStatus, TaskState, TaskStatus

PACKAGE_UNAVAILABLE = "the package is not available"
"""How the error of an attempt begins whose executor could not get the package."""

_NAMED_DEPENDENCIES = 5


class CauseKind(StrEnum):
    """What holds an execution up, or ended it; stable, for programs."""

    PAUSED = "paused"
    CANCELLING = "cancelling"
    EXECUTION_LIMIT = "execution_limit"
    TASK_LIMIT = "task_limit"
    NO_EXECUTOR = "no_executor"
    NO_FREE_SLOT = "no_free_slot"
    ABOUT_TO_BE_CLAIMED = "about_to_be_claimed"
    STARTING = "starting"
    FETCHING_SECRETS = "fetching_secrets"
    FETCHING_PACKAGE = "fetching_package"
    STARTING_WORKER = "starting_worker"
    RUNNING = "running"
    EXECUTOR_SILENT = "executor_silent"
    DEFERRED = "deferred"
    CHILD_EXECUTION = "child_execution"
    INSTANCES = "instances"
    RETRY_DUE = "retry_due"
    PACKAGE_UNAVAILABLE = "package_unavailable"
    DEPENDENCY = "dependency"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class Preparation(StrEnum):
    """What a task that was given to an executor waits for before it begins."""

    SECRETS = "secrets"
    PACKAGE = "package"
    WORKER = "worker"


PREPARATIONS = frozenset(Preparation)


@dataclass(frozen=True, slots=True)
class Holder:
    """An executor, as the scheduler knows it. Times are microseconds since the epoch.

    Args:
        slots: tasks it takes at once; 0 while it drains.
        free: slots that a task could be given now.
        connected: whether it is connected at this moment.
        heard_at: its last heartbeat.
        lease_until: when its tasks are given to others unless it is heard of.
        preparing: what claims of it wait for before they begin, and since when.
    """

    slots: int
    free: int
    connected: bool
    heard_at: int
    lease_until: int
    preparing: Mapping[int, tuple[Preparation, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What bears on an execution but is not part of it.

    Args:
        executors: by id.
        ready_tasks: tasks of all executions that wait for a slot.
        execution_limit: which limit keeps the execution from starting; empty for none.
        task_limit: which limit keeps further tasks of it from being claimed; empty for none.
        children: the unfinished execution that a task started, by task.
        since: when an event of a type was recorded last, by (type, task); the task is "" for the whole execution.
        created_at: when the execution was asked for.
        limited_by: some of the executions that hold what a limit of this one grants.
        package_id: whose package its tasks are in.
    """

    executors: Mapping[str, Holder] = field(default_factory=dict)
    ready_tasks: int = 0
    execution_limit: str = ""
    task_limit: str = ""
    children: Mapping[str, str] = field(default_factory=dict)
    since: Mapping[tuple[str, str], int] = field(default_factory=dict)
    created_at: int | None = None
    limited_by: tuple[str, ...] = ()
    package_id: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason. Times are microseconds since the epoch.

    Args:
        kind: what it is, for programs.
        text: the same, for people.
        task: of which task; "" for the whole execution.
        since: since when it holds; ``None`` where that is not known.
        until: when it ends by itself; ``None`` where it does not.
        ids: what to look at next: executor_id, execution_id (one or several), claim_id, package_id, depends_on.
    """

    kind: CauseKind
    text: str
    task: str = ""
    since: int | None = None
    until: int | None = None
    ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer.

    Args:
        answer: in a sentence or two.
        since: since when the execution is in its state.
        causes: the reasons, what to look at first before what merely waits for it.
    """

    answer: str
    since: int | None
    causes: tuple[Cause, ...]


def explain(state: ExecutionState, around: Surroundings, now: int) -> Explanation:
    """Says why an execution is not done, or how it ended.

    Args:
        state: the execution.
        around: what bears on it.
        now: microseconds since the epoch.
    """
    if state.status.terminal:
        return _ended(state, now)
    causes = [*_of_the_whole(state, around), *_of_tasks(state, around, now)]
    first = causes[0].text if causes else "it is about to go on"
    counts = Counter(cause.kind for cause in causes if cause.kind not in _OF_THE_WHOLE)
    others = ", ".join(f"{count} {_COUNTED[kind]}" for kind, count in counts.items())
    since = _since(state, around)
    began = "" if since is None else f" for {duration(now - since)}"
    answer = f"{state.status}{began}: {first}."
    if sum(counts.values()) > 1:
        answer += f" Unfinished tasks: {others}."
    failed = list(_failures(state))
    if failed:
        answer += f" Failed for good: {', '.join(cause.task for cause in failed)}."
    return Explanation(answer, since, (*causes, *failed))


_OF_THE_WHOLE = frozenset((CauseKind.PAUSED, CauseKind.CANCELLING, CauseKind.EXECUTION_LIMIT))
_COUNTED = {
    CauseKind.TASK_LIMIT: "held back by a limit",
    CauseKind.NO_EXECUTOR: "without an executor",
    CauseKind.NO_FREE_SLOT: "waiting for a slot",
    CauseKind.ABOUT_TO_BE_CLAIMED: "about to be claimed",
    CauseKind.STARTING: "starting",
    CauseKind.FETCHING_SECRETS: "waiting for secrets",
    CauseKind.FETCHING_PACKAGE: "waiting for the package to be fetched",
    CauseKind.STARTING_WORKER: "waiting for a worker to start",
    CauseKind.RUNNING: "running",
    CauseKind.EXECUTOR_SILENT: "on a silent executor",
    CauseKind.DEFERRED: "deferred",
    CauseKind.CHILD_EXECUTION: "waiting for another execution",
    CauseKind.INSTANCES: "running as instances",
    CauseKind.RETRY_DUE: "waiting for the next attempt",
    CauseKind.PACKAGE_UNAVAILABLE: "waiting for the package",
    CauseKind.DEPENDENCY: "waiting for other tasks",
}
_URGENCY = (
    CauseKind.EXECUTOR_SILENT,
    CauseKind.PACKAGE_UNAVAILABLE,
    CauseKind.NO_EXECUTOR,
    CauseKind.TASK_LIMIT,
    CauseKind.NO_FREE_SLOT,
    CauseKind.RETRY_DUE,
    CauseKind.FETCHING_SECRETS,
    CauseKind.FETCHING_PACKAGE,
    CauseKind.STARTING_WORKER,
    CauseKind.STARTING,
    CauseKind.RUNNING,
    CauseKind.CHILD_EXECUTION,
    CauseKind.DEFERRED,
    CauseKind.ABOUT_TO_BE_CLAIMED,
    CauseKind.INSTANCES,
    CauseKind.DEPENDENCY,
)


def _since(state: ExecutionState, around: Surroundings) -> int | None:
    if state.status is ExecutionStatus.PAUSED:
        return around.since.get(("workflow_paused", ""), state.started_at)
    return state.started_at


def _of_the_whole(state: ExecutionState, around: Surroundings) -> Iterator[Cause]:
    if state.cancelling is not None:
        since = around.since.get(("workflow_cancelling", ""))
        held = f"{counted(state.running, 'running task')} must end first"
        yield Cause(CauseKind.CANCELLING, f"it is being cancelled ({state.cancelling}); {held}", since=since)
    if state.status is ExecutionStatus.PAUSED:
        since = around.since.get(("workflow_paused", ""))
        yield Cause(CauseKind.PAUSED, "it is paused: no further task is started until it is resumed", since=since)
    if state.status is ExecutionStatus.PENDING:
        limit = around.execution_limit or "it is about to start"
        ids = _executions(around.limited_by)
        yield Cause(CauseKind.EXECUTION_LIMIT, f"it has not started: {limit}", since=around.created_at, ids=ids)


def _of_tasks(state: ExecutionState, around: Surroundings, now: int) -> list[Cause]:
    if state.status is ExecutionStatus.PENDING:
        return []
    found = []
    for name, task in state.tasks.items():
        if not task.status.terminal:
            found.append(_of_task(state, name, task, around, now))
    causes = [cause for cause in found if cause is not None]
    return sorted(causes, key=lambda cause: _URGENCY.index(cause.kind))


def _of_task(state: ExecutionState, name: str, task: TaskState, around: Surroundings, now: int) -> Cause | None:
    if task.status is TaskStatus.READY:
        return None if state.status is ExecutionStatus.PAUSED else _ready(name, task, around, now)
    if task.status is TaskStatus.RUNNING:
        return _running(state, name, task, around, now)
    if task.retry_due is not None:
        return _retry(state, name, task, around, now)
    return _waiting(state, name, around)


def _executions(ids: tuple[str, ...]) -> dict[str, str]:
    return {"execution_id": ", ".join(ids)} if ids else {}


def _ready(name: str, task: TaskState, around: Surroundings, now: int) -> Cause:
    since = task.ready_at
    waits = f"{name} is ready{_for(since, now)}"
    if around.task_limit:
        ids = _executions(around.limited_by)
        return Cause(CauseKind.TASK_LIMIT, f"{waits}, but {around.task_limit}", name, since, ids=ids)
    connected = [holder for holder in around.executors.values() if holder.connected]
    slots = sum(holder.slots for holder in connected)
    if not slots:
        why = "every connected executor is draining" if connected else "no executor is connected"
        return Cause(CauseKind.NO_EXECUTOR, f"{waits}, but {why}", name, since)
    if not any(holder.free > 0 for holder in connected):
        taken = f"no slot is free: {counted(len(connected), 'executor')} with {counted(slots, 'slot')} in all"
        text = f"{waits}, but {taken}; tasks of all executions that wait for one: {around.ready_tasks}"
        return Cause(CauseKind.NO_FREE_SLOT, text, name, since)
    return Cause(CauseKind.ABOUT_TO_BE_CLAIMED, f"{waits}, and a slot is free", name, since)


_PREPARING = {
    Preparation.SECRETS: (CauseKind.FETCHING_SECRETS, "asks for its secrets"),
    Preparation.PACKAGE: (CauseKind.FETCHING_PACKAGE, "fetches package {}"),
    Preparation.WORKER: (CauseKind.STARTING_WORKER, "starts a worker that loads package {}"),
}


def _running(state: ExecutionState, name: str, task: TaskState, around: Surroundings, now: int) -> Cause:
    spec = state.spec.task_of(name)
    if task.instances is not None:
        text = f"{name} consists of {task.instances} instances; {task.left} of them are not done"
        return Cause(CauseKind.INSTANCES, text, name, task.started_at or task.claimed_at or task.ready_at)
    if spec.workflow is not None:
        child = around.children.get(name, "")
        text = (
            f"{name} waits{_for(task.claimed_at, now)} for execution {child or '(about to start)'} of {spec.workflow}"
        )
        ids = {"execution_id": child} if child else {}
        return Cause(CauseKind.CHILD_EXECUTION, text, name, task.claimed_at, ids=ids)
    ids = {"executor_id": task.executor_id, "claim_id": str(task.claim_id)}
    holder = around.executors.get(task.executor_id)
    if holder is None or not holder.connected:
        until = holder.lease_until if holder is not None else None
        heard = "" if holder is None else f"; its last heartbeat was {duration(now - holder.heard_at)} ago"
        then = "" if until is None else f"; unless it comes back the task is ready again in {duration(until - now)}"
        text = f"{name} is held by executor {task.executor_id}, which is not connected{heard}{then}"
        since = task.claimed_at if holder is None else holder.heard_at
        return Cause(CauseKind.EXECUTOR_SILENT, text, name, since, until, ids)
    heard = f"its last heartbeat was {duration(now - holder.heard_at)} ago"
    attempt = f"attempt {task.attempt} of {spec.retry.max_attempts}"
    if task.deferred:
        since = around.since.get(("task_deferred", name), task.started_at)
        text = f"{name} has given its slot back{_for(since, now)} and waits for its condition ({attempt})"
        return Cause(CauseKind.DEFERRED, text, name, since, ids=ids)
    preparing = holder.preparing.get(task.claim_id)
    if task.started_at is None and preparing is not None:
        stage, since = preparing
        kind, does = _PREPARING[stage]
        if around.package_id:
            ids["package_id"] = around.package_id
        text = f"{name} has not begun: executor {task.executor_id} {does.format(around.package_id)}"
        return Cause(kind, f"{text}{_for(since, now)} ({attempt}); {heard}", name, since, ids=ids)
    if task.started_at is None:
        text = (
            f"{name} was claimed by executor {task.executor_id}{_for(task.claimed_at, now)} and has not said that it "
            f"runs: it has just begun, or waits for its package or a worker ({attempt}); {heard}"
        )
        return Cause(CauseKind.STARTING, text, name, task.claimed_at, ids=ids)
    until = None if spec.timeout_s is None else task.started_at + int(spec.timeout_s * 1e6)
    ends = "" if until is None else f", its timeout ends it in {duration(until - now)}"
    text = f"{name} runs{_for(task.started_at, now)} on executor {task.executor_id} ({attempt}{ends}); {heard}"
    return Cause(CauseKind.RUNNING, text, name, task.started_at, until, ids)


def _retry(state: ExecutionState, name: str, task: TaskState, around: Surroundings, now: int) -> Cause:
    assert task.retry_due is not None
    unavailable = (task.error or "").startswith(PACKAGE_UNAVAILABLE)
    kind = CauseKind.PACKAGE_UNAVAILABLE if unavailable else CauseKind.RETRY_DUE
    most = state.spec.task_of(name).retry.max_attempts
    due = f"due in {duration(task.retry_due - now)}" if task.retry_due > now else "due now"
    text = f"{name} failed and attempt {task.attempt} of {most} is {due}: {_one_line(task.error)}"
    since = around.since.get(("task_retry_scheduled", name), task.started_at)
    ids = {"executor_id": task.executor_id}
    if unavailable and around.package_id:
        ids["package_id"] = around.package_id
    return Cause(kind, text, name, since, task.retry_due, ids)


def _waiting(state: ExecutionState, name: str, around: Surroundings) -> Cause | None:
    spec = state.spec.tasks.get(name)
    if spec is None:  # an instance, which its task has counted
        return None
    open_ones = [each for each in spec.dependencies if not state.tasks[each].status.terminal]
    named = ", ".join(f"{each} ({state.tasks[each].status})" for each in open_ones[:_NAMED_DEPENDENCIES])
    more = len(open_ones) - _NAMED_DEPENDENCIES
    named += f" and {more} more" if more > 0 else ""
    rule = "" if spec.rule is None else f"; it runs if this holds then: {rules.in_words(spec.rule)}"
    text = f"{name} waits for {named or 'nothing more'}{rule}"
    since = around.since.get(("task_reset", name), state.started_at)
    ids = {"depends_on": ", ".join(open_ones)} if open_ones else {}
    return Cause(CauseKind.DEPENDENCY, text, name, since, ids=ids)


def _ended(state: ExecutionState, now: int) -> Explanation:
    ended = f"{state.status}{_ago(state.finished_at, now)}"
    if state.started_at is not None and state.finished_at is not None:
        ended += f", after {duration(state.finished_at - state.started_at)}"
    if state.status is ExecutionStatus.COMPLETED:
        return Explanation(f"{ended}.", state.finished_at, tuple(_skips(state)))
    causes: list[Cause] = []
    if state.status is ExecutionStatus.CANCELLED:
        text = f"it was cancelled: {state.error or 'no reason was given'}"
        causes.append(Cause(CauseKind.CANCELLED, text, since=state.finished_at))
    causes.extend(_failures(state))
    first = f": {causes[0].text}" if causes else f": {_one_line(state.error)}"
    return Explanation(f"{ended}{first}.", state.finished_at, (*causes, *_skips(state)))


def _failures(state: ExecutionState) -> Iterator[Cause]:
    for name, task in state.tasks.items():
        if task.status is TaskStatus.FAILED and task.instances is None:
            most = state.spec.task_of(name).retry.max_attempts
            text = f"{name} failed in attempt {task.attempt} of {most} ({task.reason}): {_one_line(task.error)}"
            ids = {"executor_id": task.executor_id} if task.executor_id else {}
            yield Cause(CauseKind.FAILED, text, name, task.finished_at, ids=ids)


def _skips(state: ExecutionState) -> Iterator[Cause]:
    for name, task in state.tasks.items():
        if task.status is TaskStatus.SKIPPED:
            yield Cause(CauseKind.SKIPPED, f"{name} was skipped ({task.reason})", name, task.finished_at)


def duration(micros: int) -> str:
    """A length of time in its two largest units, such as ``2 h 5 min``; what is not positive is ``0 s``.

    Args:
        micros: microseconds.
    """
    if micros < 10_000_000:
        return f"{max(micros, 0) / 1e6:.1f} s" if micros >= 100_000 else f"{max(micros, 0) // 1000} ms"
    seconds = micros // 1_000_000
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts = [f"{seconds // size % limit} {unit}" for (unit, size), limit in zip(units, _LIMITS, strict=True)]
    shown = [part for part in parts if not part.startswith("0 ")]
    return " ".join(shown[:2])


_LIMITS = (10**9, 24, 60, 60)


def _for(since: int | None, now: int) -> str:
    return "" if since is None else f" for {duration(now - since)}"


def _ago(at: int | None, now: int) -> str:
    return "" if at is None else f" {duration(now - at)} ago"


def _one_line(text: str | None) -> str:
    lines: Iterable[str] = (text or "no error was said").splitlines()
    return next(iter(lines), "")[:300]


def counted(count: int, noun: str) -> str:
    """Such as ``1 task`` and ``2 tasks``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
