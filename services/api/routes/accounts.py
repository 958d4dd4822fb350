"""Accounts of a tenant: making, listing and disabling them, and setting their passwords."""

from __future__ import annotations

import time
from uuid import UUID, uuid4

from aiohttp import web

from cloacina.errors import Conflict, InvalidRequest, NotFound
from cloacina.store.accounts import AccountRow
from cloacina.store.database import StoreConflict
from services.api import audit
from services.api.account_schemas import (
    AccountActionResponse,
    AccountInfo,
    AccountList,
    CreateAccountRequest,
    ResetPasswordRequest,
)
from services.api.bodies import read_model
from services.api.call import Call
from services.api.replies import reply
from services.api.routing import Route


async def _create(call: Call) -> web.Response:
    people = call.gateway.people
    body = await read_model(call.http, CreateAccountRequest, timeout_s=call.gateway.settings.api_body_timeout_s)
    password_hash = await people.passwords.hash(body.password.get_secret_value())
    now = time.time_ns() // 1000
    row = AccountRow(str(uuid4()), call.tenant_id, body.username, password_hash, body.role.value, None, now)
    try:
        await people.accounts.add(row)
    except StoreConflict:
        raise Conflict(f"the tenant has an account {body.username!r} already", code="account_exists") from None
    audit.record("account created", call.caller, account_id=row.account_id, username=row.username, role=row.role)
    return reply(_info(row), 201)


async def _list(call: Call) -> web.Response:
    items = [_info(row) for row in await call.gateway.people.accounts.of_tenant(call.tenant_id)]
    answer: AccountList = {"items": items, "total": len(items)}
    return reply(answer)


async def _disable(call: Call) -> web.Response:
    account_id = _account_id(call)
    try:
        await call.gateway.people.accounts.disable(call.tenant_id, account_id, time.time_ns() // 1000)
    except StoreConflict:
        raise _no_account(account_id) from None
    audit.record("account disabled", call.caller, account_id=account_id)
    answer: AccountActionResponse = {"status": "disabled", "id": account_id}
    return reply(answer)


async def _reset_password(call: Call) -> web.Response:
    people, account_id = call.gateway.people, _account_id(call)
    body = await read_model(call.http, ResetPasswordRequest, timeout_s=call.gateway.settings.api_body_timeout_s)
    if await people.accounts.get(call.tenant_id, account_id) is None:
        raise _no_account(account_id)
    password_hash = await people.passwords.hash(body.password.get_secret_value())
    try:
        await people.accounts.set_password(call.tenant_id, account_id, password_hash)
    except StoreConflict:
        raise _no_account(account_id) from None
    audit.record("account password reset", call.caller, account_id=account_id)
    answer: AccountActionResponse = {"status": "password_reset", "id": account_id}
    return reply(answer)


def _info(row: AccountRow) -> AccountInfo:
    return {
        "id": row.account_id,
        "username": row.username,
        "role": row.role,
        "status": "active" if row.disabled_at is None else "disabled",
    }


def _account_id(call: Call) -> str:
    try:
        return str(UUID(call.path["account_id"]))
    except ValueError:
        raise InvalidRequest("the account id in the path is not a UUID", code="invalid_account_id") from None


def _no_account(account_id: str) -> NotFound:
    return NotFound(f"the tenant has no account {account_id}", code="account_not_found")


ROUTES = (
    Route(
        method="POST",
        path="/v1/tenants/{tenant_id}/accounts",
        handler=_create,
        operation="create_account",
        tag="accounts",
        summary="Make an account",
        answers={201: AccountInfo},
        body=CreateAccountRequest,
        errors=(409,),
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/accounts",
        handler=_list,
        operation="list_accounts",
        tag="accounts",
        summary="Accounts of a tenant",
        answers={200: AccountList},
    ),
    Route(
        method="DELETE",
        path="/v1/tenants/{tenant_id}/accounts/{account_id}",
        handler=_disable,
        operation="disable_account",
        tag="accounts",
        summary="Disable an account and end its sessions",
        answers={200: AccountActionResponse},
        errors=(400,),
    ),
    Route(
        method="POST",
        path="/v1/tenants/{tenant_id}/accounts/{account_id}/password",
        handler=_reset_password,
        operation="reset_password",
        tag="accounts",
        summary="Set a new password and end the sessions of the account",
        answers={200: AccountActionResponse},
        body=ResetPasswordRequest,
        errors=(400,),
    ),
)
