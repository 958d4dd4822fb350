"""Logging in with a password, staying logged in, logging out."""

from __future__ import annotations

from aiohttp import web

from cloacina.errors import RateLimited, Unauthorized
from services.api import audit
from services.api.account_schemas import LocalLoginRequest, LocalLoginResponse, LogoutResponse
from services.api.auth import TENANT_NAME
from services.api.bodies import read_model
from services.api.call import Call
from services.api.replies import reply, timestamp
from services.api.routing import Route
from services.api.sessions import SessionKey
from services.api.throttle import client_address


async def _login(call: Call) -> web.Response:
    people, settings = call.gateway.people, call.gateway.settings
    body = await read_model(call.http, LocalLoginRequest, timeout_s=settings.api_body_timeout_s)
    if not body.tenant:
        raise Unauthorized(
            "accounts belong to a tenant: name it in 'tenant'. Who works on all tenants has a god-mode key",
            code="tenant_required",
        )
    tenant_id, password = body.tenant, body.password.get_secret_value()
    if TENANT_NAME.match(tenant_id):
        call.bind(tenant_id=tenant_id)
    address = client_address(
        call.http.remote, call.http.headers.getall("X-Forwarded-For", ()), settings.trusted_networks
    )
    try:
        await people.throttle.admit(tenant_id, body.username, address)
    except RateLimited:
        people.metrics.login("password", "throttled")
        audit.record("login throttled", None, username=body.username, client=address)
        raise
    account = await people.accounts.find(tenant_id, body.username)
    usable = account is not None and account.disabled_at is None
    known = account.password_hash if account is not None and usable else None
    if not await people.passwords.verify(known, password) or account is None or known is None:
        people.metrics.login("password", "refused")
        audit.record("login refused", None, username=body.username, client=address)
        raise Unauthorized("wrong username or password")
    await people.throttle.succeeded(tenant_id, body.username, address)
    if people.passwords.outdated(known):
        await people.accounts.rehash(account, await people.passwords.hash(password))
    made = await people.sessions.begin(account)
    people.metrics.login("password", "ok")
    audit.record("logged in", None, username=account.username, account_id=account.account_id, client=address)
    return shown(made)


def shown(made: SessionKey) -> web.Response:
    """The answer to a login."""
    answer: LocalLoginResponse = {
        "key": made.key,
        "role": made.row.role,
        "tenant_id": made.row.tenant_id,
        "expires_at": timestamp(made.row.expires_at) if made.row.expires_at is not None else None,
    }
    return reply(answer)


async def _refresh(call: Call) -> web.Response:
    assert call.caller is not None, "the route asks for a key"
    made = await call.gateway.people.sessions.refresh(call.caller)
    audit.record("session refreshed", call.caller)
    return shown(made)


async def _logout(call: Call) -> web.Response:
    assert call.caller is not None, "the route asks for a key"
    ended = await call.gateway.people.sessions.end(call.caller)
    if ended:
        audit.record("logged out", call.caller)
    answer: LogoutResponse = {"status": "logged_out" if ended else "key_kept"}
    return reply(answer)


ROUTES = (
    Route(
        method="POST",
        path="/v1/auth/local/login",
        handler=_login,
        operation="local_login",
        tag="auth",
        summary="Log in with a password",
        description="Too many failed attempts, from an address or for an account, are answered 429 with `Retry-After`.",
        answers={200: LocalLoginResponse},
        body=LocalLoginRequest,
        errors=(401, 429, 503),
    ),
    Route(
        method="POST",
        path="/v1/auth/refresh",
        handler=_refresh,
        operation="refresh",
        tag="auth",
        summary="Replace the key of a session before it expires",
        description="The old key is good for nothing from then on. An API key is answered 400: it does not expire.",
        answers={200: LocalLoginResponse},
        errors=(400,),
    ),
    Route(
        method="POST",
        path="/v1/auth/logout",
        handler=_logout,
        operation="logout",
        tag="auth",
        summary="End the session",
        description="With an API key nothing ends, and the status is key_kept: keys are revoked by DELETE "
        "/v1/auth/keys/{key_id}. The original revokes whatever key it is called with, an operator's too.",
        answers={200: LogoutResponse},
    ),
)
