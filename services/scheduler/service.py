"""The scheduler service: gRPC handlers around the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from cloacina.domain.decisions import Cancel, Pause, Resume
from cloacina.engine.engine import Engine, EngineSettings
from cloacina.engine.ids import event_id, task_execution_id
from cloacina.engine.metrics import EngineMetrics
from cloacina.engine.model import Origin
from cloacina.errors import Conflict, NotFound, Unavailable
from cloacina.rpc.v1 import common_pb2, scheduler_pb2, scheduler_pb2_grpc
from cloacina.runtime.metrics_server import MetricsServer
from cloacina.runtime.service import Runtime
from cloacina.store.database import Database, StoreConflict, open_database
from cloacina.store.executions import EventRow, ExecutionRow, ExecutionStore, ExecutionSummary, TaskRow
from cloacina.telemetry import scope, tracing
from cloacina.telemetry.metrics import StoreMetrics
from services.scheduler.definitions import Definitions, load_definition
from services.scheduler.dispatch import Dispatch
from services.scheduler.inputs import accept_input
from services.scheduler.pages import decode_cursor, encode_cursor
from services.scheduler.settings import SchedulerSettings

_MAX_PAGE = 1000
_MAX_EVENTS = 10_000


class Scheduler:
    """The service: its store, its engine, its handlers.

    Args:
        settings: its knobs.
    """

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._database: Database | None = None
        self._engine: Engine | None = None
        self._definitions: Definitions | None = None
        self._metrics_server: MetricsServer | None = None

    async def start(self, runtime: Runtime) -> Mapping[str, object]:
        settings = self._settings
        url = settings.store_url("scheduler")
        metrics = StoreMetrics(runtime.registry, "scheduler")
        self._database = open_database(url, "scheduler", metrics=metrics, exclusive=True)
        await self._database.open()
        store = ExecutionStore(self._database)
        exemplar = tracing.exemplar if tracing.enabled() else None
        limits = EngineSettings(
            lease_s=settings.lease_s,
            heartbeat_s=settings.heartbeat_s,
            max_waiting=settings.max_waiting,
            max_live=settings.max_live,
        )
        self._engine = Engine(store, EngineMetrics(runtime.registry, exemplar), load_definition, limits)
        await self._engine.start()
        self._definitions = Definitions(runtime.connect(settings.reconciler_target, "reconciler"), runtime.instance_id)
        self._definitions.start()
        self._metrics_server = MetricsServer(
            "scheduler", runtime.registry, settings.host, settings.scheduler_metrics_port
        )
        await self._metrics_server.start()
        services = scheduler_pb2.DESCRIPTOR.services_by_name
        runtime.server.add(
            scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server,
            Handlers(runtime, store, self._engine, self._definitions),
            services["SchedulerService"].full_name,
        )
        runtime.server.add(
            scheduler_pb2_grpc.add_DispatchServiceServicer_to_server,
            Dispatch(self._engine, runtime.instance_id),
            services["DispatchService"].full_name,
        )
        return {"metrics_port": settings.scheduler_metrics_port, "database": url.rsplit("@", 1)[-1]}

    async def drain(self) -> None:
        if self._engine is not None:
            await self._engine.stop()

    async def stop(self) -> None:
        if self._definitions is not None:
            await self._definitions.stop()
        if self._engine is not None:
            await self._engine.stop()
        if self._metrics_server is not None:
            await self._metrics_server.stop()
        if self._database is not None:
            await self._database.close()


class Handlers(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Handlers of SchedulerService: they translate; the engine decides and the store remembers."""

    def __init__(self, runtime: Runtime, store: ExecutionStore, engine: Engine, definitions: Definitions) -> None:
        self._runtime = runtime
        self._store = store
        self._engine = engine
        self._definitions = definitions
        self._keys_in_flight: dict[tuple[str, str, str], asyncio.Future[str]] = {}

    async def Execute(self, request: Any, context: Any) -> scheduler_pb2.ExecuteResponse:
        with (
            scope.bind(tenant_id=request.tenant_id, workflow_name=request.workflow_name),
            tracing.span(f"schedule {request.workflow_name}") as span,
        ):
            if not request.idempotency_key:
                execution_id = await self._begin(request, span.traceparent)
                created = True
            else:
                execution_id, created = await self._begin_once(request, span.traceparent)
            span.set_attribute("cloacina.execution_id", execution_id)
            return scheduler_pb2.ExecuteResponse(execution_id=execution_id, created=created)

    async def _begin(self, request: Any, traceparent: str) -> str:
        workflow = await self._definitions.get(request.tenant_id, request.workflow_name)
        if workflow.message.paused:
            raise Conflict(
                f"workflow {request.workflow_name!r} is paused; resume it to execute it", code="workflow_paused"
            )
        accepted = accept_input(request.context, workflow.message.params)
        origin = Origin(scope.current().request_id or "", traceparent)
        return await self._engine.submit(
            workflow.definition, accepted, origin, idempotency_key=request.idempotency_key or None
        )

    async def _begin_once(self, request: Any, traceparent: str) -> tuple[str, bool]:
        """Same tenant, workflow and key: same execution, also for requests that come at the same time."""
        key = (request.tenant_id, request.workflow_name, request.idempotency_key)
        if (before := self._keys_in_flight.get(key)) is not None:
            return await asyncio.shield(before), False
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._keys_in_flight[key] = future
        try:
            existing = await self._store.find_by_idempotency_key(*key)
            execution_id = existing or await self._begin(request, traceparent)
        except StoreConflict:
            execution_id = existing = await self._store.find_by_idempotency_key(*key) or ""
            if not existing:
                raise
        except BaseException as error:
            future.set_exception(
                error if isinstance(error, Exception) else Unavailable("the first request was cancelled")
            )
            future.exception()  # nobody else may be waiting
            raise
        finally:
            del self._keys_in_flight[key]
        future.set_result(execution_id)
        return execution_id, existing is None

    async def GetExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._execution(request.tenant_id, request.execution_id)

    async def ListExecutions(self, request: Any, context: Any) -> scheduler_pb2.ListExecutionsResponse:
        limit = min(request.limit or 50, _MAX_PAGE)
        before = decode_cursor(request.cursor) if request.cursor else None
        rows, total = await self._store.list_executions(
            request.tenant_id,
            status=request.status,
            workflow_name=request.workflow_name,
            limit=limit,
            offset=0 if before else request.offset,
            before=before,
        )
        cursor = encode_cursor(rows[-1].created_at, rows[-1].execution_id) if len(rows) == limit else ""
        return scheduler_pb2.ListExecutionsResponse(
            executions=[_summary(row) for row in rows], total=total, next_cursor=cursor
        )

    async def ListTasks(self, request: Any, context: Any) -> scheduler_pb2.ListTasksResponse:
        rows = await self._store.list_tasks(request.tenant_id, request.execution_id)
        if not rows:
            raise _no_execution(request.execution_id)
        return scheduler_pb2.ListTasksResponse(tasks=[_task(row) for row in rows])

    async def ListEvents(self, request: Any, context: Any) -> scheduler_pb2.ListEventsResponse:
        limit = min(request.limit or _MAX_EVENTS, _MAX_EVENTS)
        rows = await self._store.list_events(request.tenant_id, request.execution_id, after=request.after, limit=limit)
        if not rows and await self._store.get_execution(request.tenant_id, request.execution_id) is None:
            raise _no_execution(request.execution_id)
        return scheduler_pb2.ListEventsResponse(events=[_event(row) for row in rows])

    async def CancelExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._change(request, Cancel(request.reason or "cancelled by a client"))

    async def PauseExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._change(request, Pause())

    async def ResumeExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._change(request, Resume())

    async def _change(self, request: Any, command: Cancel | Pause | Resume) -> scheduler_pb2.Execution:
        with scope.bind(tenant_id=request.tenant_id, execution_id=request.execution_id):
            try:
                await self._engine.change(request.tenant_id, request.execution_id, command)
            except NotFound:  # it may have ended: then its state says why this cannot be
                ended = await self._execution(request.tenant_id, request.execution_id)
                if isinstance(command, Cancel) and ended.status == "Cancelled":
                    return ended
                verb = type(command).__name__.lower()
                raise Conflict(
                    f"cannot {verb} an execution that is {ended.status}", code="illegal_transition"
                ) from None
            return await self._execution(request.tenant_id, request.execution_id)

    async def GetStatus(self, request: Any, context: Any) -> common_pb2.ServiceStatus:
        reason = "" if self._engine.healthy else "its store is unavailable"
        figures = {
            **self._engine.figures(),
            "workflows_known": len(self._definitions),
            "registry_followed": float(self._definitions.following),
        }
        return self._runtime.status(reason, figures)

    async def _execution(self, tenant_id: str, execution_id: str) -> scheduler_pb2.Execution:
        row = await self._store.get_execution(tenant_id, execution_id)
        if row is None:
            raise _no_execution(execution_id)
        return _execution(row)


