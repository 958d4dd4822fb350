"""Triggers through the gateway: what is asked of the scheduler, and how its answers look."""

from __future__ import annotations

import orjson
import pytest

from services.api.schemas import (
    DeclaredSurface,
    FireTriggerResponse,
    TriggerDetailResponse,
    TriggerList,
    TriggerPauseResponse,
)

from .stand import Stand

_TRIGGERS = "/v1/tenants/acme/triggers"


async def test_the_schedules_of_a_tenant(stand: Stand) -> None:
    listed = (await stand.ask("GET", _TRIGGERS)).fits(200, TriggerList)
    assert (listed["tenant_id"], listed["total"]) == ("acme", 2)
    inbox, nightly = listed["items"]
    assert (inbox["trigger_name"], inbox["schedule_type"], inbox["poll_interval_ms"]) == ("inbox", "trigger", 5000)
    assert (inbox["workflow_name"], inbox["workflows"]) == ("daily", ["daily", "audit"])
    assert (inbox["last_outcome"], inbox["last_error"], inbox["next_run_at"]) == ("failed", "ValueError: boom", None)
    assert (nightly["cron_expression"], nightly["timezone"], nightly["poll_interval_ms"]) == ("0 3 * * *", "UTC", None)
    assert nightly["next_run_at"] == "2026-09-21T14:13:20.000000Z"
    assert (await stand.ask("GET", "/v1/tenants/other/triggers")).json["items"] == []


async def test_a_page_of_them(stand: Stand) -> None:
    page = (await stand.ask("GET", _TRIGGERS, params={"limit": "1", "offset": "1"})).json
    assert ([item["trigger_name"] for item in page["items"]], page["total"]) == (["nightly"], 2)
    for wrong in ({"limit": "0"}, {"limit": "1001"}, {"offset": "-1"}, {"limit": "x"}):
        (await stand.ask("GET", _TRIGGERS, params=wrong)).refused(400, "invalid_pagination")


@pytest.mark.parametrize("name", ["inbox", "daily"])
async def test_one_by_its_name_or_its_workflow(stand: Stand, name: str) -> None:
    seen = (await stand.ask("GET", f"{_TRIGGERS}/{name}")).fits(200, TriggerDetailResponse)
    assert seen["schedule"]["trigger_name"] == "inbox"
    failed, fired = seen["recent_executions"]
    assert (failed["outcome"], failed["error"], failed["execution_id"]) == ("failed", "no such workflow", None)
    assert (fired["outcome"], fired["completed_at"]) == ("fired", "1970-01-01T00:00:00.000009Z")


async def test_pausing_and_resuming(stand: Stand) -> None:
    paused = (await stand.ask("POST", f"{_TRIGGERS}/daily/pause")).fits(200, TriggerPauseResponse)
    assert (paused["name"], paused["status"], paused["paused"]) == ("daily", "paused", True)
    resumed = (await stand.ask("POST", f"{_TRIGGERS}/inbox/resume")).fits(200, TriggerPauseResponse)
    assert (resumed["name"], resumed["status"], resumed["paused"]) == ("inbox", "resumed", False)


@pytest.mark.parametrize(("sent", "event"), [({}, b""), ({"json": {"event": {"day": "x"}}}, b'{"day":"x"}')])
async def test_firing_by_hand(stand: Stand, sent: dict[str, object], event: bytes) -> None:
    fired = (await stand.ask("POST", f"{_TRIGGERS}/inbox/fire", **sent)).fits(200, FireTriggerResponse)
    assert (fired["trigger"], fired["fired"]) == ("inbox", 2)
    assert [each["workflow_name"] for each in fired["executions"]] == ["daily", "audit"]
    (call,) = stand.scheduler.calls("FireTrigger")
    assert call.request.event == event


@pytest.mark.parametrize("event", [[1], "text", 3])
async def test_an_event_must_be_an_object(stand: Stand, event: object) -> None:
    reply = await stand.ask("POST", f"{_TRIGGERS}/inbox/fire", data=orjson.dumps({"event": event}))
    reply.refused(400, "trigger_event_invalid", "event")
    assert stand.scheduler.calls("FireTrigger") == []


async def test_what_an_event_may_hold(stand: Stand) -> None:
    surface = (await stand.ask("GET", f"{_TRIGGERS}/inbox/interface")).fits(200, DeclaredSurface)
    assert (surface["kind"], surface["name"]) == ("trigger", "inbox")
    assert surface["slots"][0]["name"] == "day"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/interface"), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/fire")],
)
async def test_one_that_is_not_there(stand: Stand, method: str, path: str) -> None:
    (await stand.ask(method, f"{_TRIGGERS}/nothing{path}")).refused(404, "trigger_not_found", "nothing")


@pytest.mark.parametrize("verb", ["pause", "resume", "fire"])
async def test_a_reader_changes_nothing(stand: Stand, verb: str) -> None:
    key = await stand.key("acme", "read")
    (await stand.ask("POST", f"{_TRIGGERS}/inbox/{verb}", key=key)).refused(403, "insufficient_permissions")
    assert (await stand.ask("GET", f"{_TRIGGERS}/inbox", key=key)).status == 200
