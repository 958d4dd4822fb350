"""Packages on this machine's disk: fetched once by their digest, verified, extracted, and kept."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

import grpc

from cloacina.dispatch.artifacts import Artifact
from cloacina.errors import Unavailable
from cloacina.packages import archive
from cloacina.packages.manifest import Manifest
from cloacina.rpc.client import RpcClient
from cloacina.rpc.errors import from_rpc_error
from cloacina.rpc.v1 import reconciler_pb2, reconciler_pb2_grpc
from cloacina.telemetry import tracing

log = logging.getLogger(__name__)

_FETCH_DEADLINE_S = 120.0
_KEPT_S = 30 * 86_400


class ArtifactCache:
    """Extracted packages by digest.

    Args:
        folder: where they are kept, one folder a digest.
        client: of the reconciler.
    """

    def __init__(self, folder: Path, client: RpcClient) -> None:
        self._folder = folder
        self._client = client
        self._stub = reconciler_pb2_grpc.ReconcilerServiceStub(client.channel)
        self._loading: dict[str, asyncio.Task[Artifact]] = {}

    async def start(self) -> None:
        """Makes the folder, and removes what was left half-way or has not been used for a month."""
        await asyncio.to_thread(self._tidy)

    async def stop(self) -> None:
        """Gives up what is being fetched."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)

    async def get(self, digest: str) -> Artifact:
        """The package with this digest; fetched if it is not here. Asked for by many at once, it is fetched once.

        Raises:
            CloacinaError: the reconciler cannot be reached, does not have it, or sent something else.
        """
        task = self._loading.get(digest)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._loading[digest] = asyncio.create_task(self._load(digest))
        return await asyncio.shield(task)

    async def _load(self, digest: str) -> Artifact:
        root = self._folder / digest
        if not await asyncio.to_thread(root.is_dir):
            with tracing.span("fetch package", attributes={"cloacina.package_digest": digest}):
                await self._fetch(digest, root)
        manifest = await asyncio.to_thread(Manifest.read, root)
        await asyncio.to_thread(os.utime, root)
        return Artifact(root, manifest.workflow_name, manifest.entry_module)

    async def _fetch(self, digest: str, root: Path) -> None:
        began = time.monotonic()
        file = self._folder / f".{digest}.{os.getpid()}.part"
        try:
            size = await self._download(digest, file)
            await asyncio.to_thread(archive.extract, file, root)
        except OSError as error:
            raise Unavailable(f"package {digest[:12]} cannot be kept: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                file.unlink()
        log.info(
            "package fetched",
            extra={
                "package_digest": digest,
                "size_bytes": size,
                "duration_ms": round((time.monotonic() - began) * 1000, 3),
            },
        )

    async def _download(self, digest: str, file: Path) -> int:
        request = reconciler_pb2.FetchArtifactRequest(digest=digest)
        found = hashlib.sha256()
        size = 0
        stream = self._client.stream(self._stub.FetchArtifact, request, deadline_s=_FETCH_DEADLINE_S)
        try:
            with file.open("wb") as output:
                async for chunk in stream:
                    found.update(chunk.data)
                    size += len(chunk.data)
                    output.write(chunk.data)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "reconciler") from error
        finally:
            stream.cancel()
        if found.hexdigest() != digest:
            raise Unavailable(f"the reconciler sent other content than package {digest[:12]}")
        return size

    def _tidy(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        oldest = time.time() - _KEPT_S
        for entry in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if entry.is_dir() and not entry.name.startswith(".") and entry.stat().st_mtime >= oldest:
                    continue
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
