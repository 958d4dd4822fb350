"""The executor service: its life, what it does with orders, and the little gRPC it serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import Gauge

from cloacina.dispatch.metrics import show_workers
from cloacina.dispatch.polls import PollRun
from cloacina.dispatch.pools import WORKER_STATES, Pools, Supplies, worker_pid
from cloacina.dispatch.runs import Run
from cloacina.dispatch.secrets import supply
from cloacina.domain.explanation import Preparation
from cloacina.rpc.balanced import BalancedClient
from cloacina.rpc.client import RpcClient
from cloacina.rpc.log_lines import to_scheduler
from cloacina.rpc.places import Place
from cloacina.rpc.v1 import common_pb2, executor_pb2, executor_pb2_grpc
from cloacina.runtime.cpu_latency import CpuLatency
from cloacina.runtime.metrics_server import MetricsServer
from cloacina.runtime.service import Runtime
from cloacina.telemetry import tracing
from cloacina.telemetry.execution_lines import ExecutionLines
from cloacina.worker.hosting import Forge
from services.executor.artifacts import ArtifactCache
from services.executor.backend import Backend, choose_backend
from services.executor.links import Links
from services.executor.secrets import ReconcilerSource
from services.executor.settings import ExecutorSettings

log = logging.getLogger(__name__)

_RELEASE_DEADLINE_S = 2.0
"""Seconds for handing back what did not end within the grace."""


class Executor:
    """The service (also `services.executor.links.Orders`).

    Args:
        settings: its knobs.
    """

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings
        self._runs: dict[int, Run] = {}
        self._polls: dict[int, PollRun] = {}
        self._awaiting_secrets: dict[int, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._clients: list[RpcClient] = []
        self._forge: Forge | None = None
        self._artifacts: ArtifactCache | None = None
        self._secrets: ReconcilerSource | None = None
        self._pools: Pools | None = None
        self._backend: Backend | None = None
        self._links: Links | None = None
        self._metrics_server: MetricsServer | None = None
        self._schedulers: BalancedClient | None = None
        self._lines: ExecutionLines | None = None
        self._cpu_latency: CpuLatency | None = None

    async def start(self, runtime: Runtime) -> Mapping[str, object]:
        settings = self._settings
        self._cpu_latency = runtime.cpu_latency
        # before any socket is open: the fork server and its workers share none
        backend = self._backend = choose_backend(settings, self._offer_slots)
        self._forge = backend.forge
        await self._forge.start()
        self._metrics_server = MetricsServer(
            "executor", runtime.registry, settings.host, settings.executor_metrics_port
        )
        await self._metrics_server.start()
        reconciler = self._connect(runtime, settings.reconciler_target, "reconciler")
        self._artifacts = ArtifactCache(settings.home / "cache" / "packages", reconciler)
        await self._artifacts.start()
        self._secrets = ReconcilerSource(reconciler, runtime.instance_id)
        self._pools = Pools(Supplies(self._forge, self._artifacts, backend.pool_settings, tracing.forward))
        self._register_metrics(runtime)

        def connect(place: Place) -> RpcClient:
            return runtime.connect(place.address, "scheduler", host=place.host)

        self._schedulers = BalancedClient(settings.scheduler_target, connect, service="scheduler")
        await self._schedulers.start()
        self._lines = ExecutionLines("executor", to_scheduler(self._schedulers), runtime.registry)
        self._lines.start()
        self._links = Links(settings.scheduler_target, connect, runtime.instance_id, self._slots)
        runtime.server.add(
            executor_pb2_grpc.add_ExecutorServiceServicer_to_server,
            _Handlers(runtime, self),
            executor_pb2.DESCRIPTOR.services_by_name["ExecutorService"].full_name,
        )
        await self._links.start(self)
        return {"metrics_port": settings.executor_metrics_port, "slots": settings.slots}

    def _connect(self, runtime: Runtime, target: str, service: str) -> RpcClient:
        client = runtime.connect(target, service)
        self._clients.append(client)
        return client

    def _register_metrics(self, runtime: Runtime) -> None:
        assert self._pools is not None
        show_workers(
            runtime.registry,
            lambda: self.busy,
            lambda: max(0, self._settings.slots - self.busy),
            self._pools.count,
        )
        Gauge(
            "cloacina_executor_backend_up", "1 while tasks can be run where they are.", registry=runtime.registry
        ).set_function(lambda: self._backend is not None and not self._backend.reason())

    @property
    def _slots(self) -> int:
        """What it offers: nothing while there is nowhere to run it."""
        away = self._draining or (self._backend is not None and self._backend.reason() != "")
        return 0 if away else self._settings.slots

    def _offer_slots(self) -> None:
        if self._links is not None:
            self._links.offer(self._slots)

    async def drain(self) -> None:
        """No more tasks; those that run may end, and their results are acknowledged."""
        self._draining = True
        if self._links is None:
            return
        self._offer_slots()
        await self._idle.wait()
        await self._links.settle()

    async def stop(self) -> None:
        await self._hand_back()
        if self._links is not None:
            await self._links.stop()
        if self._pools is not None:
            await self._pools.stop()
        if self._artifacts is not None:
            await self._artifacts.stop()
        if self._forge is not None:
            await self._forge.stop()
        if self._lines is not None:
            await self._lines.stop()
        if self._schedulers is not None:
            await self._schedulers.close()
        for client in self._clients:
            await client.close()
        if self._metrics_server is not None:
            await self._metrics_server.stop()

    async def _hand_back(self) -> None:
        """What still runs is ended and goes back to the scheduler, which gives it to others at once."""
        self._draining = True
        if self._links is None or self._pools is None or not self._runs:
            return
        for waiting in self._awaiting_secrets.values():
            waiting.cancel()
        unfinished = list(self._runs.values())
        for run in unfinished:
            self._pools.abandon(run)
            run.give_back()
        if self._forge is not None:
            await self._forge.stop()  # first the end of the task here, then its beginning elsewhere
        self._runs.clear()
        self._links.release([run.claim_id for run in unfinished])
        log.warning("tasks that did not end in time are handed back", extra={"tasks": len(unfinished)})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_DEADLINE_S):
                await self._links.settle()

    # Orders of the scheduler

    def assign(self, assignments: Sequence[Any]) -> None:
        assert self._links is not None
        assert self._pools is not None
        assert self._cpu_latency is not None
        self._cpu_latency.needed()
        refused = []
        for assignment in assignments:
            if assignment.claim_id in self._runs:
                continue
            if self._draining:
                refused.append(assignment.claim_id)
                continue
            run = Run(assignment, self)
            self._runs[run.claim_id] = run
            self._idle.clear()
            if assignment.secrets:
                run.prepare(Preparation.SECRETS)
                self._awaiting_secrets[run.claim_id] = asyncio.create_task(self._submit_with_secrets(run))
            else:
                self._pools.submit(run)
        self._links.release(refused)

    async def _submit_with_secrets(self, run: Run) -> None:
        assert self._secrets is not None
        assert self._pools is not None
        try:
            if await supply(run, self._secrets):
                self._pools.submit(run)
        finally:
            self._awaiting_secrets.pop(run.claim_id, None)

    def cancel(self, claims: Sequence[int]) -> None:
        assert self._pools is not None
        for claim_id in claims:
            run = self._runs.get(claim_id)
            waiting = self._awaiting_secrets.pop(claim_id, None)
            if waiting is not None and run is not None:
                waiting.cancel()
                run.fail("cancelled", "the task was stopped before it began")
            elif run is not None:
                self._pools.stop_run(run)

    def poll(self, polls: Sequence[Any]) -> None:
        assert self._pools is not None
        for poll in polls:
            if not self._draining and poll.poll_id not in self._polls:
                run = self._polls[poll.poll_id] = PollRun(poll, self, self)
                self._pools.submit(run)

    def holding(self) -> Iterable[int]:
        return (claim_id for claim_id, run in self._runs.items() if not run.deferred)

    # Reports of runs

    def started(self, claim_id: int, started_at: int) -> None:
        assert self._links is not None
        self._links.started(claim_id, started_at)

    def preparing(self, claim_id: int, stage: Preparation, since: int) -> None:
        assert self._links is not None
        self._links.preparing(claim_id, stage, since)

    def deferred(self, claim_id: int, deferred: bool) -> None:
        assert self._links is not None
        self._links.deferred(claim_id, deferred)

    def ended(self, result: Any) -> None:
        assert self._links is not None
        assert self._cpu_latency is not None
        self._cpu_latency.needed()
        self._runs.pop(result.claim_id, None)
        self._links.ended(result)
        if not self._runs:
            self._idle.set()

    def polled(self, result: Any) -> None:
        assert self._links is not None
        self._polls.pop(result.poll_id, None)
        self._links.polled(result)

    # What it shows

    @property
    def busy(self) -> int:
        """Slots in use."""
        return sum(not run.deferred for run in self._runs.values())

    def runs(self) -> list[Run]:
        """What it runs."""
        return list(self._runs.values())

    def figures(self) -> dict[str, float]:
        """Figures for operators."""
        assert self._pools is not None
        return {
            "slots": self._settings.slots,
            "busy_slots": self.busy,
            "workers": sum(self._pools.count(state) for state in WORKER_STATES),
            "schedulers": len(self._links.schedulers) if self._links is not None else 0,
        }

    @property
    def reason(self) -> str:
        """Why it cannot do its work; empty when it can."""
        if self._draining:
            return "it is draining"
        if self._backend is not None and (away := self._backend.reason()):
            return away
        return "" if self._links is not None and self._links.connected else "it is not connected to a scheduler"


class _Handlers(executor_pb2_grpc.ExecutorServiceServicer):
    """Handlers of ExecutorService."""

    def __init__(self, runtime: Runtime, executor: Executor) -> None:
        self._runtime = runtime
        self._executor = executor

    async def GetStatus(self, request: Any, context: Any) -> common_pb2.ServiceStatus:
        return self._runtime.status(self._executor.reason, self._executor.figures())

    async def ListRunning(self, request: Any, context: Any) -> executor_pb2.ListRunningResponse:
        return executor_pb2.ListRunningResponse(
            tasks=[
                executor_pb2.RunningTask(
                    claim_id=run.claim_id,
                    tenant_id=run.assignment.tenant_id,
                    execution_id=run.assignment.execution_id,
                    workflow_name=run.assignment.workflow_name,
                    task_name=run.assignment.task_name,
                    attempt=run.assignment.attempt,
                    started_at=run.started_at,
                    worker_pid=worker_pid(run.worker),
                    request_id=run.scope.request_id or "",
                )
                for run in self._executor.runs()
            ]
        )
