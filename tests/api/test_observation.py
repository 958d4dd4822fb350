"""Looking into executions and requests: time, explanation, log lines, and whose they are."""

from __future__ import annotations

import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloacina.telemetry import logs
from services.api.schemas import ExecutionExplanation, ExecutionLogs, ExecutionTrace, RequestDetail
from services.api.settings import GatewaySettings

from .stand import Stand, eventually

_EXECUTIONS = "/v1/tenants/acme/executions"
_TRACE = "ab" * 16


def as_written(*lines: dict[str, Any], at: float | None = None) -> list[str]:
    """Lines as services write them."""
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    stamp = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    whole = {"timestamp": stamp, "level": "INFO", "target": "t", "message": "m", "service": "scheduler"}
    return [json.dumps({**whole, **line}, separators=(",", ":")) for line in lines]


def write_lines(stand: Stand, *lines: dict[str, Any], at: float | None = None) -> None:
    """Appends lines to today's file."""
    day = datetime.fromtimestamp(time.time() if at is None else at, UTC).date()
    file = stand.home / "logs" / f"cloacina-server.{day.isoformat()}.log"
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as output:
        output.writelines(line + "\n" for line in as_written(*lines, at=at))


def keep_lines(stand: Stand, execution_id: str, *lines: dict[str, Any], at: float | None = None) -> None:
    """Has the scheduler keep lines."""
    kept = stand.scheduler.lines.setdefault(execution_id, [])
    kept.extend(line.encode() for line in as_written(*lines, at=at))


async def test_the_time_of_an_execution_is_a_tree_that_begins_with_it(stand: Stand) -> None:
    execution_id = await stand.execution()
    seen = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}/trace")).fits(200, ExecutionTrace)
    assert (seen["trace_id"], seen["trace_url"]) == (_TRACE, None)
    ids = [span["span_id"] for span in seen["spans"]]
    assert seen["spans"][0]["parent_id"] is None
    assert all(span["parent_id"] in ids[:index] for index, span in enumerate(seen["spans"]) if index)


async def test_the_link_to_the_tracing_ui_is_ready(start_stand: Any) -> None:
    stand = await start_stand(trace_ui_url="https://jaeger.example/trace/{trace_id}?a=b")
    await stand.tenant("acme")
    execution_id = await stand.execution()
    for path in (f"{_EXECUTIONS}/{execution_id}/trace", f"{_EXECUTIONS}/{execution_id}/explain"):
        assert (await stand.ask("GET", path)).json["trace_url"] == f"https://jaeger.example/trace/{_TRACE}?a=b"


@pytest.mark.parametrize("template", ["jaeger.example/{trace_id}", "https://jaeger.example/", "javascript:{trace_id}"])
def test_an_address_without_a_place_for_the_trace_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="trace_ui_url"):
        GatewaySettings(trace_ui_url=template)


async def test_why_an_execution_is_not_done(stand: Stand) -> None:
    execution_id = await stand.execution()
    seen = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}/explain")).fits(200, ExecutionExplanation)
    (cause,) = seen["causes"]
    assert (seen["answer"], cause["kind"], cause["task_name"]) == ("Running for 1 s.", "retry_due", "load")
    assert cause["ids"] == {"executor_id": "executor-1"}
    assert cause["since"] < cause["until"]


@pytest.mark.parametrize("what", ["trace", "explain", "logs"])
async def test_what_another_tenant_has_is_not_there(stand: Stand, what: str) -> None:
    execution_id = await stand.execution()
    (await stand.ask("GET", f"/v1/tenants/other/executions/{execution_id}/{what}")).refused(404, "execution_not_found")
    (await stand.ask("GET", f"{_EXECUTIONS}/no-uuid/{what}")).refused(400, "invalid_request", "not a UUID")


async def test_the_lines_of_an_execution_are_those_that_the_scheduler_keeps(stand: Stand) -> None:
    execution_id = await stand.execution()
    keep_lines(stand, execution_id, {"message": "one"}, {"level": "ERROR", "message": "two", "exception": "Traceback"})
    write_lines(stand, {"execution_id": execution_id, "tenant_id": "acme", "message": "only in a file"})
    seen = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}/logs")).fits(200, ExecutionLogs)
    assert [line["message"] for line in seen["lines"]] == ["one", "two"]
    assert (seen["status"], seen["complete"]) == ("Pending", True)
    errors = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}/logs?level=error")).json
    assert [line["exception"] for line in errors["lines"]] == ["Traceback"]


async def test_lines_come_in_pages_and_later_ones_behind_the_last(stand: Stand) -> None:
    execution_id = await stand.execution()
    keep_lines(stand, execution_id, *({"message": str(number)} for number in range(5)))
    found, cursor = [], ""
    for _ in range(3):
        page = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}/logs?limit=2{cursor}")).json
        found += [line["message"] for line in page["lines"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert found == ["0", "1", "2", "3", "4"]
    assert page["complete"]
    keep_lines(stand, execution_id, {"message": "later"})
    page = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}/logs?{cursor}")).json
    assert [line["message"] for line in page["lines"]] == ["later"]


async def test_that_somebody_changed_an_execution_is_kept_with_it_and_no_look_is(
    start_stand: Any, tmp_path: Path
) -> None:
    logs.configure("api", home=tmp_path, stream=io.StringIO())
    try:
        stand = await start_stand()
        await stand.tenant("acme")
        execution_id = await stand.execution()
        await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}")
        await stand.ask("POST", f"{_EXECUTIONS}/{execution_id}/cancel", headers={"x-request-id": "the-cancel"})
        await eventually(lambda: execution_id in stand.scheduler.lines, "the line of the change")
    finally:
        logs.shutdown()
    (line,) = map(json.loads, stand.scheduler.lines[execution_id])
    assert (line["method"], line["request_id"], line["tenant_id"]) == ("POST", "the-cancel", "acme")
    (kept,) = stand.scheduler.calls("KeepLogLines")
    assert [each.tenant_id for each in kept.request.executions] == ["acme"], "so that it is kept for no other's"


