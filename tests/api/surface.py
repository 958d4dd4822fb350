"""What an OpenAPI document promises, flat: so that two documents can be compared field by field.

``python -m tests.api.surface DOCUMENT.json`` prints it; ``original_surface.json`` is made so from the original server's
document, of which it holds the names and types and nothing else.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete")


def surface(document: dict[str, Any]) -> dict[str, Any]:
    """By "METHOD /path": the query parameters, the fields of the body, and those of each answer below 400.

    A field is its path (``items[].id``) and its types, such as ``string|null``; ``!`` says that it is always there.
    Names in paths are left out: they are the server's own.
    """
    found = {}
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                operation = item[method]
                found[f"{method.upper()} {re.sub(r'{[^}]*}', '{}', path)}"] = {
                    "operation": operation["operationId"],
                    "query": sorted(each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"),
                    "body": _content(document, operation.get("requestBody", {})),
                    "answers": {
                        status: _content(document, answer)
                        for status, answer in sorted(operation["responses"].items())
                        if status < "400"
                    },
                }
    return dict(sorted(found.items()))


def _content(document: dict[str, Any], holder: dict[str, Any]) -> dict[str, str]:
    for kind, content in holder.get("content", {}).items():
        if kind in ("application/json", "multipart/form-data"):
            return dict(sorted(_fields(document, content.get("schema", {}), "", True)))
    return {}


def _fields(document: dict[str, Any], schema: dict[str, Any], place: str, always: bool) -> Iterator[tuple[str, str]]:
    schemas = list(_choices(document, schema))
    types = sorted({each for choice in schemas for each in _types(choice)})
    if place:
        yield place, "|".join(types) + ("!" if always else "")
    for choice in schemas:
        for name, inner in choice.get("properties", {}).items():
            below = f"{place}.{name}" if place else name
            yield from _fields(document, inner, below, name in choice.get("required", ()))
        if isinstance(choice.get("items"), dict):
            yield from _fields(document, choice["items"], f"{place}[]", True)


def _choices(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "$ref" in schema:
        node: Any = document
        for part in schema["$ref"][2:].split("/"):
            node = node[part]
        yield from _choices(document, node)
        return
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            for choice in schema[several]:
                yield from _choices(document, choice)
            return
    yield schema


def _types(schema: dict[str, Any]) -> list[str]:
    kind = schema.get("type")
    if kind is None:
        kind = type_of(schema["const"]) if "const" in schema else "string" if "enum" in schema else "any"
    return list(kind) if isinstance(kind, list) else [kind]


def type_of(value: object) -> str:
    """The JSON Schema type of a constant."""
    return {bool: "boolean", int: "integer", float: "number", str: "string"}[type(value)]


if __name__ == "__main__":
    operations = surface(json.loads(Path(sys.argv[1]).read_text()))
    print("{\n" + ",\n".join(f" {json.dumps(place)}: {json.dumps(it)}" for place, it in operations.items()) + "\n}")
