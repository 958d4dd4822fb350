"""Logging in with an OpenID provider: the way there, and the way back."""

from __future__ import annotations

from aiohttp import web

from cloacina.errors import CloacinaError
from services.api import audit
from services.api.account_schemas import LocalLoginResponse
from services.api.call import Call
from services.api.oidc import LOGIN_S
from services.api.routes.sessions import shown
from services.api.routing import Route

_COOKIE = "cloacina_oidc"
_PATH = "/v1/auth/oidc"


async def _login(call: Call) -> web.Response:
    location, state = await call.gateway.people.oidc.begin()
    response = web.Response(status=302, headers={"Location": location})
    secure = call.gateway.settings.oidc_redirect_url.startswith("https://")
    response.set_cookie(_COOKIE, state, max_age=LOGIN_S, path=_PATH, httponly=True, samesite="Lax", secure=secure)
    return response


async def _callback(call: Call) -> web.Response:
    people, query = call.gateway.people, call.http.rel_url.query
    try:
        account = await people.oidc.finish(
            query.get("code", ""),
            query.get("state", ""),
            call.http.cookies.get(_COOKIE, ""),
            call.gateway.auth.tenant,
        )
    except CloacinaError as error:
        people.metrics.login("oidc", "refused")
        audit.record("login with the OpenID provider refused", None, error=error.message)
        raise
    call.bind(tenant_id=account.tenant_id)
    made = await people.sessions.begin(account)
    people.metrics.login("oidc", "ok")
    audit.record("logged in with the OpenID provider", None, username=account.username, account_id=account.account_id)
    response = shown(made)
    response.del_cookie(_COOKIE, path=_PATH)
    return response


ROUTES = (
    Route(
        method="GET",
        path="/v1/auth/oidc/login",
        handler=_login,
        operation="oidc_login",
        tag="auth",
        summary="Log in with the OpenID provider",
        description="Sends the browser to the provider, which sends it back to `/v1/auth/oidc/callback`.",
        answers={302: None},
        errors=(404, 503),
    ),
    Route(
        method="GET",
        path="/v1/auth/oidc/callback",
        handler=_callback,
        operation="oidc_callback",
        tag="auth",
        summary="Where the OpenID provider sends people back to",
        description="`code` and `state` are the provider's. The answer is as after a login with a password.",
        answers={200: LocalLoginResponse},
        errors=(400, 403, 404, 503),
    ),
)
