"""An engine on a real store, with the executor's end of a session in the test's hands, and a database that can fail."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from cloacina.domain.graph import TaskSpec, WorkflowSpec
from cloacina.engine.engine import Engine
from cloacina.engine.metrics import EngineMetrics
from cloacina.engine.model import Assignment, Definition, Failure, Joining, Origin, PollOrder, Result, Success
from cloacina.engine.ownership import Ownership
from cloacina.engine.settings import EngineSettings
from cloacina.store.database import Database, Statement, StoreUnavailable
from cloacina.store.executions import DefinitionRow, ExecutionRow, ExecutionStore, TaskRow

DEADLINE_S = 30.0


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Waits until `condition()` is true, for at most `DEADLINE_S` seconds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


class StubbornDatabase:
    """A database whose writes can be held back, or made to fail.

    Args:
        inner: the real one.
    """

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self._gate = asyncio.Event()
        self._gate.set()
        self._one = False
        self.failures: list[Exception] = []
        """Each fails one write, in order, before anything of it is written."""
        self.writes: list[Sequence[Statement]] = []
        self.held = 0

    def hold(self) -> None:
        """Writes wait from now on."""
        self._gate.clear()

    def let_go(self) -> None:
        """Writes go on."""
        self._one = False
        self._gate.set()

    def let_one_go(self) -> None:
        """The write that waits goes on; the next one waits again."""
        self._one = True
        self._gate.set()

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        await self._inner.close()

    async def fetch(self, query: str, *parameters: Any, tenant: str | None = None) -> list[tuple[Any, ...]]:
        return await self._inner.fetch(query, *parameters)

    async def write(self, statements: Sequence[Statement], *, awaited: bool = False) -> None:
        self.held += 1
        try:
            await self._gate.wait()
            if self._one:
                self._gate.clear()
        finally:
            self.held -= 1
        if self.failures:
            raise self.failures.pop(0)
        await self._inner.write(statements, awaited=awaited)
        self.writes.append(statements)


def disk_full() -> StoreUnavailable:
    """What a driver raises when the disk is full."""
    return StoreUnavailable("the scheduler store is unavailable: disk full")


@dataclass(eq=False)
class ExecutorEnd:
    """What an executor has been told on one session."""

    executor_id: str = "x1"
    welcomed: bool = False
    assigned: list[Assignment] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    polls: list[PollOrder] = field(default_factory=list)
    owned: list[int] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    queue_changes: int = 0
    closed: bool = False

    def welcome(self) -> None:
        self.welcomed = True

    def assign(self, assignments: Sequence[Assignment]) -> None:
        self.assigned.extend(assignments)

    def poll(self, orders: Sequence[PollOrder]) -> None:
        self.polls.extend(orders)

    def acknowledge(self, claims: Sequence[int]) -> None:
        self.acknowledged.extend(claims)

    def stop(self, claims: Sequence[int]) -> None:
        self.stopped.extend(claims)

    def renewed(self, slots: int) -> None:
        self.counted.append(slots)

    def queue_changed(self) -> None:
        self.queue_changes += 1

    def own(self, claims: Sequence[int]) -> None:
        self.owned.extend(claims)

    def close(self) -> None:
        self.closed = True

    async def next(self, number: int = 1) -> Assignment:
        """The `number`-th assignment, once it is there."""
        await until(lambda: len(self.assigned) >= number, f"assignment {number}")
        return self.assigned[number - 1]


def succeeded(assignment: Assignment, context: bytes | None = None) -> Result:
    """The result of an attempt that succeeded."""
    started_at = assignment.live.created_at
    return Result(assignment.claim_id, assignment.live.execution_id, assignment.task, started_at, Success(context))


def failed(assignment: Assignment, failure: Failure) -> Result:
    """The result of an attempt that failed."""
    return Result(assignment.claim_id, assignment.live.execution_id, assignment.task, None, failure)


_definitions = itertools.count(1)


def definition(*tasks: TaskSpec, tenant_id: str = "acme", name: str = "flow") -> Definition:
    """A new version of a workflow."""
    spec = WorkflowSpec.create(name, tasks or [TaskSpec("only")])
    return with_limits(Definition(f"d{next(_definitions)}", tenant_id, spec))


def with_limits(of: Definition, *, executions: int = 0, tasks: int = 0) -> Definition:
    """The same with limits of its own, which outlive a restart."""
    body = orjson.dumps({"spec": of.spec.to_wire(), "executions": executions, "tasks": tasks})
    return dataclasses.replace(of, max_executions=executions, max_tasks=tasks, body=body)


def load_definition(row: DefinitionRow) -> Definition:
    """Makes a definition again from its row."""
    body = orjson.loads(row.body)
    spec = WorkflowSpec.from_wire(body["spec"])
    bare = Definition(row.definition_id, row.tenant_id, spec)
    return with_limits(bare, executions=body["executions"], tasks=body["tasks"])


@dataclass(eq=False)
class Bench:
    """One engine, and what a test asks of it most.

    Args:
        database: what it stores in.
        settings: its limits.
        clock: its wall clock; the real one with ``None``.
        target: where it says it can be called; with one it is one of several engines.
        owner_lease_s: seconds until the others take over what is its own; those of an executor's lease with 0.
        owner_heartbeat_s: seconds between the renewals of that; a quarter of it with 0.
    """

    database: StubbornDatabase
    settings: EngineSettings = field(default_factory=EngineSettings)
    clock: Callable[[], int] | None = None
    target: str = ""
    owner_lease_s: float = 0.0
    owner_heartbeat_s: float = 0.0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    engine: Engine = field(init=False)
    store: ExecutionStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = ExecutionStore(self.database)
        clock = {} if self.clock is None else {"clock": self.clock}
        settings = self.settings
        lease_s = self.owner_lease_s or settings.lease_s
        ownership = Ownership(
            self.store.owners,
            target=self.target,
            lease_s=lease_s,
            heartbeat_s=self.owner_heartbeat_s or lease_s / 4,
            sole=not self.target,
        )
        metrics = EngineMetrics(self.registry)
        self.engine = Engine(self.store, metrics, load_definition, settings, ownership=ownership, **clock)

    async def submit(self, of: Definition | None = None, context: bytes = b"{}", **more: Any) -> str:
        """Starts an execution."""
        return (await self.engine.submit(of or definition(), context, Origin("r1"), **more))[0]

    async def join(self, executor_id: str = "x1", *, slots: int = 1, held: Sequence[int] = ()) -> ExecutorEnd:
        """Connects an executor."""
        end = ExecutorEnd(executor_id)
        await self.engine.join(Joining(executor_id, slots, frozenset(held), "1"), end)
        return end

    async def execution(self, execution_id: str, tenant_id: str = "acme") -> ExecutionRow:
        """The execution as it is stored."""
        row = await self.store.get_execution(tenant_id, execution_id)
        assert row is not None
        return row

    async def task(self, execution_id: str, index: int = 0, tenant_id: str = "acme") -> TaskRow:
        """A task as it is stored."""
        return (await self.store.list_tasks(tenant_id, execution_id))[index]

    async def ended(self, execution_id: str, tenant_id: str = "acme") -> ExecutionRow:
        """The execution as it is stored, once it has ended."""
        async with asyncio.timeout(DEADLINE_S):
            while (row := await self.execution(execution_id, tenant_id)).finished_at is None:
                await asyncio.sleep(0.001)
        return row

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample; 0.0 when it is not there."""
        return self.registry.get_sample_value(name, labels) or 0.0
