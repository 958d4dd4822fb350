"""The shapes of requests and answers. Requests are pydantic models, which validate; answers are typed dicts, which mypy
checks where they are made. The OpenAPI document is generated from both.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from typing_extensions import TypedDict

Timestamp = Annotated[str, Field(description="RFC 3339, UTC, microseconds", json_schema_extra={"format": "date-time"})]
Uuid = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Json = Annotated[Any, Field(description="Any JSON value.")]

ExecutionStatus = Literal["Pending", "Running", "Completed", "Failed", "Cancelled", "Paused"]

PAGE_FIELDS = ("limit", "offset", "cursor", "after")
"""Query parameters whose faults have the code invalid_pagination."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)


class ErrorBody(TypedDict):
    """Every answer other than 2xx. The id to report is in the ``x-request-id`` header."""

    error: Annotated[str, Field(description="What is wrong, for people.")]
    code: Annotated[str, Field(description="What is wrong, for programs; stable.")]


class StatusAnswer(TypedDict):
    """Liveness."""

    status: Literal["ok"]


class ReadyAnswer(TypedDict):
    """Readiness: all that requests need can be reached."""

    status: Literal["ready"]


class NotReadyAnswer(ErrorBody):
    """What cannot be reached; an error like any other, with the reason by itself."""

    status: Literal["not_ready"]
    reason: str


class ServiceState(TypedDict):
    """One process of the system."""

    service: Annotated[str, Field(description="api, scheduler, reconciler or executor")]
    target: Annotated[str | None, Field(description="Where it was asked; null for the gateway itself.")]
    status: Literal["ok", "not_ready", "unreachable"]
    reason: Annotated[str | None, Field(description="Why it is not ok.")]
    instance_id: str | None
    version: str | None
    uptime_s: Annotated[float | None, Field(description="Seconds since it started.")]
    figures: Annotated[dict[str, float], Field(description="Figures of its own.")]


class SystemStatus(TypedDict):
    """State of every service."""

    status: Literal["ok", "degraded"]
    services: list[ServiceState]


# --- workflows


class PackageUploadForm(BaseModel):
    """Multipart form of an upload; the first part with a file name is the archive, whatever its field is called."""

    file: bytes = Field(description="The .cloacina archive.", json_schema_extra={"format": "binary"})


class WorkflowUploadedResponse(TypedDict):
    """The package is registered and loaded."""

    package_id: Uuid
    tenant_id: str


class WorkflowSummary(TypedDict):
    """One workflow of a package."""

    id: Annotated[str, Field(description="Package UUID.")]
    package_name: str
    workflow_name: Annotated[str, Field(description="The name it is executed by.")]
    version: str
    description: str | None
    tasks: Annotated[list[str], Field(description="Task ids, in topological order.")]
    paused: Annotated[bool, Field(description="Whether new executions are refused.")]
    created_at: Timestamp
    build_status: Annotated[str, Field(description="success, failed or building")]


class WorkflowList(TypedDict):
    """The workflows of a tenant, newest package first."""

    tenant_id: str
    items: list[WorkflowSummary]
    total: int


class WorkflowTaskNode(TypedDict):
    """A task and what it depends on."""

    id: str
    dependencies: list[str]
    description: str | None
    doc_what: str | None
    doc_why: str | None


class InputSlot(TypedDict):
    """A named, typed value the workflow accepts."""

    name: str
    schema: Annotated[dict[str, Any], Field(description="JSON Schema of the value.")]
    required: bool
    default: Annotated[Any, Field(description="Taken when the value is left out; null for none.")]
    encrypted: Annotated[bool, Field(description="Whether it names a secret.")]


class PackageSignatureInfo(TypedDict):
    """Who made the package."""

    status: Annotated[
        str,
        Field(
            description="unsigned; trusted; revoked: by a key revoked since; unknown: by a key that the tenant did not "
            "trust when it came"
        ),
    ]
    key_id: Annotated[str | None, Field(description="Id of the signing key; null when unsigned.")]
    key_name: Annotated[str | None, Field(description="What the tenant calls the key.")]


