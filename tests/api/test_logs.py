"""What the gateway logs: every line with the ids of its request, and never a key."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloacina.telemetry import logs

from .stand import ADMIN_KEY, Stand


class Lines:
    """The two outputs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.shown = io.StringIO()

    @property
    def written(self) -> str:
        return (self.home / "logs" / "cloacina-server.log").read_text()

    def of(self, request_id: str) -> list[dict[str, Any]]:
        return [
            line
            for line in self._all()
            if line.get("request_id") == request_id and line["target"].startswith("services.")
        ]

    def from_target(self, target: str) -> list[dict[str, Any]]:
        return [line for line in self._all() if line["target"] == target]

    def _all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written.splitlines()]


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    lines = Lines(tmp_path / "logged")
    logs.configure("api", home=lines.home, verbose=True, stream=lines.shown)
    yield lines
    logs.shutdown()


async def test_the_access_line_has_the_ids(lines: Lines, stand: Stand) -> None:
    path = "/v1/tenants/acme/workflows/daily/execute"
    begun = await stand.ask("POST", path, headers={"x-request-id": "begin-1"})
    (line,) = lines.of("begin-1")
    assert list(line)[:4] == ["timestamp", "level", "target", "message"]
    assert line["message"] == "POST /v1/tenants/{tenant_id}/workflows/{name}/execute 202"
    assert (line["service"], line["tenant_id"], line["workflow_name"]) == ("api", "acme", "daily")
    assert line["execution_id"] == begun.json["execution_id"]
    assert (line["method"], line["status"]) == ("POST", 202)
    assert line["duration_ms"] > 0

    await stand.ask("GET", f"/v1/tenants/acme/executions/{line['execution_id']}", headers={"x-request-id": "look-1"})
    (seen,) = lines.of("look-1")
    assert (seen["execution_id"], seen["workflow_name"]) == (line["execution_id"], "daily")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("PUT", "/health", 405), ("GET", "/v1/tenants/none/workflows", 404)],
)
async def test_refusals_are_logged_too(lines: Lines, stand: Stand, method: str, path: str, status: int) -> None:
    await stand.ask(method, path, headers={"x-request-id": "refused-1"})
    (line,) = lines.of("refused-1")
    assert line["status"] == status


async def test_an_upload_is_logged_with_its_package(lines: Lines, stand: Stand) -> None:
    form = {"file": io.BytesIO(b"archive")}
    sent = await stand.ask("POST", "/v1/tenants/acme/workflows", data=form, headers={"x-request-id": "upload-1"})
    (line,) = lines.of("upload-1")
    assert line["package_id"] == sent.json["package_id"]


async def test_a_failure_and_what_is_not_http_are_logged_with_an_id(lines: Lines, stand: Stand) -> None:
    await stand.scheduler.stop()
    await stand.ask("GET", "/v1/tenants/acme/executions", headers={"x-request-id": "gone-1"})
    failure, access = lines.of("gone-1")
    assert (failure["level"], access["status"]) == ("WARN", 503)
    assert "scheduler" in failure["error"]
    malformed = await stand.raw(b"NONSENSE\r\n\r\n")
    (line,) = lines.of(malformed.headers["x-request-id"])
    assert line["message"] == "malformed request"


async def test_many_refusals_are_one_line_a_second(lines: Lines, stand: Stand) -> None:
    await stand.scheduler.stop()
    began = time.monotonic()
    replies = await asyncio.gather(*(stand.ask("GET", "/v1/tenants/acme/executions") for _ in range(30)))
    assert {reply.status for reply in replies} == {503}
    deadline = time.monotonic() + 10
    said: list[dict[str, Any]] = []
    while sum(line["refused"] for line in said) < 30:
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.05)
        said = lines.from_target("services.api.refusals")
    assert len(said) <= 2 + time.monotonic() - began
    assert all(line["level"] == "WARN" and "scheduler" in line["error"] for line in said)
    assert "request_id" in said[0]
    assert all("request_id" not in line for line in said[1:])


async def test_a_key_is_never_logged(lines: Lines, stand: Stand) -> None:
    made = (await stand.ask("POST", "/v1/tenants/acme/keys", json={"name": "quiet", "role": "write"})).json["key"]
    wrong = "clk_" + "w" * 43
    for key in (made, wrong):
        await stand.ask("GET", "/v1/auth/whoami", key=key)
        await stand.ask(
            "POST", "/v1/tenants/acme/workflows/daily/execute", key=key, json={"context": {"pin": "4711-x"}}
        )
    await stand.ask("GET", "/v1/auth/whoami", key=None, headers={"Authorization": f"Basic {made}"})
    await stand.scheduler.stop()
    await stand.ask("GET", "/v1/tenants/acme/executions", key=made)
    for text in (lines.written, lines.shown.getvalue()):
        assert "whoami" in text
        for secret in (made, wrong, ADMIN_KEY, "4711-x"):
            assert secret not in text


async def test_control_characters_do_not_break_a_line(lines: Lines, stand: Stand) -> None:
    await stand.ask("GET", "/a%0Ab", headers={"x-request-id": "odd-1", "User-Agent": "x"})
    await stand.ask("POST", "/v1/tenants/acme/workflows/a%0Ab/execute", headers={"x-request-id": "odd-2"})
    assert [line["status"] for line in (*lines.of("odd-1"), *lines.of("odd-2"))] == [404, 404]
    assert all(line.startswith("20") for line in lines.shown.getvalue().splitlines())
