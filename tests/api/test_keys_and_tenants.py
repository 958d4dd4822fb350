"""Keys and tenants: their life, and the first key of all."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from cloacina.errors import InvalidRequest
from services.api.schemas import (
    KeyCreatedResponse,
    KeyList,
    KeyRevokedResponse,
    TenantCreatedResponse,
    TenantList,
    WhoamiResponse,
)

from .conftest import SHARED, StartStand
from .stand import ADMIN_KEY, Stand


async def test_the_life_of_a_tenants_key(stand: Stand) -> None:
    made = await stand.ask("POST", "/v1/tenants/acme/keys", json={"name": "deploy", "role": "admin"})
    key = made.fits(201, KeyCreatedResponse)
    assert (key["permissions"], key["tenant_id"], key["is_admin"]) == ("admin", "acme", False)
    assert key["key"].startswith("clk_")
    assert len(key["key"]) == 47

    who = (await stand.ask("GET", "/v1/auth/whoami", key=key["key"])).fits(200, WhoamiResponse)
    assert who == {"name": "deploy", "tenant_id": "acme", "role": "admin", "is_admin": False}

    listed = await stand.ask("GET", "/v1/tenants/acme/keys", key=key["key"])
    (item,) = listed.fits(200, KeyList)["items"]
    assert (item["id"], item["revoked"]) == (key["id"], False)
    assert key["key"].encode() not in listed.body

    revoked = await stand.ask("DELETE", f"/v1/tenants/acme/keys/{key['id'].upper()}", key=key["key"])
    assert revoked.fits(200, KeyRevokedResponse) == {"status": "revoked", "id": key["id"]}
    (await stand.ask("GET", "/v1/auth/whoami", key=key["key"])).refused(401, "unauthorized", "invalid or revoked")

    (item,) = (await stand.ask("GET", "/v1/tenants/acme/keys")).json["items"]
    assert item["revoked"] is True
    (await stand.ask("DELETE", f"/v1/auth/keys/{key['id']}")).refused(404, "key_not_found", key["id"])


async def test_a_key_of_no_tenant(stand: Stand) -> None:
    key = (await stand.ask("POST", "/v1/auth/keys", json={"name": "monitor"})).fits(201, KeyCreatedResponse)
    assert (key["permissions"], key["tenant_id"], key["is_admin"]) == ("read", None, False)
    assert (await stand.ask("GET", "/v1/health/status", key=key["key"])).status == 200
    names = [item["name"] for item in (await stand.ask("GET", "/v1/auth/keys")).fits(200, KeyList)["items"]]
    assert names == ["bootstrap", "monitor"]
    (await stand.ask("DELETE", f"/v1/auth/keys/{key['id']}")).fits(200, KeyRevokedResponse)
    (await stand.ask("GET", "/v1/health/status", key=key["key"])).refused(401, "unauthorized")


async def test_a_tenant_cannot_touch_the_keys_of_another(stand: Stand) -> None:
    mine = await stand.key("acme", "admin")
    theirs = (await stand.ask("POST", "/v1/tenants/other/keys", json={"name": "theirs"})).json
    (await stand.ask("DELETE", f"/v1/tenants/acme/keys/{theirs['id']}", key=mine)).refused(404, "key_not_found")
    (await stand.ask("DELETE", f"/v1/tenants/acme/keys/{theirs['id']}")).refused(404, "key_not_found")
    assert (await stand.ask("GET", "/v1/auth/whoami", key=theirs["key"])).status == 200


@pytest.mark.parametrize("path", ["/v1/auth/keys", "/v1/tenants/acme/keys"])
@SHARED
async def test_ids_that_name_no_key(shared_stand: Stand, path: str) -> None:
    (await shared_stand.ask("DELETE", f"{path}/not-a-uuid")).refused(400, "invalid_key_id")
    (await shared_stand.ask("DELETE", f"{path}/{uuid4()}")).refused(404, "key_not_found")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": 7}, "name"),
        ({"name": "a", "role": "god"}, "role"),
        ({"name": "a", "is_admin": True}, "is_admin: is not known here"),
    ],
)
@SHARED
async def test_keys_that_are_not_made(shared_stand: Stand, body: dict[str, object], message: str) -> None:
    (await shared_stand.ask("POST", "/v1/tenants/acme/keys", json=body)).refused(400, "invalid_request", message)
    assert (await shared_stand.ask("GET", "/v1/tenants/acme/keys")).json["total"] == 0


@SHARED
async def test_a_key_needs_a_body(shared_stand: Stand) -> None:
    (await shared_stand.ask("POST", "/v1/auth/keys")).refused(400, "invalid_request", "needs a JSON body")


async def test_tenants(start_stand: StartStand) -> None:
    stand = await start_stand()
    before = (await stand.ask("GET", "/v1/tenants")).fits(200, TenantList)
    assert [item["name"] for item in before["items"]] == ["public"]
    assert (await stand.ask("GET", "/v1/tenants/public/executions")).status == 200

    (await stand.ask("GET", "/v1/tenants/acme/executions")).refused(404, "tenant_not_found")
    body = {"name": "acme", "description": "Acme Corp", "password": "not-used"}
    made = (await stand.ask("POST", "/v1/tenants", json=body)).fits(201, TenantCreatedResponse)
    assert made == {"name": "acme", "username": "acme", "description": "Acme Corp"}
    assert (await stand.ask("GET", "/v1/tenants/acme/executions")).status == 200

    for name in ("acme", "public"):
        (await stand.ask("POST", "/v1/tenants", json={"name": name})).refused(400, "tenant_exists", name)
    after = (await stand.ask("GET", "/v1/tenants")).fits(200, TenantList)
    assert [item["name"] for item in after["items"]] == ["acme", "public"]


@pytest.mark.parametrize("name", ["", "Acme", "a-b", "a b", "a" * 64, "a\n", "é", None])
@SHARED
async def test_names_that_no_tenant_has(shared_stand: Stand, name: str | None) -> None:
    (await shared_stand.ask("POST", "/v1/tenants", json={"name": name})).refused(400, "invalid_request", "name")


async def test_the_first_key_is_written_for_its_owner_only(start_stand: StartStand) -> None:
    stand = await start_stand(bootstrap_key="")
    file = stand.home / "bootstrap-key"
    assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text().strip()
    who = (await stand.ask("GET", "/v1/auth/whoami", key=key)).fits(200, WhoamiResponse)
    assert who == {"name": "bootstrap", "tenant_id": None, "role": "admin", "is_admin": True}


async def test_a_supplied_first_key_is_written_nowhere(stand: Stand) -> None:
    assert (await stand.ask("GET", "/v1/auth/whoami")).json["is_admin"] is True
    files = [file for file in stand.home.rglob("*") if file.is_file()]
    assert files
    assert not any(ADMIN_KEY.encode() in file.read_bytes() for file in files)


async def test_the_first_key_survives_a_restart(start_stand: StartStand) -> None:
    first = await start_stand(bootstrap_key="")
    file = first.home / "bootstrap-key"
    key = file.read_text().strip()
    await first.gateway.drain()
    second = await start_stand(bootstrap_key="")
    assert (await second.ask("GET", "/v1/auth/whoami", key=key)).status == 200
    assert file.read_text().strip() == key


async def test_a_supplied_key_of_the_wrong_form_ends_the_start(start_stand: StartStand, tmp_path: Path) -> None:
    stand = Stand(tmp_path / "wrong", bootstrap_key="secret")
    try:
        with pytest.raises(InvalidRequest, match="CLOACINA_BOOTSTRAP_KEY") as caught:
            await stand.start()
        assert "secret" not in caught.value.message.replace("secrets", "")
    finally:
        await stand.gateway.stop()
        await stand.scheduler.stop()
        await stand.reconciler.stop()
