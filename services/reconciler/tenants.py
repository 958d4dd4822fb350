"""Handlers of TenantRegistryService: what the reconciler does when a tenant is removed."""

from __future__ import annotations

import logging
from typing import Any

from cloacina.errors import Conflict
from cloacina.rpc.v1 import tenants_pb2, tenants_pb2_grpc
from cloacina.store.tenant_data import TenantRegistry
from cloacina.telemetry import scope
from services.reconciler.packages import Packages

log = logging.getLogger(__name__)


class TenantHandlers(tenants_pb2_grpc.TenantRegistryServiceServicer):
    """Handlers of TenantRegistryService.

    Args:
        packages: what is loaded.
        data: what the store has.
    """

    def __init__(self, packages: Packages, data: TenantRegistry) -> None:
        self._packages = packages
        self._data = data

    async def UnloadTenant(self, request: Any, context: Any) -> tenants_pb2.UnloadTenantResponse:
        with scope.bind(tenant_id=request.tenant_id):
            unloaded = await self._packages.close_tenant(request.tenant_id)
            log.info("packages of a tenant unloaded", extra={"packages": unloaded})
            return tenants_pb2.UnloadTenantResponse(packages=unloaded)

    async def DropTenantRegistry(self, request: Any, context: Any) -> tenants_pb2.DropTenantResponse:
        tenant_id = request.tenant_id
        with scope.bind(tenant_id=tenant_id):
            if not self._packages.is_closed(tenant_id):
                raise Conflict("the tenant's packages must be unloaded first", code="tenant_not_drained")
            deleted = await self._data.drop(tenant_id)
            self._packages.forget_tenant(tenant_id)
            log.info("packages and secrets of a tenant dropped", extra={"deleted": deleted})
            return tenants_pb2.DropTenantResponse(deleted=deleted)
