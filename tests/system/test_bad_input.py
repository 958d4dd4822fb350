"""Bad input to a running system: each its status, code and message, an x-request-id, and nothing stored."""

from __future__ import annotations

import bz2
import io
import json
import socket
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cloacina.cli.client import ApiClient, ApiFailure
from cloacina.packages import archive
from tests.system.running import RunningSystem, write_package

GOOD = "import cloaca\n\n@cloaca.task(id='t')\ndef t(context):\n    pass\n"
EXECUTE = "/v1/tenants/public/workflows/mixed/execute"


class Answer:
    """What a raw request got."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = json.loads(body)


def send(system: RunningSystem, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    """A POST whose error is an answer."""
    request = urllib.request.Request(system.url + path, data=body, method="POST", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


@pytest.fixture(scope="module")
def key(system: RunningSystem) -> str:
    """The god-mode key."""
    return (system.home / "bootstrap-key").read_text().strip()


def stored(system: RunningSystem) -> tuple[int, list[str]]:
    """Executions and packages."""
    client = system.client
    executions = client.call("GET", "/v1/tenants/public/executions?limit=1")["total"]
    packages = client.call("GET", "/v1/tenants/public/workflows")["items"]
    return executions, sorted(each["package_name"] for each in packages)


@pytest.fixture
def nothing_is_stored(system: RunningSystem) -> Any:
    """Checks that the test left neither executions nor packages nor spooled files."""
    before = stored(system)
    yield
    assert stored(system) == before
    spool = system.home / "spool"
    assert not spool.exists() or list(spool.iterdir()) == []


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize(
    ("path", "body", "given", "status", "code", "said"),
    [
        (EXECUTE, b"{}", {"Authorization": ""}, 401, "unauthorized", "Authorization"),
        (EXECUTE, b"{}", {"Authorization": "Bearer clk_" + "x" * 43}, 401, "unauthorized", "invalid or revoked"),
        (EXECUTE, b"{]", {}, 400, "invalid_request", "not valid JSON"),
        (EXECUTE, b'{"context": [1]}', {}, 400, "workflow_input_invalid", "object"),
        (EXECUTE, b'{"context": "text"}', {}, 400, "workflow_input_invalid", "object"),
        (EXECUTE, b"[]", {}, 400, "invalid_request", "object"),
        (EXECUTE, b'{"contxt": {}}', {}, 400, "invalid_request", "contxt"),
        (EXECUTE, b"x" * (1 << 20) + b"x", {}, 413, "payload_too_large", "1 MiB"),
        (EXECUTE.replace("mixed", "missing"), b"{}", {}, 404, "workflow_not_found", "missing"),
        (EXECUTE.replace("public", "nowhere"), b"{}", {}, 404, "tenant_not_found", "nowhere"),
    ],
)
def test_requests(
    system: RunningSystem, key: str, path: str, body: bytes, given: dict[str, str], status: int, code: str, said: str
) -> None:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **given}
    answer = send(system, path, body, {name: value for name, value in headers.items() if value})
    assert (answer.status, answer.body["code"]) == (status, code)
    assert said in answer.body["error"]
    assert answer.headers["x-request-id"]
    assert set(answer.body) == {"error", "code"}


@pytest.mark.usefixtures("nothing_is_stored")
def test_a_key_of_another_tenant(system: RunningSystem) -> None:
    admin = system.client
    admin.call("POST", "/v1/tenants", {"name": "other"})
    made = admin.call("POST", "/v1/tenants/other/keys", {"name": "theirs", "role": "admin"})
    theirs = ApiClient(system.url, made["key"])
    with pytest.raises(ApiFailure) as refused:
        theirs.call("POST", EXECUTE, {})
    assert refused.value.status == 403
    assert "[tenant_access_denied]" in refused.value.message
    with pytest.raises(ApiFailure) as refused:
        theirs.upload("/v1/tenants/public/workflows", "x.cloacina", b"x")
    assert refused.value.status == 403


def packed(folder: Path, code: str) -> bytes:
    """The archive of a package with this code."""
    return archive.pack(write_package(folder, "bad", code))


def with_entry(name: str) -> bytes:
    """An archive with an entry of this name beside what belongs in it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:bz2") as tar:
        for path, text in (("bad-1.0.0/package.toml", "[package]\nname='bad'\nversion='1.0.0'\n"), (name, "x")):
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("truncated", ""),
        ("traversal", ".."),
        ("absolute", "/etc/evil"),
        ("not an archive", "bzip2"),
        ("raises", "tasks.py, line 1: ZeroDivisionError"),
        ("hangs", "within 20"),
        ("exits", "exit"),
        ("no task", "no task"),
        ("syntax error", "SyntaxError"),
        ("rust", "Rust"),
    ],
)
def test_packages(system: RunningSystem, folder: Path, kind: str, said: str) -> None:
    content = {
        "truncated": lambda: packed(folder, GOOD)[:-20],
        "traversal": lambda: with_entry("bad-1.0.0/../../evil"),
        "absolute": lambda: with_entry("/etc/evil"),
        "not an archive": lambda: b"PK\x03\x04" + bytes(100),
        "raises": lambda: packed(folder, "1 / 0\n"),
        "hangs": lambda: packed(folder, "import time\ntime.sleep(600)\n"),
        "exits": lambda: packed(folder, "import os\nos._exit(0)\n"),
        "no task": lambda: packed(folder, "import cloaca\n"),
        "syntax error": lambda: packed(folder, "def (:\n"),
        "rust": lambda: _rust(),
    }[kind]()
    with pytest.raises(ApiFailure) as refused:
        system.client.upload("/v1/tenants/public/workflows", "bad.cloacina", content)
    assert refused.value.status == 400
    assert "[upload_failed]" in refused.value.message
    assert said in refused.value.message
    assert refused.value.request_id


def _rust() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        text = b"[package]\nname='bad'\nversion='1.0.0'\n[metadata]\nlanguage='rust'\nworkflow_name='bad'\n"
        entry = tarfile.TarInfo("bad-1.0.0/package.toml")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    return bz2.compress(data.getvalue())


@pytest.mark.usefixtures("nothing_is_stored")
def test_an_upload_of_101_megabytes(system: RunningSystem, key: str) -> None:
    """Refused by its length, before its content is read."""
    body = bytes(101_000_000)
    head = (
        f"POST /v1/tenants/public/workflows HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", system.ports["CLOACINA_API_PORT"]), timeout=30) as connection:
        connection.sendall(head.encode() + b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n')
        answer = connection.recv(65_536).decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert '"code":"payload_too_large"' in answer
    assert "100 MB" in answer
    assert "x-request-id" in answer.lower()


@pytest.mark.usefixtures("nothing_is_stored")
def test_an_upload_that_breaks_off(system: RunningSystem, key: str, folder: Path) -> None:
    content = packed(folder, GOOD)
    head = (
        f"POST /v1/tenants/public/workflows HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 50000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", system.ports["CLOACINA_API_PORT"]), timeout=30) as connection:
        connection.sendall(head.encode() + content)


def test_the_services_are_none_the_worse_for_it(system: RunningSystem) -> None:
    assert system.status() == "ok"
    assert system.wait_for_end(system.execute("mixed", {"name": "afterwards"}))["status"] == "Completed"
