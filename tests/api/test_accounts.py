"""Accounts of people: logging in, staying logged in, logging out, and what keeps passwords from being guessed."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from uuid import uuid4

import pytest

from services.api.account_schemas import (
    AccountActionResponse,
    AccountInfo,
    AccountList,
    LocalLoginResponse,
    LogoutResponse,
)
from services.api.schemas import KeyList, WhoamiResponse
from services.api.settings import GatewaySettings
from services.api.throttle import client_address

from .conftest import StartStand
from .stand import Reply, Stand

PASSWORD = "correct horse battery staple"


async def _account(stand: Stand, username: str = "ada", role: str = "write", tenant: str = "acme") -> str:
    body = {"username": username, "password": PASSWORD, "role": role}
    made = (await stand.ask("POST", f"/v1/tenants/{tenant}/accounts", json=body)).fits(201, AccountInfo)
    assert (made["username"], made["role"], made["status"]) == (username, role, "active")
    return str(made["id"])


async def _login(
    stand: Stand,
    username: str = "ada",
    password: str = PASSWORD,
    tenant: str | None = "acme",
    headers: dict[str, str] | None = None,
) -> Reply:
    body = {"username": username, "password": password, "tenant": tenant}
    return await stand.ask("POST", "/v1/auth/local/login", key=None, json=body, headers=headers)


async def _logged_in(stand: Stand, username: str = "ada") -> str:
    answer = (await _login(stand, username)).fits(200, LocalLoginResponse)
    assert answer["key"].startswith("clk_")
    return str(answer["key"])


async def test_the_life_of_an_account(stand: Stand) -> None:
    account_id = await _account(stand)
    key = await _logged_in(stand)
    who = (await stand.ask("GET", "/v1/auth/whoami", key=key)).fits(200, WhoamiResponse)
    assert who == {"name": "ada", "tenant_id": "acme", "role": "write", "is_admin": False}
    assert (await stand.ask("POST", "/v1/tenants/acme/workflows/daily/execute", key=key)).status == 202
    (await stand.ask("GET", "/v1/tenants/acme/accounts", key=key)).refused(403, "insufficient_permissions")
    (await stand.ask("GET", "/v1/tenants/other/executions", key=key)).refused(403, "tenant_access_denied")

    listed = (await stand.ask("GET", "/v1/tenants/acme/accounts")).fits(200, AccountList)
    assert listed["items"] == [{"id": account_id, "username": "ada", "role": "write", "status": "active"}]
    assert (await stand.ask("GET", "/v1/tenants/acme/keys")).fits(200, KeyList)["total"] == 0, "sessions are no keys"

    path = f"/v1/tenants/acme/accounts/{account_id}"
    reset = await stand.ask("POST", f"{path}/password", json={"password": "another password"})
    assert reset.fits(200, AccountActionResponse) == {"status": "password_reset", "id": account_id}
    (await stand.ask("GET", "/v1/auth/whoami", key=key)).refused(401, "unauthorized")
    (await _login(stand)).refused(401, "unauthorized", "wrong username or password")
    fresh = (await _login(stand, password="another password")).json["key"]

    disabled = (await stand.ask("DELETE", path)).fits(200, AccountActionResponse)
    assert disabled == {"status": "disabled", "id": account_id}
    (await stand.ask("GET", "/v1/auth/whoami", key=fresh)).refused(401, "unauthorized")
    (await _login(stand, password="another password")).refused(401, "unauthorized", "wrong username or password")
    assert (await stand.ask("GET", "/v1/tenants/acme/accounts")).json["items"][0]["status"] == "disabled"


async def test_a_refreshed_key_replaces_the_old_one(stand: Stand) -> None:
    await _account(stand)
    old = await _logged_in(stand)
    answers = await asyncio.gather(*(stand.ask("POST", "/v1/auth/refresh", key=old) for _ in range(4)))
    (new,) = [answer.fits(200, LocalLoginResponse)["key"] for answer in answers if answer.status == 200]
    assert [answer.status for answer in answers].count(401) == 3, "one request gets the new key"
    (await stand.ask("GET", "/v1/auth/whoami", key=old)).refused(401, "unauthorized")
    assert (await stand.ask("GET", "/v1/auth/whoami", key=new)).json["name"] == "ada"

    assert (await stand.ask("POST", "/v1/auth/logout", key=new)).fits(200, LogoutResponse)["status"] == "logged_out"
    (await stand.ask("GET", "/v1/auth/whoami", key=new)).refused(401, "unauthorized")
    (await stand.ask("POST", "/v1/auth/refresh", key=new)).refused(401, "unauthorized")


async def test_an_api_key_is_no_session(stand: Stand) -> None:
    key = await stand.key("acme", "read")
    (await stand.ask("POST", "/v1/auth/refresh", key=key)).refused(400, "not_a_session")
    assert (await stand.ask("POST", "/v1/auth/logout", key=key)).json == {"status": "key_kept"}
    assert (await stand.ask("GET", "/v1/auth/whoami", key=key)).status == 200


async def test_a_session_expires_and_ends(stand: Stand) -> None:
    await _account(stand)
    people = stand.gateway._gateway.people  # type: ignore[union-attr]
    now = time.time_ns() // 1000
    sessions = people.sessions
    sessions._clock = lambda: now - 3601 * 1_000_000  # its key was valid for an hour
    (await stand.ask("GET", "/v1/auth/whoami", key=await _logged_in(stand))).refused(401, "unauthorized")
    sessions._clock = lambda: now
    first = await _logged_in(stand)
    sessions._clock = lambda: now + (12 * 3600 - 60) * 1_000_000
    second = (await stand.ask("POST", "/v1/auth/refresh", key=first)).fits(200, LocalLoginResponse)
    third = (await stand.ask("POST", "/v1/auth/refresh", key=second["key"])).fits(200, LocalLoginResponse)
    assert third["expires_at"] == second["expires_at"], "no refresh goes past the end of the session"
    sessions._clock = lambda: now + 12 * 3600 * 1_000_000
    (await stand.ask("POST", "/v1/auth/refresh", key=third["key"])).refused(401, "unauthorized", "log in again")


async def test_guessing_is_limited_by_account_whoever_guesses(start_stand: StartStand) -> None:
    stand = await start_stand(api_login_attempts=3, api_trusted_proxies="127.0.0.0/8")
    await stand.tenant("acme")
    await _account(stand)
    await _account(stand, "grace")

    def guess(name: str, number: int) -> asyncio.Task[Reply]:
        address = {"X-Forwarded-For": f"10.0.0.{number}"}
        return asyncio.create_task(_login(stand, name, "a wrong guess", headers=address))

    for name in ("ada", "nobody"):  # what is there and what is not behave alike, also when all come at once
        answers = await asyncio.gather(*(guess(name, number) for number in range(8)))
        statuses = [answer.status for answer in answers]
        assert set(statuses) <= {401, 429}, name
        assert statuses.count(401) <= 3, name  # fewer, where more were counted before one was looked at
        throttled = next(answer for answer in answers if answer.status == 429)
        assert 1 <= int(throttled.headers["Retry-After"]) <= 901
        assert throttled.json["code"] == "rate_limited"
    (await _login(stand)).refused(429, "rate_limited")
    assert (await _login(stand, "grace")).status == 200

    restarted = await start_stand(api_login_attempts=3)
    (await _login(restarted)).refused(429, "rate_limited")


async def test_guessing_is_limited_by_address_whichever_the_account(start_stand: StartStand) -> None:
    stand = await start_stand(api_login_attempts=1)
    await stand.tenant("acme")
    await _account(stand)
    assert [(await _login(stand, f"name-{n}", "a guess")).status for n in range(7)] == [401] * 5 + [429] * 2
    assert (await _login(stand, headers={"X-Forwarded-For": "10.9.9.9"})).status == 429, "anyone can write that header"


async def test_a_login_forgets_the_failures_before_it(start_stand: StartStand) -> None:
    stand = await start_stand(api_login_attempts=2)
    await stand.tenant("acme")
    await _account(stand)
    for _ in range(2):
        assert (await _login(stand, password="a wrong guess")).status == 401
        assert (await _login(stand)).status == 200


async def test_an_account_belongs_to_its_tenant(stand: Stand) -> None:
    await _account(stand)
    for tenant in ("other", "nowhere", "No Such", "\x00"):
        (await _login(stand, tenant=tenant)).refused(401, "unauthorized", "wrong username or password")
    for tenant in (None, ""):
        (await _login(stand, tenant=tenant)).refused(401, "tenant_required")


async def test_accounts_of_other_tenants_are_not_there(stand: Stand) -> None:
    account_id = await _account(stand, tenant="other")
    mine = await stand.key("acme", "admin")
    for method, path in (("DELETE", ""), ("POST", "/password")):
        body = {"json": {"password": PASSWORD}} if path else {}
        reply = await stand.ask(method, f"/v1/tenants/acme/accounts/{account_id}{path}", key=mine, **body)
        reply.refused(404, "account_not_found")
        unknown = await stand.ask(method, f"/v1/tenants/acme/accounts/{uuid4()}{path}", key=mine, **body)
        unknown.refused(404, "account_not_found")
        (await stand.ask(method, f"/v1/tenants/acme/accounts/x{path}", key=mine, **body)).refused(
            400, "invalid_account_id"
        )
    assert (await _login(stand, tenant="other")).status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"username": "", "password": PASSWORD, "role": "read"}, "username"),
        ({"username": "a\nb", "password": PASSWORD, "role": "read"}, "username"),
        ({"username": "a", "password": "short", "role": "read"}, "password"),
        ({"username": "a", "password": "x" * 1025, "role": "read"}, "password"),
        ({"username": "a", "password": PASSWORD, "role": "god"}, "role"),
        ({"username": "a", "password": PASSWORD}, "role"),
        ({"username": "ada", "password": PASSWORD, "role": "read", "is_admin": True}, "is_admin"),
    ],
)
async def test_accounts_that_are_not_made(stand: Stand, body: dict[str, object], message: str) -> None:
    refused = await stand.ask("POST", "/v1/tenants/acme/accounts", json=body)
    refused.refused(400, "invalid_request", message)
    assert str(body["password"]) not in refused.json["error"]


async def test_names_are_unique_in_a_tenant(stand: Stand) -> None:
    await _account(stand)
    await _account(stand, tenant="other")
    body = {"username": "ada", "password": PASSWORD, "role": "read"}
    (await stand.ask("POST", "/v1/tenants/acme/accounts", json=body)).refused(409, "account_exists", "ada")


async def test_what_is_stored_and_logged_holds_no_password_and_no_key(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    account_id = await _account(stand)
    key = await _logged_in(stand)
    await _login(stand, password="a wrong guess")
    ticket = (await stand.ask("POST", "/v1/auth/ws-ticket", key=key)).json["ticket"]
    await stand.ask("POST", "/v1/auth/logout", key=key)
    secrets = [PASSWORD, "a wrong guess", key, ticket]
    files = b"".join(file.read_bytes() for file in stand.home.rglob("*") if file.is_file())
    assert b"$argon2id$" in files
    lines = " ".join(str(record.__dict__) for record in caplog.records)
    for secret in secrets:
        assert secret.encode() not in files
        assert secret not in lines
    audited = [record for record in caplog.records if record.name == "services.api.audit"]
    assert [record.message for record in audited] == [
        "account created",
        "logged in",
        "login refused",
        "logged out",
    ]
    assert audited[0].__dict__["account_id"] == audited[1].__dict__["account_id"] == account_id
    assert audited[2].__dict__["client"] == "127.0.0.1"


async def test_logins_are_counted(stand: Stand) -> None:
    await _account(stand)
    await _logged_in(stand)
    await _login(stand, password="a wrong guess")
    counted = {
        outcome: stand.runtime.registry.get_sample_value(
            "cloacina_api_logins_total", {"method": "password", "outcome": outcome}
        )
        for outcome in ("ok", "refused", "throttled")
    }
    assert counted == {"ok": 1.0, "refused": 1.0, "throttled": 0.0}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.1.1.1", ["1.2.3.4"], "1.2.3.4"),
        ("10.1.1.1", ["6.6.6.6, 1.2.3.4, 10.2.2.2"], "1.2.3.4"),
        ("10.1.1.1", ["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
        ("9.9.9.9", ["1.2.3.4"], "9.9.9.9"),
        ("10.1.1.1", [], "10.1.1.1"),
        ("10.1.1.1", ["garbage"], "garbage"),
        (None, ["1.2.3.4"], "unknown"),
    ],
)
def test_whose_request_it_is(peer: str | None, forwarded: list[str], client: str) -> None:
    settings = GatewaySettings(home=Path("/nowhere"), api_trusted_proxies="10.0.0.0/8, fd00::/8")
    assert client_address(peer, forwarded, settings.trusted_networks) == client


def test_proxies_that_are_no_networks_end_the_start() -> None:
    with pytest.raises(ValueError, match="api_trusted_proxies"):
        GatewaySettings(home=Path("/nowhere"), api_trusted_proxies="the proxy")
