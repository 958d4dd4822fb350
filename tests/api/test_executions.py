"""Executions through the gateway: what is asked of the scheduler, and how its answers look."""

from __future__ import annotations

import asyncio
import contextlib
from uuid import uuid4

import orjson
import pytest

from services.api.schemas import (
    ExecuteResponse,
    ExecutionDetail,
    ExecutionEventsResponse,
    ExecutionList,
    ExecutionTasksResponse,
)

from .conftest import SHARED
from .stand import Reply, Stand, eventually

_EXECUTE = "/v1/tenants/acme/workflows/daily/execute"
_EXECUTIONS = "/v1/tenants/acme/executions"


@pytest.mark.parametrize("sent", [{}, {"data": b""}, {"json": {}}, {"json": {"context": None}}])
async def test_an_execution_without_a_context(stand: Stand, sent: dict[str, object]) -> None:
    begun = (await stand.ask("POST", _EXECUTE, **sent)).fits(202, ExecuteResponse)
    assert (begun["workflow_name"], begun["tenant_id"], begun["status"]) == ("daily", "acme", "scheduled")
    assert stand.scheduler.contexts[begun["execution_id"]] == b"{}"


async def test_the_context_arrives_as_it_was_sent(stand: Stand) -> None:
    context = {"day": "2026-04-02", "n": 2**63, "nested": {"ä": [1, 2.5, None, True]}}
    begun = (await stand.ask("POST", _EXECUTE, json={"context": context})).json
    assert orjson.loads(stand.scheduler.contexts[begun["execution_id"]]) == context


async def test_the_same_idempotency_key_is_the_same_execution(stand: Stand) -> None:
    ids = [
        (await stand.ask("POST", _EXECUTE, headers={"Idempotency-Key": key})).json["execution_id"]
        for key in ("monday ~1", "monday ~1", "x" * 255)
    ]
    assert ids[0] == ids[1] != ids[2]
    sent = [call.request.idempotency_key for call in stand.scheduler.calls("Execute")]
    assert sent == ["monday ~1", "monday ~1", "x" * 255]


async def test_an_execution_that_cannot_begin(stand: Stand) -> None:
    (await stand.ask("POST", "/v1/tenants/acme/workflows/nothing/execute")).refused(404, "workflow_not_found")
    stand.scheduler.paused.add("daily")
    (await stand.ask("POST", _EXECUTE)).refused(409, "workflow_paused", "paused")


async def test_one_execution(stand: Stand) -> None:
    begun = await stand.ask("POST", _EXECUTE, headers={"x-request-id": "the-one"})
    execution_id = begun.json["execution_id"]
    seen = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id.upper()}")).fits(200, ExecutionDetail)
    assert (seen["execution_id"], seen["status"], seen["request_id"]) == (execution_id, "Pending", "the-one")
    assert (seen["started_at"], seen["completed_at"], seen["output"], seen["reason"]) == (None, None, None, None)
    assert seen["trace_id"] == "ab" * 16

    ended = stand.scheduler.executions[execution_id]
    ended.status, ended.reason, ended.output = "Completed", "ok", b'{"rows": [1, 2]}'
    ended.started_at = ended.finished_at = 1_790_000_000_000_042
    seen = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}")).fits(200, ExecutionDetail)
    assert (seen["status"], seen["reason"], seen["output"]) == ("Completed", "ok", {"rows": [1, 2]})
    assert seen["completed_at"] == "2026-09-21T14:13:20.000042Z"


async def test_events_and_tasks(stand: Stand) -> None:
    execution_id = await stand.execution()
    path = f"{_EXECUTIONS}/{execution_id}"
    events = (await stand.ask("GET", f"{path}/events")).fits(200, ExecutionEventsResponse)["events"]
    assert [(event["sequence_num"], event["task_name"]) for event in events] == [(1, None), (2, "load"), (3, "load")]
    later = (await stand.ask("GET", f"{path}/events", params={"after": 1, "limit": 1})).json["events"]
    assert [event["sequence_num"] for event in later] == [2]
    running, waiting = (await stand.ask("GET", f"{path}/tasks")).fits(200, ExecutionTasksResponse)["tasks"]
    assert (running["sub_status"], running["executor_id"]) == ("Active", "executor-1")
    assert (waiting["sub_status"], waiting["started_at"], waiting["last_error"]) == (None, None, None)


