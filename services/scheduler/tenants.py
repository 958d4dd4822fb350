"""Handlers of TenantExecutionService: what the scheduler does when a tenant is removed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from cloacina.domain.decisions import Cancel
from cloacina.engine.engine import Engine
from cloacina.engine.instances import Instances
from cloacina.errors import Conflict, NotFound, Unavailable
from cloacina.rpc.v1 import tenants_pb2, tenants_pb2_grpc
from cloacina.store.tenant_data import TenantExecutions
from cloacina.telemetry import scope
from services.scheduler.definitions import Definitions

log = logging.getLogger(__name__)

_LOOK_S = 0.05
_CANCEL_S = 20.0
"""Seconds that cancelled executions have to end: an executor that is gone is noticed within its lease."""


class TenantHandlers(tenants_pb2_grpc.TenantExecutionServiceServicer):
    """Handlers of TenantExecutionService.

    Args:
        engine: where executions run.
        definitions: what can be started.
        instances: the tenant's own, with their schedules.
        data: what the store has.
    """

    def __init__(self, engine: Engine, definitions: Definitions, instances: Instances, data: TenantExecutions) -> None:
        self._engine = engine
        self._definitions = definitions
        self._instances = instances
        self._data = data

    async def DrainTenant(self, request: Any, context: Any) -> tenants_pb2.DrainTenantResponse:
        tenant_id = request.tenant_id
        with scope.bind(tenant_id=tenant_id):
            self._definitions.closed.add(tenant_id)
            running = set(self._engine.unfinished(tenant_id))
            await self._until(lambda: not self._engine.unfinished(tenant_id), request.grace_ms / 1000)
            left = self._engine.unfinished(tenant_id)
            for execution_id in left:
                with contextlib.suppress(NotFound, Conflict):  # it has just ended
                    await self._engine.change(tenant_id, execution_id, Cancel("the tenant is removed"))
            if not await self._until(lambda: not self._engine.unfinished(tenant_id), _CANCEL_S):
                still = len(self._engine.unfinished(tenant_id))
                raise Unavailable(f"{still} executions of the tenant have not ended yet; try again")
            ended = len(running - set(left))
            log.info("tenant drained", extra={"executions_ended": ended, "executions_cancelled": len(left)})
            return tenants_pb2.DrainTenantResponse(ended=ended, cancelled=len(left))

    async def DropTenantExecutions(self, request: Any, context: Any) -> tenants_pb2.DropTenantResponse:
        tenant_id = request.tenant_id
        with scope.bind(tenant_id=tenant_id):
            if tenant_id not in self._definitions.closed or await self._data.unfinished(tenant_id):
                raise Conflict("the tenant must be drained before its data is dropped", code="tenant_not_drained")
            await self._instances.delete_all(tenant_id)
            deleted = await self._data.drop(tenant_id)
            self._definitions.closed.discard(tenant_id)
            log.info("executions of a tenant dropped", extra={"executions": deleted})
            return tenants_pb2.DropTenantResponse(deleted=deleted)

    async def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether it holds within so many seconds."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_LOOK_S)
        return True
