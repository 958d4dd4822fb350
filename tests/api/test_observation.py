"""Looking into executions and requests: time, explanation, log lines, and whose they are."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from services.api.schemas import ExecutionExplanation, ExecutionLogs, ExecutionTrace, RequestDetail
from services.api.settings import GatewaySettings

from .stand import Stand

_EXECUTIONS = "/v1/tenants/acme/executions"
_TRACE = "ab" * 16


def write_lines(stand: Stand, *lines: dict[str, Any], at: float | None = None) -> None:
    """Appends lines to today's file, as services do."""
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    file = stand.home / "logs" / f"cloacina-server.{moment.date().isoformat()}.log"
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as output:
        for line in lines:
            stamp = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
            entry = {"timestamp": stamp, "level": "INFO", "target": "t", "message": "m", "service": "scheduler", **line}
            output.write(json.dumps(entry, separators=(",", ":")) + "\n")


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


async def test_the_lines_of_an_execution_and_no_other(stand: Stand) -> None:
    execution_id = await stand.execution()
    mine = {"execution_id": execution_id, "tenant_id": "acme"}
    write_lines(
        stand,
        {**mine, "message": "one"},
        {**mine, "execution_id": execution_id[::-1], "message": "another execution's"},
        {**mine, "tenant_id": "other", "message": "another tenant's"},
        {"message": f'a text with "execution_id":"{execution_id}" in it', "tenant_id": "acme"},
        {"execution_id": execution_id, "message": "of a service of ours, without a tenant"},
        {"execution_id": execution_id, "service": "api", "message": "of the gateway, without a tenant"},
        {**mine, "service": "api", "method": "GET", "message": "somebody looked"},
        {**mine, "service": "api", "method": "POST", "message": "somebody cancelled"},
        {**mine, "level": "ERROR", "message": "two", "exception": "Traceback …"},
    )
    seen = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}/logs")).fits(200, ExecutionLogs)
    expected = ["one", "of a service of ours, without a tenant", "somebody cancelled", "two"]
    assert [line["message"] for line in seen["lines"]] == expected
    assert seen["complete"]
    errors = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}/logs?level=error")).json
    assert [line["exception"] for line in errors["lines"]] == ["Traceback …"]


async def test_lines_come_in_pages_and_later_ones_behind_the_last(stand: Stand) -> None:
    execution_id = await stand.execution()
    mine = {"execution_id": execution_id, "tenant_id": "acme"}
    write_lines(stand, *({**mine, "message": str(number)} for number in range(5)))
    found, cursor = [], ""
    for _ in range(3):
        page = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}/logs?limit=2{cursor}")).json
        found += [line["message"] for line in page["lines"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert found == ["0", "1", "2", "3", "4"]
    assert page["complete"]
    write_lines(stand, {**mine, "message": "later"})
    page = (await stand.ask("GET", f"{_EXECUTIONS}/{execution_id}/logs?{cursor}")).json
    assert [line["message"] for line in page["lines"]] == ["later"]


@pytest.mark.parametrize("query", ["cursor=x", "cursor=2026-13-41.0", "cursor=2026-01-01.-1", "limit=0", "limit=5001"])
async def test_a_page_that_cannot_be(stand: Stand, query: str) -> None:
    execution_id = await stand.execution()
    path = f"{_EXECUTIONS}/{execution_id}/logs?{query}"
    (await stand.ask("GET", path)).refused(400, "invalid_pagination")


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
