"""API keys: making, listing and revoking them, for the platform and for one tenant; and who the caller is."""

from __future__ import annotations

import time
from collections.abc import Iterable
from uuid import UUID

from aiohttp import web

from cloacina.errors import InvalidRequest, NotFound
from cloacina.store.database import StoreConflict
from cloacina.store.identity import KeyRow
from services.api import audit
from services.api.bodies import read_model
from services.api.call import Call
from services.api.keys import create_key, new_key
from services.api.replies import reply, timestamp
from services.api.routing import Route
from services.api.schemas import (
    CreateKeyRequest,
    KeyCreatedResponse,
    KeyInfo,
    KeyList,
    KeyRevokedResponse,
    WhoamiResponse,
)


async def _create(call: Call) -> web.Response:
    return await _created(call, None)


async def _create_for_tenant(call: Call) -> web.Response:
    return await _created(call, call.tenant_id)


async def _created(call: Call, tenant_id: str | None) -> web.Response:
    gateway = call.gateway
    body = await read_model(call.http, CreateKeyRequest, timeout_s=gateway.settings.api_body_timeout_s)
    key = new_key()
    row = await create_key(gateway.identity, key, name=body.name, tenant_id=tenant_id, role=body.role.value)
    audit.record("API key created", call.caller, created_key_id=row.key_id, created_key_name=row.name, role=row.role)
    answer: KeyCreatedResponse = {
        "id": row.key_id,
        "name": row.name,
        "key": key,
        "permissions": row.role,
        "tenant_id": row.tenant_id,
        "is_admin": row.is_admin,
        "created_at": timestamp(row.created_at),
    }
    return reply(answer, 201)


async def _list(call: Call) -> web.Response:
    return _listed(await call.gateway.identity.list_keys(None))


async def _list_of_tenant(call: Call) -> web.Response:
    return _listed(await call.gateway.identity.list_keys(call.tenant_id))


def _listed(rows: Iterable[KeyRow]) -> web.Response:
    items: list[KeyInfo] = [
        {
            "id": row.key_id,
            "name": row.name,
            "permissions": row.role,
            "tenant_id": row.tenant_id,
            "is_admin": row.is_admin,
            "created_at": timestamp(row.created_at),
            "revoked": row.revoked_at is not None,
        }
        for row in rows
    ]
    answer: KeyList = {"items": items, "total": len(items)}
    return reply(answer)


async def _revoke(call: Call) -> web.Response:
    return await _revoked(call, _key_id(call))


async def _revoke_of_tenant(call: Call) -> web.Response:
    """A key of another tenant is not there, as far as this one can learn."""
    key_id = _key_id(call)
    keys = await call.gateway.identity.list_keys(call.tenant_id)
    if not any(key.key_id == key_id for key in keys):
        raise _no_key(key_id)
    return await _revoked(call, key_id)


async def _revoked(call: Call, key_id: str) -> web.Response:
    try:
        await call.gateway.identity.revoke_key(key_id, time.time_ns() // 1000)
    except StoreConflict:
        raise _no_key(key_id) from None
    audit.record("API key revoked", call.caller, revoked_key_id=key_id)
    answer: KeyRevokedResponse = {"status": "revoked", "id": key_id}
    return reply(answer)


def _key_id(call: Call) -> str:
    try:
        return str(UUID(call.path["key_id"]))
    except ValueError:
        raise InvalidRequest("the key id in the path is not a UUID", code="invalid_key_id") from None


def _no_key(key_id: str) -> NotFound:
    return NotFound(f"there is no key {key_id}, or it is revoked already", code="key_not_found")


async def _whoami(call: Call) -> web.Response:
    caller = call.caller
    assert caller is not None, "the route asks for a key"
    answer: WhoamiResponse = {
        "name": caller.name,
        "tenant_id": caller.tenant_id,
        "role": caller.role,
        "is_admin": caller.is_admin,
    }
    return reply(answer)


ROUTES = (
    Route(
        method="GET",
        path="/v1/auth/whoami",
        handler=_whoami,
        operation="whoami",
        tag="auth",
        summary="Whose key this is",
        answers={200: WhoamiResponse},
    ),
    Route(
        method="POST",
        path="/v1/auth/keys",
        handler=_create,
        operation="create_key",
        tag="keys",
        summary="Make a key that belongs to no tenant",
        description="It sees the state of the system and no tenant. The answer is the only one to hold the key.",
        answers={201: KeyCreatedResponse},
        body=CreateKeyRequest,
    ),
    Route(
        method="GET",
        path="/v1/auth/keys",
        handler=_list,
        operation="list_keys",
        tag="keys",
        summary="All keys of all tenants",
        answers={200: KeyList},
    ),
    Route(
        method="DELETE",
        path="/v1/auth/keys/{key_id}",
        handler=_revoke,
        operation="revoke_key",
        tag="keys",
        summary="Revoke any key",
        answers={200: KeyRevokedResponse},
        errors=(400,),
    ),
    Route(
        method="POST",
        path="/v1/tenants/{tenant_id}/keys",
        handler=_create_for_tenant,
        operation="create_tenant_key",
        tag="keys",
        summary="Make a key of a tenant",
        description="The answer is the only one to hold the key.",
        answers={201: KeyCreatedResponse},
        body=CreateKeyRequest,
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/keys",
        handler=_list_of_tenant,
        operation="list_tenant_keys",
        tag="keys",
        summary="Keys of a tenant",
        answers={200: KeyList},
    ),
    Route(
        method="DELETE",
        path="/v1/tenants/{tenant_id}/keys/{key_id}",
        handler=_revoke_of_tenant,
        operation="revoke_tenant_key",
        tag="keys",
        summary="Revoke a key of a tenant",
        answers={200: KeyRevokedResponse},
        errors=(400,),
    ),
)
