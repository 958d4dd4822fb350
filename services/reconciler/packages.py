"""Loading and unloading packages: receive, verify, extract, inspect, store, announce.

Until the one transaction that stores a package nothing of it is visible. All that loading needs is in a folder of its
own, which is removed whatever happens, by the next start if not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import shutil
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4

from cloacina.catalog.contents import definition_of, loaded_row
from cloacina.catalog.registry import Loaded, Registry
from cloacina.catalog.triggers import check_triggers
from cloacina.errors import CloacinaError, Conflict, InvalidRequest, NotFound, PayloadTooLarge, Unavailable
from cloacina.packages.archive import extract, identify
from cloacina.packages.errors import PackageRefused
from cloacina.packages.inspection import inspect
from cloacina.packages.manifest import Manifest
from cloacina.packages.source import Source, read_source
from cloacina.store.registry import PART_BYTES, PackageRow, RegistryStore
from cloacina.telemetry import scope, tracing
from services.reconciler.metrics import Outcome, ReconcilerMetrics
from services.reconciler.settings import ReconcilerSettings
from services.reconciler.trust import Trust
from services.reconciler.watchers import Watchers

log = logging.getLogger(__name__)

_TENANT = re.compile(r"[a-z0-9_]{1,63}\Z")
_Result = TypeVar("_Result")


class Packages:
    """What is done to packages.

    Args:
        settings: the service's.
        store, registry: where packages are kept, and known.
        watchers: who is told.
        metrics: what is counted in.
        trust: judges signatures.
    """

    def __init__(
        self,
        settings: ReconcilerSettings,
        store: RegistryStore,
        registry: Registry,
        watchers: Watchers,
        metrics: ReconcilerMetrics,
        *,
        trust: Trust,
    ) -> None:
        self._settings = settings
        self._store = store
        self._registry = registry
        self._watchers = watchers
        self._metrics = metrics
        self._trust = trust
        self._spool = settings.home / "spool"
        self._slots = asyncio.Semaphore(settings.inspect_parallel)
        self._reading = asyncio.Semaphore(settings.inspect_parallel)
        self._changing = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._uploads = 0
        self._draining = False
        self.refused_at = 0
        """When a package could not be loaded, last, in microseconds since the epoch; 0 for never since the start."""
        self._closed: set[str] = set()

    async def start(self) -> None:
        """Removes what an earlier process left, and loads the registry from the store."""
        began = time.perf_counter()
        await asyncio.to_thread(_empty, self._spool)
        for key in await self._store.paused():
            self._registry.set_paused(key, True)
        rows = await self._store.packages()
        for row in rows:
            self._registry.add(await self._loaded_again(row))
        figures = {"packages": len(rows), "workflows": len(self._registry.definitions())}
        log.info("the registry is loaded", extra={**figures, "duration_ms": _since_ms(began)})

    async def drain(self) -> None:
        """Takes no further upload, and waits for those under way."""
        self._draining = True
        while self._running:
            await asyncio.wait(self._running)

    async def stop(self) -> None:
        """Ends what is under way."""
        self._draining = True
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    @property
    def loading(self) -> int:
        """Packages that are being loaded."""
        return min(len(self._registry.loading), self._settings.inspect_parallel)

    @property
    def waiting(self) -> int:
        """Packages that wait until others are loaded."""
        return len(self._registry.loading) - self.loading

    async def upload(self, requests: AsyncIterator[Any]) -> tuple[str, bool]:
        """Takes an archive and loads it.

        Args:
            requests: the messages of the call.

        Returns:
            The package's id, and whether it is new.

        Raises:
            PackageRefused, PayloadTooLarge, Conflict: it is not accepted; nothing of it is kept.
            Unavailable: not now.
        """
        if self._draining:
            raise _stopping()
        if self._uploads >= self._settings.max_uploads:
            raise Unavailable(f"{self._uploads} uploads are under way already; try again later")
        folder = self._spool / str(uuid4())
        self._uploads += 1
        handed_over = False
        try:
            header = await self._header(requests)
            tenant_id, most = str(header.tenant_id), int(header.max_tenant_bytes)
            with scope.bind(tenant_id=tenant_id):
                await asyncio.to_thread(folder.mkdir, parents=True, mode=0o700)
                digest, size = await self._receive(requests, folder / "archive")
                if self._draining:
                    raise _stopping()
                handed_over = True
                return await self._to_its_end(self._load(tenant_id, folder, digest, size, most))
        finally:
            self._uploads -= 1
            if not handed_over:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def delete(self, tenant_id: str, package_name: str, version: str) -> str:
        """Unloads a package version; executions that run keep it.

        Returns:
            The package's id.

        Raises:
            NotFound: there is none.
        """
        return await self._to_its_end(self._unload(tenant_id, package_name, version))

    async def close_tenant(self, tenant_id: str) -> int:
        """Takes no further package of a tenant that is being removed, and unloads those that are there.

        Returns:
            How many that were.
        """
        return await self._to_its_end(self._close_tenant(tenant_id))

    async def _close_tenant(self, tenant_id: str) -> int:
        async with self._changing:  # an upload that is being stored is there before, or is refused
            self._closed.add(tenant_id)
        packages = self._registry.packages(tenant_id)
        for package in packages:
            with contextlib.suppress(NotFound):
                await self._unload(tenant_id, package.row.package_name, package.row.version)
        return len(packages)

    def is_closed(self, tenant_id: str) -> bool:
        """Whether `close_tenant` was called, and the tenant has no package any more."""
        return tenant_id in self._closed and not self._registry.packages(tenant_id)

    def forget_tenant(self, tenant_id: str) -> None:
        """Its data is gone: a tenant of this name may be made anew."""
        for key in self._registry.paused_of(tenant_id):
            self._watchers.announce(self._registry.set_paused(key, False))
        self._trust.forget_tenant(tenant_id)
        self._closed.discard(tenant_id)

    def _check_tenant(self, tenant_id: str, size: int, most: int) -> None:
        """Whether a tenant may have a further package of this size.

        Raises:
            Conflict: it is being removed.
            PayloadTooLarge: its packages would have more bytes than they may.
        """
        if tenant_id in self._closed:
            raise Conflict("the tenant is being removed", code="tenant_removed")
        if not most:
            return
        there = sum(package.row.size_bytes for package in self._registry.packages(tenant_id))
        if there + size > most:
            raise PayloadTooLarge(
                f"the tenant's packages have {there} bytes, this one {size}, and they may have {most} in all; delete "
                "versions that are not needed",
                code="package_quota_exceeded",
            )

    async def set_paused(self, tenant_id: str, name: str, paused: bool) -> tuple[Loaded, bool]:
        """Pauses or resumes a workflow.

        Args:
            tenant_id: whose.
            name: of the workflow, or of its package.
            paused: which of the two.

        Returns:
            The newest package version that holds it, and whether anything changed.

        Raises:
            NotFound: there is no such workflow.
        """
        return await self._to_its_end(self._set_paused(tenant_id, name, paused))

    async def source(self, tenant_id: str, name: str) -> tuple[Loaded, Source]:
        """The text files of a package version.

        Args:
            tenant_id: whose.
            name: of its workflow, of the package, or the package's id.

        Raises:
            NotFound: there is no such package.
            Unavailable: the store cannot be read.
        """
        found = self._registry.with_id(tenant_id, name) or self._registry.find(tenant_id, name)
        if found is None:
            raise _no_workflow(name)
        folder = self._spool / str(uuid4())
        async with self._reading:
            await asyncio.to_thread(folder.mkdir, parents=True, mode=0o700)
            try:
                archive = folder / "archive"
                with archive.open("wb") as file:
                    async for part in self._store.read_artifact(found.row.digest):
                        await asyncio.to_thread(file.write, part)
                return found, await asyncio.to_thread(read_source, archive)
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _set_paused(self, tenant_id: str, name: str, paused: bool) -> tuple[Loaded, bool]:
        found = self._registry.find(tenant_id, name)
        if found is None:
            raise _no_workflow(name)
        key = tenant_id, found.row.workflow_name
        ids = {"tenant_id": tenant_id, "workflow_name": key[1], "package_id": found.row.package_id}
        with scope.bind(**ids), tracing.span(f"reconcile {'pause' if paused else 'resume'} {key[1]}"):
            async with self._changing:
                if self._registry.paused(key) is paused:
                    return found, False
                with _step("store"):
                    await self._store.set_paused(*key, time.time_ns() // 1000 if paused else None)
                    self._watchers.announce(self._registry.set_paused(key, paused))
                    revision = self._registry.revision
            log.info("workflow paused" if paused else "workflow resumed")
            await self._announced(revision)
        return found, True

    async def _to_its_end(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Runs something that must not be broken off half-way when whoever called is gone."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # it was logged where it happened; the caller may be gone

    async def _header(self, requests: AsyncIterator[Any]) -> Any:
        first = await self._next(requests)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidRequest("the first message of an upload must be its header")
        tenant_id = first.header.tenant_id
        if not _TENANT.match(tenant_id):
            raise InvalidRequest(f"the tenant must be 1 to 63 of a-z 0-9 _, not {tenant_id[:80]!r}")
        return first.header

    async def _next(self, requests: AsyncIterator[Any]) -> Any:
        """The next message; ``None`` at the end."""
        try:
            async with asyncio.timeout(self._settings.upload_idle_s):
                return await anext(requests, None)
        except TimeoutError:
            raise Unavailable(
                f"the upload sent nothing for {self._settings.upload_idle_s:g} seconds and is given up"
            ) from None

    async def _receive(self, requests: AsyncIterator[Any], archive: Path) -> tuple[str, int]:
        """Writes the archive to a file; returns its digest and size."""
        hashed, size, most = hashlib.sha256(), 0, self._settings.max_upload_bytes

        def keep(file: BinaryIO, chunk: bytes) -> None:
            hashed.update(chunk)
            file.write(chunk)

        file = await asyncio.to_thread(archive.open, "wb")
        try:
            while True:
                request = await self._next(requests)
                if request is None:  # so a stream ends that was cancelled, too: it was not meant to end here
                    raise InvalidRequest("the upload broke off", code="upload_failed")
                part = request.WhichOneof("part")
                if part == "end":
                    if (request.end.size_bytes, request.end.digest) != (size, hashed.hexdigest()):
                        raise InvalidRequest("the archive did not arrive as it was sent", code="upload_failed")
                    break
                if part != "chunk":
                    raise InvalidRequest("after its header an upload is chunks of the archive, then its end")
                size += len(request.chunk)
                if size > most:
                    raise PayloadTooLarge(f"the archive is larger than {most} bytes")
                await asyncio.to_thread(keep, file, request.chunk)
        finally:
            await asyncio.to_thread(file.close)
        return hashed.hexdigest(), size

    async def _load(self, tenant_id: str, folder: Path, digest: str, size: int, most: int) -> tuple[str, bool]:
        package_id = str(uuid4())
        self._registry.loading.add(package_id)
        archive = folder / "archive"
        try:
            claimed: tuple[str, str] | PackageRefused
            signed_by, verified = "", False
            try:
                signed_by, verified = await self._trust.judge(tenant_id, archive)
                claimed = await asyncio.to_thread(identify, archive)
            except PackageRefused as error:
                claimed = error
            named = "unreadable" if isinstance(claimed, PackageRefused) else claimed[0]
            with self._run("load", named) as run:
                with _step("verify"):
                    if isinstance(claimed, PackageRefused):
                        raise claimed
                    same = self._same(tenant_id, *claimed, digest)
                if same is None:
                    run.package_id = package_id
                    with scope.bind(package_id=package_id):
                        tracing.annotate_current()
                        same = await self._add(
                            tenant_id,
                            package_id,
                            archive,
                            digest,
                            size,
                            most=most,
                            signed_by=signed_by,
                            verified=verified,
                        )
                run.package_id, run.workflow_name = same.row.package_id, same.row.workflow_name
                created = run.package_id == package_id
                if not created:
                    run.outcome = Outcome.UNCHANGED
                return run.package_id, created
        finally:
            self._registry.loading.discard(package_id)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _add(
        self,
        tenant_id: str,
        package_id: str,
        archive: Path,
        digest: str,
        size: int,
        *,
        most: int,
        signed_by: str,
        verified: bool,
    ) -> Loaded:
        """The steps from an archive to a package that is known; or the package of the same content that came first."""
        async with self._slots:
            with _step("extract"):
                root = await asyncio.to_thread(extract, archive, archive.with_name("package"))
                manifest = await asyncio.to_thread(Manifest.read, root)
                self._registry.check_workflow_name(tenant_id, manifest.name, manifest.workflow_name)
            with scope.bind(workflow_name=manifest.workflow_name), _step("inspect"):
                contents = await inspect(
                    root,
                    manifest,
                    timeout_s=self._settings.inspect_timeout_s,
                    memory_bytes=self._settings.inspect_memory_bytes,
                )
        row = loaded_row(manifest, contents, tenant_id=tenant_id)._replace(
            package_id=package_id,
            digest=digest,
            size_bytes=size,
            signed_by=signed_by,
            signature_verified=int(verified),
        )
        with scope.bind(workflow_name=row.workflow_name):
            tracing.annotate_current()
            async with self._changing:
                if (same := self._same(tenant_id, row.package_name, row.version, digest)) is not None:
                    return same
                self._registry.check_workflow_name(tenant_id, row.package_name, row.workflow_name)
                self._check_tenant(tenant_id, size, most)
                # newest first is by this time, also when the clock was set back
                row = row._replace(created_at=max(time.time_ns() // 1000, self._registry.newest_at + 1))
                definition = definition_of(row)
                check_triggers(self._registry, definition)
                loaded = Loaded(row, definition)
                with _step("store"):
                    parts = await asyncio.to_thread(_parts_of, archive)
                    await self._store.add_package(row, parts)
                    self._watchers.announce(self._registry.add(loaded))
                    revision = self._registry.revision
            await self._announced(revision)
        return loaded

    async def _unload(self, tenant_id: str, package_name: str, version: str) -> str:
        package = self._existing(tenant_id, package_name, version)
        ids = {"package_id": package.row.package_id, "workflow_name": package.row.workflow_name}
        with scope.bind(tenant_id=tenant_id, **ids), self._run("unload", package_name) as run:
            async with self._changing:
                package = self._existing(tenant_id, package_name, version)
                with _step("store"):
                    await self._store.mark_deleted(package.row.package_id, time.time_ns() // 1000)
                    self._watchers.announce(self._registry.remove(package))
                    revision = self._registry.revision
            await self._announced(revision)
            run.outcome = Outcome.UNLOADED
        return package.row.package_id

    def _existing(self, tenant_id: str, package_name: str, version: str) -> Loaded:
        package = self._registry.version(tenant_id, package_name, version)
        if package is None:
            raise NotFound(
                f"there is no package {package_name[:128]!r} of version {version[:128]!r}", code="workflow_not_found"
            )
        return package

    async def _announced(self, revision: int) -> None:
        with _step("announce"):
            if not await self._watchers.followed(revision, self._settings.acknowledge_s):
                log.warning(
                    "not everyone who watches the registry has followed in time; they will",
                    extra={"revision": revision},
                )

    def _same(self, tenant_id: str, package_name: str, version: str, digest: str) -> Loaded | None:
        """The package of this name and version with this content; ``None`` when there is none of the two.

        Raises:
            Conflict: it has other content.
        """
        known = self._registry.version(tenant_id, package_name, version)
        if known is not None and known.row.digest != digest:
            raise Conflict(
                f"the package {package_name!r} of version {version!r} is there with other content; give this one "
                "another version, or delete that one first",
                code="package_conflict",
            )
        return known

    async def _loaded_again(self, row: PackageRow) -> Loaded:
        """A stored package at the start of the service."""
        try:
            return Loaded(row, definition_of(row) if row.build_status == "success" else None)
        except (CloacinaError, ValueError, KeyError, TypeError) as error:
            ids = {"tenant_id": row.tenant_id, "package_id": row.package_id, "workflow_name": row.workflow_name}
            with scope.bind(**ids):
                log.error("a stored package cannot be loaded", extra={"error": str(error)})
            failed = row._replace(build_status="failed", build_error=f"what is stored of it cannot be used: {error}")
            await self._store.set_build(row.package_id, failed.build_status, failed.build_error, row.contents)
            return Loaded(failed, None)

    @contextlib.contextmanager
    def _run(self, verb: str, package_name: str) -> Iterator[_Run]:
        """A load or unload: its span, its last log line, its metrics."""
        run = _Run()
        began = time.perf_counter()
        extra: dict[str, object] = {"package": package_name}
        unforeseen: BaseException | None = None
        try:
            with tracing.span(f"reconcile {verb} {package_name}") as span:
                run.traceparent = span.traceparent
                yield run
        except BaseException as error:
            run.outcome = _outcome_of(error)
            if verb == "load":
                self.refused_at = time.time_ns() // 1000
            extra["error"] = error.message if isinstance(error, CloacinaError) else repr(error)
            unforeseen = None if isinstance(error, CloacinaError | asyncio.CancelledError) else error
            if isinstance(error, PackageRefused) and error.output:
                extra["output"] = error.output[-1000:]
            raise
        finally:
            seconds = time.perf_counter() - began
            self._metrics.observe(run.outcome, seconds, run.traceparent)
            level = logging.WARNING if "error" in extra else logging.INFO
            extra |= {"outcome": run.outcome.value, "duration_ms": round(seconds * 1000, 3)}
            now = scope.current()
            ids = {
                "package_id": run.package_id or now.package_id,
                "workflow_name": run.workflow_name or now.workflow_name,
            }
            with scope.bind(**ids):
                said = f"package {verb} {'ended' if 'error' in extra else 'done'}"
                log.log(level, said, extra=extra, exc_info=unforeseen)


class _Run:
    """What becomes known of a load or unload while it goes on."""

    def __init__(self) -> None:
        self.outcome = Outcome.LOADED
        self.package_id: str | None = None
        self.workflow_name: str | None = None
        self.traceparent = ""


def _stopping() -> Unavailable:
    return Unavailable("the reconciler is stopping; try again")


def _no_workflow(name: str) -> NotFound:
    return NotFound(f"there is no workflow {name[:128]!r}", code="workflow_not_found")


def _outcome_of(error: BaseException) -> Outcome:
    match error:
        case Conflict():
            return Outcome.CONFLICT
        case InvalidRequest() | NotFound():
            return Outcome.REFUSED
        case _:
            return Outcome.FAILED


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    """A step of a load or unload: a span, and a log line with its duration."""
    began = time.perf_counter()
    with tracing.span(name):
        yield
        log.info(f"package step {name} done", extra={"step": name, "duration_ms": _since_ms(began)})


def _since_ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)


def _parts_of(archive: Path) -> list[bytes]:
    """The archive in the parts that it is stored in."""
    with archive.open("rb") as file:
        return list(iter(lambda: file.read(PART_BYTES), b""))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
