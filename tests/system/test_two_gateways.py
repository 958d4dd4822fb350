"""Two gateway processes on one identity store: what one revokes, the other refuses on its next request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import PostgresServer, postgres_server

from .running import free_ports, wait_until

__all__ = ["postgres_server"]
pytestmark = pytest.mark.xdist_group("two gateways")
_KEY = "clk_first-key-of-two-gateways-0123456789"


@contextmanager
def _gateway(home: Path, database: str) -> Iterator[str]:
    """A process; its URL."""
    port, rpc_port, *others = free_ports(5)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLOACINA_", "OTEL_"))}
    targets = dict(zip(("SCHEDULER", "RECONCILER", "EXECUTOR"), others, strict=True))
    environment = {
        **kept,
        "CLOACINA_HOME": str(home),
        "CLOACINA_DATABASE_URL": database,
        "CLOACINA_BOOTSTRAP_KEY": _KEY,
        "CLOACINA_API_PORT": str(port),
        "CLOACINA_API_RPC_PORT": str(rpc_port),
        "CLOACINA_API_AUTH_CACHE_S": "300",
        **{f"CLOACINA_{name}_TARGET": f"127.0.0.1:{number}" for name, number in targets.items()},
    }
    console = (home / f"console-{port}").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "services.api"],
        env=environment,
        stdout=console,
        stderr=console,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        console.close()


def _ask(url: str, key: str | None, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and body of an answer."""
    sent = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def _is_up(url: str) -> bool:
    try:
        return _ask(url, None, "GET", "/health")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def gateways(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URLs of two processes that share a store, with the tenant acme."""
    database = ""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        database = server.new_database()
    home = tmp_path_factory.mktemp("gateways")
    with ExitStack() as stack:
        urls = []
        for _ in range(2):  # one after the other: the first one makes the store
            urls.append(stack.enter_context(_gateway(home, database)))
            wait_until(lambda: _is_up(urls[-1]), f"{urls[-1]} to answer", 60)
        assert _ask(urls[0], _KEY, "POST", "/v1/tenants", {"name": "acme"})[0] == 201
        yield urls[0], urls[1]


@pytest.mark.parametrize("revoke_at", [0, 1])
def test_what_one_revokes_the_other_refuses_at_once(gateways: tuple[str, str], revoke_at: int) -> None:
    here, there = gateways[revoke_at], gateways[1 - revoke_at]
    for _ in range(10):
        _, made = _ask(here, _KEY, "POST", "/v1/tenants/acme/keys", {"name": "soon gone"})
        for _ in range(2):  # the second answer comes from the cache, which would hold it for 300 s
            assert _ask(there, made["key"], "GET", "/v1/auth/whoami")[0] == 200
        assert _ask(here, _KEY, "DELETE", f"/v1/auth/keys/{made['id']}")[0] == 200
        status, body = _ask(there, made["key"], "GET", "/v1/auth/whoami")
        assert (status, body["code"]) == (401, "unauthorized")


def test_a_session_is_one_at_both_and_ends_at_both(gateways: tuple[str, str]) -> None:
    here, there = gateways
    account = {"username": "ada", "password": "correct horse", "role": "read"}
    _, made = _ask(here, _KEY, "POST", "/v1/tenants/acme/accounts", account)
    login = {"username": "ada", "password": "correct horse", "tenant": "acme"}
    _, first = _ask(here, None, "POST", "/v1/auth/local/login", login)
    assert _ask(there, first["key"], "GET", "/v1/auth/whoami")[1]["name"] == "ada"
    _, second = _ask(there, first["key"], "POST", "/v1/auth/refresh")
    assert _ask(here, first["key"], "GET", "/v1/auth/whoami")[0] == 401
    assert _ask(here, second["key"], "GET", "/v1/auth/whoami")[0] == 200
    assert _ask(there, _KEY, "DELETE", f"/v1/tenants/acme/accounts/{made['id']}")[0] == 200
    assert _ask(here, second["key"], "GET", "/v1/auth/whoami")[0] == 401