def _no_execution(execution_id: str) -> NotFound:
    return NotFound(f"there is no execution {execution_id}", code="execution_not_found")


def _execution(row: ExecutionRow) -> scheduler_pb2.Execution:
    message = _summary(row)
    message.output = row.output or b""
    return message


def _summary(row: ExecutionRow | ExecutionSummary) -> scheduler_pb2.Execution:
    return scheduler_pb2.Execution(
        execution_id=row.execution_id,
        tenant_id=row.tenant_id,
        workflow_name=row.workflow_name,
        status=row.status,
        reason=row.reason or "",
        error=row.error or "",
        created_at=row.created_at,
        started_at=row.started_at or 0,
        finished_at=row.finished_at or 0,
        origin=common_pb2.Origin(request_id=row.request_id, traceparent=row.traceparent),
        package_id=row.definition_id.partition("/")[0],
        trigger_origin=row.trigger_origin,
    )


def _task(row: TaskRow) -> scheduler_pb2.TaskExecution:
    sub_status = ""
    if row.status == "Running":
        sub_status = "Deferred" if row.deferred else "Active"
    return scheduler_pb2.TaskExecution(
        task_execution_id=task_execution_id(row.execution_id, row.task_name),
        task_name=row.task_name,
        status=row.status,
        sub_status=sub_status,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        reason=row.reason or "",
        last_error=row.error or "",
        error_details=row.details or "",
        created_at=row.created_at,
        ready_at=row.ready_at or 0,
        claimed_at=row.claimed_at or 0,
        started_at=row.started_at or 0,
        finished_at=row.finished_at or 0,
        updated_at=row.updated_at,
        executor_id=row.executor_id,
    )


def _event(row: EventRow) -> scheduler_pb2.ExecutionEvent:
    return scheduler_pb2.ExecutionEvent(
        event_id=event_id(row.execution_id, row.sequence),
        sequence=row.sequence,
        event_type=row.event_type,
        task_name=row.task_name or "",
        at=row.at,
        data=row.data or "",
    )
