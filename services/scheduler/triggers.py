"""What SchedulerService says of triggers: requests become calls of the schedules, rows become messages."""

from __future__ import annotations

from typing import Any

import orjson

from cloacina.engine.firings import workflows_of
from cloacina.engine.model import Origin
from cloacina.engine.schedules import Schedules
from cloacina.errors import InvalidRequest
from cloacina.rpc.v1 import common_pb2, scheduler_pb2
from cloacina.store.schedules import FiringRecord, ScheduleRow, ScheduleStore
from cloacina.telemetry import scope, tracing
from services.scheduler.definitions import Definitions

_PAGE = 100
_MAX_PAGE = 1000
_RECENT = 10
"""Firings that the details of a trigger show."""


class TriggerHandlers:
    """The part of the handlers that concerns triggers.

    Args:
        schedules: what they speak for.
        store: reads firings.
        definitions: the mirror of the registry.
    """

    def __init__(self, schedules: Schedules, store: ScheduleStore, definitions: Definitions) -> None:
        self._schedules = schedules
        self._store = store
        self._definitions = definitions

    def count(self) -> int:
        """Schedules of all tenants."""
        return len(self._schedules)

    def list(self, request: Any) -> scheduler_pb2.ListTriggersResponse:
        """A page of them."""
        rows = self._schedules.of_tenant(request.tenant_id)
        limit = min(request.limit or _PAGE, _MAX_PAGE)
        shown = rows[request.offset : request.offset + limit]
        return scheduler_pb2.ListTriggersResponse(triggers=[_trigger(row) for row in shown], total=len(rows))

    async def get(self, request: Any) -> scheduler_pb2.GetTriggerResponse:
        """One, with its last firings."""
        row = self._schedules.find(request.tenant_id, request.name)
        records = await self._store.list_firings(row.tenant_id, row.schedule_id, limit=_RECENT)
        return scheduler_pb2.GetTriggerResponse(trigger=_trigger(row), firings=[_firing(each) for each in records])

    async def set_paused(self, request: Any, paused: bool) -> scheduler_pb2.Trigger:
        """Pauses or resumes one."""
        row = self._schedules.find(request.tenant_id, request.name)
        return _trigger(await self._schedules.set_paused(row.schedule_id, paused))

    async def fire(self, request: Any) -> scheduler_pb2.FireTriggerResponse:
        """Fires one now."""
        row = self._schedules.find(request.tenant_id, request.name)
        event = _event(request.event)
        workflow_name = workflows_of(row)[0]
        with (
            scope.bind(tenant_id=request.tenant_id, workflow_name=workflow_name),
            tracing.span(f"schedule {workflow_name}") as span,
        ):
            origin = Origin(scope.current().request_id or "", span.traceparent)
            started = await self._schedules.fire(row.schedule_id, event, origin)
        return scheduler_pb2.FireTriggerResponse(
            name=row.name,
            executions=[scheduler_pb2.FiredExecution(workflow_name=each, execution_id=id_) for each, id_ in started],
        )

    def interface(self, request: Any) -> scheduler_pb2.GetTriggerInterfaceResponse:
        """The declared params of its workflows; of one name the first counts."""
        row = self._schedules.find(request.tenant_id, request.name)
        slots: dict[str, common_pb2.InputSlot] = {}
        for name in workflows_of(row):
            workflow = self._definitions.known(request.tenant_id, name)
            for slot in () if workflow is None else workflow.message.params:
                slots.setdefault(slot.name, slot)
        return scheduler_pb2.GetTriggerInterfaceResponse(name=row.name, slots=list(slots.values()))


def _event(raw: bytes) -> dict[str, Any]:
    if not raw:
        return {}
    try:
        event = orjson.loads(raw)
    except orjson.JSONDecodeError:
        event = None
    if not isinstance(event, dict):
        raise InvalidRequest("'event' must be a JSON object", code="trigger_event_invalid")
    return event


def _trigger(row: ScheduleRow) -> scheduler_pb2.Trigger:
    return scheduler_pb2.Trigger(
        id=row.schedule_id,
        name=row.name,
        kind=row.kind,
        workflow_names=workflows_of(row),
        cron=row.cron or "",
        timezone=row.timezone or "",
        poll_interval_ms=row.poll_interval_ms or 0,
        allow_concurrent=row.allow_concurrent,
        paused=row.paused_at is not None,
        paused_at=row.paused_at or 0,
        next_run_at=row.next_run_at or 0,
        last_run_at=row.last_run_at or 0,
        last_poll_at=row.last_poll_at or 0,
        last_outcome=row.last_outcome or "",
        last_error=row.last_error or "",
        created_at=row.created_at,
        package_id=row.package_id,
    )


def _firing(record: FiringRecord) -> scheduler_pb2.TriggerFiring:
    firing = record.firing
    return scheduler_pb2.TriggerFiring(
        id=firing.firing_id,
        scheduled_at=firing.scheduled_at,
        fired_at=firing.fired_at,
        finished_at=record.finished_at or 0,
        execution_id=firing.execution_id or "",
        workflow_name=firing.workflow_name,
        outcome=firing.outcome,
        error=firing.error or "",
    )
