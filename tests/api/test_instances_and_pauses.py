"""Pauses, sources and named instances through the gateway."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from services.api.schemas import ExecuteResponse
from services.api.workflow_schemas import (
    DeleteInstanceResponse,
    InstanceList,
    WorkflowInstanceSummary,
    WorkflowPauseResponse,
    WorkflowSourceResponse,
)

from .stand import Stand

DAILY = "/v1/tenants/acme/workflows/daily"
INSTANCES = f"{DAILY}/instances"


@pytest.mark.parametrize("name", ["daily", "daily-jobs"])
@pytest.mark.parametrize(("verb", "paused"), [("pause", True), ("resume", False)])
async def test_a_workflow_is_paused_and_resumed(stand: Stand, name: str, verb: str, paused: bool) -> None:
    reply = await stand.ask("POST", f"/v1/tenants/acme/workflows/{name}/{verb}")
    answer = reply.fits(200, WorkflowPauseResponse)
    (package,) = stand.reconciler.packages.values()
    assert answer == {
        "tenant_id": "acme",
        "id": package.package_id,
        "name": name,
        "status": f"{verb}d",
        "paused": paused,
    }
    listed = (await stand.ask("GET", "/v1/tenants/acme/workflows")).json["items"]
    assert [item["paused"] for item in listed] == [paused]
    assert (await stand.ask("GET", DAILY)).json["paused"] is paused


async def test_only_who_may_write_pauses(stand: Stand) -> None:
    reader, stranger = await stand.key("acme", "read"), await stand.key("other", "admin")
    for verb in ("pause", "resume"):
        (await stand.ask("POST", f"{DAILY}/{verb}", key=reader)).refused(403, "insufficient_permissions")
        (await stand.ask("POST", f"{DAILY}/{verb}", key=stranger)).refused(403, "tenant_access_denied")
        (await stand.ask("POST", f"/v1/tenants/acme/workflows/absent/{verb}")).refused(404, "workflow_not_found")
    assert stand.reconciler.calls("SetWorkflowPaused")[-1].request.name == "absent"
    assert (await stand.ask("GET", f"{DAILY}/source", key=reader)).status == 200


async def test_a_paused_workflow_is_not_executed(stand: Stand) -> None:
    stand.scheduler.paused.add("daily")
    (await stand.ask("POST", f"{DAILY}/execute")).refused(409, "workflow_paused")
    await stand.ask("POST", INSTANCES, json={"instance_name": "one"})
    (await stand.ask("POST", f"{INSTANCES}/one/execute")).refused(409, "workflow_paused")


async def test_the_source_has_a_language_where_it_is_known(stand: Stand) -> None:
    answer = (await stand.ask("GET", f"{DAILY}/source")).fits(200, WorkflowSourceResponse)
    assert (answer["package_name"], answer["workflow_name"], answer["version"]) == ("daily-jobs", "daily", "1.2.0")
    assert [(file["path"], file["language"]) for file in answer["files"]] == [
        ("package.toml", "toml"),
        ("workflow/daily/tasks.py", "python"),
        ("workflow/daily/data.bin", None),
    ]
    assert answer["files"][1]["contents"] == "x = 'ü'\n"
    assert answer["omitted"] == 1
    (await stand.ask("GET", "/v1/tenants/acme/workflows/absent/source")).refused(404, "workflow_not_found")


async def test_an_instance_is_made_seen_listed_and_deleted(stand: Stand) -> None:
    body = {
        "instance_name": "prod / eu",
        "params": {"day": "monday"},
        "cron": "0 2 * * *",
        "timezone": "Europe/Berlin",
        "enabled": False,
    }
    made = (await stand.ask("POST", INSTANCES, json=body)).fits(200, WorkflowInstanceSummary)
    assert made == {
        "id": made["id"],
        "workflow_name": "daily",
        "instance_name": "prod / eu",
        "params": {"day": "monday"},
        "cron_expression": "0 2 * * *",
        "timezone": "Europe/Berlin",
        "enabled": False,
        "paused": False,
        "next_run_at": "2026-09-21T14:13:20.000003Z",
        "last_run_at": None,
        "created_at": "2026-09-21T14:13:20.000000Z",
    }
    one = f"{INSTANCES}/prod%20%2F%20eu"
    assert (await stand.ask("GET", one)).fits(200, WorkflowInstanceSummary) == made
    plain = (await stand.ask("POST", INSTANCES, json={"instance_name": "plain"})).json
    assert (plain["params"], plain["cron_expression"], plain["next_run_at"], plain["enabled"]) == ({}, None, None, True)
    listed = (await stand.ask("GET", INSTANCES)).fits(200, InstanceList)
    assert (listed["tenant_id"], listed["total"]) == ("acme", 2)
    assert [item["instance_name"] for item in listed["items"]] == ["prod / eu", "plain"]
    page = (await stand.ask("GET", INSTANCES, params={"limit": "1", "offset": "1"})).json
    assert ([item["instance_name"] for item in page["items"]], page["total"]) == (["plain"], 2)

    (await stand.ask("POST", INSTANCES, json={"instance_name": "plain"})).refused(409, "instance_exists")
    gone = (await stand.ask("DELETE", one)).fits(200, DeleteInstanceResponse)
    assert gone == {"tenant_id": "acme", "workflow_name": "daily", "instance_name": "prod / eu", "deleted": True}
    for method in ("GET", "DELETE"):
        (await stand.ask(method, one)).refused(404, "instance_not_found")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_instance_name"),
        ({"instance_name": 5}, "invalid_instance_name"),
        ({"instance_name": "a", "params": [1]}, "instance_params_invalid"),
        ({"instance_name": "a", "params": "text"}, "instance_params_invalid"),
        ({"instance_name": "a", "cron": 5}, "invalid_cron"),
        ({"instance_name": "a", "cron": " "}, "invalid_cron"),
        ({"instance_name": "a", "timezone": 5}, "invalid_cron"),
        ({"instance_name": "a", "enabled": "perhaps"}, "invalid_request"),
        ({"instance_name": "a", "surprise": 1}, "invalid_request"),
    ],
)
async def test_a_body_that_does_not_fit_says_which_field(stand: Stand, body: dict[str, Any], code: str) -> None:
    (await stand.ask("POST", INSTANCES, json=body)).refused(400, code)
    assert stand.scheduler.calls("CreateInstance") == []


async def test_an_instance_of_what_is_not_there_is_refused(stand: Stand) -> None:
    nothing = "/v1/tenants/acme/workflows/absent/instances"
    (await stand.ask("POST", nothing, json={"instance_name": "a"})).refused(404, "workflow_not_found")
    assert (await stand.ask("GET", nothing)).json["items"] == []
    (await stand.ask("GET", INSTANCES, params={"limit": "0"})).refused(400, "invalid_pagination")


async def test_an_instance_is_executed_under_its_name(stand: Stand) -> None:
    await stand.ask("POST", INSTANCES, json={"instance_name": "prod"})
    reply = await stand.ask(
        "POST", f"{INSTANCES}/prod/execute", json={"context": {"note": 1}}, headers={"Idempotency-Key": "k"}
    )
    answer = reply.fits(202, ExecuteResponse)
    (seen,) = stand.scheduler.calls("Execute")
    assert (seen.request.workflow_name, seen.request.instance_name) == ("daily", "prod")
    assert (orjson.loads(seen.request.context), seen.request.idempotency_key) == ({"note": 1}, "k")
    assert seen.metadata["x-request-id"] == reply.headers["x-request-id"]
    assert answer["workflow_name"] == "daily"
    again = await stand.ask("POST", f"{INSTANCES}/prod/execute", headers={"Idempotency-Key": "k"})
    assert again.json["execution_id"] == answer["execution_id"]


async def test_instances_follow_the_roles(stand: Stand) -> None:
    reader, stranger = await stand.key("acme", "read"), await stand.key("other", "write")
    assert (await stand.ask("GET", INSTANCES, key=reader)).status == 200
    for method, path in (("POST", INSTANCES), ("DELETE", f"{INSTANCES}/a"), ("POST", f"{INSTANCES}/a/execute")):
        (await stand.ask(method, path, key=reader, json={})).refused(403, "insufficient_permissions")
        (await stand.ask(method, path, key=stranger, json={})).refused(403, "tenant_access_denied")
    assert stand.scheduler.calls("CreateInstance") == []
