"""Requests that are meant to harm: too slow, too many, too large, smuggled, injected."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress

import pytest

from cloacina.telemetry.scope import valid_request_id

from .conftest import SHARED, StartStand
from .stand import ADMIN_KEY, Stand

_DEADLINE_S = 20.0


async def _answers(stand: Stand, sent: bytes, number: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Sends bytes, and reads so many answers from the one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
    try:
        writer.write(sent)
        found = []
        async with asyncio.timeout(_DEADLINE_S):
            for _ in range(number):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                found.append((int(head[0].split(" ")[1]), headers, body))
        return found
    finally:
        writer.close()


async def _closed(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection is closed; a reset closes it, too: more was sent than was read."""
    received = b""
    async with asyncio.timeout(_DEADLINE_S):
        with suppress(ConnectionResetError):
            while more := await reader.read(65536):
                received += more
    return received


@pytest.mark.parametrize("begun", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: h\r\nX-Slow: "])
async def test_a_head_that_does_not_come(start_stand: StartStand, begun: bytes) -> None:
    stand = await start_stand(api_keepalive_s=0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
    writer.write(begun)
    assert b" 200 " not in await _closed(reader)
    writer.close()


async def test_a_head_that_trickles_is_cut_off(start_stand: StartStand) -> None:
    """The time is that of the whole head: a byte now and then does not make it longer."""
    stand = await start_stand(api_keepalive_s=1.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
    writer.write(b"GET /health HTTP/1.1\r\n")
    began = time.monotonic()
    closed = asyncio.create_task(_closed(reader))
    while not closed.done():
        assert time.monotonic() - began < _DEADLINE_S
        writer.write(b"a")
        await asyncio.sleep(0.05)
    assert b" 200 " not in await closed
    writer.close()


async def test_many_slow_clients_do_not_stop_others(stand: Stand) -> None:
    async with AsyncExitStack() as held:
        for number in range(300):
            _, writer = await asyncio.open_connection("127.0.0.1", stand.port)
            held.callback(writer.close)
            slow_body = f"POST /v1/tenants HTTP/1.1\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 9\r\n\r\n"
            writer.write(slow_body.encode() if number % 2 else b"GET /health HTTP/1.1\r\nX: ")
        assert (await stand.ask("GET", "/v1/auth/whoami")).status == 200


async def test_pipelined_requests_are_answered_in_their_order(stand: Stand) -> None:
    one = "GET /v1/auth/whoami HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nx-request-id: p-{}\r\n\r\n"
    sent = "".join(one.format(ADMIN_KEY if number % 2 else "clk_" + "x" * 43, number) for number in range(40))
    found = await _answers(stand, sent.encode(), 40)
    assert [status for status, _, _ in found] == [200 if number % 2 else 401 for number in range(40)]
    assert [headers["x-request-id"] for _, headers, _ in found] == [f"p-{number}" for number in range(40)]


async def test_what_is_pipelined_behind_an_error_is_not_read(stand: Stand) -> None:
    key = f"Authorization: Bearer {ADMIN_KEY}\r\n"
    evil = f"POST /v1/tenants HTTP/1.1\r\nHost: h\r\n{key}Content-Length: 16\r\n\r\n" + '{"name": "evil"}'
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
    writer.write(b"GET /health HTTP/1.1\r\nbad header\r\n\r\n" + evil.encode())
    answer = await _closed(reader)
    assert answer.split(b" ")[1] == b"400"
    assert answer.count(b"\r\n\r\n") == 1
    assert "evil" not in {each["name"] for each in (await stand.ask("GET", "/v1/tenants")).json["items"]}
    writer.close()


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length : 4\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chun\x00ked\r\n",
    ],
)
@SHARED
async def test_bodies_whose_length_can_be_read_in_two_ways(shared_stand: Stand, headers: str) -> None:
    sent = f"POST /v1/tenants HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADMIN_KEY}\r\n{headers}\r\n0\r\n\r\n"
    ((status, answered, _),) = await _answers(shared_stand, sent.encode("latin-1"), 1)
    assert status == 400
    assert valid_request_id(answered["x-request-id"])


@SHARED
async def test_more_headers_than_anyone_needs(shared_stand: Stand) -> None:
    many = "".join(f"X-{number}: y\r\n" for number in range(150))
    ((status, _, _),) = await _answers(shared_stand, f"GET /health HTTP/1.1\r\nHost: h\r\n{many}\r\n".encode(), 1)
    assert status == 400


_INJECTED = (
    "x\r\nSet-Cookie: evil=1",
    "x\nSet-Cookie: evil=1",
    "x\rSet-Cookie: evil=1",
    "\x1b[31mred",
    "x" * 8000,
    "<script>alert(1)</script>",
    "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
    "00-zz-zz-zz",
    "é\u2028\x7f",
)


@pytest.mark.parametrize(
    "header", ["x-request-id", "traceparent", "tracestate", "User-Agent", "Host", "Idempotency-Key"]
)
@pytest.mark.parametrize("value", _INJECTED)
@SHARED
async def test_nothing_is_injected_through_a_header(shared_stand: Stand, header: str, value: str) -> None:
    """Each is taken, replaced or refused, and none of it comes back in a header, or as an answer of its own."""
    sent = f"GET /health HTTP/1.1\r\n{header}: {value}\r\nConnection: close\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", shared_stand.port)
    writer.write(sent)
    answer = (await _closed(reader)).decode("latin-1")
    writer.close()
    head = answer.partition("\r\n\r\n")[0]
    assert head.split(" ")[1] in ("200", "400", "431")
    assert answer.count("HTTP/1.1 ") == 1
    names = {line.partition(":")[0].lower() for line in head.split("\r\n")[1:]}
    assert "set-cookie" not in names
    assert "evil" not in head
    (request_id,) = (line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("x-request-id:"))
    assert valid_request_id(request_id)


@pytest.mark.parametrize(
    "name", ["%0d%0aSet-Cookie:%20evil=1", "%1b[31m", "%E2%80%AE", "%00", "..%2f..%2fetc", "%c3%28"]
)
@SHARED
async def test_nothing_is_injected_through_a_name(shared_stand: Stand, name: str) -> None:
    path = f"/v1/tenants/acme/workflows/{name}"
    sent = f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n"
    ((status, headers, body),) = await _answers(shared_stand, sent.encode(), 1)
    assert status in (400, 404)
    assert "set-cookie" not in headers
    assert not any(byte < 0x20 for byte in body)
