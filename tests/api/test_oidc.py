"""Logging in with an OpenID provider."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from services.api.account_schemas import LocalLoginResponse
from services.api.settings import GatewaySettings

from .conftest import StartStand
from .openid_provider import CLIENT, SECRET, OpenIdProvider
from .stand import Reply, Stand

WHO = {"cloacina_tenant": "acme", "cloacina_role": "write"}


@pytest.fixture
async def provider() -> AsyncIterator[OpenIdProvider]:
    provider = OpenIdProvider()
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
async def gateway(start_stand: StartStand, provider: OpenIdProvider) -> Stand:
    stand = await start_stand(
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT,
        oidc_client_secret=SECRET,
        oidc_redirect_url="https://gateway.example/v1/auth/oidc/callback",
    )
    await stand.tenant("acme")
    return stand


async def _begin(gateway: Stand) -> tuple[str, str]:
    """Where the browser is sent, and the cookie that it keeps."""
    sent = await gateway.ask("GET", "/v1/auth/oidc/login", key=None, allow_redirects=False)
    assert sent.status == 302
    cookie = SimpleCookie(sent.headers["Set-Cookie"])["cloacina_oidc"]
    assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "Lax")
    return sent.headers["Location"], f"cloacina_oidc={cookie.value}"


async def _come_back(gateway: Stand, query: dict[str, str], cookie: str) -> Reply:
    return await gateway.ask("GET", "/v1/auth/oidc/callback", key=None, params=query, headers={"Cookie": cookie})


async def _log_in(gateway: Stand, provider: OpenIdProvider, **claims: Any) -> Reply:
    location, cookie = await _begin(gateway)
    return await _come_back(gateway, provider.log_in(location, **{**WHO, **claims}), cookie)


async def test_a_person_logs_in_and_has_the_role_that_the_provider_says(
    gateway: Stand, provider: OpenIdProvider
) -> None:
    key = (await _log_in(gateway, provider)).fits(200, LocalLoginResponse)
    assert (key["tenant_id"], key["role"]) == ("acme", "write")
    who = (await gateway.ask("GET", "/v1/auth/whoami", key=key["key"])).json
    assert (who["name"], who["role"]) == ("oidc:248289761001", "write")
    refreshed = (await gateway.ask("POST", "/v1/auth/refresh", key=key["key"])).fits(200, LocalLoginResponse)
    assert (await gateway.ask("GET", "/v1/auth/whoami", key=refreshed["key"])).status == 200

    assert (await _log_in(gateway, provider, cloacina_role="admin")).json["role"] == "admin"
    (account,) = (await gateway.ask("GET", "/v1/tenants/acme/accounts")).json["items"]
    assert account["role"] == "admin", "it is the same account"
    login = {"username": "oidc:248289761001", "password": "", "tenant": "acme"}
    (await gateway.ask("POST", "/v1/auth/local/login", key=None, json=login)).refused(401, "unauthorized")

    assert (await gateway.ask("DELETE", f"/v1/tenants/acme/accounts/{account['id']}")).status == 200
    (await gateway.ask("GET", "/v1/auth/whoami", key=refreshed["key"])).refused(401, "unauthorized")
    (await _log_in(gateway, provider)).refused(403, "oidc_not_allowed", "disabled")


async def test_a_login_is_finished_once_by_the_browser_that_began_it(gateway: Stand, provider: OpenIdProvider) -> None:
    location, cookie = await _begin(gateway)
    query = provider.log_in(location, **WHO)
    _, others = await _begin(gateway)
    for given in (others, "", "cloacina_oidc="):
        (await _come_back(gateway, query, given)).refused(400, "oidc_login_invalid")
    for wrong in ({}, {"state": query["state"]}, {**query, "state": "made-up"}, {**query, "code": ""}):
        (await _come_back(gateway, wrong, cookie)).refused(400, "oidc_login_invalid")
    assert (await _come_back(gateway, query, cookie)).status == 200
    (await _come_back(gateway, query, cookie)).refused(400, "oidc_login_invalid")


async def test_a_code_of_another_login_is_good_for_nothing(gateway: Stand, provider: OpenIdProvider) -> None:
    """A stolen code: the attacker's own login is under way, the code was made for the victim's."""
    victims, _ = await _begin(gateway)
    stolen = provider.log_in(victims, **WHO)["code"]
    attackers, cookie = await _begin(gateway)
    own = provider.log_in(attackers, **WHO)
    (await _come_back(gateway, {**own, "code": stolen}, cookie)).refused(503, "unavailable", "answers 400")


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"nonce": "of another login"}, "another login"),
        ({"aud": "another-client"}, "Audience"),
        ({"aud": [CLIENT, "other"], "azp": "other"}, "another client"),
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"exp": int(time.time()) - 3600}, "expired"),
        ({"sub": None}, "sub"),
    ],
)
async def test_tokens_that_are_not_taken(
    gateway: Stand, provider: OpenIdProvider, claims: dict[str, Any], message: str
) -> None:
    reply = await _log_in(gateway, provider, **claims)
    assert reply.status == 503, reply.body
    assert message.lower() in reply.json["error"].lower()
    assert (await gateway.ask("GET", "/v1/tenants/acme/accounts")).json["total"] == 0


async def test_a_token_that_another_signed_is_not_taken(gateway: Stand, provider: OpenIdProvider) -> None:
    provider.signed_by = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (await _log_in(gateway, provider)).refused(503, "unavailable", "not valid")


@pytest.mark.parametrize(
    "claims",
    [
        {"cloacina_role": "god"},
        {"cloacina_role": None},
        {"cloacina_tenant": "nowhere"},
        {"cloacina_tenant": ["acme"]},
        {"cloacina_tenant": ""},
    ],
)
async def test_people_who_may_not_log_in(gateway: Stand, provider: OpenIdProvider, claims: dict[str, Any]) -> None:
    (await _log_in(gateway, provider, **claims)).refused(403, "oidc_not_allowed")
    sample = {"method": "oidc", "outcome": "refused"}
    assert gateway.runtime.registry.get_sample_value("cloacina_api_logins_total", sample) == 1


async def test_a_provider_that_is_away(gateway: Stand, provider: OpenIdProvider) -> None:
    await provider.stop()
    (await gateway.ask("GET", "/v1/auth/oidc/login", key=None)).refused(503, "unavailable", "cannot be reached")


async def test_without_a_provider_there_is_no_such_login(stand: Stand) -> None:
    for path in ("login", "callback"):
        (await stand.ask("GET", f"/v1/auth/oidc/{path}", key=None)).refused(404, "oidc_not_configured")


@pytest.mark.parametrize(
    "settings", [{"oidc_issuer": "http://elsewhere.example"}, {"oidc_issuer": "https://x.example"}]
)
def test_settings_that_end_the_start(settings: dict[str, str], tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"(?i)oidc_issuer"):
        GatewaySettings(home=tmp_path, **settings)
