"""Signing keys of a tenant: the public keys whose signatures on packages it trusts."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web

from cloacina.rpc.v1 import trust_pb2, trust_pb2_grpc
from services.api.bodies import read_model
from services.api.call import Call
from services.api.replies import reply, timestamp, timestamp_or_none
from services.api.routing import Route
from services.api.trust_schemas import SigningKeyInfo, SigningKeyList, SigningKeyRevokedResponse, TrustKeyRequest

log = logging.getLogger(__name__)

_PATH = "/v1/tenants/{tenant_id}/signing-keys"


async def _trust(call: Call) -> web.Response:
    body = await read_model(call.http, TrustKeyRequest, timeout_s=call.gateway.settings.api_body_timeout_s)
    request = trust_pb2.TrustKeyRequest(
        tenant_id=call.tenant_id, name=body.name, public_key=body.public_key, by=_caller(call)
    )
    made = await _ask(call, "TrustKey", request)
    _note(call, "signing key trusted", made)
    return reply(_shown(made), 201)


async def _list(call: Call) -> web.Response:
    found = await _ask(call, "ListSigningKeys", trust_pb2.ListSigningKeysRequest(tenant_id=call.tenant_id))
    items = [_shown(key) for key in found.keys]
    answer: SigningKeyList = {"tenant_id": call.tenant_id, "items": items, "total": len(items)}
    return reply(answer)


async def _revoke(call: Call) -> web.Response:
    request = trust_pb2.RevokeKeyRequest(tenant_id=call.tenant_id, key_id=call.path["fingerprint"], by=_caller(call))
    revoked = await _ask(call, "RevokeKey", request)
    _note(call, "signing key revoked", revoked)
    answer: SigningKeyRevokedResponse = {"status": "revoked", "key_id": revoked.key_id}
    return reply(answer)


async def _ask(call: Call, method: str, request: Any) -> Any:
    reconciler = call.gateway.reconciler
    stub = trust_pb2_grpc.TrustServiceStub(reconciler.client.channel)
    return await call.ask(reconciler, getattr(stub, method), request)


def _caller(call: Call) -> str:
    assert call.caller is not None, "the route asks for a key"
    return call.caller.name


def _note(call: Call, message: str, key: trust_pb2.SigningKey) -> None:
    """Who changed the trust, for the audit."""
    assert call.caller is not None, "the route asks for a key"
    log.info(
        message,
        extra={
            "signing_key": key.key_id,
            "signing_key_name": key.name,
            "key_id": call.caller.key_id,
            "key_name": call.caller.name,
        },
    )


def _shown(key: trust_pb2.SigningKey) -> SigningKeyInfo:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "tenant_id": key.tenant_id,
        "public_key": key.public_key,
        "created_at": timestamp(key.created_at),
        "created_by": key.created_by,
        "revoked_at": timestamp_or_none(key.revoked_at),
        "revoked_by": key.revoked_by or None,
    }


ROUTES = (
    Route(
        method="POST",
        path=_PATH,
        handler=_trust,
        operation="trust_signing_key",
        tag="signing keys",
        summary="Trust a public key to sign packages",
        answers={201: SigningKeyInfo},
        body=TrustKeyRequest,
        errors=(409,),
    ),
    Route(
        method="GET",
        path=_PATH,
        handler=_list,
        operation="list_signing_keys",
        tag="signing keys",
        summary="Signing keys of a tenant, revoked ones too",
        answers={200: SigningKeyList},
    ),
    Route(
        method="DELETE",
        path=f"{_PATH}/{{fingerprint}}",
        handler=_revoke,
        operation="revoke_signing_key",
        tag="signing keys",
        summary="Revoke a signing key, for good",
        description="Packages that it signed are refused from now on. Those that are loaded stay, and say so.",
        answers={200: SigningKeyRevokedResponse},
    ),
)
