"""Maintenance of the platform: only with a god-mode key."""

from __future__ import annotations

from services.api.schemas import CleanupEventsResponse

from .stand import Stand

_PATH = "/v1/admin/cleanup-events"


async def test_old_events_are_deleted_on_demand(stand: Stand) -> None:
    reply = await stand.ask("POST", _PATH, json={"older_than_s": 86400, "executions": True})
    answer = reply.fits(200, CleanupEventsResponse)
    assert (answer["executions"], answer["events"], answer["complete"]) == (3, 21, True)
    counted = await stand.ask("POST", _PATH, json={"older_than_s": 0, "dry_run": True})
    assert (counted.json["dry_run"], counted.json["complete"]) == (True, False)


async def test_no_tenants_key_may(stand: Stand) -> None:
    key = await stand.key("acme", "admin")
    reply = await stand.ask("POST", _PATH, key=key, json={"older_than_s": 0})
    reply.refused(403, "admin_required")


async def test_the_age_is_asked_for(stand: Stand) -> None:
    for body in ({}, {"older_than_s": -1}, {"older_than_s": "90d"}, {"older_than_s": 1, "all": True}):
        (await stand.ask("POST", _PATH, json=body)).refused(400, "invalid_request")
