"""Tenants: creating, listing and removing them, and their quotas."""

from __future__ import annotations

import time

from aiohttp import web

from cloacina.errors import InvalidRequest, NotFound
from cloacina.store.database import StoreConflict
from cloacina.store.identity import TenantRow
from services.api import audit
from services.api.bodies import read_model
from services.api.call import Call
from services.api.quotas import Quotas
from services.api.replies import reply, timestamp
from services.api.routing import Route
from services.api.schemas import CreateTenantRequest, TenantCreatedResponse, TenantList
from services.api.tenant_schemas import SetQuotasRequest, TenantQuotas, TenantRemovedResponse


async def _create(call: Call) -> web.Response:
    gateway = call.gateway
    body = await read_model(call.http, CreateTenantRequest, timeout_s=gateway.settings.api_body_timeout_s)
    call.bind(tenant_id=body.name)
    try:
        await gateway.identity.create_tenant(TenantRow(body.name, body.description, time.time_ns() // 1000))
    except StoreConflict:  # 400 and not 409: so the original answers, and its clients expect it
        raise InvalidRequest(f"there is a tenant {body.name!r} already", code="tenant_exists") from None
    audit.record("tenant created", call.caller, tenant=body.name)
    answer: TenantCreatedResponse = {"name": body.name, "username": body.name, "description": body.description}
    return reply(answer, 201)


async def _list(call: Call) -> web.Response:
    rows = await call.gateway.identity.list_tenants()
    answer: TenantList = {
        "items": [
            {"name": row.name, "description": row.description, "created_at": timestamp(row.created_at)} for row in rows
        ],
        "total": len(rows),
    }
    return reply(answer)


async def _remove(call: Call) -> web.Response:
    name = call.path["schema_name"]
    call.bind(tenant_id=name)
    removal = await call.gateway.teardown.remove(name, call.caller)
    answer: TenantRemovedResponse = {
        "status": "removed",
        "schema_name": name,
        "revoked_keys": removal.revoked_keys,
        "runner_evicted": True,
        "db_cache_evicted": True,
    }
    return reply(answer)


async def _get_quotas(call: Call) -> web.Response:
    return reply(_shown(call.quotas))


async def _set_quotas(call: Call) -> web.Response:
    gateway = call.gateway
    assert call.tenant is not None, "the route has a tenant"
    body = await read_model(call.http, SetQuotasRequest, timeout_s=gateway.settings.api_body_timeout_s)
    changed = call.tenant._replace(
        requests_per_s=body.requests_per_s, max_executions=body.executions, max_package_bytes=body.package_bytes
    )
    try:
        await gateway.identity.set_quotas(changed)
    except StoreConflict:
        raise NotFound(f"there is no tenant {changed.name!r}", code="tenant_not_found") from None
    audit.record("tenant quotas changed", call.caller, quotas=body.model_dump())
    return reply(_shown(gateway.quotas.of(changed)))


def _shown(quotas: Quotas) -> TenantQuotas:
    return {
        "requests_per_s": quotas.requests_per_s,
        "executions": quotas.executions,
        "package_bytes": quotas.package_bytes,
    }


ROUTES = (
    Route(
        method="POST",
        path="/v1/tenants",
        handler=_create,
        operation="create_tenant",
        tag="tenants",
        summary="Create a tenant",
        answers={201: TenantCreatedResponse},
        body=CreateTenantRequest,
    ),
    Route(
        method="GET",
        path="/v1/tenants",
        handler=_list,
        operation="list_tenants",
        tag="tenants",
        summary="All tenants",
        answers={200: TenantList},
    ),
    Route(
        method="DELETE",
        path="/v1/tenants/{schema_name}",
        handler=_remove,
        operation="remove_tenant",
        tag="tenants",
        summary="Remove a tenant and all it has",
        description="Revokes its keys, drains its executions, unloads its packages, drops its data. If a step fails "
        "(503), what was done stays done; the rest goes on by itself, and asking again waits for it.",
        answers={200: TenantRemovedResponse},
        errors=(400,),
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/quotas",
        handler=_get_quotas,
        operation="get_tenant_quotas",
        tag="tenants",
        summary="What a tenant may use",
        answers={200: TenantQuotas},
    ),
    Route(
        method="PUT",
        path="/v1/tenants/{tenant_id}/quotas",
        handler=_set_quotas,
        operation="set_tenant_quotas",
        tag="tenants",
        summary="Say what a tenant may use",
        description="What is left out, or null, is the default of the gateway's settings; 0 is no limit.",
        answers={200: TenantQuotas},
        body=SetQuotasRequest,
    ),
)
