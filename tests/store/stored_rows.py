"""Rows for tests: valid ones, of which a test changes what it is about."""

from __future__ import annotations

from typing import Any

from cloacina.store.executions import (
    Batch,
    DefinitionRow,
    EventRow,
    ExecutionChange,
    ExecutionRow,
    ExecutionStore,
    LiveExecution,
    TaskChange,
    TaskRow,
)
from cloacina.store.identity import KeyRow
from cloacina.store.registry import PackageRow

DEFINITION = DefinitionRow("d1", "acme", "flow", "p1", "sha", b"\x00body\xff")


def execution(number: int = 1, **changed: Any) -> ExecutionRow:
    """A running execution."""
    row = ExecutionRow(
        execution_id=f"e{number}",
        tenant_id="acme",
        workflow_name="flow",
        definition_id="d1",
        status="Running",
        reason=None,
        error=None,
        input=b'{"k":"\\u0000\xc3\xa9"}',
        output=None,
        request_id=f"r{number}",
        traceparent="",
        trigger_origin="manual",
        idempotency_key=None,
        created_at=1_000 + number,
        started_at=1_000 + number,
        finished_at=None,
        cancelling=None,
        sequence=3,
    )
    return row._replace(**changed)


def task(execution_id: str = "e1", index: int = 0, **changed: Any) -> TaskRow:
    """A ready task."""
    row = TaskRow(
        execution_id=execution_id,
        task_index=index,
        task_name=f"t{index}",
        max_attempts=3,
        status="Ready",
        attempt=1,
        claim_id=0,
        executor_id="",
        lost_claims=0,
        deferred=False,
        retry_due=None,
        output=None,
        error=None,
        details=None,
        reason=None,
        created_at=1_001,
        ready_at=1_002,
        claimed_at=None,
        started_at=None,
        finished_at=None,
        updated_at=1_002,
    )
    return row._replace(**changed)


def execution_change(execution_id: str = "e1", **changed: Any) -> ExecutionChange:
    """The end of an execution."""
    row = ExecutionChange(
        status="Completed",
        reason="ok",
        error=None,
        output=b'{"done":true}',
        started_at=1_001,
        finished_at=2_000,
        cancelling=None,
        sequence=9,
        execution_id=execution_id,
    )
    return row._replace(**changed)


def task_change(execution_id: str = "e1", index: int = 0, **changed: Any) -> TaskChange:
    """A task gets claimed."""
    row = TaskChange(
        status="Running",
        attempt=2,
        claim_id=7 << 40 | 1,
        executor_id="x1",
        lost_claims=1,
        deferred=True,
        retry_due=None,
        output=None,
        error="e",
        details="d",
        reason="r",
        ready_at=1_002,
        claimed_at=1_003,
        started_at=1_004,
        finished_at=None,
        updated_at=1_005,
        instances=3,
        execution_id=execution_id,
        task_index=index,
    )
    return row._replace(**changed)


async def load_adopted(store: ExecutionStore) -> list[LiveExecution]:
    """What has not ended, as its new owner finds it."""
    return await store.load_live((await store.owners.join("test")).epoch)


def event(execution_id: str = "e1", sequence: int = 1, **changed: Any) -> EventRow:
    """The start of an execution."""
    return EventRow(execution_id, sequence, "workflow_started", None, 1_001, None)._replace(**changed)


def begun(number: int = 1, **changed: Any) -> Batch:
    """What begins an execution of two tasks."""
    execution_id = f"e{number}"
    return Batch(
        definitions=[DEFINITION],
        executions=[execution(number, **changed)],
        tasks=[task(execution_id, 0), task(execution_id, 1)],
        events=[event(execution_id, 1), event(execution_id, 2)],
    )


def package(number: int = 1, **changed: Any) -> PackageRow:
    """A loaded package."""
    row = PackageRow(
        package_id=f"p{number}",
        tenant_id="acme",
        package_name="reports",
        version=f"1.0.{number}",
        digest=f"sha{number}",
        size_bytes=10,
        workflow_name="flow",
        description="",
        build_status="loaded",
        build_error="",
        contents="{}",
        created_at=100 + number,
    )
    return row._replace(**changed)


def key(number: int = 1, **changed: Any) -> KeyRow:
    """A tenant's key."""
    return KeyRow(f"k{number}", "acme", "ci", bytes([number]) * 32, "write", False, 100 + number)._replace(**changed)
