"""A reconciler as it runs: its gRPC server, its SQLite store, a client."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloacina.packages.archive import pack
from cloacina.rpc.client import RpcClient
from cloacina.rpc.v1 import reconciler_pb2, reconciler_pb2_grpc
from cloacina.runtime.service import Runtime
from services.reconciler.service import Reconciler
from services.reconciler.settings import ReconcilerSettings
from tests.packages.archives import TASKS, source


def archive(
    folder: Path, *, name: str = "demo", version: str = "1.0", workflow: str = "", tasks: bytes | str = TASKS
) -> bytes:
    """A package's archive."""
    return pack(source(folder, tasks, name=name, version=version, workflow=workflow))


class Stand:
    """A running reconciler and what a test does with it."""

    def __init__(self, service: Reconciler, runtime: Runtime, client: RpcClient, home: Path, target: str) -> None:
        self.target = target
        self.service = service
        self.runtime = runtime
        self.client = client
        self.home = home
        self.stub = reconciler_pb2_grpc.ReconcilerServiceStub(client.channel)

    async def call(self, method: str, message: Any) -> Any:
        return await self.client.call(getattr(self.stub, method), message, deadline_s=30)

    async def upload(self, data: bytes, tenant_id: str = "public", chunk: int = 100_000) -> Any:
        async def messages() -> AsyncIterator[Any]:
            yield reconciler_pb2.UploadPackageRequest(header=reconciler_pb2.UploadHeader(tenant_id=tenant_id))
            for start in range(0, len(data), chunk):
                yield reconciler_pb2.UploadPackageRequest(chunk=data[start : start + chunk])
            end = reconciler_pb2.UploadEnd(size_bytes=len(data), digest=hashlib.sha256(data).hexdigest())
            yield reconciler_pb2.UploadPackageRequest(end=end)

        return await self.call("UploadPackage", messages())

    async def packages(self, tenant_id: str = "public") -> list[Any]:
        listed = await self.call("ListPackages", reconciler_pb2.ListPackagesRequest(tenant_id=tenant_id))
        return list(listed.packages)

    async def package(self, name: str) -> Any:
        return await self.call("GetPackage", reconciler_pb2.GetPackageRequest(tenant_id="public", name=name))

    async def workflow(self, name: str = "demo", tenant_id: str = "public") -> Any:
        request = reconciler_pb2.GetWorkflowRequest(tenant_id=tenant_id, workflow_name=name)
        return await self.call("GetWorkflow", request)

    async def delete(self, name: str, version: str) -> Any:
        request = reconciler_pb2.DeletePackageRequest(tenant_id="public", package_name=name, version=version)
        return await self.call("DeletePackage", request)

    async def artifact(self, digest: str) -> bytes:
        request = reconciler_pb2.FetchArtifactRequest(digest=digest)
        stream = self.client.stream(self.stub.FetchArtifact, request, deadline_s=30)
        return b"".join([chunk.data async for chunk in stream])

    def watch(self, *, acknowledge: bool = True) -> Watching:
        return Watching(self, acknowledge)

    def spooled(self) -> list[Path]:
        return list((self.home / "spool").iterdir())

    def sample(self, name: str, **labels: str) -> float | None:
        return self.runtime.registry.get_sample_value(name, labels)


class Watching:
    """A watcher as the scheduler is one."""

    def __init__(self, stand: Stand, acknowledge: bool) -> None:
        self.applied: asyncio.Queue[int] = asyncio.Queue()
        self._acknowledge = acknowledge
        self._stream = stand.client.stream(stand.stub.WatchWorkflows, self._says(), deadline_s=None)

    async def _says(self) -> AsyncIterator[Any]:
        yield reconciler_pb2.WatchAcknowledgement(watcher_id="w")
        while True:
            yield reconciler_pb2.WatchAcknowledgement(watcher_id="w", revision=await self.applied.get())

    async def next(self) -> Any:
        """The next changes, acknowledged; ``None`` at the end."""
        async with asyncio.timeout(10):
            async for changes in self._stream:
                if self._acknowledge:
                    self.applied.put_nowait(changes.revision)
                return changes
        return None

    def stop(self) -> None:
        self._stream.cancel()


@asynccontextmanager
async def running(home: Path, **knobs: Any) -> AsyncIterator[Stand]:
    settings = ReconcilerSettings(home=home, reconciler_rpc_port=0, reconciler_metrics_port=0, **knobs)
    settings.make_home()
    service, runtime = Reconciler(settings), Runtime("reconciler", settings, 0)
    try:
        await service.start(runtime)
        port = await runtime.server.start()
        target = f"127.0.0.1:{port}"
        client = RpcClient(target, service="reconciler", token=settings.token)
        try:
            yield Stand(service, runtime, client, home, target)
        finally:
            await client.close()
            await service.drain()
            await runtime.server.stop(0.5)
    finally:
        await service.stop()


Start = Callable[..., Awaitable[Stand]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts reconcilers on the test's home folder, which are stopped at its end."""
    async with AsyncExitStack() as stack:

        async def begin(**knobs: Any) -> Stand:
            return await stack.enter_async_context(running(tmp_path / "home", **knobs))

        yield begin


@pytest.fixture
async def stand(start: Start) -> Stand:
    """A running reconciler."""
    return await start()
