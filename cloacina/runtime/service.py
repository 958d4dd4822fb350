"""The life of a service process: start, serve, drain on SIGTERM, flush, exit."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol
from uuid import uuid4

import uvloop

from cloacina import __version__
from cloacina.errors import CloacinaError
from cloacina.rpc.client import RpcClient
from cloacina.rpc.server import RpcServer, is_loopback
from cloacina.rpc.v1 import common_pb2
from cloacina.runtime.cpu_latency import CpuLatency
from cloacina.runtime.parent import end_with_parent
from cloacina.runtime.rpc_token import ensure_token
from cloacina.runtime.settings import ServiceSettings
from cloacina.runtime.signals import listen_for_end
from cloacina.telemetry import logs, tracing
from cloacina.telemetry.metrics import RpcMetrics, create_registry

log = logging.getLogger(__name__)

_START_DEADLINE_S = 60.0
_COLLECTOR_THRESHOLDS = (20_000, 20, 50)
"""Cycles are rare here and live objects are many: at Python's own thresholds looking for them takes a fifth of a busy
scheduler's time."""


class Runtime:
    """What a service is given: its settings, its metrics, its gRPC server, the way to others, and to the kernel.

    Args:
        name: "api", "scheduler", "reconciler" or "executor".
        settings: its settings.
        rpc_port: port of its gRPC server.
    """

    def __init__(self, name: str, settings: ServiceSettings, rpc_port: int) -> None:
        self.name = name
        self.settings = settings
        self.instance_id = str(uuid4())
        self.registry = create_registry(name, __version__)
        self.rpc_metrics = RpcMetrics(self.registry)
        self.cpu_latency = CpuLatency(settings.cpu_latency_us, self.registry)
        self.server = RpcServer(
            name,
            settings.host,
            rpc_port,
            metrics=self.rpc_metrics,
            token=settings.token,
            tls=settings.tls,
            setting=f"CLOACINA_{name.upper()}_RPC_PORT",
        )
        self.rpc_port = rpc_port
        self._started = time.monotonic()

    def connect(self, target: str, service: str, *, host: str = "") -> RpcClient:
        """A client of another service at `target`, whose certificate is for `host` if that is another name."""
        settings = self.settings
        return RpcClient(
            target, service=service, metrics=self.rpc_metrics, token=settings.token, tls=settings.tls, host=host
        )

    def status(self, reason: str, figures: Mapping[str, float]) -> common_pb2.ServiceStatus:
        """The answer to GetStatus.

        Args:
            reason: why the service cannot do its work; empty when it can.
            figures: figures of its own.
        """
        return common_pb2.ServiceStatus(
            service=self.name,
            instance_id=self.instance_id,
            version=__version__,
            uptime_s=time.monotonic() - self._started,
            ready=not reason,
            reason=reason,
            figures=dict(figures),
        )


class Service(Protocol):
    """What one of the four services brings along."""

    async def start(self, runtime: Runtime) -> Mapping[str, object]:
        """Gets ready to serve; adds its handlers to ``runtime.server``, which is started afterwards.

        Returns:
            What the ready line of the log shows (ports, database, …).
        """

    async def drain(self) -> None:
        """Takes no more work and lets what runs come to its end; cancelled when the grace is over."""

    async def stop(self) -> None:
        """Ends everything. Also called when `start` failed half-way."""


def run_service(name: str, settings: ServiceSettings, rpc_port: int, make: Callable[[], Service]) -> int:
    """Runs a service until it is told to stop.

    SIGTERM and SIGINT drain it; a second signal ends the process at once.

    Args:
        name: of the service.
        settings: its settings.
        rpc_port: port of its gRPC server.
        make: makes the service, inside the event loop.

    Returns:
        The exit code: 0 after a drain, 1 when it could not start.
    """
    end_with_parent()
    _make_log_records_cheap()
    settings.make_home()
    if settings.token is None and settings.tls is None and is_loopback(settings.host):
        ensure_token(settings.home)
    logs.configure(name, home=settings.home, verbose=settings.verbose, retention_days=settings.log_retention_days)
    tracing.configure(name)
    try:
        return uvloop.run(_live(name, settings, rpc_port, make))
    finally:
        tracing.shutdown()
        logs.shutdown()


def _make_log_records_cheap() -> None:
    """No line of ours shows where in the source, by which thread or process it was logged: it is not looked up."""
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


async def _live(name: str, settings: ServiceSettings, rpc_port: int, make: Callable[[], Service]) -> int:
    told = asyncio.Event()
    listen_for_end(told)
    logs.handle_loop_errors(asyncio.get_running_loop())
    runtime = Runtime(name, settings, rpc_port)
    runtime.cpu_latency.open()
    service = make()
    try:
        async with asyncio.timeout(_START_DEADLINE_S):
            shown = await service.start(runtime)
            runtime.rpc_port = await runtime.server.start()
        await runtime.server.set_serving(True)
    except CloacinaError as error:
        log.error(f"the {name} cannot start: {error.message}")
        await service.stop()
        return 1
    except TimeoutError:
        log.error(f"the {name} did not start within {_START_DEADLINE_S:.0f} seconds")
        await service.stop()
        return 1
    # what lives now lives as long as the process: the collector need not look at it again
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)
    log.info(f"{name} ready", extra={"instance_id": runtime.instance_id, "rpc_port": runtime.rpc_port, **shown})
    await told.wait()
    log.info(f"{name} drains", extra={"grace_s": settings.grace_s})
    await runtime.server.set_serving(False)
    try:
        async with asyncio.timeout(settings.grace_s):
            await service.drain()
    except TimeoutError:
        log.warning(f"{name}: the grace is over, what still runs is ended")
    await runtime.server.stop(1.0)
    await service.stop()
    log.info(f"{name} stopped")
    return 0