class WorkflowDetail(WorkflowSummary):
    """A workflow with its build state, inputs and graph."""

    tenant_id: str
    build_error: str | None
    declared_params: list[InputSlot]
    secrets: Annotated[list[str], Field(description="Names of the secrets it declares.")]
    task_graph: list[WorkflowTaskNode]
    package_digest: Annotated[str, Field(description="SHA-256 of the archive.")]
    package_size_bytes: int
    signature: PackageSignatureInfo


class WorkflowDeletedResponse(TypedDict):
    """The version takes no further executions; running ones keep it."""

    status: Literal["deleted"]
    package_name: str
    version: str


# --- executions


def _json_object(value: Any) -> Any:
    if value is not None and not isinstance(value, dict):
        raise ValueError('must be a JSON object, such as {"key": "value"}')
    return value


class ExecuteRequest(_Request):
    """What an execution starts with."""

    context: Annotated[dict[str, Any] | None, BeforeValidator(_json_object)] = Field(
        None, description="Input context: a JSON object."
    )
    priority: int = Field(
        0, ge=-100, le=100, description="Its tasks run before those of the tenant's executions with a lower one."
    )


class ExecuteResponse(TypedDict):
    """The execution is durable and will run."""

    execution_id: Uuid
    workflow_name: str
    tenant_id: str
    status: Literal["scheduled"]


class ChangeExecutionRequest(_Request):
    """Why, for the events and logs."""

    reason: str = Field("", max_length=1000)


class ListExecutionsQuery(_Request):
    """Filters and the page."""

    status: ExecutionStatus | None = Field(None, description="Only executions in this state.")
    workflow: str | None = Field(None, max_length=255, description="Only executions of this workflow.")
    workflow_name: str | None = Field(None, max_length=255, description="The same as `workflow`.")
    limit: int = Field(100, ge=1, le=1000, description="Executions on the page.")
    offset: int = Field(0, ge=0, le=2**32 - 1, description="Executions to skip; not together with `cursor`.")
    cursor: str | None = Field(None, min_length=1, max_length=500, description="`next_cursor` of the page before.")

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.cursor is not None and self.offset:
            raise ValueError("'cursor' and 'offset' exclude each other")
        return self


class ListEventsQuery(_Request):
    """The page."""

    after: int = Field(0, ge=0, le=2**63 - 1, description="Only events after this sequence number.")
    limit: int = Field(10_000, ge=1, le=10_000, description="Events on the page.")


class ExecutionSummary(TypedDict):
    """One execution in a list."""

    id: Uuid
    workflow_name: str
    status: str
    created_at: Timestamp
    started_at: Timestamp
    completed_at: Timestamp | None
    trigger_origin: Annotated[str | None, Field(description="manual, cron, trigger, …")]
    request_id: Annotated[str | None, Field(description="x-request-id of the request that began it.")]
    reason: str | None
    error: str | None


class ExecutionList(TypedDict):
    """A page of executions, newest first."""

    tenant_id: str
    items: list[ExecutionSummary]
    total: Annotated[int, Field(description="Executions that match, counted up to 10,000.")]
    next_cursor: Annotated[str | None, Field(description="For the next page; null on the last.")]


class ExecutionDetail(TypedDict):
    """An execution."""

    tenant_id: str
    execution_id: Uuid
    workflow_name: str
    status: str
    reason: Annotated[str | None, Field(description="Why it ended: ok, dependency_failed, cancelled or timeout.")]
    error: str | None
    created_at: Timestamp
    started_at: Timestamp | None
    completed_at: Timestamp | None
    trigger_origin: str | None
    request_id: Annotated[str | None, Field(description="x-request-id of the request that began it.")]
    trace_id: Annotated[str | None, Field(description="Its trace; null when tracing is off.")]
    package_id: str | None
    package_version: str | None
    priority: int
    parent_execution_id: Annotated[str | None, Field(description="The execution whose task started it.")]
    parent_task: str | None
    output: Annotated[Any, Field(description="Final context; null before the end.")]


