"""Secrets of a tenant: making, replacing, listing and removing them. No answer holds a value."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel

from cloacina.errors import InvalidRequest
from cloacina.rpc.v1 import secrets_pb2, secrets_pb2_grpc
from services.api.bodies import read_model
from services.api.call import Call
from services.api.replies import reply, timestamp
from services.api.routing import Route
from services.api.schemas import (
    CreateSecretRequest,
    RotateSecretRequest,
    SecretDeletedResponse,
    SecretList,
    SecretMetadata,
)

log = logging.getLogger(__name__)

_Body = TypeVar("_Body", bound=BaseModel)
_PATH = "/v1/tenants/{tenant_id}/secrets"


async def _create(call: Call) -> web.Response:
    body = await _read(call, CreateSecretRequest)
    request = secrets_pb2.CreateSecretRequest(tenant_id=call.tenant_id, name=body.name, fields=body.fields)
    made = await _ask(call, "CreateSecret", request)
    _note(call, "secret created", body.name)
    return reply(_shown(made), 201)


async def _list(call: Call) -> web.Response:
    found = await _ask(call, "ListSecrets", secrets_pb2.ListSecretsRequest(tenant_id=call.tenant_id))
    items = [_shown(secret) for secret in found.secrets]
    answer: SecretList = {"items": items, "total": len(items)}
    return reply(answer)


async def _get(call: Call) -> web.Response:
    request = secrets_pb2.GetSecretRequest(tenant_id=call.tenant_id, name=call.path["name"])
    return reply(_shown(await _ask(call, "GetSecret", request)))


async def _rotate(call: Call) -> web.Response:
    name = call.path["name"]
    body = await _read(call, RotateSecretRequest)
    request = secrets_pb2.RotateSecretRequest(tenant_id=call.tenant_id, name=name, fields=body.fields)
    rotated = await _ask(call, "RotateSecret", request)
    _note(call, "secret rotated", name)
    return reply(_shown(rotated))


async def _delete(call: Call) -> web.Response:
    name = call.path["name"]
    await _ask(call, "DeleteSecret", secrets_pb2.DeleteSecretRequest(tenant_id=call.tenant_id, name=name))
    _note(call, "secret deleted", name)
    answer: SecretDeletedResponse = {"status": "deleted", "name": name}
    return reply(answer)


async def _read(call: Call, model: type[_Body]) -> _Body:
    """The body. What is wrong with JSON or a number is usually shown with the place; here that could be a value."""
    try:
        return await read_model(call.http, model, timeout_s=call.gateway.settings.api_body_timeout_s)
    except InvalidRequest as error:
        if "JSON" in error.message or "64 bits" in error.message:
            raise InvalidRequest(
                'the request body must be a JSON object whose "fields" is an object of texts; what was sent is not '
                "shown, because it may hold values"
            ) from None
        raise


async def _ask(call: Call, method: str, request: Any) -> Any:
    reconciler = call.gateway.reconciler
    stub = secrets_pb2_grpc.SecretServiceStub(reconciler.client.channel)
    return await call.ask(reconciler, getattr(stub, method), request)


def _note(call: Call, message: str, name: str) -> None:
    """Who changed a secret, for the audit; the reconciler's line says what."""
    assert call.caller is not None, "the route asks for a key"
    log.info(message, extra={"secret": name, "key_id": call.caller.key_id, "key_name": call.caller.name})


def _shown(secret: secrets_pb2.SecretMetadata) -> SecretMetadata:
    return {
        "id": secret.secret_id,
        "name": secret.name,
        "field_names": list(secret.field_names),
        "created_at": timestamp(secret.created_at),
        "updated_at": timestamp(secret.updated_at),
        "version": secret.version,
    }


ROUTES = (
    Route(
        method="POST",
        path=_PATH,
        handler=_create,
        operation="create_secret",
        tag="secrets",
        summary="Make a secret",
        description="Its values are stored encrypted and never shown again.",
        answers={201: SecretMetadata},
        body=CreateSecretRequest,
        errors=(409,),
    ),
    Route(
        method="GET",
        path=_PATH,
        handler=_list,
        operation="list_secrets",
        tag="secrets",
        summary="Secrets of a tenant, without their values",
        answers={200: SecretList},
    ),
    Route(
        method="GET",
        path=f"{_PATH}/{{name}}",
        handler=_get,
        operation="get_secret",
        tag="secrets",
        summary="A secret, without its values",
        answers={200: SecretMetadata},
    ),
    Route(
        method="PUT",
        path=f"{_PATH}/{{name}}",
        handler=_rotate,
        operation="rotate_secret",
        tag="secrets",
        summary="Replace the fields of a secret",
        description="All of them at once. Tasks that begin from now on get the new ones.",
        answers={200: SecretMetadata},
        body=RotateSecretRequest,
    ),
    Route(
        method="DELETE",
        path=f"{_PATH}/{{name}}",
        handler=_delete,
        operation="delete_secret",
        tag="secrets",
        summary="Remove a secret",
        answers={200: SecretDeletedResponse},
    ),
)
