"""Reading an execution's lines: what its events say and what was kept, in one order, in pages of any size."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from cloacina.errors import InvalidRequest
from cloacina.rpc.v1 import scheduler_pb2
from cloacina.store.database import open_database
from cloacina.store.execution_logs import ExecutionLogStore
from cloacina.store.executions import Batch, DefinitionRow, EventRow, ExecutionRow, ExecutionStore
from cloacina.telemetry.execution_lines import Lines
from services.scheduler.log_lines import LogLines
from tests.log_schema import faults

_START = 1_790_000_000_000_000
_EVENTS = (
    ("workflow_started", None, None),
    ("task_created", "a", None),
    ("task_marked_ready", "a", None),
    ("task_claimed", "a", '{"claim_id":7,"executor_id":"x1"}'),
    ("task_started", "a", None),
    ("task_retry_scheduled", "a", '{"reason":"task_error","error":"ValueError: no","due":1}'),
    ("task_marked_ready", "a", None),
    ("task_claimed", "a", '{"claim_id":8,"executor_id":"x1"}'),
    ("task_failed", "a", '{"reason":"task_error","error":"ValueError: no"}'),
    ("workflow_failed", None, '{"reason":"dependency_failed","error":"failed tasks: a"}'),
    ("workflow_resumed", None, '{"retry":true}'),
    ("task_reset", "a", None),
    ("task_claimed", "a", '{"claim_id":9,"executor_id":"x2"}'),
    ("task_started", "a", '{"instances":3}'),
    ("task_completed", "a", None),
    ("workflow_completed", None, None),
)


def _execution() -> ExecutionRow:
    return ExecutionRow(
        execution_id="e1",
        tenant_id="acme",
        workflow_name="flow",
        definition_id="p1/flow",
        status="Completed",
        reason="ok",
        error=None,
        input=b"{}",
        output=None,
        request_id="r1",
        traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01",
        trigger_origin="manual",
        idempotency_key=None,
        created_at=_START,
        started_at=_START,
        finished_at=_START + 10,
        cancelling=None,
        sequence=len(_EVENTS),
    )


def _line(number: int, at: int) -> str:
    """A line that a task logged `at` milliseconds after the start."""
    moment = datetime.fromtimestamp((_START + at * 1000) / 1e6, UTC).isoformat(timespec="microseconds")
    entry = {
        "timestamp": moment.replace("+00:00", "Z"),
        "level": "WARN" if number % 5 == 0 else "INFO",
        "target": "task.flow.a",
        "message": f"line {number} \u2028 \x85",
        "service": "executor",
        "execution_id": "e1",
    }
    return orjson.dumps(entry).decode() + "\n"


@pytest.fixture
async def lines() -> AsyncIterator[LogLines]:
    """An execution with an event every 10 ms, and 40 lines of a task, one every 4 ms, in chunks of three."""
    database = open_database("sqlite://", "scheduler")
    await database.open()
    executions, store = ExecutionStore(database), ExecutionLogStore(database, 1 << 20)
    events = [
        EventRow("e1", number, kind, task, _START + number * 10_000, data)
        for number, (kind, task, data) in enumerate(_EVENTS, 1)
    ]
    definition = DefinitionRow("p1/flow", "acme", "flow", "p1", "sha", b"")
    await executions.commit(Batch(definitions=[definition], executions=[_execution()], events=events))
    lines = LogLines(executions, store)
    for first in range(0, 40, 3):
        text = "".join(_line(number, number * 4) for number in range(first, min(first + 3, 40)))
        await lines.keep_own(f"b{first}", [Lines("e1", "acme", text.encode())])
    yield lines
    await database.close()


async def _read(lines: LogLines, limit: int, level: str = "", cursor: str = "") -> tuple[list[dict[str, Any]], str]:
    """All lines, page by page, and where they end."""
    found: list[dict[str, Any]] = []
    for _ in range(1000):
        request = scheduler_pb2.ListLogLinesRequest(limit=limit, level=level, cursor=cursor)
        page = await lines.page(_execution(), request)
        assert len(page.lines) <= limit
        assert page.status == "Completed"
        found += map(orjson.loads, page.lines)
        cursor = page.next_cursor
        if page.complete:
            return found, cursor
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 16, 50, 5000])
async def test_pages_of_any_size_have_the_same_lines_in_the_same_order(lines: LogLines, limit: int) -> None:
    found, _ = await _read(lines, limit)
    said = [line["message"] for line in found if line["service"] == "executor"]
    assert said == [f"line {number} \u2028 \x85" for number in range(40)]
    assert [line["timestamp"] for line in found] == sorted(line["timestamp"] for line in found)
    assert [(line["message"], line.get("attempt")) for line in found if line["service"] == "scheduler"] == [
        ("execution scheduled", None),
        ("task ready", 1),
        ("task claimed by an executor", 1),
        ("task started", 1),
        ("task failed; another attempt is due", 1),
        ("task ready", 2),
        ("task claimed by an executor", 2),
        ("task failed", 2),
        ("execution failed", None),
        ("execution retried: what did not succeed is run again", None),
        ("task claimed by an executor", 1),
        ("task completed", 1),
        ("execution completed", None),
    ]


async def test_a_line_made_of_an_event_has_the_shape_and_the_ids_of_all_lines(lines: LogLines) -> None:
    found, _ = await _read(lines, 5000)
    for line in found:
        assert faults(line) == []
    failed = next(line for line in found if line["message"] == "task failed")
    assert (failed["request_id"], failed["trace_id"], failed["tenant_id"]) == ("r1", "ab" * 16, "acme")
    assert (failed["package_id"], failed["workflow_name"], failed["execution_id"]) == ("p1", "flow", "e1")
    assert (failed["level"], failed["reason"], failed["error"]) == ("WARN", "task_error", "ValueError: no")
    end = next(line for line in found if line["message"] == "execution failed")
    assert (end["status"], end["duration_ms"]) == ("Failed", 100.0)


async def test_only_what_is_as_bad_as_asked_for(lines: LogLines) -> None:
    found, _ = await _read(lines, 3, level="WARN")
    assert {line["level"] for line in found} == {"WARN"}
    assert len(found) == 8 + 3


async def test_what_comes_later_is_behind_the_cursor_even_if_it_is_older(lines: LogLines) -> None:
    _, cursor = await _read(lines, 10)
    assert await _read(lines, 10, cursor=cursor) == ([], cursor)
    await lines.keep(
        scheduler_pb2.KeepLogLinesRequest(
            batch="late", executions=[scheduler_pb2.ExecutionLines(execution_id="e1", lines=_line(99, 1))]
        )
    )
    found, _ = await _read(lines, 10, cursor=cursor)
    assert [line["message"].split(" \u2028")[0] for line in found] == ["line 99"]


async def test_what_is_no_page_and_no_batch(lines: LogLines) -> None:
    for cursor in ("x", "1.2", "1.2.3.4", "-1.1.1", "9" * 30 + ".1.1"):
        with pytest.raises(InvalidRequest):
            await lines.page(_execution(), scheduler_pb2.ListLogLinesRequest(cursor=cursor))
    with pytest.raises(InvalidRequest):
        await lines.page(_execution(), scheduler_pb2.ListLogLinesRequest(level="LOUD"))
    with pytest.raises(InvalidRequest):
        await lines.keep(scheduler_pb2.KeepLogLinesRequest())


async def test_where_it_is_truncated_says_so(lines: LogLines) -> None:
    small = LogLines(lines._executions, ExecutionLogStore(lines._store._database, 100))
    row = _execution()._replace(execution_id="e2")
    await lines._executions.commit(Batch(executions=[row]))
    await small.keep_own("b", [Lines("e2", "acme", (_line(1, 1) * 3).encode())])
    page = await small.page(row, scheduler_pb2.ListLogLinesRequest())
    found = [orjson.loads(line) for line in page.lines]
    assert faults(found[-1]) == []
    assert found[-1]["message"].startswith("truncated")
    assert len(found) == 4
