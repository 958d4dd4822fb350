"""The life of the daemon: engine, store, worker processes, watched folders, and the signals that end or reload it.

It is the embedded runner's core with the executor's worker processes: no HTTP, no gRPC, one process beside its workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from cloacina import __version__
from cloacina.catalog.metrics import show_packages
from cloacina.catalog.registry import Registry
from cloacina.catalog.workflows import load_definition
from cloacina.daemon.artifacts import ExtractedPackages
from cloacina.daemon.executor import PooledExecutor
from cloacina.daemon.folders import FolderWatch
from cloacina.daemon.health import DatabaseHealth, Health, HealthSocket, ReconcilerHealth, pulse
from cloacina.daemon.metrics import write_metrics
from cloacina.daemon.packages import Packages
from cloacina.daemon.secrets import VaultSource, has_secrets, open_vault
from cloacina.daemon.settings import FILE_KEYS, DaemonSettings, settings_from
from cloacina.daemon.trust import TrustedKeys
from cloacina.daemon.workflows import LoadedWorkflows
from cloacina.dispatch.metrics import show_workers
from cloacina.dispatch.pools import Pools, Supplies
from cloacina.engine.engine import Engine
from cloacina.engine.metrics import EngineMetrics
from cloacina.engine.schedule_metrics import ScheduleMetrics
from cloacina.engine.schedules import Schedules
from cloacina.engine.settings import EngineSettings
from cloacina.errors import CloacinaError
from cloacina.runtime.signals import listen_for_end
from cloacina.store.database import Database, open_database
from cloacina.store.executions import ExecutionStore
from cloacina.store.schedules import ScheduleStore
from cloacina.telemetry import logs, tracing
from cloacina.telemetry.directives import LEVELS
from cloacina.telemetry.metrics import StoreMetrics, create_registry
from cloacina.worker.client import WorkerForge

log = logging.getLogger(__name__)

_NO_LEASE_S = 10 * 366 * 86_400.0
"""Ten years: the only executor is this process, whose silence is its end; so it need not write heartbeats."""

_AT_ONCE = frozenset(
    (
        "watch_directories",
        "watcher_debounce_ms",
        "poll_interval_ms",
        "log_level",
        "log_retention_days",
        "shutdown_timeout_s",
        "health_pulse_s",
        "metrics_file",
        "slots",
    )
)
"""Settings that a reload changes; the others take effect at the next start."""


@dataclass(slots=True)
class _Parts:
    """What a daemon that runs is made of."""

    forge: WorkerForge
    database: Database
    registry: Registry
    packages: Packages
    artifacts: ExtractedPackages
    engine: Engine
    schedules: Schedules
    executor: PooledExecutor
    watch: FolderWatch


class Daemon:
    """The daemon. All methods run on one event loop.

    Args:
        settings: its settings.
        options: of the command line; a reload reads the file again below them.
    """

    def __init__(self, settings: DaemonSettings, options: Mapping[str, Any]) -> None:
        self._settings = settings
        self._options = dict(options)
        self._began = time.monotonic()
        self._stack = contextlib.AsyncExitStack()
        self._parts: _Parts | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._draining = False

    async def start(self) -> None:
        """Takes up what is unfinished, loads the packages, and begins to work.

        Raises:
            CloacinaError: it cannot; another daemon runs on this home folder, say.
        """
        settings = self._settings
        # before any socket is open: the fork server and its workers share none
        forge = WorkerForge(settings.home / "run" / "daemon")
        trusted = TrustedKeys(settings.trusted_keys, required=settings.require_signatures)
        metrics = create_registry("daemon", __version__)
        database = open_database(
            f"sqlite://{settings.home / 'cloacina.db'}",
            "scheduler",
            metrics=StoreMetrics(metrics, "scheduler"),
            exclusive=True,
        )
        await database.open()
        self._stack.push_async_callback(database.close)
        await forge.start()
        self._stack.push_async_callback(forge.stop)
        artifacts = ExtractedPackages(settings.home / "run" / "daemon-packages", trusted.judge)
        await artifacts.start()
        registry = Registry()
        packages = Packages(settings, artifacts, registry)
        workflows = LoadedWorkflows(packages, settings.max_context_bytes)
        exemplar = tracing.exemplar if tracing.enabled() else None
        engine = Engine(
            ExecutionStore(database),
            EngineMetrics(metrics, exemplar),
            load_definition,
            EngineSettings(lease_s=_NO_LEASE_S),
            find_definition=workflows.find,
        )
        schedules = Schedules(
            engine,
            ScheduleStore(database),
            workflows,
            ScheduleMetrics(metrics),
            poll_timeout_s=settings.poll_timeout_s,
        )
        pools = Pools(Supplies(forge, artifacts, settings, tracing.forward))
        executor = PooledExecutor(engine, pools, forge, settings.slots, await self._open_secrets())
        watch = FolderWatch(settings.folders, settings.watcher_debounce_ms, settings.poll_interval_ms)
        self._parts = _Parts(forge, database, registry, packages, artifacts, engine, schedules, executor, watch)
        show_packages(metrics, {"loaded": lambda: packages.count, "failed": lambda: len(packages.problems)})
        show_workers(
            metrics,
            lambda: engine.figures()["active_tasks"],
            lambda: max(0.0, executor.slots - engine.figures()["active_tasks"]),
            pools.count,
        )
        await engine.start()
        self._stack.push_async_callback(engine.stop)
        health_socket = HealthSocket(settings.home, self.health)
        await health_socket.start()
        self._stack.push_async_callback(health_socket.stop)
        await executor.start()
        await packages.reconcile(settings.folders, schedules)
        await artifacts.keep_only(packages.digests | engine.package_digests())
        schedules.start()
        self._tasks = [
            asyncio.create_task(self._follow_folders(), name="follow folders"),
            asyncio.create_task(pulse(self.health, lambda: self._settings.health_pulse_s), name="health pulse"),
            asyncio.create_task(
                write_metrics(metrics, lambda: self._settings.metrics_file, settings.metrics_interval_s),
                name="write metrics",
            ),
        ]

    async def _open_secrets(self) -> VaultSource | None:
        if not has_secrets(self._settings):
            return None
        vault = await self._stack.enter_async_context(open_vault(self._settings))
        await vault.start()
        return VaultSource(vault)

    async def stop(self, grace_s: float) -> None:
        """Drains: fires and takes nothing more, lets what runs end, keeps what does not for the next start.

        Args:
            grace_s: seconds that running tasks get.
        """
        self._draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        parts = self._parts
        if parts is not None:
            await parts.schedules.stop()
            await parts.executor.drain(grace_s)
        await self._stack.aclose()

    def reload(self) -> None:
        """Reads the configuration file again. What cannot be used of it changes nothing."""
        try:
            settings, told = settings_from(self._settings.home, self._options)
        except CloacinaError as error:
            log.error("the configuration cannot be reloaded; the old one stays", extra={"error": error.message})
            return
        tell(told)
        before = self._settings
        changed = [
            name for name in ("watch_directories", *FILE_KEYS) if getattr(settings, name) != getattr(before, name)
        ]
        later = [name for name in changed if name not in _AT_ONCE]
        self._settings = before.model_copy(
            update={name: getattr(settings, name) for name in changed if name in _AT_ONCE}
        )
        if {"log_level", "log_retention_days"} & set(changed):
            configure_logs(self._settings)
        log.info("the configuration is reloaded", extra={"changed": ", ".join(changed) or "nothing"})
        if later:
            log.warning("settings that take effect at the next start", extra={"settings": ", ".join(later)})
        parts = self._parts
        if parts is not None:
            if "slots" in changed:
                parts.executor.offer(settings.slots)
            parts.watch.configure(settings.folders, settings.watcher_debounce_ms, settings.poll_interval_ms)

    @property
    def grace_s(self) -> float:
        """Seconds that running tasks get when it is told to stop."""
        return self._settings.shutdown_timeout_s

    def health(self) -> Health:
        """What it says of itself now."""
        parts = self._parts
        assert parts is not None
        figures = parts.engine.figures()
        problems = parts.packages.problems
        status = "degraded" if problems else "healthy"
        if not parts.engine.healthy:
            status = "unhealthy"
        if self._draining:
            status = "draining"
        at = parts.packages.reconciled_at
        return Health(
            status=status,
            pid=os.getpid(),
            version=__version__,
            uptime_seconds=int(time.monotonic() - self._began),
            database=DatabaseHealth(connected=parts.engine.healthy),
            reconciler=ReconcilerHealth(
                packages_loaded=parts.packages.count,
                last_run_at=None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"),
            ),
            active_workflows=int(figures["active_workflows"]),
            watch_directories=[str(folder) for folder in self._settings.folders],
            workflows_ready=parts.packages.count_ready,
            tasks_running=int(figures["active_tasks"]),
            tasks_waiting=int(figures["ready_tasks"]),
            workers=parts.executor.count_workers(),
            schedules=len(parts.schedules),
            problems=problems,
        )

    async def _follow_folders(self) -> None:
        parts = self._parts
        assert parts is not None
        async with contextlib.aclosing(parts.watch.changes()) as changes:
            async for _ in changes:
                try:
                    await parts.packages.reconcile(self._settings.folders, parts.schedules)
                except Exception:  # a defect of ours must not end the watch
                    log.exception("the packages could not be reconciled; the next scan tries again")


def run(home: Path, options: Mapping[str, Any]) -> int:
    """Runs a daemon until it is told to stop.

    SIGTERM and SIGINT drain it; a second one ends the process at once. SIGHUP reloads the configuration.

    Args:
        home: the home folder.
        options: of the command line, by the names of `DaemonSettings`.

    Returns:
        The exit code: 0 after a drain, 1 when it could not start.
    """
    try:
        settings, told = settings_from(home, options)
        for folder in (settings.home, settings.packages_folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (CloacinaError, OSError) as error:
        print(f"the daemon cannot start: {error}", file=sys.stderr)  # noqa: T201 - before logging is configured
        return 1
    configure_logs(settings)
    tracing.configure("daemon")
    tell(told)
    try:
        return uvloop.run(_live(settings, options))
    finally:
        tracing.shutdown()
        logs.shutdown()


def configure_logs(settings: DaemonSettings) -> None:
    """Installs the two log outputs."""
    logs.configure(
        "daemon",
        home=settings.home,
        family="cloacina",
        verbose=settings.verbose,
        retention_days=settings.log_retention_days,
        level=LEVELS[settings.log_level],
    )


def tell(problems: list[str]) -> None:
    """Logs what is wrong with the configuration file and is no reason not to start."""
    for problem in problems:
        log.warning("an entry of the configuration file is ignored", extra={"error": problem})


async def _live(settings: DaemonSettings, options: Mapping[str, Any]) -> int:
    loop = asyncio.get_running_loop()
    logs.handle_loop_errors(loop)
    daemon = Daemon(settings, options)
    told = asyncio.Event()
    listen_for_end(told)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, daemon.reload)
    try:
        await daemon.start()
    except CloacinaError as error:
        log.error(f"the daemon cannot start: {error.message}")
        await daemon.stop(0.0)
        return 1
    gc.collect()
    gc.freeze()  # what lives now lives as long as the process
    folders = ", ".join(str(folder) for folder in settings.folders)
    log.info("daemon ready", extra={"home": str(settings.home), "watching": folders, "slots": settings.slots})
    await told.wait()
    grace_s = daemon.grace_s
    log.info("daemon drains; a second signal ends it at once", extra={"grace_s": grace_s})
    await daemon.stop(grace_s)
    log.info("daemon stopped")
    return 0
