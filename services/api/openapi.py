"""The OpenAPI 3.1 document, made from the route table and the shapes: what is served is what is described."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter

from cloacina import __version__
from services.api.access import Reach
from services.api.routing import Route
from services.api.schemas import ErrorBody, PackageUploadForm

_SECURITY = "api_key"
_REF = "#/components/schemas/{model}"

_PATH_PARAMETERS = {
    "tenant_id": "Name of the tenant.",
    "schema_name": "Name of the tenant.",
    "name": "Name of the workflow, the secret or the trigger; where a package version is deleted, of the package.",
    "version": "Version of the package.",
    "instance": "Name of the instance.",
    "exec_id": "UUID of the execution.",
    "key_id": "UUID of the key.",
    "account_id": "UUID of the account.",
    "request_id": "An x-request-id.",
    "fingerprint": "Id of the signing key: SHA-256 of the public key, in hex.",
    "recipient": "`exec_events:` and the UUID of an execution.",
}

_UUID = {"type": "string", "format": "uuid"}
_PATH_SCHEMAS = {
    "tenant_id": {"type": "string", "pattern": "^[a-z0-9_]{1,63}$"},
    "exec_id": _UUID,
    "key_id": _UUID,
    "account_id": _UUID,
    "fingerprint": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "recipient": {"type": "string", "pattern": "^exec_events:[0-9a-fA-F-]{36}$"},
}
"""Of path parameters that are more than text."""

_HEADER_SCHEMAS = {"Idempotency-Key": {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"}}

_ERRORS = {
    400: "The request can never succeed as it stands.",
    401: "The key is missing, malformed, unknown or revoked.",
    403: "The key does not allow this.",
    404: "There is no such thing for this tenant.",
    408: "The body did not arrive in time.",
    409: "The present state does not allow this.",
    413: "The body is over its limit.",
    415: "The body is encoded.",
    417: "`Expect` asks for something other than 100-continue.",
    429: "Too many requests; `Retry-After` says when to try again.",
    431: "The request line or a header is too long.",
    500: "A defect of the server; report the `x-request-id`.",
    503: "Something that is needed cannot be reached, or too much is in flight; try again later.",
}

_REQUEST_ID_HEADER = {
    "description": "Id of the request, in every log line and span of it.",
    "schema": {"type": "string"},
}

_TAGS = {
    "operational": "How the system is.",
    "auth": "The caller.",
    "keys": "API keys.",
    "accounts": "Accounts of people.",
    "tenants": "Tenants.",
    "workflows": "Packages and the workflows in them.",
    "instances": "Values bound to a workflow's params, under a name.",
    "executions": "Executions of workflows.",
    "triggers": "What starts workflows by itself.",
    "secrets": "Values that tasks get and nobody sees.",
    "signing keys": "Public keys whose signatures on packages a tenant trusts.",
    "requests": "What became of a request.",
    "graph-health": "Computation graphs.",
    "fleet": "What runs tasks.",
    "compiler": "How packages become workflows.",
}

_DESCRIPTION = """\
Durable workflow orchestration. Every response carries `x-request-id`; a valid one that the client sends (1 to 128 of
`A-Z a-z 0-9 . _ -`) is kept, and goes with the request through every process. Every answer other than 2xx has the
body of `ErrorBody`."""


def openapi_document(routes: Iterable[Route]) -> bytes:
    """The document, as JSON.

    Args:
        routes: the table.
    """
    table = tuple(routes)
    schemas = _Schemas(table)
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    used = dict.fromkeys(route.tag for route in table)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Cloacina",
                "version": __version__,
                "description": _DESCRIPTION,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": tag, "description": _TAGS[tag]} for tag in used],
            "paths": paths,
            "components": {
                "schemas": schemas.definitions,
                "headers": {"x-request-id": _REQUEST_ID_HEADER},
                "responses": {
                    str(status): _error(status, text, schemas.of(ErrorBody)) for status, text in _ERRORS.items()
                },
                "securitySchemes": {
                    _SECURITY: {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "An API key: `Authorization: Bearer clk_…`",
                    }
                },
            },
        }
    )


def error_statuses(route: Route) -> list[int]:
    """The statuses other than its answers that a route may have: by its access, its body, and its own list."""
    statuses = {417, 431, 500, *route.errors}
    if route.access.reach is not Reach.PUBLIC:
        statuses |= {401, 429, 503}
    if route.access.reach in (Reach.TENANT, Reach.PLATFORM):
        statuses.add(403)
    if route.parameters:
        statuses |= {400, 404}
    if route.query is not None:
        statuses.add(400)
    if route.body is not None or route.upload:
        statuses |= {400, 408, 413, 415}
    return sorted(statuses - set(route.answers))


class _Schemas:
    """The shapes of all routes, each once under its name.

    Args:
        routes: the table.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        shapes: dict[int, Any] = {id(ErrorBody): ErrorBody, id(PackageUploadForm): PackageUploadForm}
        modes: dict[int, str] = {id(PackageUploadForm): "validation"}
        for route in routes:
            for shape in route.answers.values():
                if shape is not None:
                    shapes[id(shape)] = shape
            if route.body is not None:
                shapes[id(route.body)] = route.body
                modes[id(route.body)] = "validation"
        inputs: Any = [(key, modes.get(key, "serialization"), TypeAdapter(shape)) for key, shape in shapes.items()]
        by_key, rest = TypeAdapter.json_schemas(inputs, ref_template=_REF)
        self._shapes = shapes  # keeps them alive: they are known by identity
        self._schemas: dict[int, Any] = {key: schema for (key, _), schema in by_key.items()}
        self.definitions: dict[str, Any] = dict(sorted(rest.get("$defs", {}).items()))

    def of(self, shape: Any) -> dict[str, Any]:
        """The schema of a shape: a reference where it has a name."""
        schema: dict[str, Any] = self._schemas[id(shape)]
        return schema


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    public = route.access.reach is Reach.PUBLIC
    access = f"Needs: {route.access.describe()}."
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "tags": [route.tag],
        "summary": route.summary,
        "description": f"{route.description}\n\n{access}" if route.description else access,
        "security": [] if public else [{_SECURITY: []}],
        "responses": {
            **{str(status): _answer(status, shape, route, schemas) for status, shape in route.answers.items()},
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in error_statuses(route)},
        },
    }
    parameters = _parameters(route)
    if parameters:
        operation["parameters"] = parameters
    if route.upload:
        operation["requestBody"] = _body("multipart/form-data", schemas.of(PackageUploadForm), True)
    elif route.body is not None:
        operation["requestBody"] = _body("application/json", schemas.of(route.body), route.body_required)
    return operation


