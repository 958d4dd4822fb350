"""Handlers of InstanceService: they translate; `cloacina.engine.instances` checks and keeps."""

from __future__ import annotations

import logging
from typing import Any

from cloacina.catalog.inputs import slot_from
from cloacina.engine.instances import Instances
from cloacina.rpc.v1 import instances_pb2, instances_pb2_grpc
from cloacina.store.instances import InstanceRow
from cloacina.telemetry import scope
from services.scheduler.definitions import Definitions

log = logging.getLogger(__name__)

_MAX_PAGE = 1000
_DEFAULT_PAGE = 100


class InstanceHandlers(instances_pb2_grpc.InstanceServiceServicer):
    """Handlers of InstanceService.

    Args:
        instances: what they translate for.
        definitions: the workflows and what they declare.
    """

    def __init__(self, instances: Instances, definitions: Definitions) -> None:
        self._instances = instances
        self._definitions = definitions

    async def CreateInstance(self, request: Any, context: Any) -> instances_pb2.WorkflowInstance:
        with scope.bind(tenant_id=request.tenant_id, workflow_name=request.workflow_name):
            workflow = await self._definitions.get(request.tenant_id, request.workflow_name)
            row = await self._instances.create(
                request.tenant_id,
                request.workflow_name,
                request.instance_name,
                [slot_from(param) for param in workflow.message.params],
                request.params,
                cron_expression=request.cron_expression,
                timezone=request.timezone,
                enabled=request.enabled,
            )
            log.info("instance created", extra=_about(row))
            return _message(row)

    async def ListInstances(self, request: Any, context: Any) -> instances_pb2.ListInstancesResponse:
        limit = min(request.limit or _DEFAULT_PAGE, _MAX_PAGE)
        rows, total = await self._instances.list(
            request.tenant_id, request.workflow_name, limit=limit, offset=request.offset
        )
        return instances_pb2.ListInstancesResponse(instances=[_message(row) for row in rows], total=total)

    async def GetInstance(self, request: Any, context: Any) -> instances_pb2.WorkflowInstance:
        return _message(await self._instances.get(request.tenant_id, request.workflow_name, request.instance_name))

    async def DeleteInstance(self, request: Any, context: Any) -> instances_pb2.DeleteInstanceResponse:
        with scope.bind(tenant_id=request.tenant_id, workflow_name=request.workflow_name):
            await self._instances.delete(request.tenant_id, request.workflow_name, request.instance_name)
            log.info("instance deleted", extra={"instance_name": request.instance_name})
        return instances_pb2.DeleteInstanceResponse()


def _about(row: InstanceRow) -> dict[str, object]:
    about: dict[str, object] = {"instance_name": row.instance_name, "instance_id": row.instance_id}
    return about if row.cron_expression is None else {**about, "cron": row.cron_expression, "timezone": row.timezone}


def _message(row: InstanceRow) -> instances_pb2.WorkflowInstance:
    return instances_pb2.WorkflowInstance(
        instance_id=row.instance_id,
        tenant_id=row.tenant_id,
        workflow_name=row.workflow_name,
        instance_name=row.instance_name,
        params=row.params,
        cron_expression=row.cron_expression or "",
        timezone=row.timezone,
        enabled=row.enabled,
        paused=row.paused,
        next_run_at=row.next_run_at or 0,
        last_run_at=row.last_run_at or 0,
        created_at=row.created_at,
    )
