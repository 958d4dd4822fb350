"""What the engine exchanges with the shells around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cloacina.domain.decisions import MAX_INSTANCES
from cloacina.domain.execution import ExecutionState, FailureReason
from cloacina.domain.graph import WorkflowSpec, parent_of


@dataclass(frozen=True, slots=True)
class Origin:
    """The request and span that began an execution.

    Args:
        request_id: its x-request-id.
        traceparent: W3C traceparent; empty when tracing is off.
    """

    request_id: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """One immutable version of a workflow.

    Args:
        definition_id: identity of this version; the same id always means the same content.
        tenant_id: whose workflow.
        spec: the validated DAG.
        package_id, package_version, package_digest: the package that holds the code.
        max_executions: executions of the workflow that may run at once; 0 for no limit.
        max_tasks: tasks of the workflow that may run at once; 0 for no limit.
        body: what the shell needs to make this definition again after a restart; the engine only stores it.
        secrets: names of the secrets it declares; the engine hands them on.
        task_index: position of each task in topological order.
    """

    definition_id: str
    tenant_id: str
    spec: WorkflowSpec
    package_id: str = ""
    package_version: str = ""
    package_digest: str = ""
    max_executions: int = 0
    max_tasks: int = 0
    body: bytes = b""
    secrets: tuple[str, ...] = ()
    task_index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "task_index", {task: index for index, task in enumerate(self.spec.tasks)})

    def index_of(self, task: str) -> int:
        """The position of a task among the rows of its execution: of an instance, behind all tasks of the DAG."""
        found = self.task_index.get(task)
        if found is not None:
            return found
        parent = parent_of(task)
        instance = int(task[len(parent) + 1 : -1])
        return len(self.task_index) + self.task_index[parent] * MAX_INSTANCES + instance


DefinitionFinder = Callable[[str, str], Definition | None]
"""Gives the definition that a new execution of a tenant's workflow uses now."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The task that an execution was started by, in place of a client.

    Args:
        execution_id, task: which.
        claim_id: the claim under which the task waits for the execution's end.
        depth: how many executions are above it.
    """

    execution_id: str
    task: str
    claim_id: int
    depth: int


@dataclass(slots=True, eq=False)
class Live:
    """An execution that has not ended, as its owner holds it in memory."""

    execution_id: str
    definition: Definition
    state: ExecutionState
    origin: Origin
    created_at: int
    trigger_origin: str = "manual"
    idempotency_key: str | None = None
    priority: int = 0
    parent: Parent | None = None

    @property
    def tenant_id(self) -> str:
        return self.definition.tenant_id

    @property
    def workflow_name(self) -> str:
        return self.definition.spec.name


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task to run, under a fencing token.

    Args:
        claim_id: the token; a result is accepted only under it.
        live: the execution.
        task: its id.
        attempt: number of the attempt, from 1.
        context: input context as JSON.
    """

    claim_id: int
    live: Live
    task: str
    attempt: int
    context: bytes


@dataclass(frozen=True, slots=True)
class Success:
    """An attempt succeeded; `context` is ``None`` when the task left its input as it was."""

    context: bytes | None


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt failed; the fields are those of `cloacina.domain.decisions.ReportFailure`."""

    reason: FailureReason
    error: str
    details: str = ""
    transient: bool = True
    retry: bool | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended, as its executor tells it.

    Args:
        claim_id: the claim it ran under.
        execution_id, task: what it was.
        started_at: microseconds since the epoch on the executor's clock; ``None`` if it never ran.
        outcome: how it ended.
        run_us: microseconds that it ran; ``None`` where that is not known.
    """

    claim_id: int
    execution_id: str
    task: str
    started_at: int | None
    outcome: Success | Failure
    run_us: int | None = None


@dataclass(frozen=True, slots=True)
class Joining:
    """An executor that connects.

    Args:
        executor_id: identity of its process.
        slots: tasks it takes at once.
        held: claims it runs or holds results of; the engine's other claims of it are void.
        version: version of its program.
        executions: the execution of each claim that is held, as far as the executor says.
    """

    executor_id: str
    slots: int
    held: frozenset[int] = frozenset()
    version: str = ""
    executions: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PollOrder:
    """A trigger's function to call.

    Args:
        poll_id: the number of this poll; never used again.
        tenant_id: whose trigger.
        trigger: its name.
        workflow_name: the workflow it starts.
        package_id, package_digest: the package that holds its code.
        timeout_s: seconds it may take.
        origin: a request id of its own, and the span "trigger poll".
    """

    poll_id: int
    tenant_id: str
    trigger: str
    workflow_name: str
    package_id: str
    package_digest: str
    timeout_s: float
    origin: Origin


@dataclass(frozen=True, slots=True)
class PollAnswer:
    """What a trigger's function said.

    Args:
        fires: whether its workflow is to be started.
        context: with what input, a JSON object; ``None`` for none.
        error: why there is no answer; empty when there is one.
        details: the traceback.
    """

    fires: bool = False
    context: bytes | None = None
    error: str = ""
    details: str = ""


class Companion(Protocol):
    """What is kept in the engine's store beside executions, and written by its commits."""

    async def load(self) -> None:
        """Takes up what the store says: at the start, and after a commit that failed."""

    async def adopted(self) -> None:
        """The engine has taken over from owners that are gone, perhaps the schedules, too."""

    def answered(self, poll_id: int, answer: PollAnswer) -> None:
        """A poll that was ordered by `cloacina.engine.engine.Engine.poll` has ended."""


class Session(Protocol):
    """The way to one connected executor. No method waits; what cannot be delivered is lost and made good by
    the executor's next `Engine.join`."""

    def welcome(self) -> None:
        """The executor is known; assignments follow."""

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Tasks to run."""

    def poll(self, orders: Sequence[PollOrder]) -> None:
        """Triggers to poll."""

    def acknowledge(self, claims: Sequence[int]) -> None:
        """Results and releases that need not be sent again."""

    def stop(self, claims: Sequence[int]) -> None:
        """Claims to stop."""

    def own(self, claims: Sequence[int]) -> None:
        """Claims of the executor that this engine owns now, whoever gave them: their results come here."""

    def renewed(self, slots: int) -> None:
        """A heartbeat is durable: the engine counts with so many slots of the executor."""

    def queue_changed(self) -> None:
        """Tasks begin to wait for a slot, or none waits any more: see `cloacina.engine.engine.Engine.waiting`."""

    def close(self) -> None:
        """The engine will say no more here; the executor is to connect again."""