class ExecutionEvent(TypedDict):
    """One step of an execution."""

    id: Uuid
    event_type: str
    task_name: Annotated[str | None, Field(description="null for events of the execution as a whole.")]
    created_at: Timestamp
    sequence_num: int
    event_data: Annotated[str | None, Field(description="JSON with what else the event says.")]


class ExecutionEventsResponse(TypedDict):
    """Events, oldest first."""

    tenant_id: str
    execution_id: Uuid
    events: list[ExecutionEvent]


class TaskExecutionDetail(TypedDict):
    """One task of an execution."""

    id: Uuid
    task_name: str
    status: str
    sub_status: str | None
    attempt: int
    max_attempts: int
    reason: str | None
    last_error: str | None
    error_details: str | None
    created_at: Timestamp
    ready_at: Timestamp | None
    claimed_at: Timestamp | None
    started_at: Timestamp | None
    completed_at: Timestamp | None
    updated_at: Timestamp
    executor_id: str | None


class ExecutionTasksResponse(TypedDict):
    """Tasks, in topological order."""

    tenant_id: str
    execution_id: Uuid
    tasks: list[TaskExecutionDetail]


# --- triggers


class ListTriggersQuery(_Request):
    """The page."""

    limit: int = Field(100, ge=1, le=1000, description="Schedules on the page.")
    offset: int = Field(0, ge=0, le=2**32 - 1, description="Schedules to skip.")


class TriggerScheduleInfo(TypedDict):
    """A schedule: a cron schedule, or a trigger that is polled."""

    id: Annotated[Uuid, Field(description="UUID of the schedule.")]
    schedule_type: Annotated[str, Field(description="cron or trigger")]
    workflow_name: Annotated[str, Field(description="The workflow it starts; the main one of several.")]
    workflows: Annotated[list[str], Field(description="All workflows it starts.")]
    enabled: Annotated[bool, Field(description="Always true: what its package no longer declares is gone.")]
    cron_expression: str | None
    timezone: str | None
    trigger_name: Annotated[str | None, Field(description="The name it is addressed by.")]
    poll_interval_ms: int | None
    allow_concurrent: Annotated[
        bool,
        Field(description="Whether the same context may be started while an execution with it is unfinished."),
    ]
    paused: bool
    paused_at: Timestamp | None
    next_run_at: Timestamp | None
    last_run_at: Timestamp | None
    last_poll_at: Timestamp | None
    last_outcome: Annotated[str | None, Field(description="fired, caught_up, skipped or failed")]
    last_error: Annotated[str | None, Field(description="Why the last firing failed or was skipped.")]
    created_at: Timestamp


class TriggerList(TypedDict):
    """A page of schedules, by name."""

    tenant_id: str
    items: list[TriggerScheduleInfo]
    total: Annotated[int, Field(description="Schedules of the tenant in all.")]


class TriggerExecution(TypedDict):
    """A firing."""

    id: Uuid
    scheduled_time: Annotated[Timestamp | None, Field(description="The instant it was for.")]
    started_at: Timestamp
    completed_at: Annotated[Timestamp | None, Field(description="When its execution ended.")]
    workflow_name: str
    execution_id: Annotated[str | None, Field(description="null when none could be started.")]
    outcome: str
    error: str | None


class TriggerDetailResponse(TypedDict):
    """A schedule and its last firings, newest first."""

    tenant_id: str
    schedule: TriggerScheduleInfo
    recent_executions: list[TriggerExecution]


class TriggerPauseResponse(TypedDict):
    """The schedule is paused, or goes on."""

    tenant_id: str
    id: Uuid
    name: Annotated[str, Field(description="The name it was addressed by.")]
    status: Literal["paused", "resumed"]
    paused: bool


class FireTriggerRequest(_Request):
    """What the executions start with."""

    event: Annotated[dict[str, Any] | None, BeforeValidator(_json_object)] = Field(
        None, description="A JSON object that is merged into their contexts."
    )


class FiredExecution(TypedDict):
    """One workflow that was started."""

    workflow_name: str
    execution_id: Uuid


class FireTriggerResponse(TypedDict):
    """The executions are durable and will run."""

    tenant_id: str
    trigger: str
    fired: Annotated[int, Field(description="How many were started.")]
    executions: list[FiredExecution]