async def test_a_request_has_the_lines_of_all_it_began_in_pages(stand: Stand) -> None:
    ids = []
    now = time.time()
    for number in range(3):
        begun = await stand.ask("POST", "/v1/tenants/acme/workflows/daily/execute", headers={"x-request-id": "thrice"})
        ids.append(begun.json["execution_id"])
        said = ({"message": f"{number} {place}", "execution_id": ids[-1]} for place in range(4))
        keep_lines(stand, ids[-1], *said, at=now + number)
    of_request = {"request_id": "thrice", "tenant_id": "acme"}
    write_lines(
        stand,
        {**of_request, "message": "of the request", "service": "api", "execution_id": ids[0]},
        {**of_request, "message": "kept with the execution as well", "execution_id": ids[0]},
        at=now - 1,
    )
    expected = ["of the request", *(f"{number} {place}" for number in range(3) for place in range(4))]
    for limit in (1, 5, 500):
        found, cursor, complete = [], "", False
        while not complete:
            page = (await stand.ask("GET", f"/v1/requests/thrice?limit={limit}{cursor}")).fits(200, RequestDetail)
            assert len(page["lines"]) <= limit
            found += [line["message"] for line in page["lines"]]
            cursor, complete = f"&cursor={page['next_cursor']}", page["complete"]
        assert found == expected
    keep_lines(stand, ids[1], {"message": "later"})
    page = (await stand.ask("GET", f"/v1/requests/thrice?{cursor}")).json
    assert [line["message"] for line in page["lines"]] == ["later"]


@pytest.mark.parametrize("query", ["cursor=x", "limit=0", "limit=5001"])
async def test_a_page_that_cannot_be(stand: Stand, query: str) -> None:
    execution_id = await stand.execution()
    path = f"{_EXECUTIONS}/{execution_id}/logs?{query}"
    (await stand.ask("GET", path)).refused(400, "invalid_pagination")


@pytest.mark.parametrize("cursor", ["x", "2026-13-41.0", "2026-01-01.-1", "2026-01-01.0~x"])
async def test_a_page_of_a_request_that_cannot_be(stand: Stand, cursor: str) -> None:
    await stand.ask("POST", "/v1/tenants/acme/workflows/daily/execute", headers={"x-request-id": "once"})
    (await stand.ask("GET", f"/v1/requests/once?cursor={cursor}")).refused(400, "invalid_pagination")


async def test_what_a_request_began_and_said(stand: Stand) -> None:
    begun = await stand.ask("POST", "/v1/tenants/acme/workflows/daily/execute", headers={"x-request-id": "the-one"})
    write_lines(stand, {"request_id": "the-one", "tenant_id": "acme", "trace_id": _TRACE})
    write_lines(stand, {"request_id": "the-one", "tenant_id": "other", "message": "another tenant's"})
    write_lines(stand, {"request_id": "the-one", "execution_id": begun.json["execution_id"][::-1]})
    key = await stand.key("acme", "read")
    seen = (await stand.ask("GET", "/v1/requests/the-one", key=key)).fits(200, RequestDetail)
    assert [each["id"] for each in seen["executions"]] == [begun.json["execution_id"]]
    assert seen["trace_id"] == _TRACE
    assert [line["tenant_id"] for line in seen["lines"]] == ["acme"]
    both = (await stand.ask("GET", "/v1/requests/the-one")).json
    assert [line.get("tenant_id") for line in both["lines"]] == ["acme", "other", None]


async def test_a_request_that_began_nothing_has_its_lines(stand: Stand) -> None:
    write_lines(stand, {"request_id": "refused", "tenant_id": "acme", "trace_id": _TRACE, "status": 404})
    write_lines(stand, {"request_id": "old", "tenant_id": "acme"}, at=time.time() - 3 * 86400)
    key = await stand.key("acme", "read")
    seen = (await stand.ask("GET", "/v1/requests/refused", key=key)).json
    assert (seen["executions"], seen["trace_id"]) == ([], _TRACE)
    (await stand.ask("GET", "/v1/requests/old", key=key)).refused(404, "request_not_found")
    assert (await stand.ask("GET", "/v1/requests/old?hours=100", key=key)).json["lines"]


async def test_a_key_learns_nothing_of_requests_of_other_tenants(stand: Stand) -> None:
    await stand.ask("POST", "/v1/tenants/acme/workflows/daily/execute", headers={"x-request-id": "secret"})
    write_lines(stand, {"request_id": "secret", "tenant_id": "acme"}, {"request_id": "secret"})
    foreign = await stand.key("other", "admin")
    (await stand.ask("GET", "/v1/requests/secret", key=foreign)).refused(404, "request_not_found")
    stateless = (await stand.ask("POST", "/v1/auth/keys", json={"name": "monitor", "role": "admin"})).json["key"]
    (await stand.ask("GET", "/v1/requests/secret", key=stateless)).refused(404, "request_not_found")
    (await stand.ask("GET", "/v1/requests/no%20id", key=foreign)).refused(404, "request_not_found")
