"""The services behind the gateway, in memory: real gRPC servers, so that what crosses the process border is real."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from cloacina.errors import Conflict, InvalidRequest, NotFound, Unavailable
from cloacina.rpc.batched_server import BatchedExecutesServer
from cloacina.rpc.refusals import until_stopped
from cloacina.rpc.v1 import (
    common_pb2,
    instances_pb2,
    instances_pb2_grpc,
    reconciler_pb2,
    reconciler_pb2_grpc,
    scheduler_pb2,
    scheduler_pb2_grpc,
    secrets_pb2,
    secrets_pb2_grpc,
)
from cloacina.runtime.service import Runtime
from cloacina.runtime.settings import ServiceSettings

TOKEN = "between-services"


@dataclass
class Seen:
    """One call that arrived."""

    method: str
    request: Any
    metadata: dict[str, str]


class StandIn:
    """What both have: a server, and what arrived at it."""

    name: str

    def __init__(self, home: Path) -> None:
        self.seen: list[Seen] = []
        self.reason = ""
        self.figures: dict[str, float] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.runtime = Runtime(self.name, ServiceSettings(home=home, host="127.0.0.1", rpc_token=TOKEN), 0)
        self.port = 0
        self.running = False

    async def serve(self, adder: Any, full_name: str) -> None:
        self.runtime.server.add(adder, self, full_name)
        self.port = await self.runtime.server.start()
        self.running = True

    async def stop(self) -> None:
        if self.running:
            self.running = False
            await self.runtime.server.stop(0)

    async def arrived(self, request: Any, context: Any, method: str) -> None:
        """Notes a call, and holds it while the gate is closed."""
        self.note(request, context, method)
        await self.gate.wait()

    def note(self, request: Any, context: Any, method: str) -> None:
        self.seen.append(Seen(method, request, {key: value for key, value in context.invocation_metadata()}))

    def calls(self, method: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method]

    async def GetStatus(self, request: Any, context: Any) -> common_pb2.ServiceStatus:
        await self.arrived(request, context, "GetStatus")
        return self.runtime.status(self.reason, {"figure": 7, **self.figures})


class SchedulerStandIn(StandIn, scheduler_pb2_grpc.SchedulerServiceServicer):
    """Executions in a dict."""

    name = "scheduler"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.triggers = [
            scheduler_pb2.Trigger(
                id=str(uuid4()),
                name="inbox",
                kind="trigger",
                workflow_names=["daily", "audit"],
                poll_interval_ms=5000,
                last_outcome="failed",
                last_error="ValueError: boom",
                created_at=1,
            ),
            scheduler_pb2.Trigger(
                id=str(uuid4()),
                name="nightly",
                kind="cron",
                workflow_names=["report"],
                cron="0 3 * * *",
                timezone="UTC",
                next_run_at=1_790_000_000_000_000,
                created_at=1,
            ),
        ]
        self.workflows = {("acme", "daily")}
        self.paused: set[str] = set()
        self.executions: dict[str, scheduler_pb2.Execution] = {}
        self.keys: dict[tuple[str, str, str], str] = {}
        self.contexts: dict[str, bytes] = {}
        self.events: dict[str, list[scheduler_pb2.ExecutionEvent]] = {}
        self.lines: dict[str, list[bytes]] = {}
        self.committed = asyncio.Condition()
        self.breaks = 0

    async def start(self) -> None:
        self.executes = BatchedExecutesServer(self.runtime.rpc_metrics)
        self.executes.handle_with(self.Execute)
        self.instances = InstancesStandIn(self)
        full_name = instances_pb2.DESCRIPTOR.services_by_name["InstanceService"].full_name
        self.runtime.server.add(instances_pb2_grpc.add_InstanceServiceServicer_to_server, self.instances, full_name)
        name = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name
        await self.serve(scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server, name)

    async def ExecuteMany(self, request_iterator: Any, context: Any) -> AsyncIterator[scheduler_pb2.ExecuteAnswers]:
        self.note(None, context, "ExecuteMany")
        async for answers in self.executes.serve(request_iterator):
            yield answers

    async def Execute(self, request: Any, context: Any) -> scheduler_pb2.ExecuteResponse:
        await self.arrived(request, context, "Execute")
        if (request.tenant_id, request.workflow_name) not in self.workflows:
            raise NotFound(f"there is no workflow {request.workflow_name!r}")
        if request.workflow_name in self.paused:
            raise Conflict("the workflow is paused", code="workflow_paused")
        key = (request.tenant_id, request.workflow_name, request.idempotency_key)
        if request.idempotency_key and key in self.keys:
            return scheduler_pb2.ExecuteResponse(execution_id=self.keys[key], created=False)
        execution_id = str(uuid4())
        self.keys[key] = execution_id
        self.contexts[execution_id] = request.context
        self.executions[execution_id] = scheduler_pb2.Execution(
            execution_id=execution_id,
            tenant_id=request.tenant_id,
            workflow_name=request.workflow_name,
            status="Pending",
            created_at=time.time_ns() // 1000,
            origin=common_pb2.Origin(
                request_id=self.seen[-1].metadata["x-request-id"], traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01"
            ),
            trigger_origin="manual",
        )
        return scheduler_pb2.ExecuteResponse(execution_id=execution_id, created=True)

    def _find(self, request: Any) -> scheduler_pb2.Execution:
        found = self.executions.get(request.execution_id)
        if found is None or found.tenant_id != request.tenant_id:
            raise NotFound(f"there is no execution {request.execution_id}")
        return found

    async def GetExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        await self.arrived(request, context, "GetExecution")
        return self._find(request)

    async def ListExecutions(self, request: Any, context: Any) -> scheduler_pb2.ListExecutionsResponse:
        await self.arrived(request, context, "ListExecutions")
        matching = [
            execution
            for execution in reversed(self.executions.values())
            if execution.tenant_id == request.tenant_id
            and request.status in ("", execution.status)
            and request.workflow_name in ("", execution.workflow_name)
        ]
        begin = int(request.cursor) if request.cursor else request.offset
        end = begin + request.limit
        return scheduler_pb2.ListExecutionsResponse(
            executions=matching[begin:end],
            total=len(matching),
            next_cursor=str(end) if end < len(matching) else "",
        )

    async def ListTasks(self, request: Any, context: Any) -> scheduler_pb2.ListTasksResponse:
        await self.arrived(request, context, "ListTasks")
        at = self._find(request).created_at
        common = {"max_attempts": 3, "created_at": at, "updated_at": at}
        return scheduler_pb2.ListTasksResponse(
            tasks=[
                scheduler_pb2.TaskExecution(
                    task_execution_id=str(uuid4()),
                    task_name="load",
                    status="Running",
                    sub_status="Active",
                    attempt=1,
                    ready_at=at,
                    claimed_at=at,
                    started_at=at,
                    executor_id="executor-1",
                    **common,
                ),
                scheduler_pb2.TaskExecution(
                    task_execution_id=str(uuid4()), task_name="save", status="NotStarted", **common
                ),
            ]
        )

    async def ListEvents(self, request: Any, context: Any) -> scheduler_pb2.ListEventsResponse:
        await self.arrived(request, context, "ListEvents")
        at = self._find(request).created_at
        kinds = [("workflow_started", ""), ("task_created", "load"), ("task_started", "load")]
        events = [
            scheduler_pb2.ExecutionEvent(
                event_id=str(uuid4()), sequence=number, event_type=kind, task_name=task, at=at, data='{"a":1}'
            )
            for number, (kind, task) in enumerate(kinds, start=1)
        ]
        return scheduler_pb2.ListEventsResponse(
            events=[event for event in events if event.sequence > request.after][: request.limit]
        )

    async def ListExecutors(self, request: Any, context: Any) -> scheduler_pb2.ListExecutorsResponse:
        await self.arrived(request, context, "ListExecutors")
        executor = scheduler_pb2.ExecutorInfo(
            executor_id="executor-1", version="1", connected=True, slots=4, free_slots=3, claims=1, silent_s=2.9
        )
        return scheduler_pb2.ListExecutorsResponse(executors=[executor])

    async def happens(self, execution_id: str, *kinds: str) -> None:
        """Events are committed."""
        async with self.committed:
            known = self.events.setdefault(execution_id, [])
            for kind in kinds:
                known.append(
                    scheduler_pb2.ExecutionEvent(
                        event_id=str(uuid4()),
                        sequence=len(known) + 1,
                        event_type=kind,
                        task_name="load" if kind.startswith("task_") else "",
                        at=time.time_ns() // 1000,
                    )
                )
            self.committed.notify_all()

    async def break_streams(self) -> None:
        """Ends all streams like a scheduler that stops."""
        async with self.committed:
            self.breaks += 1
            self.committed.notify_all()

    async def FollowEvents(self, request: Any, context: Any) -> AsyncIterator[scheduler_pb2.FollowEventsResponse]:
        await self.arrived(request, context, "FollowEvents")
        found = self.executions.get(request.execution_id)
        if found is None or request.tenant_id not in ("", found.tenant_id):
            raise NotFound(f"there is no execution {request.execution_id}", code="execution_not_found")
        position, breaks = request.after, self.breaks
        yield scheduler_pb2.FollowEventsResponse(tenant_id=found.tenant_id)
        while True:
            async with self.committed:
                events = self.events.setdefault(request.execution_id, [])
                await self.committed.wait_for(
                    lambda: (
                        self.breaks > breaks
                        or len(events) > position
                        or (events and events[-1].event_type == "workflow_completed")
                    )
                )
            if self.breaks > breaks:
                raise Unavailable("the scheduler is stopping")
            fresh, position = events[position:], len(events)
            if fresh:
                yield scheduler_pb2.FollowEventsResponse(tenant_id=found.tenant_id, events=fresh)
            if events[-1].event_type == "workflow_completed":
                return

    async def ExplainExecution(self, request: Any, context: Any) -> scheduler_pb2.ExecutionExplanation:
        await self.arrived(request, context, "ExplainExecution")
        found = self._find(request)
        cause = scheduler_pb2.ExecutionCause(
            kind="retry_due",
            text="load failed and attempt 2 of 3 is due in 4 s: ConnectionError: refused",
            task_name="load",
            since=found.created_at,
            until=found.created_at + 4_000_000,
            ids={"executor_id": "executor-1"},
        )
        return scheduler_pb2.ExecutionExplanation(
            execution=found, answer="Running for 1 s.", since=found.created_at, at=found.created_at + 1, causes=[cause]
        )

    async def CleanUp(self, request: Any, context: Any) -> scheduler_pb2.CleanUpResponse:
        await self.arrived(request, context, "CleanUp")
        return scheduler_pb2.CleanUpResponse(executions=3, events=21, complete=not request.dry_run)

    async def FindByRequest(self, request: Any, context: Any) -> scheduler_pb2.FindByRequestResponse:
        await self.arrived(request, context, "FindByRequest")
        found = [
            execution
            for execution in self.executions.values()
            if execution.origin.request_id == request.request_id and request.tenant_id in ("", execution.tenant_id)
        ]
        return scheduler_pb2.FindByRequestResponse(executions=found)

    async def KeepLogLines(self, request: Any, context: Any) -> scheduler_pb2.KeepLogLinesResponse:
        await self.arrived(request, context, "KeepLogLines")
        for each in request.executions:
            self.lines.setdefault(each.execution_id, []).extend(each.lines.encode().splitlines())
        return scheduler_pb2.KeepLogLinesResponse()

    async def ListLogLines(self, request: Any, context: Any) -> scheduler_pb2.ListLogLinesResponse:
        await self.arrived(request, context, "ListLogLines")
        found = self._find(request)
        if request.cursor and not request.cursor.isdecimal():
            raise InvalidRequest("cursor: not one of this list", code="invalid_pagination")
        passed = int(request.cursor or 0)
        lines = self.lines.get(request.execution_id, [])
        wanted = [line for line in lines[passed:] if request.level != "ERROR" or b'"ERROR"' in line]
        return scheduler_pb2.ListLogLinesResponse(
            lines=wanted[: request.limit],
            next_cursor=str(len(lines) if len(wanted) <= request.limit else passed + request.limit),
            complete=len(wanted) <= request.limit,
            status=found.status,
        )

    async def _set(self, request: Any, context: Any, method: str, status: str) -> scheduler_pb2.Execution:
        await self.arrived(request, context, method)
        found = self._find(request)
        if found.status == "Cancelled":
            raise Conflict("cannot change an execution that is Cancelled", code="illegal_transition")
        found.status = status
        return found

    # Triggers

    def _trigger(self, request: Any) -> scheduler_pb2.Trigger:
        for trigger in self.triggers:
            if request.tenant_id == "acme" and request.name in (trigger.name, *trigger.workflow_names):
                return trigger
        raise NotFound(f"there is no trigger {request.name!r}", code="trigger_not_found")

    async def ListTriggers(self, request: Any, context: Any) -> scheduler_pb2.ListTriggersResponse:
        await self.arrived(request, context, "ListTriggers")
        mine = self.triggers if request.tenant_id == "acme" else []
        shown = mine[request.offset : request.offset + request.limit]
        return scheduler_pb2.ListTriggersResponse(triggers=shown, total=len(mine))

    async def GetTrigger(self, request: Any, context: Any) -> scheduler_pb2.GetTriggerResponse:
        await self.arrived(request, context, "GetTrigger")
        firing = {"scheduled_at": 5, "fired_at": 7, "workflow_name": "daily"}
        return scheduler_pb2.GetTriggerResponse(
            trigger=self._trigger(request),
            firings=[
                scheduler_pb2.TriggerFiring(id=str(uuid4()), outcome="failed", error="no such workflow", **firing),
                scheduler_pb2.TriggerFiring(
                    id=str(uuid4()), outcome="fired", execution_id=str(uuid4()), finished_at=9, **firing
                ),
            ],
        )

    async def PauseTrigger(self, request: Any, context: Any) -> scheduler_pb2.Trigger:
        await self.arrived(request, context, "PauseTrigger")
        found = self._trigger(request)
        found.paused, found.paused_at = True, 3
        return found

    async def ResumeTrigger(self, request: Any, context: Any) -> scheduler_pb2.Trigger:
        await self.arrived(request, context, "ResumeTrigger")
        found = self._trigger(request)
        found.paused, found.paused_at = False, 0
        return found

    async def FireTrigger(self, request: Any, context: Any) -> scheduler_pb2.FireTriggerResponse:
        await self.arrived(request, context, "FireTrigger")
        found = self._trigger(request)
        started = [
            scheduler_pb2.FiredExecution(workflow_name=name, execution_id=str(uuid4())) for name in found.workflow_names
        ]
        return scheduler_pb2.FireTriggerResponse(name=found.name, executions=started)

    async def GetTriggerInterface(self, request: Any, context: Any) -> scheduler_pb2.GetTriggerInterfaceResponse:
        await self.arrived(request, context, "GetTriggerInterface")
        slot = common_pb2.InputSlot(name="day", schema='{"type":"string"}', required=True)
        return scheduler_pb2.GetTriggerInterfaceResponse(name=self._trigger(request).name, slots=[slot])

    async def CancelExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._set(request, context, "CancelExecution", "Cancelled")

    async def PauseExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._set(request, context, "PauseExecution", "Paused")

    async def ResumeExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._set(request, context, "ResumeExecution", "Running")

    async def RetryExecution(self, request: Any, context: Any) -> scheduler_pb2.Execution:
        return await self._set(request, context, "RetryExecution", "Running")


class InstancesStandIn(instances_pb2_grpc.InstanceServiceServicer):
    """Instances in a dict; part of the scheduler."""

    def __init__(self, scheduler: SchedulerStandIn) -> None:
        self._scheduler = scheduler
        self.kept: dict[tuple[str, str, str], instances_pb2.WorkflowInstance] = {}

    async def CreateInstance(self, request: Any, context: Any) -> instances_pb2.WorkflowInstance:
        await self._scheduler.arrived(request, context, "CreateInstance")
        if (request.tenant_id, request.workflow_name) not in self._scheduler.workflows:
            raise NotFound(f"there is no workflow {request.workflow_name!r}")
        key = (request.tenant_id, request.workflow_name, request.instance_name)
        if key in self.kept:
            raise Conflict("there is one of this name", code="instance_exists")
        self.kept[key] = instances_pb2.WorkflowInstance(
            instance_id=str(uuid4()),
            tenant_id=request.tenant_id,
            workflow_name=request.workflow_name,
            instance_name=request.instance_name,
            params=request.params,
            cron_expression=request.cron_expression,
            timezone=request.timezone or "UTC",
            enabled=request.enabled,
            next_run_at=1_790_000_000_000_003 if request.cron_expression else 0,
            created_at=1_790_000_000_000_000,
        )
        return self.kept[key]

    async def ListInstances(self, request: Any, context: Any) -> instances_pb2.ListInstancesResponse:
        await self._scheduler.arrived(request, context, "ListInstances")
        mine = [each for key, each in self.kept.items() if key[:2] == (request.tenant_id, request.workflow_name)]
        page = mine[request.offset : request.offset + request.limit]
        return instances_pb2.ListInstancesResponse(instances=page, total=len(mine))

    async def GetInstance(self, request: Any, context: Any) -> instances_pb2.WorkflowInstance:
        await self._scheduler.arrived(request, context, "GetInstance")
        return self.kept[self._key(request)]

    async def DeleteInstance(self, request: Any, context: Any) -> instances_pb2.DeleteInstanceResponse:
        await self._scheduler.arrived(request, context, "DeleteInstance")
        del self.kept[self._key(request)]
        return instances_pb2.DeleteInstanceResponse()

    def _key(self, request: Any) -> tuple[str, str, str]:
        key = (request.tenant_id, request.workflow_name, request.instance_name)
        if key not in self.kept:
            raise NotFound("there is no such instance", code="instance_not_found")
        return key


@dataclass
class Upload:
    """One upload that began."""

    tenant_id: str = ""
    size: int = 0
    largest: int = 0
    ended: bool = False
    digest: Any = field(default_factory=hashlib.sha256)
    finished: bool = False
    cancelled: bool = False


class ReconcilerStandIn(StandIn, reconciler_pb2_grpc.ReconcilerServiceServicer, secrets_pb2_grpc.SecretServiceServicer):
    """Packages and secrets in dicts."""

    name = "reconciler"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.uploads: list[Upload] = []
        self.refuse_at_once: InvalidRequest | None = None
        self.accept = asyncio.Event()
        self.accept.set()
        self.packages = {"daily-jobs": _package()}
        self.secrets_configured = True
        self.figures = {
            "packages_loading": 1,
            "packages_waiting": 2,
            "last_loaded_at": 1_790_000_000_000_000,
            "last_refused_at": 0,
        }
        self.secrets: dict[tuple[str, str], secrets_pb2.SecretMetadata] = {}

    async def start(self) -> None:
        secrets = secrets_pb2.DESCRIPTOR.services_by_name["SecretService"].full_name
        self.runtime.server.add(secrets_pb2_grpc.add_SecretServiceServicer_to_server, self, secrets)
        name = reconciler_pb2.DESCRIPTOR.services_by_name["ReconcilerService"].full_name
        await self.serve(reconciler_pb2_grpc.add_ReconcilerServiceServicer_to_server, name)

    async def UploadPackage(self, request_iterator: Any, context: Any) -> reconciler_pb2.UploadPackageResponse:
        await self.arrived(None, context, "UploadPackage")
        upload = Upload()
        self.uploads.append(upload)
        try:
            async for message in request_iterator:
                if message.HasField("end"):
                    upload.ended = message.end.size_bytes == upload.size
                    upload.ended &= message.end.digest == upload.digest.hexdigest()
                elif message.HasField("header"):
                    upload.tenant_id = message.header.tenant_id
                    if self.refuse_at_once is not None:
                        await until_stopped(request_iterator, context)
                        raise self.refuse_at_once
                else:
                    upload.size += len(message.chunk)
                    upload.largest = max(upload.largest, len(message.chunk))
                    upload.digest.update(message.chunk)
            await self.accept.wait()
        except asyncio.CancelledError:
            upload.cancelled = True
            raise
        upload.finished = upload.ended
        return reconciler_pb2.UploadPackageResponse(package_id=str(uuid4()), created=True)

    async def ListPackages(self, request: Any, context: Any) -> reconciler_pb2.ListPackagesResponse:
        await self.arrived(request, context, "ListPackages")
        mine = [package for package in self.packages.values() if package.tenant_id == request.tenant_id]
        return reconciler_pb2.ListPackagesResponse(packages=mine)

    async def GetPackage(self, request: Any, context: Any) -> reconciler_pb2.Package:
        await self.arrived(request, context, "GetPackage")
        for package in self.packages.values():
            names = {package.package_name, package.workflow_name, *(w.workflow_name for w in package.workflows)}
            if package.tenant_id == request.tenant_id and request.name in names:
                return package
        raise NotFound(f"there is no workflow {request.name!r}")

    async def SetWorkflowPaused(self, request: Any, context: Any) -> reconciler_pb2.SetWorkflowPausedResponse:
        await self.arrived(request, context, "SetWorkflowPaused")
        found = self._named(request)
        for workflow in found.workflows:
            workflow.paused = request.paused
        return reconciler_pb2.SetWorkflowPausedResponse(
            package_id=found.package_id, workflow_name=found.workflow_name, changed=True
        )

    async def GetSource(self, request: Any, context: Any) -> reconciler_pb2.GetSourceResponse:
        await self.arrived(request, context, "GetSource")
        found = self._named(request)
        files = {"package.toml": "[package]\n", "workflow/daily/tasks.py": "x = 'ü'\n", "workflow/daily/data.bin": "?"}
        return reconciler_pb2.GetSourceResponse(
            package_id=found.package_id,
            package_name=found.package_name,
            workflow_name=found.workflow_name,
            version=found.version,
            files=[reconciler_pb2.SourceFile(path=path, contents=text) for path, text in files.items()],
            omitted=1,
        )

    def _named(self, request: Any) -> reconciler_pb2.Package:
        for package in self.packages.values():
            names = (package.package_name, package.workflow_name, package.package_id)
            if package.tenant_id == request.tenant_id and request.name in names:
                return package
        raise NotFound(f"there is no workflow {request.name!r}")

    async def DeletePackage(self, request: Any, context: Any) -> reconciler_pb2.DeletePackageResponse:
        await self.arrived(request, context, "DeletePackage")
        found = self.packages.get(request.package_name)
        if found is None or (found.tenant_id, found.version) != (request.tenant_id, request.version):
            raise NotFound("there is no such package")
        del self.packages[request.package_name]
        return reconciler_pb2.DeletePackageResponse(package_id=found.package_id)

    async def _secret(self, request: Any, context: Any, method: str) -> secrets_pb2.SecretMetadata:
        await self.arrived(request, context, method)
        if not self.secrets_configured:
            raise Unavailable("set CLOACINA_SECRET_KEK", code="secrets_not_configured")
        found = self.secrets.get((request.tenant_id, request.name))
        if found is None:
            raise NotFound("there is none", code="secret_not_found")
        return found

    async def CreateSecret(self, request: Any, context: Any) -> secrets_pb2.SecretMetadata:
        try:
            await self._secret(request, context, "CreateSecret")
        except NotFound:
            at = time.time_ns() // 1000
            made = secrets_pb2.SecretMetadata(
                secret_id=str(uuid4()),
                name=request.name,
                field_names=sorted(request.fields),
                version=1,
                created_at=at,
                updated_at=at,
            )
            self.secrets[request.tenant_id, request.name] = made
            return made
        raise Conflict("it is there already", code="secret_exists")

    async def RotateSecret(self, request: Any, context: Any) -> secrets_pb2.SecretMetadata:
        found = await self._secret(request, context, "RotateSecret")
        found.version += 1
        found.field_names[:] = sorted(request.fields)
        return found

    async def GetSecret(self, request: Any, context: Any) -> secrets_pb2.SecretMetadata:
        return await self._secret(request, context, "GetSecret")

    async def ListSecrets(self, request: Any, context: Any) -> secrets_pb2.ListSecretsResponse:
        await self.arrived(request, context, "ListSecrets")
        if not self.secrets_configured:
            raise Unavailable("set CLOACINA_SECRET_KEK", code="secrets_not_configured")
        mine = [secret for (tenant, _), secret in sorted(self.secrets.items()) if tenant == request.tenant_id]
        return secrets_pb2.ListSecretsResponse(secrets=mine)

    async def DeleteSecret(self, request: Any, context: Any) -> secrets_pb2.DeleteSecretResponse:
        await self._secret(request, context, "DeleteSecret")
        del self.secrets[request.tenant_id, request.name]
        return secrets_pb2.DeleteSecretResponse()


def _package() -> reconciler_pb2.Package:
    package_id = str(uuid4())
    params = [
        common_pb2.InputSlot(name="day", schema='{"type":"string"}', required=True),
        common_pb2.InputSlot(name="limits", schema='{"type":"object"}', default_value='{"rows":10}'),
    ]
    tasks = [
        common_pb2.TaskDefinition(id="load", description="Loads the day.", doc_what="Rows", doc_why="For the report"),
        common_pb2.TaskDefinition(id="save", dependencies=["load"]),
    ]
    workflow = common_pb2.WorkflowDefinition(
        tenant_id="acme", workflow_name="daily", package_id=package_id, tasks=tasks, params=params, secrets=["mail"]
    )
    return reconciler_pb2.Package(
        package_id=package_id,
        tenant_id="acme",
        package_name="daily-jobs",
        version="1.2.0",
        digest="ab" * 32,
        size_bytes=4096,
        build_status="success",
        created_at=1_790_000_000_000_001,
        description="Jobs of a day",
        workflows=[workflow],
        workflow_name="daily",
    )


def broken_package() -> reconciler_pb2.Package:
    """A package of acme that failed to load."""
    return reconciler_pb2.Package(
        package_id=str(uuid4()),
        tenant_id="acme",
        package_name="broken",
        version="0.1.0",
        digest="cd" * 32,
        size_bytes=100,
        build_status="failed",
        build_error="ImportError: no module named 'pandas'",
        created_at=1_790_000_000_000_002,
        workflow_name="broken_flow",
    )