class DeclaredSurface(TypedDict):
    """What can be given to a trigger, an accumulator or a reactor; no slots: nothing is declared."""

    kind: Literal["trigger", "accumulator", "reactor"]
    name: str
    slots: list[InputSlot]


# --- secrets


class CreateSecretRequest(_Request):
    """A secret to make."""

    name: str = Field(min_length=1, max_length=255, description="Unique within the tenant; printable characters.")
    fields: dict[str, str] = Field(min_length=1, description="Values by field name; never shown again.", repr=False)


class RotateSecretRequest(_Request):
    """The fields of a secret, all of them."""

    fields: dict[str, str] = Field(min_length=1, description="Values by field name; never shown again.", repr=False)


class SecretMetadata(TypedDict):
    """What is shown of a secret."""

    id: Uuid
    name: str
    field_names: list[str]
    created_at: Timestamp
    updated_at: Annotated[str, Field(description="When its values were last set.")]
    version: Annotated[int, Field(description="Grows with every rotation, from 1.")]


class SecretList(TypedDict):
    """Secrets of a tenant, by name."""

    items: list[SecretMetadata]
    total: int


class SecretDeletedResponse(TypedDict):
    """The secret is gone."""

    status: Literal["deleted"]
    name: str


# --- what happened to an execution or a request


class TimelineSpan(TypedDict):
    """One piece of the time of an execution; the pieces form a tree."""

    span_id: Annotated[str, Field(description="Unique within the answer.")]
    parent_id: Annotated[str | None, Field(description="The piece it is a part of; null for the execution itself.")]
    name: str
    kind: Annotated[
        str, Field(description="execution, task, attempt, queue, dispatch, run, deferred, backoff or paused")
    ]
    start: Timestamp
    end: Annotated[str | None, Field(description="null while it lasts")]
    duration_ms: Annotated[float, Field(description="Until now, while it lasts.")]
    status: Annotated[str, Field(description="ok, error, skipped, cancelled, lost or unfinished")]
    ids: Annotated[dict[str, Any], Field(description="What it is about: task_name, attempt, executor_id, …")]


class ExecutionTrace(TypedDict):
    """Where the time of an execution went, from what the scheduler stored of it: no collector is needed."""

    tenant_id: str
    execution_id: Uuid
    workflow_name: str
    status: str
    request_id: str | None
    trace_id: Annotated[str | None, Field(description="Of its distributed trace; null when tracing is off.")]
    trace_url: Annotated[str | None, Field(description="That trace in your tracing UI (CLOACINA_TRACE_UI_URL).")]
    spans: Annotated[list[TimelineSpan], Field(description="Each behind the one it is a part of.")]
    truncated: Annotated[bool, Field(description="Whether the last events of a very long execution are left out.")]


class ExecutionCause(TypedDict):
    """One reason why an execution is not done, or ended as it did."""

    kind: Annotated[str, Field(description="What it is, for programs; stable.")]
    text: Annotated[str, Field(description="What it is, for people.")]
    task_name: Annotated[str | None, Field(description="null for the execution as a whole")]
    since: Annotated[str | None, Field(description="Since when it holds.")]
    until: Annotated[str | None, Field(description="When it ends by itself; null where it does not.")]
    ids: Annotated[dict[str, str], Field(description="What to look at next: executor_id, execution_id, …")]


class ExecutionExplanation(TypedDict):
    """Why an execution is not done yet, or how it ended."""

    tenant_id: str
    execution_id: Uuid
    workflow_name: str
    status: str
    request_id: str | None
    trace_id: str | None
    trace_url: str | None
    at: Annotated[str, Field(description="When this was said.")]
    since: Annotated[str | None, Field(description="Since when the execution is in its state.")]
    answer: Annotated[str, Field(description="In a sentence or two.")]
    causes: Annotated[list[ExecutionCause], Field(description="What to look at first comes first.")]


LogLevel = Literal["trace", "debug", "info", "warn", "error"]


