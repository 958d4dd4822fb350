"""What is no request, or no request of ours: each its status, code and message, and nothing behind sees it."""

from __future__ import annotations

import pytest

from .conftest import SHARED, StartStand
from .stand import ADMIN_KEY, Stand

_EXECUTE = "/v1/tenants/acme/workflows/daily/execute"
_DEEP = 400


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"{", "invalid_request", "not valid JSON"),
        (b'{"context": {}} x', "invalid_request", "not valid JSON"),
        (b'{"context": {"a": NaN}}', "invalid_request", "not valid JSON"),
        (b'{"context": {"a": 1, "a": 2}}', "invalid_request", "'a' is there twice"),
        (b'{"context": {"a": 123456789012345678901}}', "invalid_request", "does not fit in 64 bits"),
        (b'{"context": {"a": 1e999}}', "invalid_request", "not valid JSON"),
        (b'{"context": {"a": "\xff"}}', "invalid_request", "not valid JSON"),
        (b"[" * 100_000, "invalid_request", "not valid JSON"),
        (b'{"context":{"a":' + b"[" * _DEEP + b"]" * _DEEP + b"}}", "workflow_input_invalid", "nested too deep"),
        (b"[]", "invalid_request", "must be a JSON object"),
        (b'{"priority": true}', "invalid_request", "priority: must be a number, not true or false"),
        (b'{"priority": "1"}', "invalid_request", "priority: must be a number, not text"),
        (b'"text"', "invalid_request", "must be a JSON object"),
        (b'{"contxt": {}}', "invalid_request", "contxt: is not known here"),
        (b'{"context": []}', "workflow_input_invalid", "context: must be a JSON object"),
        (b'{"context": "text"}', "workflow_input_invalid", "context: must be a JSON object"),
        (b'{"context": 7}', "workflow_input_invalid", "context: must be a JSON object"),
        (b'{"context": true}', "workflow_input_invalid", "context: must be a JSON object"),
    ],
)
@SHARED
async def test_a_body_that_cannot_be_meant(shared_stand: Stand, body: bytes, code: str, message: str) -> None:
    (await shared_stand.ask("POST", _EXECUTE, data=body)).refused(400, code, message)
    assert not shared_stand.scheduler.calls("Execute")


@SHARED
async def test_a_json_body_over_one_mebibyte(shared_stand: Stand) -> None:
    whole = b'{"context":{"a":"' + b"x" * 2**20 + b'"}}'
    (await shared_stand.ask("POST", _EXECUTE, data=whole)).refused(413, "payload_too_large", "1 MiB")

    async def pieces():  # without a Content-Length
        for begin in range(0, len(whole), 65536):
            yield whole[begin : begin + 65536]

    (await shared_stand.ask("POST", _EXECUTE, data=pieces())).refused(413, "payload_too_large", "1 MiB")
    assert not shared_stand.scheduler.calls("Execute")


async def test_a_json_body_of_one_mebibyte_is_taken(stand: Stand) -> None:
    frame = b'{"context":{"a":""}}'
    body = frame.replace(b'""', b'"' + b"x" * (2**20 - len(frame)) + b'"')
    assert len(body) == 2**20
    assert (await stand.ask("POST", _EXECUTE, data=body)).status == 202


@SHARED
async def test_a_compressed_body(shared_stand: Stand) -> None:
    reply = await shared_stand.ask("POST", _EXECUTE, data=b"{}", headers={"Content-Encoding": "gzip"})
    reply.refused(415, "unsupported_media_type", "Content-Encoding")


@SHARED
async def test_an_expectation_that_is_not_understood(shared_stand: Stand) -> None:
    (await shared_stand.ask("POST", _EXECUTE, headers={"Expect": "200-ok"})).refused(417, "expectation_failed")


@pytest.mark.parametrize("key", ["", "a\tb", "é", "x" * 256])
@SHARED
async def test_an_idempotency_key_that_is_none(shared_stand: Stand, key: str) -> None:
    reply = await shared_stand.ask("POST", _EXECUTE, headers={"Idempotency-Key": key})
    reply.refused(400, "invalid_request", "Idempotency-Key")
    assert not shared_stand.scheduler.calls("Execute")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/health/", "/v2/tenants", "/v1/tenants/acme/nothing"])
@SHARED
async def test_an_unknown_path_is_404_with_and_without_a_key(shared_stand: Stand, path: str) -> None:
    for key in (None, ADMIN_KEY):
        (await shared_stand.ask("GET", path, key=key)).refused(404, "not_found", "no route")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/v1/tenants", "GET, HEAD, POST"),
        ("GET", _EXECUTE, "POST"),
        ("PUT", "/v1/auth/keys", "GET, HEAD, POST"),
        ("PROPFIND", "/health", "GET, HEAD"),
    ],
)
@SHARED
async def test_a_method_that_a_path_does_not_take(shared_stand: Stand, method: str, path: str, allowed: str) -> None:
    reply = await shared_stand.ask(method, path)
    reply.refused(405, "method_not_allowed", allowed)
    assert reply.headers["Allow"] == allowed


@SHARED
async def test_a_path_that_begins_with_two_slashes(shared_stand: Stand) -> None:
    (await shared_stand.raw(b"GET //health HTTP/1.1\r\nHost: h\r\n\r\n")).refused(404, "not_found", "no route")


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400, "invalid_request"),
        (b"GET /health HTTP/9\r\n\r\n", 400, "invalid_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "invalid_request"),
        (b"GET /health HTTP/1.1\r\nHost: h\r\nbad header\r\n\r\n", 400, "invalid_request"),
        (b"GET /health HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400, "invalid_request"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nHost: h\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n", 431, "headers_too_large"),
    ],
)
@SHARED
async def test_what_is_not_http(shared_stand: Stand, sent: bytes, status: int, code: str) -> None:
    (await shared_stand.raw(sent)).refused(status, code)
    assert (await shared_stand.ask("GET", "/health")).status == 200


@SHARED
async def test_a_body_that_is_not_http(shared_stand: Stand) -> None:
    head = f"POST {_EXECUTE} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    reply = await shared_stand.raw(f"{head}Transfer-Encoding: chunked\r\n\r\nnot-a-length\r\n".encode())
    reply.refused(400, "invalid_request")
    assert not shared_stand.scheduler.calls("Execute")


async def test_a_body_that_does_not_come(start_stand: StartStand) -> None:
    stand = await start_stand(api_body_timeout_s=0.2)
    await stand.tenant("acme")
    head = f"POST {_EXECUTE} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    (await stand.raw(f"{head}Content-Length: 10\r\n\r\n".encode())).refused(408, "request_timeout")


@pytest.mark.parametrize("name", [b"\xff\xfe", b"%ff", b"%00", b"%ED%A0%80", b"a" * 4000])
@SHARED
async def test_a_name_that_no_workflow_has(shared_stand: Stand, name: bytes) -> None:
    head = f" HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n".encode()
    reply = await shared_stand.raw(b"GET /v1/tenants/acme/workflows/" + name + head)
    assert reply.status in (400, 404), reply.body
    reply.refused(reply.status, {400: "invalid_request", 404: "workflow_not_found"}[reply.status])
