"""The scheduler service: gRPC handlers around the engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID

from cloacina.catalog.inputs import accept_input
from cloacina.catalog.workflows import load_definition
from cloacina.domain.decisions import Cancel, Pause, Resume
from cloacina.engine.engine import Engine, wall_clock
from cloacina.engine.ids import event_id, task_execution_id
from cloacina.engine.instances import Instances
from cloacina.engine.metrics import EngineMetrics
from cloacina.engine.model import Origin
from cloacina.engine.ownership import Ownership
from cloacina.engine.retention import Retention
from cloacina.engine.retention_metrics import RetentionMetrics
from cloacina.engine.schedule_metrics import ScheduleMetrics
from cloacina.engine.schedules import Schedules
from cloacina.engine.settings import EngineSettings
from cloacina.errors import Conflict, InvalidRequest, NotFound
from cloacina.rpc.batched_server import BatchedExecutesServer
from cloacina.rpc.v1 import (
    common_pb2,
    instances_pb2,
    instances_pb2_grpc,
    scheduler_pb2,
    scheduler_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
)
from cloacina.runtime.metrics_server import MetricsServer
from cloacina.runtime.service import Runtime
from cloacina.runtime.tenant_wall import warn_where_open
from cloacina.store.database import Database, open_database
from cloacina.store.execution_logs import ExecutionLogStore
from cloacina.store.executions import EventRow, ExecutionRow, ExecutionStore, ExecutionSummary, TaskRow
from cloacina.store.instances import InstanceStore
from cloacina.store.retention import RetentionStore
from cloacina.store.schedules import ScheduleStore
from cloacina.store.tenant_data import TenantExecutions
from cloacina.telemetry import scope, tracing
from cloacina.telemetry.execution_lines import ExecutionLines
from cloacina.telemetry.metrics import StoreMetrics
from services.scheduler.definitions import Definitions
from services.scheduler.dispatch import Dispatch
from services.scheduler.explanations import explained
from services.scheduler.following import Following
from services.scheduler.forwarding import Forwarder, ForwardMetrics, Routed, Routes, was_forwarded
from services.scheduler.instances import InstanceHandlers
from services.scheduler.log_lines import LogLines
from services.scheduler.pages import decode_cursor, encode_cursor
from services.scheduler.schedules import MirroredSchedules, MirroredWorkflows
from services.scheduler.settings import SchedulerSettings
from services.scheduler.tenants import TenantHandlers
from services.scheduler.triggers import TriggerHandlers

_MAX_PAGE = 1000
_MAX_EVENTS = 10_000
_MAX_VERSIONS = 10_000
_MOST_PRIORITY = 100
_CLEAN_UP_BUDGET_S = 2.0
"""Seconds that one call of CleanUp deletes; whoever wants more calls again."""
_INSTANCE_SERVICE = instances_pb2.DESCRIPTOR.services_by_name["InstanceService"]
_OWNERS_CALLS = ("CancelExecution", "PauseExecution", "ResumeExecution", "ExplainExecution")
_KEEPERS_CALLS = (
    "ListTriggers",
    "GetTrigger",
    "PauseTrigger",
    "ResumeTrigger",
    "FireTrigger",
    "GetTriggerInterface",
)


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
        self._schedules: Schedules | None = None
        self._forwarder: Forwarder | None = None
        self._executes: BatchedExecutesServer | None = None
        self._instances: Instances | None = None
        self._mirrored: MirroredSchedules | None = None
        self._retention: Retention | None = None
        self._metrics_server: MetricsServer | None = None
        self._own_lines: ExecutionLines | None = None

    async def start(self, runtime: Runtime) -> Mapping[str, object]:
        settings = self._settings
        url = settings.store_url("scheduler")
        metrics = StoreMetrics(runtime.registry, "scheduler")
        self._database = open_database(url, "scheduler", metrics=metrics, shared_s=settings.lease_s)
        await self._database.open()
        await warn_where_open(self._database)
        store = ExecutionStore(self._database)
        exemplar = tracing.exemplar if tracing.enabled() else None
        limits = EngineSettings(
            lease_s=settings.lease_s,
            heartbeat_s=settings.heartbeat_s,
            max_waiting=settings.max_waiting,
            max_waiting_bytes=settings.max_waiting_mb << 20,
            max_live=settings.max_live,
            max_live_bytes=settings.max_live_mb << 20,
            tenant_share=settings.tenant_share,
            tenant_tasks=settings.tenant_tasks,
            shared_claims=settings.shared_claims,
        )
        self._definitions = Definitions(runtime.connect(settings.reconciler_target, "reconciler"), runtime.instance_id)
        self._engine = Engine(
            store,
            EngineMetrics(runtime.registry, exemplar),
            load_definition,
            limits,
            find_definition=self._definitions.find,
            ownership=Ownership(
                store.owners,
                runtime.instance_id,
                settings.advertised,
                lease_s=settings.lease_s,
                heartbeat_s=settings.heartbeat_s,
                sole=self._database.system == "sqlite",
            ),
        )
        schedule_store = ScheduleStore(self._database)
        self._schedules = Schedules(
            self._engine,
            schedule_store,
            MirroredWorkflows(self._definitions, settings.max_context_bytes),
            ScheduleMetrics(runtime.registry),
            poll_timeout_s=settings.poll_timeout_s,
            kept=self._keep_schedules,
        )
        instances = Instances(InstanceStore(self._database), settings.max_context_bytes, self._schedules)
        self._instances = instances
        self._mirrored = MirroredSchedules(self._definitions, self._schedules)
        self._retention = Retention(
            RetentionStore(self._database),
            settings.retention,
            RetentionMetrics(runtime.registry),
            self._engine.reopening,
            kept=self._is_keeper,
        )
        log_lines = LogLines(store, ExecutionLogStore(self._database, settings.execution_log_kb << 10))
        self._own_lines = ExecutionLines("scheduler", log_lines.keep_own, runtime.registry)
        self._own_lines.start()
        await self._engine.start()
        self._retention.start()
        self._definitions.start(self._mirrored)
        self._metrics_server = MetricsServer(
            "scheduler", runtime.registry, settings.host, settings.scheduler_metrics_port
        )
        await self._metrics_server.start()
        services = scheduler_pb2.DESCRIPTOR.services_by_name
        routes = Routes(self._engine, store.owners, self._schedules, self._definitions)
        forwards = ForwardMetrics(runtime.registry)
        self._forwarder = Forwarder(lambda target: runtime.connect(target, "scheduler"), forwards)
        self._executes = BatchedExecutesServer(runtime.rpc_metrics)
        routed = Routed(
            Handlers(
                runtime,
                store,
                self._engine,
                self._definitions,
                triggers=TriggerHandlers(self._schedules, schedule_store, self._definitions),
                instances=instances,
                retention=self._retention,
                log_lines=log_lines,
                following=Following(store, self._engine, _event, routes.find_owner, self._forwarder.follow),
                executes=self._executes,
            ),
            scheduler_pb2_grpc.SchedulerServiceStub,
            {
                "Execute": routes.to_starter,
                **dict.fromkeys(_OWNERS_CALLS, routes.to_owner),
                "RetryExecution": routes.to_last_owner,
                **dict.fromkeys(_KEEPERS_CALLS, routes.to_keeper),
            },
            self._forwarder,
            self._engine.ownership.look,
        )
        self._executes.handle_with(routed.Execute)
        runtime.server.add(
            scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server,
            routed,
            services["SchedulerService"].full_name,
        )
        runtime.server.add(
            instances_pb2_grpc.add_InstanceServiceServicer_to_server,
            Routed(
                InstanceHandlers(instances, self._definitions),
                instances_pb2_grpc.InstanceServiceStub,
                dict.fromkeys(_INSTANCE_SERVICE.methods_by_name, routes.to_keeper),
                self._forwarder,
                self._engine.ownership.look,
            ),
            _INSTANCE_SERVICE.full_name,
        )
        runtime.server.add(
            scheduler_pb2_grpc.add_DispatchServiceServicer_to_server,
            Dispatch(self._engine, runtime.instance_id, runtime.cpu_latency.needed),
            services["DispatchService"].full_name,
        )
        runtime.server.add(
            tenants_pb2_grpc.add_TenantExecutionServiceServicer_to_server,
            TenantHandlers(self._engine, self._definitions, instances, TenantExecutions(self._database)),
            tenants_pb2.DESCRIPTOR.services_by_name["TenantExecutionService"].full_name,
        )
        return {"metrics_port": settings.scheduler_metrics_port, "database": settings.shown_database}

    def _is_keeper(self) -> bool:
        """Whether of several schedulers this is the one that fires schedules, and deletes what is old."""
        return self._engine is not None and self._engine.healthy and self._engine.ownership.keeps_schedules

    async def _keep_schedules(self) -> None:
        """Of several schedulers this is now the one that fires schedules."""
        assert self._instances is not None
        assert self._mirrored is not None
        await self._instances.start()
        await self._mirrored.take_over()

    async def drain(self) -> None:
        if self._retention is not None:
            await self._retention.stop()
        if self._schedules is not None:
            await self._schedules.stop()
        if self._engine is not None:
            others = self._engine.ownership.others
            await self._engine.stop()
            if self._executes is not None:
                self._executes.close()
            if self._forwarder is not None:
                await self._forwarder.hint(others)

    async def stop(self) -> None:
        if self._retention is not None:
            await self._retention.stop()
        if self._definitions is not None:
            await self._definitions.stop()
        if self._schedules is not None:
            await self._schedules.stop()
        if self._engine is not None:
            await self._engine.stop()
        if self._forwarder is not None:
            await self._forwarder.close()
        if self._own_lines is not None:
            await self._own_lines.stop()
        if self._metrics_server is not None:
            await self._metrics_server.stop()
        if self._database is not None:
            await self._database.close()


class Handlers(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Handlers of SchedulerService: they translate; the engine decides and the store remembers."""

    def __init__(
        self,
        runtime: Runtime,
        store: ExecutionStore,
        engine: Engine,
        definitions: Definitions,
        *,
        triggers: TriggerHandlers,
        instances: Instances,
        retention: Retention,
        log_lines: LogLines,
        following: Following,
        executes: BatchedExecutesServer,
    ) -> None:
        self._retention = retention
        self._log_lines = log_lines
        self._following = following
        self._executes = executes
        self._triggers = triggers
        self._instances = instances
        self._runtime = runtime
        self._store = store
        self._engine = engine
        self._definitions = definitions
        self._versions: dict[str, str] = {}

    async def Execute(self, request: Any, context: Any) -> scheduler_pb2.ExecuteResponse:
        self._runtime.cpu_latency.needed()
        with (
            scope.bind(tenant_id=request.tenant_id, workflow_name=request.workflow_name),
            tracing.span(f"schedule {request.workflow_name}") as span,
        ):
            workflow = await self._definitions.get(request.tenant_id, request.workflow_name)
            if (request.again or workflow.message.paused) and (begun := await self._begun_before(request)):
                return scheduler_pb2.ExecuteResponse(execution_id=begun, created=False)
            if workflow.message.paused:
                raise Conflict(
                    f"workflow {request.workflow_name!r} is paused; resume it to execute it", code="workflow_paused"
                )
            execution_id, created = await self._engine.submit(
                workflow.definition,
                accept_input(
                    request.context,
                    workflow.message.params,
                    workflow.message.secrets,
                    limit_bytes=self._instances.limit_bytes,
                    bound=await self._bound(request),
                ),
                Origin(scope.current().request_id or "", span.traceparent),
                idempotency_key=request.idempotency_key or None,
                priority=max(-_MOST_PRIORITY, min(request.priority, _MOST_PRIORITY)),
                max_unfinished=request.max_unfinished,
                execution_id=_chosen_id(request),
            )
            span.set_attribute("cloacina.execution_id", execution_id)
            if not created and tracing.enabled():  # the key was used before: what runs is in the trace of that request
                begun_before = await self._store.get_execution(request.tenant_id, execution_id)
                if begun_before is not None:
                    span.link(begun_before.traceparent)
            return scheduler_pb2.ExecuteResponse(execution_id=execution_id, created=created)

    async def ExecuteMany(self, request_iterator: Any, context: Any) -> AsyncIterator[scheduler_pb2.ExecuteAnswers]:
        async for answers in self._executes.serve(request_iterator):
            yield answers

    async def _begun_before(self, request: Any) -> str | None:
        """The execution that an idempotency key names, or the id that the caller chose: a pause does not change the
        answer to what was asked before."""
        if request.again and request.execution_id:
            found = await self._store.get_execution(request.tenant_id, request.execution_id)
            if found is not None:
                return found.execution_id
        key = request.idempotency_key
        if not key:
            return None
        return await self._store.find_by_idempotency_key(request.tenant_id, request.workflow_name, key)

    async def _bound(self, request: Any) -> Mapping[str, Any] | None:
        """What the instance binds that is to be executed, if one is named."""
        if not request.instance_name:
            return None
        return await self._instances.bound_by(request.tenant_id, request.workflow_name, request.instance_name)

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

    async def FollowEvents(self, request: Any, context: Any) -> AsyncIterator[scheduler_pb2.FollowEventsResponse]:
        messages = self._following.follow(request, forwarded=was_forwarded(context))
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield message

    async def CancelExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._change(request, Cancel(request.reason or "cancelled by a client"))

    async def PauseExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._change(request, Pause())

    async def ResumeExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._change(request, Resume())

    async def RetryExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        with scope.bind(tenant_id=request.tenant_id, execution_id=request.execution_id):
            asked_at = time.time_ns()
            try:
                await self._engine.retry(request.tenant_id, request.execution_id)
            except Conflict:
                if not request.again or self._engine.find(request.execution_id) is None:
                    raise
            changed = await self._execution(request.tenant_id, request.execution_id)
            _note_change("retry", changed, asked_at)
            return changed

    async def _change(self, request: Any, command: Cancel | Pause | Resume) -> scheduler_pb2.Execution:
        verb = type(command).__name__.lower()
        with scope.bind(tenant_id=request.tenant_id, execution_id=request.execution_id):
            asked_at = time.time_ns()
            try:
                await self._engine.change(request.tenant_id, request.execution_id, command)
            except NotFound:  # it may have ended: then its state says why this cannot be
                ended = await self._execution(request.tenant_id, request.execution_id)
                if isinstance(command, Cancel) and ended.status == "Cancelled":
                    return ended
                raise Conflict(
                    f"cannot {verb} an execution that is {ended.status}", code="illegal_transition"
                ) from None
            except Conflict:
                found = await self._execution(request.tenant_id, request.execution_id)
                if not request.again or (found.status == "Paused") is not isinstance(command, Pause):
                    raise
                return found
            changed = await self._execution(request.tenant_id, request.execution_id)
            _note_change(verb, changed, asked_at)
            return changed

    async def ListTriggers(self, request: Any, context: Any) -> scheduler_pb2.ListTriggersResponse:
        return self._triggers.list(request)

    async def GetTrigger(self, request: Any, context: Any) -> scheduler_pb2.GetTriggerResponse:
        return await self._triggers.get(request)

    async def PauseTrigger(self, request: Any, context: Any) -> scheduler_pb2.Trigger:
        return await self._triggers.set_paused(request, True)

    async def ResumeTrigger(self, request: Any, context: Any) -> scheduler_pb2.Trigger:
        return await self._triggers.set_paused(request, False)

    async def FireTrigger(self, request: Any, context: Any) -> scheduler_pb2.FireTriggerResponse:
        return await self._triggers.fire(request)

    async def GetTriggerInterface(self, request: Any, context: Any) -> scheduler_pb2.GetTriggerInterfaceResponse:
        return self._triggers.interface(request)

    async def ExplainExecution(self, request: Any, context: Any) -> scheduler_pb2.ExecutionExplanation:
        with scope.bind(tenant_id=request.tenant_id, execution_id=request.execution_id):
            execution = await self._execution(request.tenant_id, request.execution_id)
            waits = await self._store.latest_waits(request.tenant_id, request.execution_id)
            explanation = await self._engine.explain(request.tenant_id, request.execution_id, waits)
            if explanation is None:  # it has ended, in the meantime or long ago
                explanation = await self._engine.explain_ended(request.tenant_id, request.execution_id)
                execution = await self._execution(request.tenant_id, request.execution_id)
            if explanation is None:
                raise _no_execution(request.execution_id)
            return explained(execution, explanation, wall_clock())

    async def FindByRequest(self, request: Any, context: Any) -> scheduler_pb2.FindByRequestResponse:
        rows = await self._store.list_by_request(request.request_id, request.tenant_id, _MAX_PAGE)
        return scheduler_pb2.FindByRequestResponse(executions=[_summary(row) for row in rows])

    async def KeepLogLines(self, request: Any, context: Any) -> scheduler_pb2.KeepLogLinesResponse:
        return await self._log_lines.keep(request)

    async def ListLogLines(self, request: Any, context: Any) -> scheduler_pb2.ListLogLinesResponse:
        row = await self._store.get_execution(request.tenant_id, request.execution_id)
        if row is None:
            raise _no_execution(request.execution_id)
        return await self._log_lines.page(row, request)

    async def CleanUp(self, request: Any, context: Any) -> scheduler_pb2.CleanUpResponse:
        deleted = await self._retention.clean(
            request.ended_before,
            executions=request.executions,
            dry_run=request.dry_run,
            budget_s=_CLEAN_UP_BUDGET_S,
        )
        return scheduler_pb2.CleanUpResponse(
            executions=deleted.executions, events=deleted.events, complete=deleted.complete
        )

    async def GetStatus(self, request: Any, context: Any) -> common_pb2.ServiceStatus:
        reason = "" if self._engine.healthy else "its store is unavailable"
        if not reason and not self._definitions.seen:
            reason = "it has not heard of the reconciler yet"
        figures = {
            **self._engine.figures(),
            "workflows_known": len(self._definitions),
            "registry_followed": float(self._definitions.following),
            "schedules": self._triggers.count(),
        }
        return self._runtime.status(reason, figures)

    async def OwnersChanged(self, request: Any, context: Any) -> scheduler_pb2.OwnersChangedResponse:
        self._engine.ownership.look()
        return scheduler_pb2.OwnersChangedResponse()

    async def ListExecutors(self, request: Any, context: Any) -> scheduler_pb2.ListExecutorsResponse:
        return scheduler_pb2.ListExecutorsResponse(
            executors=[scheduler_pb2.ExecutorInfo(**view._asdict()) for view in self._engine.executors()]
        )

    async def _execution(self, tenant_id: str, execution_id: str) -> scheduler_pb2.Execution:
        row = await self._store.get_execution(tenant_id, execution_id)
        if row is None:
            raise _no_execution(execution_id)
        return _execution(row, await self._package_version(row))

    async def _package_version(self, execution: ExecutionRow) -> str:
        """Definitions never change, so what was looked up once is kept, up to a bound."""
        definition_id = execution.definition_id
        version = self._versions.get(definition_id)
        if version is None:
            rows = await self._store.load_definitions([definition_id], execution.tenant_id)
            version = load_definition(rows[0]).package_version if rows else ""
            if len(self._versions) >= _MAX_VERSIONS:
                self._versions.clear()
            self._versions[definition_id] = version
        return version


