"""The OpenAPI document: every route is in it, and it holds together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from openapi_spec_validator import validate

from services.api.access import Reach
from services.api.openapi import error_statuses, openapi_document
from services.api.routes import ALL_ROUTES

from .stand import Stand

_METHODS = {"get", "post", "put", "patch", "delete"}
_DOCUMENT = json.loads(openapi_document(ALL_ROUTES))


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in _DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


async def test_it_is_served_to_everyone(stand: Stand) -> None:
    reply = await stand.ask("GET", "/openapi.json", key=None)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == _DOCUMENT


def test_it_has_every_route_and_no_other() -> None:
    assert {(method.upper(), path) for method, path, _ in _operations()} == {(r.method, r.path) for r in ALL_ROUTES}
    assert _DOCUMENT["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(_DOCUMENT["info"])


def test_it_is_valid() -> None:
    validate(_DOCUMENT)


def test_every_reference_leads_somewhere() -> None:
    for reference in _references(_DOCUMENT):
        node = _DOCUMENT
        assert reference.startswith("#/")
        for part in reference[2:].split("/"):
            node = node[part]
        assert node


def test_every_operation_is_whole() -> None:
    names = [operation["operationId"] for _, _, operation in _operations()]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in _DOCUMENT["tags"]}
    for method, path, operation in _operations():
        assert method in _METHODS
        assert operation["summary"]
        assert set(operation["tags"]) <= tags
        parameters = [(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", ())]
        assert len(parameters) == len(set(parameters))
        assert {name for place, name in parameters if place == "path"} == set(re.findall(r"{(\w+)}", path))
        assert all(p["required"] for p in operation.get("parameters", ()) if p["in"] == "path")
        for status, answer in operation["responses"].items():
            assert re.fullmatch(r"101|[2-5]\d\d", status)
            assert "$ref" in answer or (answer["description"] and (status == "101" or answer["content"]))


def test_security_and_errors_follow_the_table() -> None:
    for route in ALL_ROUTES:
        operation = _DOCUMENT["paths"][route.path][route.method.lower()]
        public = route.access.reach is Reach.PUBLIC
        assert operation["security"] == ([] if public else [{"api_key": []}])
        assert set(operation["responses"]) == {str(status) for status in (*route.answers, *error_statuses(route))}
        assert public or "401" in operation["responses"]
    scheme = _DOCUMENT["components"]["securitySchemes"]["api_key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for response in _DOCUMENT["components"]["responses"].values():
        assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
        assert "x-request-id" in response["headers"]


def test_what_is_sent_is_described() -> None:
    upload = _DOCUMENT["paths"]["/v1/tenants/{tenant_id}/workflows"]["post"]
    assert list(upload["requestBody"]["content"]) == ["multipart/form-data"]
    execute = _DOCUMENT["paths"]["/v1/tenants/{tenant_id}/workflows/{name}/execute"]["post"]
    assert execute["requestBody"]["required"] is False
    assert "Idempotency-Key" in {p["name"] for p in execute["parameters"] if p["in"] == "header"}
    listing = _DOCUMENT["paths"]["/v1/tenants/{tenant_id}/executions"]["get"]
    query = {p["name"]: p["schema"] for p in listing["parameters"] if p["in"] == "query"}
    assert set(query) == {"status", "workflow", "workflow_name", "limit", "offset", "cursor"}
    assert (query["limit"]["minimum"], query["limit"]["maximum"]) == (1, 1000)
    assert "Failed" in query["status"]["enum"]
