"""What is stored of an execution is what is in memory, whatever happened to it, in whatever groups."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from engine_bench import (
    Bench,
    ExecutorEnd,
    StubbornDatabase,
    definition,
    failed,
    load_definition,
    succeeded,
    until,
    with_limits,
)

from cloacina.domain.decisions import Cancel, Pause, Resume
from cloacina.domain.execution import EndReason, ExecutionState, FailureReason
from cloacina.domain.graph import TaskSpec
from cloacina.domain.retry import RetryPolicy
from cloacina.domain.rules import TaskEnded, TaskOutcome
from cloacina.engine.model import Assignment, Definition, Failure, Live
from cloacina.engine.restoring import restore
from cloacina.errors import Conflict, NotFound

_TWICE = RetryPolicy(max_attempts=2, delay_ms=0, jitter=False)
_ONCE = RetryPolicy(max_attempts=1)
_FAILED = TaskEnded(TaskOutcome.FAILED, "risky")
_SHAPES = (
    (TaskSpec("a", retry=_TWICE), TaskSpec("b", ("a",), retry=_ONCE), TaskSpec("c", ("b",), retry=_ONCE)),
    (
        TaskSpec("split", retry=_ONCE),
        *(TaskSpec(f"part_{number}", ("split",), retry=_TWICE) for number in range(4)),
        TaskSpec("join", tuple(f"part_{number}" for number in range(4)), retry=_ONCE),
    ),
    (TaskSpec("each", retry=_ONCE, for_each="items"), TaskSpec("after", ("each",), retry=_ONCE)),
    (
        TaskSpec("risky", retry=_ONCE),
        TaskSpec("rescue", ("risky",), retry=_ONCE, rule=_FAILED),
    ),
)


class Story:
    """Things that happen to executions, drawn at random.

    Args:
        bench: the engine.
        seed: of what is drawn.
    """

    def __init__(self, bench: Bench, seed: int) -> None:
        self._bench = bench
        self._draw = random.Random(seed)
        self._executor: ExecutorEnd | None = None
        self._definitions = [definition(*shape, name=f"flow{number}") for number, shape in enumerate(_SHAPES)]
        self._definitions.append(with_limits(definition(*_SHAPES[0], name="one_at_a_time"), executions=1))
        self._held: dict[int, Assignment] = {}
        self._seen = 0
        self._ids: list[str] = []
        self._calls: list[asyncio.Task[None]] = []
        self.lives: dict[str, Live] = {}

    async def begin(self) -> None:
        self._executor = await self._bench.join(slots=6)

    async def go_on(self) -> None:
        """One thing happens, without waiting for anything, and may share a group with others."""
        assert self._executor is not None
        for assignment in self._executor.assigned[self._seen :]:
            self._held[assignment.claim_id] = assignment
            self.lives[assignment.live.execution_id] = assignment.live
        self._seen = len(self._executor.assigned)
        happens: Callable[[], object] = self._draw.choice(
            [self._submit, self._report, self._report, self._report, self._report, self._beside, self._change]
        )
        happens()
        for _ in range(self._draw.randrange(8)):
            await asyncio.sleep(0)

    def _submit(self) -> None:
        of: Definition = self._draw.choice(self._definitions)
        self._later(self._submitted(of))

    async def _submitted(self, of: Definition) -> None:
        execution_id = await self._bench.submit(of, b'{"items":[1,2,3]}')
        self._ids.append(execution_id)

    def _report(self) -> None:
        if not self._held:
            return
        assignment = self._held.pop(self._draw.choice(list(self._held)))
        assert self._executor is not None
        if self._draw.random() < 0.7:
            result = succeeded(assignment, self._draw.choice([None, b'{"items":[4,5],"item":7}']))
        else:
            reason = self._draw.choice([FailureReason.TASK_ERROR, FailureReason.INFRASTRUCTURE])
            result = failed(assignment, Failure(reason, "boom", "traceback"))
        self._bench.engine.report(self._executor, result)

    def _beside(self) -> None:
        """Something that does not end a task, or hands it back."""
        if not self._held:
            return
        claim_id = self._draw.choice(list(self._held))
        engine = self._bench.engine
        assert self._executor is not None
        match self._draw.randrange(4):
            case 0:
                engine.report_started("x1", claim_id, 1)
            case 1:
                engine.report_deferred("x1", claim_id, True)
            case 2:
                engine.report_deferred("x1", claim_id, False)
            case _:
                engine.release("x1", self._executor, claim_id)
                del self._held[claim_id]

    def _change(self) -> None:
        if not self._ids:
            return
        execution_id = self._draw.choice(self._ids[-6:])
        if self._draw.random() < 0.4:
            self._later(self._bench.engine.retry("acme", execution_id))
        else:
            command = self._draw.choice([Pause(), Resume(), Resume(), Cancel("enough")])
            self._later(self._bench.engine.change("acme", execution_id, command))

    def _later(self, call: Coroutine[Any, Any, None]) -> None:
        self._calls.append(asyncio.create_task(call))

    async def settled(self) -> None:
        """Everything that was asked for is durable or refused, and so is what follows from it."""
        for told in await asyncio.gather(*self._calls, return_exceptions=True):
            assert told is None or isinstance(told, NotFound | Conflict), "its state may not allow it"
        self._calls.clear()
        await until(lambda: not self._bench.engine.figures()["retries_waiting"])
        for _ in range(2):
            await self._bench.engine.transact(lambda work: None)
        self.lives.update(self._bench.engine._memory.live)


async def stored_state(bench: Bench, live: Live) -> ExecutionState:
    rows = await bench.store.load_live(bench.engine.ownership.owner.epoch)
    row = next((row for row in rows if row.execution.execution_id == live.execution_id), None)
    row = row or await bench.store.load_one("acme", live.execution_id)  # it has ended
    assert row is not None
    (found,) = await bench.store.load_definitions([row.execution.definition_id])
    state = restore(row, load_definition(found)).state
    for task in row.tasks:  # that of a task that was skipped is derived when it is read
        state.tasks[task.task_name].output = task.output
    if row.execution.finished_at is not None:
        state.output, state.error = row.execution.output, row.execution.error
        state.reason = EndReason(row.execution.reason)
    return state


@pytest.mark.parametrize("seed", range(12))
async def test_what_is_stored_is_what_is_in_memory(bench: Bench, database: StubbornDatabase, seed: int) -> None:
    story = Story(bench, seed)
    await story.begin()
    compared = 0
    for _ in range(6):
        for _ in range(25):
            await story.go_on()
        await story.settled()
        for execution_id, live in story.lives.items():
            stored = await stored_state(bench, live)
            current = bench.engine.find(execution_id) is live
            if current or stored.sequence == live.state.sequence:  # else it was opened again, and is another in memory
                compared += 1
                stored.spec = live.state.spec
                for name, task in live.state.tasks.items():
                    assert stored.tasks[name] == task, name
                assert stored == live.state
    assert compared > 30
    queries = {statement.query for statements in database.writes for statement in statements}
    assert {"insert_new_task", "claim_task", "complete_task", "update_task"} <= queries
