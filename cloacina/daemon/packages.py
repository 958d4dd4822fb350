"""Makes what can be executed follow what is in the watched folders: load, unload, supersede.

A file is the truth about its package. New content takes the place of the old once it has been accepted; until then, and
when it is refused, the old stays loaded. A folder that cannot be listed changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cloacina.catalog.contents import definition_of, loaded_row
from cloacina.catalog.registry import Key, Loaded, Registry
from cloacina.catalog.triggers import check_triggers
from cloacina.catalog.workflows import Workflow, wanted_schedules, workflow_from
from cloacina.daemon.artifacts import ExtractedPackages, digest_of
from cloacina.daemon.folders import Found, Stamp, scan
from cloacina.daemon.settings import DaemonSettings
from cloacina.engine.schedule_book import Wanted
from cloacina.engine.schedules import Schedules
from cloacina.errors import CloacinaError, Conflict, Unavailable
from cloacina.packages.inspection import inspect
from cloacina.packages.manifest import Manifest
from cloacina.telemetry import scope, tracing

log = logging.getLogger(__name__)

TENANT = "public"
"""Whose all workflows of a daemon are."""

_FIRST_RETRY_S = 30.0
_LONGEST_RETRY_S = 600.0


@dataclass(slots=True, eq=False)
class _File:
    """A package file.

    Args:
        path: where it is.
        stamp: its state when it was read last.
        digest: of its content then.
        content: what was made of that content; ``None`` while it could not be read.
        loaded: what is loaded for this file, of this content or an earlier one.
        error: why its content is not loaded; empty when it is.
        retry_at: when content that could not be read is read again, on the monotonic clock.
    """

    path: Path
    stamp: Stamp
    digest: str = ""
    content: Loaded | None = None
    loaded: Loaded | None = None
    error: str = ""
    retry_at: float = 0.0
    retry_after_s: float = _FIRST_RETRY_S


@dataclass(frozen=True, slots=True)
class Change:
    """What a reconciliation did: numbers of packages."""

    loaded: int = 0
    unloaded: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Tally:
    loaded: int = 0
    unloaded: int = 0
    changed: set[Key] = field(default_factory=set)


class Packages:
    """The packages of the watched folders (also `cloacina.engine.firings.Workflows`' source).

    Args:
        settings: limits of inspecting.
        artifacts: where packages are extracted.
        registry: what can be executed.
    """

    def __init__(self, settings: DaemonSettings, artifacts: ExtractedPackages, registry: Registry) -> None:
        self._settings = settings
        self._artifacts = artifacts
        self._registry = registry
        self._files: dict[Path, _File] = {}
        self._holders: dict[str, int] = {}  # files by the id of the package that is loaded for them
        self._workflows: dict[Key, Workflow] = {}
        self._owed: set[Key] = set()
        self._unreadable: dict[Path, str] = {}
        self._slots = asyncio.Semaphore(settings.inspect_parallel)
        self._lock = asyncio.Lock()
        self.reconciled_at: float | None = None

    # What others see

    @property
    def complete(self) -> bool:
        """Whether everything that is meant to be loaded is known: every folder can be listed."""
        return not self._unreadable and self.reconciled_at is not None

    @property
    def count(self) -> int:
        """Packages that are loaded."""
        return self._registry.count(loaded=True)

    @property
    def count_ready(self) -> int:
        """Workflows that can be executed."""
        return len(self._registry.definitions()) - self._registry.count_paused

    @property
    def problems(self) -> dict[str, str]:
        """What is not as it should be: paths of files and folders, each with the reason."""
        failed = {str(file.path): file.error for file in self._files.values() if file.error}
        return {**{str(folder): f"cannot be listed: {why}" for folder, why in self._unreadable.items()}, **failed}

    @property
    def digests(self) -> set[str]:
        """Of the packages that are loaded."""
        return {package.row.digest for package in self._registry.packages(TENANT)}

    def known(self, workflow_name: str) -> Workflow | None:
        """The workflow that a new execution uses now."""
        return self._workflows.get((TENANT, workflow_name))

    # Reconciling

    async def reconcile(self, folders: Sequence[Path], schedules: Schedules) -> Change:
        """Loads and unloads what changed in the folders.

        Args:
            folders: what is watched.
            schedules: what follows the packages.

        Returns:
            What was done.
        """
        async with self._lock:
            with scope.bind(request_id=scope.new_request_id(), tenant_id=TENANT):
                found = await asyncio.to_thread(scan, folders)
                self._note_unreadable(found)
                gone = self._gone(found, folders)
                await asyncio.gather(*(self._look_at(path, stamp) for path, stamp in found.files.items()))
                tally = self._apply(gone)
                self._owed |= tally.changed | self._strangers(schedules)
                await self._follow(schedules)
                self.reconciled_at = time.time()
                failed = sum(bool(file.error) for file in self._files.values())
                if tally.loaded or tally.unloaded:
                    extra = {"loaded": tally.loaded, "unloaded": tally.unloaded, "failed": failed}
                    log.info("the packages are reconciled", extra=extra)
                return Change(tally.loaded, tally.unloaded, failed)

    def _note_unreadable(self, found: Found) -> None:
        for folder, why in found.unreadable.items():
            if folder not in self._unreadable:
                extra = {"folder": str(folder), "error": why}
                log.warning("a watched folder cannot be listed; what is loaded from it stays", extra=extra)
        self._unreadable = found.unreadable

    def _gone(self, found: Found, folders: Sequence[Path]) -> list[_File]:
        return [
            file
            for path, file in self._files.items()
            if path not in found.files and (path.parent not in found.unreadable or path.parent not in folders)
        ]

    # Reading files

    async def _look_at(self, path: Path, stamp: Stamp) -> None:
        """Reads what is new of a file: its content, what the content declares."""
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = _File(path, stamp)
        elif file.stamp == stamp and (file.content is not None or time.monotonic() < file.retry_at):
            return
        file.stamp = stamp
        try:
            digest = await asyncio.to_thread(digest_of, path)
            if digest != file.digest:
                file.digest, file.content, file.retry_after_s = digest, None, _FIRST_RETRY_S
            if file.content is None:
                async with self._slots:
                    file.content = await self._read(file)
                file.error = ""
        except (CloacinaError, OSError) as error:
            said = error.message if isinstance(error, CloacinaError) else f"{path.name} cannot be read: {error}"
            self._refuse(file, said, getattr(error, "output", ""))
            file.retry_at = time.monotonic() + file.retry_after_s
            file.retry_after_s = min(file.retry_after_s * 2, _LONGEST_RETRY_S)

    async def _read(self, file: _File) -> Loaded:
        with tracing.span(f"reconcile load {file.path.name}"):
            with _step("extract"):
                root = await self._artifacts.add(file.path, file.digest)
                manifest = await asyncio.to_thread(Manifest.read, root)
            package_id = str(uuid5(NAMESPACE_URL, f"cloacina:{file.digest}"))  # after a restart it is the same
            with scope.bind(package_id=package_id, workflow_name=manifest.workflow_name), _step("inspect"):
                contents = await inspect(
                    root,
                    manifest,
                    timeout_s=self._settings.inspect_timeout_s,
                    memory_bytes=self._settings.inspect_memory_bytes,
                )
                row = loaded_row(manifest, contents, tenant_id=TENANT)._replace(
                    package_id=package_id,
                    digest=file.digest,
                    size_bytes=file.stamp.size,
                    created_at=file.stamp.modified_ns // 1000,
                )
                return Loaded(row, definition_of(row))

    # What is loaded

    def _apply(self, gone: Sequence[_File]) -> _Tally:
        """Unloads what is gone and loads what was read, oldest first, so that the newest file's version is current."""
        tally = _Tally()
        for file in gone:
            del self._files[file.path]
            if file.loaded is not None:
                self._unload(file, file.loaded, tally)
        waiting = [
            file for file in self._files.values() if file.content is not None and file.content is not file.loaded
        ]
        waiting.sort(key=lambda file: (file.stamp.modified_ns, file.path))
        while waiting:
            refused = [file for file in waiting if not self._load(file, tally)]
            if len(refused) == len(waiting):  # a package may wait for the workflow of another: not any more
                break
            waiting = refused
        for key in tally.changed:
            message = self._registry.definition(key)
            if message is None:
                self._workflows.pop(key, None)
            else:
                self._workflows[key] = workflow_from(message)
        return tally

    def _load(self, file: _File, tally: _Tally) -> bool:
        """Puts the content of a file in the place of what was loaded for it."""
        new, old = file.content, file.loaded
        assert new is not None
        changed = set() if old is None else self._drop(old)
        try:
            changed |= self._add(new)
        except CloacinaError as error:
            if old is not None:
                changed |= self._add(old, checked=True)
            self._refuse(file, error.message)
            tally.changed |= changed
            return False
        file.loaded, file.error = new, ""
        tally.loaded += 1
        tally.changed |= changed
        with self._about(new):
            extra: dict[str, object] = {"file": str(file.path), "package": new.row.package_name}
            if old is not None:
                extra["supersedes"] = f"{old.row.package_name} {old.row.version} ({old.row.digest[:12]})"
            log.info("package loaded", extra={**extra, "version": new.row.version, "package_digest": new.row.digest})
        return True

    def _unload(self, file: _File, old: Loaded, tally: _Tally) -> None:
        with self._about(old), tracing.span(f"reconcile unload {old.row.package_name}"):
            tally.changed |= self._drop(old)
            tally.unloaded += 1
            extra = {"file": str(file.path), "package": old.row.package_name, "version": old.row.version}
            log.info("package unloaded; executions that run keep it", extra=extra)

    def _add(self, package: Loaded, *, checked: bool = False) -> set[Key]:
        """Makes a package known, unless another file holds the very same."""
        row = package.row
        holders = self._holders.get(row.package_id, 0)
        changed: set[Key] = set()
        if not holders:
            if not checked:
                self._check(package)
            changed = self._registry.add(package)
        self._holders[row.package_id] = holders + 1
        return changed

    def _check(self, package: Loaded) -> None:
        row = package.row
        same = self._registry.version(TENANT, row.package_name, row.version)
        if same is not None:
            other = next((str(file.path) for file in self._files.values() if file.loaded is same), "another file")
            raise Conflict(
                f"{other} holds package {row.package_name!r} of version {row.version!r} with other content; give this "
                "one another version, or take that file away"
            )
        self._registry.check_workflow_name(TENANT, row.package_name, row.workflow_name)
        assert package.definition is not None
        check_triggers(self._registry, package.definition)

    def _drop(self, package: Loaded) -> set[Key]:
        package_id = package.row.package_id
        self._holders[package_id] -= 1
        if self._holders[package_id]:
            return set()
        del self._holders[package_id]
        held = self._registry.with_id(TENANT, package_id)
        assert held is not None
        return self._registry.remove(held)

    def _refuse(self, file: _File, error: str, output: str = "") -> None:
        """Says why a file is not loaded, once for each reason."""
        if file.error == error:
            return
        file.error = error
        extra = {"file": str(file.path), "error": error, **({"output": output[-1000:]} if output else {})}
        stays = "" if file.loaded is None else "; what it held before stays loaded"
        log.warning(f"a package file is not loaded{stays}", extra=extra)

    # Schedules

    def _strangers(self, schedules: Schedules) -> set[Key]:
        """Schedules whose package went while no daemon ran. Where that is not certain they stay."""
        if self._unreadable or any(file.error for file in self._files.values()):
            return set()
        sources = {(TENANT, row.source) for row in schedules.of_tenant(TENANT) if row.source}
        return sources - self._workflows.keys()

    async def _follow(self, schedules: Schedules) -> None:
        """Has the schedules follow what changed; what cannot be stored now is tried again with the next scan."""
        concerned = {key for key in self._owed if self._wanted(key) or _has_schedules(schedules, key)}
        self._owed &= concerned
        if not concerned:
            return
        wanted = {key: self._wanted(key) for key in concerned}
        try:
            with _step("schedule"):
                await schedules.follow(wanted, complete=False)
            self._owed -= concerned
        except Unavailable as error:
            log.error("the schedules cannot follow the packages yet", extra={"error": error.message})

    def _wanted(self, key: Key) -> list[Wanted]:
        workflow = self._workflows.get(key)
        if workflow is None:
            return []
        cap = self._settings.cron_max_catchup
        wanted = wanted_schedules(workflow.message)
        if cap is None:
            return wanted
        return [each._replace(catch_up_cap=max(1, min(each.catch_up_cap, cap))) for each in wanted]

    def _about(self, package: Loaded) -> scope.bind:
        return scope.bind(package_id=package.row.package_id, workflow_name=package.row.workflow_name)


def _has_schedules(schedules: Schedules, key: Key) -> bool:
    return any(row.source == key[1] for row in schedules.of_tenant(key[0]))


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    """A step of a load: a span, and a log line with its duration."""
    began = time.perf_counter()
    with tracing.span(name):
        yield
        duration_ms = round((time.perf_counter() - began) * 1000, 3)
        log.debug(f"package step {name} done", extra={"step": name, "duration_ms": duration_ms})