def _body(content_type: str, schema: Mapping[str, Any], required: bool) -> dict[str, Any]:
    return {"content": {content_type: {"schema": schema}}, "required": required}


def _answer(status: int, shape: Any, route: Route, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {route.media: {"schema": {"type": "string"}}}
    if status == 101:
        content = {}
    elif shape is not None:
        content = {"application/json": {"schema": schemas.of(shape)}}
    description = route.summary if status < 300 else _ERRORS.get(status, HTTPStatus(status).phrase)
    return {"description": description, "headers": _headers(status), **({"content": content} if content else {})}


def _error(status: int, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "headers": _headers(status),
        "content": {"application/json": {"schema": schema}},
    }


def _headers(status: int) -> dict[str, Any]:
    headers: dict[str, Any] = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}
    if status in (429, 503):
        headers["Retry-After"] = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
    elif status == 401:
        headers["WWW-Authenticate"] = {"description": "The scheme.", "schema": {"type": "string"}}
    return headers


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_PARAMETERS[name],
            "schema": _PATH_SCHEMAS.get(name, {"type": "string"}),
        }
        for name in route.parameters
    ]
    if route.query is not None:
        parameters += _query_parameters(route.query)
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": meaning,
            "schema": _HEADER_SCHEMAS.get(name, {"type": "string"}),
        }
        for name, meaning in route.headers.items()
    ]
    return parameters


def _query_parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    """The fields of the model, one by one; ``null`` is how it says "left out", which a query does by leaving out."""
    schema = query.model_json_schema()
    parameters = []
    for name, field in schema.get("properties", {}).items():
        given = {key: value for key, value in field.items() if key not in ("description", "title", "anyOf")}
        some = [choice for choice in field.get("anyOf", ()) if choice.get("type") != "null"]
        if len(some) == 1:
            given = {**some[0], **{key: value for key, value in given.items() if value is not None}}
        elif some:
            given["anyOf"] = some
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": name in schema.get("required", ()),
                "description": field.get("description", ""),
                "schema": given,
            }
        )
    return parameters