def _note_change(verb: str, execution: scheduler_pb2.Execution, asked_at_ns: int) -> None:
    """A request that changes an execution is a trace of its own: each of the two has a span that leads to the other."""
    origin = execution.origin.traceparent
    if origin:
        tracing.record_span(
            f"{verb} {execution.workflow_name}",
            start_ns=asked_at_ns,
            end_ns=time.time_ns(),
            parent=origin,
            link=tracing.current_traceparent(),
        )
        tracing.link_current(origin)


def _chosen_id(request: scheduler_pb2.ExecuteRequest) -> str:
    """The id that the caller wants for the execution, in the one way that it is written; empty for none."""
    try:
        return str(UUID(request.execution_id)) if request.execution_id else ""
    except ValueError:
        raise InvalidRequest("'execution_id' must be a UUID, or be left out") from None


def _no_execution(execution_id: str) -> NotFound:
    return NotFound(f"there is no execution {execution_id}", code="execution_not_found")


def _execution(row: ExecutionRow, package_version: str) -> scheduler_pb2.Execution:
    message = _summary(row)
    message.output = row.output or b""
    message.package_version = package_version
    message.priority = row.priority
    message.parent_execution_id = row.parent_execution_id or ""
    message.parent_task = row.parent_task or ""
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
        sub_status = "Deferred" if row.deferred else "Active" if row.instances is None else "Expanded"
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