class LogsQuery(_Request):
    """The page, and what is left out of it."""

    level: LogLevel = Field("trace", description="The lowest level shown.")
    limit: int = Field(500, ge=1, le=5000, description="Lines on the page.")
    cursor: str | None = Field(None, min_length=1, max_length=4000, description="`next_cursor` of the page before.")


class ExecutionLogs(TypedDict):
    """Log lines of an execution, oldest first."""

    tenant_id: str
    execution_id: Uuid
    status: str
    lines: Annotated[list[dict[str, Any]], Field(description="Each in the shape of the log files.")]
    next_cursor: Annotated[str, Field(description="Where the next page begins; later lines come there too.")]
    complete: Annotated[bool, Field(description="Whether this is all that is there by now.")]


class RequestQuery(LogsQuery):
    """The page, and how far back to look for a request that began nothing."""

    hours: int = Field(24, ge=1, le=8760, description="How far back lines of a request without executions are sought.")


class RequestDetail(TypedDict):
    """What became of a request."""

    request_id: str
    trace_id: str | None
    trace_url: str | None
    executions: Annotated[list[ExecutionSummary], Field(description="What it began, oldest first.")]
    host: Annotated[str, Field(description="The machine whose log files were read: the gateway's.")]
    lines: Annotated[list[dict[str, Any]], Field(description="Its log lines, oldest first.")]
    next_cursor: str
    complete: Annotated[bool, Field(description="Whether this is all that is there by now.")]


# --- keys and tenants


class KeyRole(StrEnum):
    """What a key may do in its tenant; each includes the ones below it."""

    ADMIN = "admin"
    WRITE = "write"
    READ = "read"


Label = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]


class CreateKeyRequest(_Request):
    """A new key."""

    name: Label = Field(description="What people call it.")
    role: KeyRole = Field(KeyRole.READ, description="The least that is needed: read unless said otherwise.")


class KeyCreatedResponse(TypedDict):
    """The only answer that ever holds the key itself."""

    id: Uuid
    name: str
    key: Annotated[str, Field(description="The key; shown once.")]
    permissions: Annotated[str, Field(description="Its role.")]
    tenant_id: str | None
    is_admin: Annotated[bool, Field(description="God mode; never granted here.")]
    created_at: Timestamp


class KeyInfo(TypedDict):
    """A key, without the key itself."""

    id: Uuid
    name: str
    permissions: str
    tenant_id: str | None
    is_admin: bool
    created_at: Timestamp
    revoked: bool


class KeyList(TypedDict):
    """Keys, oldest first."""

    items: list[KeyInfo]
    total: int


class KeyRevokedResponse(TypedDict):
    """The key no longer opens anything."""

    status: Literal["revoked"]
    id: Uuid


class WhoamiResponse(TypedDict):
    """The caller's own key."""

    name: str
    tenant_id: str | None
    role: str
    is_admin: bool


class CreateTenantRequest(_Request):
    """A new tenant."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,63}$")] = Field(
        description="1 to 63 of a-z, 0-9 and _."
    )
    description: str | None = Field(None, max_length=1000)
    password: str | None = Field(
        None, max_length=1000, description="Taken for compatibility and not used: tenants have no database user."
    )


class TenantCreatedResponse(TypedDict):
    """The tenant is there."""

    name: str
    username: Annotated[str, Field(description="The same as the name.")]
    description: str | None


class TenantSummary(TypedDict):
    """A tenant."""

    name: str
    description: str | None
    created_at: Timestamp


class TenantList(TypedDict):
    """Tenants, by name."""

    items: list[TenantSummary]
    total: int


class CleanupEventsRequest(_Request):
    """What to delete."""

    older_than_s: float = Field(
        ge=0, le=3e9, description="Seconds that must have passed since an execution's end for its events to go."
    )
    executions: bool = Field(False, description="Whether the executions go too, with their tasks and outputs.")
    dry_run: bool = Field(False, description="Only count.")


class CleanupEventsResponse(TypedDict):
    """What was deleted, or would be."""

    ended_before: Annotated[Timestamp, Field(description="Executions that ended before are concerned.")]
    dry_run: bool
    executions: int
    events: int
    complete: Annotated[bool, Field(description="Whether nothing is left; otherwise ask again.")]
