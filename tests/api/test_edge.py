"""What the edge of the gateway shows and hides: TLS, headers, pages of other origins."""

from __future__ import annotations

import asyncio
import re
import ssl
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest
from pydantic import ValidationError

from cloacina import __version__
from cloacina.cli.client import ApiClient, ApiFailure
from services.api.settings import GatewaySettings
from tests.certificates import Authority

from .conftest import SHARED, StartStand
from .stand import ADMIN_KEY, Reply, Stand

ORIGIN = "https://ui.example.com"
EXECUTE = "/v1/tenants/acme/workflows/daily/execute"


# Headers


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/health", None),
        ("GET", "/metrics", None),
        ("GET", "/openapi.json", None),
        ("GET", "/v1/tenants/acme/workflows", ADMIN_KEY),
        ("GET", "/v1/tenants/acme/workflows", None),
        ("GET", "/nowhere", None),
        ("PATCH", "/health", None),
    ],
)
@SHARED
async def test_headers_that_every_answer_has(shared_stand: Stand, method: str, path: str, key: str | None) -> None:
    reply = await shared_stand.ask(method, path, key=key)
    assert_headers(reply)
    assert "Strict-Transport-Security" not in reply.headers, "it is plain HTTP"


@SHARED
async def test_headers_of_what_is_not_http(shared_stand: Stand) -> None:
    assert_headers(await shared_stand.raw(b"nonsense\r\n\r\n"))


@SHARED
async def test_answers_with_keys_are_kept_nowhere(shared_stand: Stand) -> None:
    made = await shared_stand.ask("POST", "/v1/tenants/acme/keys", json={"name": "x"})
    assert (made.status, made.headers["Cache-Control"]) == (201, "no-store")


def assert_headers(reply: Reply) -> None:
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["X-Frame-Options"] == "DENY"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
    assert "no-store" in reply.headers["Cache-Control"]
    assert_no_version(reply)


def assert_no_version(reply: Reply) -> None:
    """Neither ours nor that of what we are made of."""
    assert reply.headers["Server"] == "cloacina"
    said = "\n".join(f"{name}: {value}" for name, value in reply.headers.items() if name.lower() != "x-request-id")
    for number in (__version__, version("aiohttp")):
        assert not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", said), said
    assert not re.search(r"aiohttp|python", said, re.IGNORECASE), said


# Pages of other origins


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def allowed(reply: Reply) -> list[str]:
    return [name for name in reply.headers if name.lower().startswith("access-control-")]


@SHARED
async def test_no_other_origin_is_let_in_unless_it_is_listed(shared_stand: Stand) -> None:
    asked = await shared_stand.ask("OPTIONS", EXECUTE, key=None, headers={"Origin": ORIGIN, **PREFLIGHT})
    asked.refused(405, "method_not_allowed")
    answered = await shared_stand.ask("GET", "/v1/tenants", headers={"Origin": ORIGIN})
    assert answered.status == 200
    assert allowed(asked) == allowed(answered) == []


async def test_listed_origins(start_stand: StartStand) -> None:
    stand = await start_stand(api_cors_origins=f"{ORIGIN}, http://localhost:3000")
    asked = await stand.ask("OPTIONS", EXECUTE, key=None, headers={"Origin": ORIGIN, **PREFLIGHT})
    assert (asked.status, asked.headers["Access-Control-Allow-Origin"]) == (204, ORIGIN)
    assert "POST" in asked.headers["Access-Control-Allow-Methods"].split(", ")
    assert {"authorization", "content-type", "idempotency-key"} <= set(
        asked.headers["Access-Control-Allow-Headers"].lower().split(", ")
    )
    assert stand.requests("OPTIONS", 204) == 1
    for path, status in (("/v1/tenants", 200), ("/nowhere", 404)):
        reply = await stand.ask("GET", path, headers={"Origin": "http://localhost:3000"})
        assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (status, "http://localhost:3000")
        assert "x-request-id" in reply.headers["Access-Control-Expose-Headers"]
        assert reply.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in reply.headers
    for origin in ("https://ui.example.com.evil.com", "http://ui.example.com", "null", "*", ""):
        asked = await stand.ask("OPTIONS", EXECUTE, key=None, headers={"Origin": origin, **PREFLIGHT})
        asked.refused(405, "method_not_allowed")
        assert allowed(asked) == []
        assert allowed(await stand.ask("GET", "/v1/tenants", headers={"Origin": origin})) == []
    (await stand.ask("OPTIONS", "/nowhere", key=None, headers={"Origin": ORIGIN, **PREFLIGHT})).refused(
        404, "not_found"
    )
    (await stand.ask("OPTIONS", EXECUTE, key=None, headers={"Origin": ORIGIN})).refused(405, "method_not_allowed")


@pytest.mark.parametrize(
    "origin", ["*", "ui.example.com", "https://ui.example.com/", "https://UI.example.com", "ftp://x", "https://"]
)
def test_what_is_no_origin(tmp_path: Path, origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin: it must be http"):
        GatewaySettings(home=tmp_path, api_cors_origins=f"{ORIGIN},{origin}")


# TLS


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
async def test_with_a_certificate_it_speaks_tls_only(
    start_stand: StartStand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "ours")
    cert, key = authority.sign("gateway")
    stand = await start_stand(api_tls_cert=cert, api_tls_key=key)
    url = f"https://127.0.0.1:{stand.port}"
    trusting = ssl.create_default_context(cafile=authority.ca)
    async with aiohttp.ClientSession() as session, session.get(f"{url}/nowhere", ssl=trusting) as response:
        reply = Reply(response.status, response.headers, await response.read())
    reply.refused(404, "not_found")
    assert_headers(reply)
    assert reply.headers["Strict-Transport-Security"] == "max-age=31536000"

    with pytest.raises(aiohttp.ClientError):
        await stand.ask("GET", "/health")

    old = ssl.create_default_context(cafile=authority.ca)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{url}/health", ssl=old)

    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(ApiFailure, match="is not trusted.*SSL_CERT_FILE"):
        await asyncio.to_thread(ApiClient(url, ADMIN_KEY).call, "GET", "/v1/tenants")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    assert await asyncio.to_thread(ApiClient(url, ADMIN_KEY).call, "GET", "/v1/tenants")


def test_certificates_that_cannot_be_used_are_named_at_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    cert, _ = authority.sign("gateway")
    _, other = authority.sign("other")
    for given, message in (
        ({"api_tls_cert": cert}, "CLOACINA_API_TLS_CERT and CLOACINA_API_TLS_KEY are set together"),
        ({"api_tls_cert": cert, "api_tls_key": tmp_path / "none"}, "CLOACINA_API_TLS_KEY=.* cannot be read"),
        ({"api_tls_cert": cert, "api_tls_key": other}, "CLOACINA_API_TLS_CERT=.* cannot be used"),
    ):
        with pytest.raises(ValidationError, match=message):
            GatewaySettings(home=tmp_path, **given)
