"""An OpenID provider for tests: a real HTTP server that signs its tokens, and checks the client, the code and PKCE."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT, SECRET = "cloacina-gateway", "the client's secret"


class OpenIdProvider:
    """One provider. `claims` and `signed_by` are what a test makes of its next tokens."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._codes: dict[str, dict[str, str]] = {}
        self.claims: dict[str, Any] = {}
        self.signed_by = self._key
        self.issuer = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._about)
        app.router.add_get("/keys", self._keys)
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.issuer = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def log_in(self, location: str, **claims: Any) -> dict[str, str]:
        """What a person does who was sent to `location`; returns the query that the browser brings back."""
        split = urlsplit(location)
        asked = {name: values[0] for name, values in parse_qs(split.query).items()}
        assert f"{split.scheme}://{split.netloc}{split.path}" == f"{self.issuer}/authorize"
        assert (asked["response_type"], asked["client_id"], asked["code_challenge_method"]) == ("code", CLIENT, "S256")
        assert "openid" in asked["scope"].split()
        code = f"code-{len(self._codes)}"
        self._codes[code] = asked
        self.claims = {"sub": "248289761001", "nonce": asked["nonce"], **claims}
        return {"code": code, "state": asked["state"], "session_state": "ignored"}

    async def _about(self, request: web.Request) -> web.Response:
        urls = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        return web.json_response({"issuer": self.issuer, **{key: f"{self.issuer}/{to}" for key, to in urls.items()}})

    async def _keys(self, request: web.Request) -> web.Response:
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return web.json_response({"keys": [{**key, "kid": "one", "use": "sig", "alg": "RS256"}]})

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        asked = self._codes.pop(str(form["code"]), None)
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        known = (form["client_id"], form["client_secret"], form["grant_type"]) == (CLIENT, SECRET, "authorization_code")
        if (
            asked is None
            or not known
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != form["redirect_uri"]
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, **self.claims}
        token = jwt.encode(claims, self.signed_by, algorithm="RS256", headers={"kid": "one"})
        return web.json_response({"access_token": "unused", "token_type": "Bearer", "id_token": token})