async def test_cancel_pause_and_resume(stand: Stand) -> None:
    path = f"{_EXECUTIONS}/{await stand.execution()}"
    for verb, sent, status in (
        ("pause", {}, "Paused"),
        ("resume", {"json": {}}, "Running"),
        ("cancel", {"json": {"reason": "wrong day"}}, "Cancelled"),
    ):
        changed = (await stand.ask("POST", f"{path}/{verb}", **sent)).fits(200, ExecutionDetail)
        assert changed["status"] == status
    assert stand.scheduler.calls("CancelExecution")[0].request.reason == "wrong day"
    (await stand.ask("POST", f"{path}/resume")).refused(409, "illegal_transition", "Cancelled")
    (await stand.ask("POST", f"{path}/cancel", json={"reason": 7})).refused(400, "invalid_request", "reason")


@pytest.mark.parametrize(
    ("method", "end"),
    [("GET", ""), ("GET", "/events"), ("GET", "/tasks"), ("POST", "/cancel"), ("POST", "/pause"), ("POST", "/resume")],
)
async def test_an_execution_that_is_not_there(stand: Stand, method: str, end: str) -> None:
    foreign = await stand.execution()
    for execution_id in ("not-a-uuid", "%00", "x" * 500, str(uuid4()), uuid4().hex):
        reply = await stand.ask(method, f"{_EXECUTIONS}/{execution_id}{end}")
        if len(execution_id) != 36:
            reply.refused(400, "invalid_request", "not a UUID")
        else:
            _is_not_there(reply, end)
    key = await stand.key("other", "admin")
    _is_not_there(await stand.ask(method, f"/v1/tenants/other/executions/{foreign}{end}", key=key), end)


def _is_not_there(reply: Reply, end: str) -> None:
    """404, or, where the original lists what there is of it, nothing."""
    if end in ("/events", "/tasks"):
        assert (reply.status, reply.json[end[1:]]) == (200, [])
    else:
        reply.refused(404, "execution_not_found")


async def test_pages_of_executions(stand: Stand) -> None:
    ids = [await stand.execution() for _ in range(5)][::-1]
    stand.scheduler.executions[ids[0]].status = "Failed"

    whole = (await stand.ask("GET", _EXECUTIONS)).fits(200, ExecutionList)
    assert ([item["id"] for item in whole["items"]], whole["total"], whole["next_cursor"]) == (ids, 5, None)
    assert whole["items"][0]["started_at"] == whole["items"][0]["created_at"]

    collected, cursor = [], None
    while True:
        page = (await stand.ask("GET", _EXECUTIONS, params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json
        collected += [item["id"] for item in page["items"]]
        if not (cursor := page["next_cursor"]):
            break
    assert collected == ids

    async def found(**params: object) -> list[str]:
        return [item["id"] for item in (await stand.ask("GET", _EXECUTIONS, params=params)).json["items"]]

    assert await found(limit=2, offset=3) == ids[3:]
    assert await found(status="Failed") == ids[:1]
    assert await found(workflow="daily") == await found(workflow_name="daily") == ids
    assert await found(workflow="nothing") == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid_pagination"),
        ("limit=1001", "invalid_pagination"),
        ("limit=x", "invalid_pagination"),
        ("limit=1&limit=2", "invalid_pagination"),
        ("offset=-1", "invalid_pagination"),
        ("offset=99999999999", "invalid_pagination"),
        ("cursor=", "invalid_pagination"),
        ("cursor=1&offset=1", "invalid_pagination"),
        ("status=failed", "invalid_request"),
        ("state=Failed", "invalid_request"),
        ("status=Failed&status=Running", "invalid_request"),
        ("workflow=a&workflow_name=b", "invalid_request"),
    ],
)
@SHARED
async def test_queries_that_cannot_be_meant(shared_stand: Stand, query: str, code: str) -> None:
    (await shared_stand.ask("GET", f"{_EXECUTIONS}?{query}")).refused(400, code)
    assert not shared_stand.scheduler.calls("ListExecutions")


async def test_a_start_that_was_sent_is_not_taken_back_when_its_client_goes(stand: Stand) -> None:
    stand.scheduler.gate.clear()
    request = asyncio.create_task(stand.ask("POST", _EXECUTE))
    await eventually(lambda: bool(stand.scheduler.calls("Execute")), "the call arrives")
    request.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await request
    await eventually(lambda: stand.requests("POST", 499) == 1, "the gateway sees that its client has gone")
    assert not stand.scheduler.executions
    stand.scheduler.gate.set()
    await eventually(lambda: len(stand.scheduler.executions) == 1, "the execution begins all the same")
