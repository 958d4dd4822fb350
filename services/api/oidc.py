"""Logging in with an OpenID provider: the code flow, with PKCE, a state that is bound to the browser, and a nonce."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5

import aiohttp
import jwt
import orjson

from cloacina.errors import Forbidden, InvalidRequest, NotFound, Unavailable
from cloacina.store.accounts import AccountRow, AccountStore, OidcLoginRow
from cloacina.store.database import StoreConflict
from services.api.auth import hash_key
from services.api.settings import GatewaySettings

LOGIN_S = 600
"""Seconds a person has to log in at the provider."""

_DEADLINE_S = 10.0
_KEPT_S = 3600.0
"""Seconds what the provider says of itself, and its keys, are believed."""
_REFETCH_S = 60.0
"""Seconds between two looks for a key that is not known: tokens can be made up, the provider must not be flooded."""
_MOST_BYTES = 1 << 20
_LEEWAY_S = 60
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures of the provider's own; none that is made with a shared secret, and not "none"."""
_ROLES = ("read", "write", "admin")


class OidcLogin:
    """Logs people in with one provider.

    Args:
        accounts: the store; a person's account is made at the first login.
        settings: where the provider is, and which claims say what.
    """

    def __init__(self, accounts: AccountStore, settings: GatewaySettings) -> None:
        self._accounts = accounts
        self._settings = settings
        self._issuer = settings.oidc_issuer
        self._http: aiohttp.ClientSession | None = None
        self._about: dict[str, Any] = {}
        self._about_until = 0.0
        self._keys: dict[str, jwt.PyJWK] = {}
        self._keys_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def begin(self) -> tuple[str, str]:
        """Where to send a browser, and the state that it has to keep.

        Raises:
            NotFound: no provider is configured.
            Unavailable: the provider or the store cannot be reached.
        """
        about = await self._provider()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        now = _now()
        await self._accounts.begin_oidc_login(
            OidcLoginRow(hash_key(state), nonce, verifier, now + LOGIN_S * 1_000_000), now
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        parameters = {
            "response_type": "code",
            "client_id": self._settings.oidc_client_id,
            "redirect_uri": self._settings.oidc_redirect_url,
            "scope": "openid profile email",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        endpoint = str(about["authorization_endpoint"])
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(parameters)}", state

    async def finish(
        self, code: str, state: str, kept: str, check_tenant: Callable[[str], Awaitable[object]]
    ) -> AccountRow:
        """Who came back from the provider.

        Args:
            code, state: what the provider sent along.
            kept: the state that the browser kept.
            check_tenant: raises `NotFound` where there is no tenant of this name.

        Raises:
            InvalidRequest: it is no login that this browser has begun (code oidc_login_invalid).
            Forbidden: the person may not log in here (code oidc_not_allowed).
            NotFound: no provider is configured.
            Unavailable: the provider or the store cannot be reached, or the provider's answer is not valid.
        """
        about = await self._provider()
        begun = None
        if code and state and hmac.compare_digest(state.encode(), kept.encode()):
            begun = await self._accounts.take_oidc_login(hash_key(state), _now())
        if begun is None:
            raise InvalidRequest(
                "this login was not begun in this browser, is finished, or took too long; begin again with GET "
                "/v1/auth/oidc/login",
                code="oidc_login_invalid",
            )
        nonce, verifier = begun
        claims = await self._claims(await self._id_token(about, code, verifier), nonce)
        return await self._account(claims, check_tenant)

    async def _account(self, claims: dict[str, Any], check_tenant: Callable[[str], Awaitable[object]]) -> AccountRow:
        tenant_id, role = claims.get(self._settings.oidc_tenant_claim), claims.get(self._settings.oidc_role_claim)
        if not isinstance(tenant_id, str) or role not in _ROLES:
            raise Forbidden(
                f"the provider's claims {self._settings.oidc_tenant_claim} and {self._settings.oidc_role_claim} do not "
                "name a tenant and one of the roles read, write and admin",
                code="oidc_not_allowed",
            )
        try:
            await check_tenant(tenant_id)
        except NotFound:
            raise Forbidden("the provider's claims name a tenant that is not here", code="oidc_not_allowed") from None
        subject = str(claims["sub"])
        account_id = str(uuid5(NAMESPACE_URL, f"{self._issuer}\n{subject}\n{tenant_id}"))
        account = await self._accounts.get(tenant_id, account_id)
        if account is None:
            account = AccountRow(account_id, tenant_id, f"oidc:{subject}"[:255], None, role, None, _now())
            try:
                await self._accounts.add(account)
            except StoreConflict:
                raise Forbidden("another account has this person's name", code="oidc_not_allowed") from None
        elif account.disabled_at is not None:
            raise Forbidden("the account is disabled", code="oidc_not_allowed")
        elif account.role != role:
            await self._accounts.set_role(account, role)
            account = account._replace(role=role)
        return account

    # What the provider says

    async def _provider(self) -> dict[str, Any]:
        if not self._issuer:
            raise NotFound("no OpenID provider is configured (CLOACINA_OIDC_ISSUER)", code="oidc_not_configured")
        async with self._fetching:
            if time.monotonic() >= self._about_until:
                about = await self._ask("GET", f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
                wanted = ("authorization_endpoint", "token_endpoint", "jwks_uri")
                if about.get("issuer") != self._issuer or not all(isinstance(about.get(each), str) for each in wanted):
                    raise Unavailable(f"what the OpenID provider says of itself does not fit {self._issuer}")
                self._about, self._about_until = about, time.monotonic() + _KEPT_S
            return self._about

    async def _id_token(self, about: dict[str, Any], code: str, verifier: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._settings.oidc_redirect_url,
            "code_verifier": verifier,
            "client_id": self._settings.oidc_client_id,
        }
        if self._settings.oidc_client_secret:
            form["client_secret"] = self._settings.oidc_client_secret
        answer = await self._ask("POST", about["token_endpoint"], data=form)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise Unavailable("the OpenID provider gave no id_token")
        return token

    async def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        try:
            key = await self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=self._settings.oidc_client_id,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Unavailable(f"the OpenID provider's id_token is not valid: {error}") from error
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise Unavailable("the OpenID provider's id_token is not valid: it is for another login")
        if claims.get("azp", self._settings.oidc_client_id) != self._settings.oidc_client_id:
            raise Unavailable("the OpenID provider's id_token is not valid: it is for another client")
        return claims

    async def _key(self, kid: str) -> jwt.PyJWK:
        async with self._fetching:
            age = time.monotonic() - self._keys_at
            if age > _KEPT_S or (kid not in self._keys and age > _REFETCH_S):
                found = jwt.PyJWKSet.from_dict(await self._ask("GET", self._about["jwks_uri"]))
                self._keys = {key.key_id or "": key for key in found.keys}
                self._keys_at = time.monotonic()
        if kid not in self._keys:
            raise jwt.InvalidKeyError("it is signed with an unknown key")
        return self._keys[kid]

    async def _ask(self, method: str, url: str, **sent: Any) -> dict[str, Any]:
        """The JSON object that the provider answers.

        Raises:
            Unavailable: there is none.
        """
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_DEADLINE_S))
        try:
            async with self._http.request(method, url, allow_redirects=False, **sent) as response:
                if response.status != 200:
                    raise Unavailable(f"the OpenID provider answers {response.status}; its log says why")
                body = bytearray()
                async for chunk in response.content.iter_chunked(65536):
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise Unavailable("the OpenID provider's answer is too large")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable("the OpenID provider cannot be reached") from error
        return _object(bytes(body))

    async def close(self) -> None:
        """Ends the connections to the provider."""
        if self._http is not None:
            await self._http.close()


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise Unavailable("the OpenID provider's answer is no JSON object")
    return found


def _now() -> int:
    return time.time_ns() // 1000
