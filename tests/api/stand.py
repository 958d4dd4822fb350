"""A whole gateway for a test: its own home, its own database, its own ports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict, CIMultiDictProxy
from pydantic import TypeAdapter

from cloacina.runtime.service import Runtime
from cloacina.telemetry.scope import valid_request_id
from services.api.service import GatewayService
from services.api.settings import GatewaySettings

from .stand_ins import TOKEN, ReconcilerStandIn, SchedulerStandIn

ADMIN_KEY = "clk_god-mode-key-of-the-tests-0123456789"
_DEADLINE_S = 10.0


@dataclass
class Reply:
    """An answer, read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def refused(self, status: int, code: str, message: str = "") -> None:
        """Asserts that it is this error, in the one envelope there is, with the id to report."""
        assert (self.status, self.json.get("code")) == (status, code), self.body
        assert set(self.json) == {"error", "code"}
        assert message in self.json["error"], self.json["error"]
        assert valid_request_id(self.headers["x-request-id"])
        assert self.headers["Content-Type"] == "application/json"

    def fits(self, status: int, shape: Any) -> Any:
        """Asserts that it is this answer, with all the fields of the shape and no other. Returns it."""
        assert self.status == status, self.body
        assert valid_request_id(self.headers["x-request-id"])
        TypeAdapter(shape).validate_json(self.body)
        assert set(self.json) == set(TypeAdapter(shape).json_schema()["properties"])
        return self.json


class Stand:
    """The gateway and what is behind it.

    Args:
        home: where it lives.
        knobs: settings of the gateway.
    """

    def __init__(self, home: Path, **knobs: Any) -> None:
        self.home = home
        self.scheduler = SchedulerStandIn(home)
        self.reconciler = ReconcilerStandIn(home)
        self._knobs = knobs

    async def start(self) -> None:
        await self.scheduler.start()
        await self.reconciler.start()
        self.settings = GatewaySettings(
            **{
                "home": self.home,
                "api_port": 0,
                "rpc_token": TOKEN,
                "bootstrap_key": ADMIN_KEY,
                "scheduler_target": f"127.0.0.1:{self.scheduler.port}",
                "reconciler_target": f"127.0.0.1:{self.reconciler.port}",
                "executor_target": "127.0.0.1:1",
                "api_rpc_deadline_s": 3.0,
                "grace_s": 5.0,
                **self._knobs,
            }
        )
        self.settings.make_home()
        self.runtime = Runtime("api", self.settings, 0)
        self.gateway = GatewayService(self.settings)
        await self.gateway.start(self.runtime)
        self.rpc_port = await self.runtime.server.start()
        self.port = self.gateway.http_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = aiohttp.ClientSession(self.url, timeout=aiohttp.ClientTimeout(total=30))

    async def stop(self) -> None:
        await self.http.close()
        self.scheduler.gate.set()
        self.reconciler.gate.set()
        self.reconciler.accept.set()
        await self.gateway.drain()
        await self.runtime.server.stop(0)
        await self.gateway.stop()
        await self.scheduler.stop()
        await self.reconciler.stop()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        key: str | None = ADMIN_KEY,
        headers: dict[str, str] | None = None,
        **sent: Any,
    ) -> Reply:
        """Sends a request; `sent` is what aiohttp takes (json, data, params)."""
        given = {**({"Authorization": f"Bearer {key}"} if key is not None else {}), **(headers or {})}
        async with self.http.request(method, path, headers=given, **sent) as response:
            return Reply(response.status, response.headers, await response.read())

    async def raw(self, sent: bytes) -> Reply:
        """Sends bytes that need not be HTTP, and reads the one answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(sent)
            async with asyncio.timeout(_DEADLINE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                pairs = [line.split(": ", 1) for line in lines[1:] if line]
                headers: Any = CIMultiDict(pairs)
                body = await reader.readexactly(int(headers["Content-Length"]))
            return Reply(int(lines[0].split(" ")[1]), CIMultiDictProxy(headers), body)
        finally:
            writer.close()

    async def tenant(self, name: str) -> None:
        """Makes a tenant."""
        assert (await self.ask("POST", "/v1/tenants", json={"name": name})).status == 201

    async def key(self, tenant: str, role: str) -> str:
        """Makes a key of a tenant."""
        made = await self.ask("POST", f"/v1/tenants/{tenant}/keys", json={"name": f"{tenant} {role}", "role": role})
        assert made.status == 201, made.body
        return str(made.json["key"])

    async def execution(self) -> str:
        """Begins an execution of acme's workflow."""
        begun = await self.ask("POST", "/v1/tenants/acme/workflows/daily/execute")
        assert begun.status == 202, begun.body
        return str(begun.json["execution_id"])

    def requests(self, method: str, status: int) -> float:
        """Requests that were counted."""
        labels = {"method": method, "status": str(status)}
        return self.runtime.registry.get_sample_value("cloacina_api_requests_total", labels) or 0.0


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.005)
