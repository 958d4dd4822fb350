"""What the engine exchanges with the shells around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cloacina.domain.execution import ExecutionState, FailureReason
from cloacina.domain.graph import WorkflowSpec


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
        body: what the shell needs to make this definition again after a restart; the engine only stores it.
        task_index: position of each task in topological order.
    """

    definition_id: str
    tenant_id: str
    spec: WorkflowSpec
    package_id: str = ""
    package_version: str = ""
    package_digest: str = ""
    body: bytes = b""
    task_index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "task_index", {task: index for index, task in enumerate(self.spec.tasks)})


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
    """

    claim_id: int
    execution_id: str
    task: str
    started_at: int | None
    outcome: Success | Failure


@dataclass(frozen=True, slots=True)
class Joining:
    """An executor that connects.

    Args:
        executor_id: identity of its process.
        slots: tasks it takes at once.
        held: claims it runs or holds results of; the engine's other claims of it are void.
        version: version of its program.
    """

    executor_id: str
    slots: int
    held: frozenset[int] = frozenset()
    version: str = ""


class Session(Protocol):
    """The way to one connected executor. No method waits; what cannot be delivered is lost and made good by
    the executor's next `Engine.join`."""

    def welcome(self) -> None:
        """The executor is known; assignments follow."""

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Tasks to run."""

    def acknowledge(self, claims: Sequence[int]) -> None:
        """Results and releases that need not be sent again."""

    def stop(self, claims: Sequence[int]) -> None:
        """Claims to stop."""

    def close(self) -> None:
        """The engine will say no more here; the executor is to connect again."""
