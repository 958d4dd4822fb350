"""Secrets over HTTP: the shapes, statuses and codes of the original, and no value in any answer or log line."""

from __future__ import annotations

import json

import pytest

from services.api.schemas import SecretDeletedResponse, SecretList, SecretMetadata

from .stand import Stand

_SECRETS = "/v1/tenants/acme/secrets"
VALUE = "a-value-that-nobody-may-see"


async def test_a_secret_from_its_making_to_its_end(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    body = {"name": "db/prod é", "fields": {"user": "u", "password": VALUE}}
    answers = [await stand.ask("POST", _SECRETS, json=body)]
    made = answers[-1].fits(201, SecretMetadata)
    assert (made["name"], made["field_names"], made["version"]) == ("db/prod é", ["password", "user"], 1)
    assert made["created_at"].endswith("Z")

    answers.append(await stand.ask("GET", _SECRETS))
    assert answers[-1].fits(200, SecretList) == {"items": [made], "total": 1}
    path = f"{_SECRETS}/db%2Fprod%20%C3%A9"
    answers.append(await stand.ask("GET", path))
    assert answers[-1].fits(200, SecretMetadata) == made

    answers.append(await stand.ask("PUT", path, json={"fields": {"password": VALUE + "2"}}))
    rotated = answers[-1].fits(200, SecretMetadata)
    assert (rotated["id"], rotated["field_names"], rotated["version"]) == (made["id"], ["password"], 2)

    answers.append(await stand.ask("DELETE", path))
    assert answers[-1].fits(200, SecretDeletedResponse) == {"status": "deleted", "name": "db/prod é"}
    assert (await stand.ask("GET", _SECRETS)).json == {"items": [], "total": 0}
    for answer in answers:
        assert VALUE not in answer.body.decode()
    assert caplog.records
    assert all(VALUE not in str(record.__dict__) for record in caplog.records)


async def test_what_reaches_the_reconciler_is_what_was_sent(stand: Stand) -> None:
    await stand.ask("POST", _SECRETS, json={"name": "db", "fields": {"password": VALUE}})
    (call,) = stand.reconciler.calls("CreateSecret")
    assert (call.request.tenant_id, call.request.name) == ("acme", "db")
    assert dict(call.request.fields) == {"password": VALUE}
    assert call.metadata["x-request-id"]


async def test_what_is_there_twice_or_not_there(stand: Stand) -> None:
    body = {"name": "db", "fields": {"a": VALUE}}
    await stand.ask("POST", _SECRETS, json=body)
    (await stand.ask("POST", _SECRETS, json=body)).refused(409, "secret_exists")
    for method, sent in (("GET", {}), ("PUT", {"json": {"fields": {"a": VALUE}}}), ("DELETE", {})):
        (await stand.ask(method, f"{_SECRETS}/absent", **sent)).refused(404, "secret_not_found")
        (await stand.ask(method, "/v1/tenants/other/secrets/db", **sent)).refused(404, "secret_not_found")


async def test_without_a_key_to_encrypt_with(stand: Stand) -> None:
    stand.reconciler.secrets_configured = False
    for method, path, sent in (
        ("POST", _SECRETS, {"json": {"name": "db", "fields": {"a": VALUE}}}),
        ("GET", _SECRETS, {}),
        ("GET", f"{_SECRETS}/db", {}),
        ("PUT", f"{_SECRETS}/db", {"json": {"fields": {"a": VALUE}}}),
        ("DELETE", f"{_SECRETS}/db", {}),
    ):
        (await stand.ask(method, path, **sent)).refused(503, "secrets_not_configured", "CLOACINA_SECRET_KEK")


@pytest.mark.parametrize("role", ["read", "write"])
async def test_only_an_admin_of_the_tenant_sees_even_the_names(stand: Stand, role: str) -> None:
    key = await stand.key("acme", role)
    for method, path in (
        ("POST", _SECRETS),
        ("GET", _SECRETS),
        *((m, f"{_SECRETS}/x") for m in ("GET", "PUT", "DELETE")),
    ):
        (await stand.ask(method, path, key=key)).refused(403, "insufficient_permissions")
    admin = await stand.key("acme", "admin")
    assert (await stand.ask("GET", _SECRETS, key=admin)).status == 200
    (await stand.ask("GET", "/v1/tenants/other/secrets", key=admin)).refused(403, "tenant_access_denied")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (json.dumps({"name": "db", "fields": {"a": 5}}), "fields.a: Input should be a valid string"),
        (json.dumps({"name": "db", "fields": VALUE}), "fields"),
        (json.dumps({"name": "db", "fields": {"a": [VALUE]}}), "fields.a"),
        (json.dumps({"name": "db"}), "fields"),
        (json.dumps({"name": "db", "fields": {}, "value": VALUE}), "value: is not known here"),
        (json.dumps({"name": 7, "fields": {"a": VALUE}}), "name"),
        ('{"name": "db", "fields": {"a": "' + VALUE, "must be a JSON object"),
        ('{"name": "db", "fields": {"' + VALUE + '": "x", "' + VALUE + '": "y"}}', "must be a JSON object"),
        ('{"name": "db", "fields": {"a": 123456789012345678901234567890}}', "must be a JSON object"),
        (f'"{VALUE}"', "must be a JSON object"),
        ("", "must be a JSON object"),
    ],
)
async def test_a_refused_body_is_not_shown(
    stand: Stand, body: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    reply = await stand.ask("POST", _SECRETS, data=body, headers={"Content-Type": "application/json"})
    reply.refused(400, "invalid_request", said)
    assert VALUE not in reply.body.decode()
    assert "1234567890" not in reply.body.decode()
    assert all(VALUE not in str(record.__dict__) for record in caplog.records)
    assert not stand.reconciler.calls("CreateSecret")


async def test_who_changed_a_secret_is_in_the_log(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    key = await stand.key("acme", "admin")
    with caplog.at_level("DEBUG"):
        await stand.ask("POST", _SECRETS, key=key, json={"name": "db", "fields": {"a": VALUE}})
        await stand.ask("PUT", f"{_SECRETS}/db", key=key, json={"fields": {"a": VALUE}})
        await stand.ask("DELETE", f"{_SECRETS}/db", key=key)
    said = [record for record in caplog.records if record.name == "services.api.routes.secrets"]
    assert [record.message for record in said] == ["secret created", "secret rotated", "secret deleted"]
    assert {(record.secret, record.key_name) for record in said} == {("db", "acme admin")}
    assert all(VALUE not in str(record.__dict__) for record in caplog.records)
