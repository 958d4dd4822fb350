"""The API reference for people: one page of HTML, made from the OpenAPI document; no script, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #0a7d5a; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; display: grid; grid-template-columns: 20rem 1fr; }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1rem; border-right: 1px solid var(--line); }
nav ul { list-style: none; margin: 0 0 1rem; padding: 0; font-size: .85rem; }
nav a { display: block; padding: .1rem .3rem; color: inherit; text-decoration: none; overflow-wrap: anywhere; }
nav a:hover, nav a:focus { background: var(--soft); }
main { padding: 1rem 2rem 4rem; max-width: 62rem; min-width: 0; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 3rem; border-bottom: 2px solid var(--line); text-transform: capitalize; }
section { border-bottom: 1px solid var(--line); padding: 1rem 0; }
h3 { font: 600 1rem ui-monospace, monospace; overflow-wrap: anywhere; margin: 0 0 .5rem; }
h3 b { color: var(--accent); }
code, pre { font: .85rem/1.45 ui-monospace, monospace; background: var(--soft); border-radius: 3px; }
code { padding: 0 .2rem; }
pre { padding: .6rem .8rem; overflow: auto; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); }
details { margin: .4rem 0; }
summary { cursor: pointer; }
@media (max-width: 60rem) { body { display: block; } nav { position: static; height: auto; border: 0; } }
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
"""What the page is served with: only its own style is allowed."""


def reference_page(openapi: bytes) -> bytes:
    """The page.

    Args:
        openapi: the document, JSON.
    """
    document = json.loads(openapi)
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                by_tag[item[method]["tags"][0]].append((method.upper(), path, item[method]))
    title = escape(f"{document['info']['title']} API {document['info']['version']}")
    body = "".join(
        (
            f"<nav><strong>{title}</strong>{_contents(by_tag)}",
            '<ul><li><a href="#schemas">schemas</a></li><li><a href="/openapi.json">openapi.json</a></li></ul></nav>',
            f"<main><h1>{title}</h1>{_prose(document['info']['description'])}",
            *(_group(tag, by_tag[tag["name"]], document) for tag in document["tags"]),
            '<h2 id="schemas">schemas</h2>',
            *(_shape(name, schema) for name, schema in document["components"]["schemas"].items()),
            "</main>",
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    ).encode()


def _contents(by_tag: Mapping[str, Iterable[tuple[str, str, dict[str, Any]]]]) -> str:
    parts = []
    for tag, operations in by_tag.items():
        entries = "".join(
            f'<li><a href="#{escape(operation["operationId"])}">{escape(operation["summary"])}</a></li>'
            for _, _, operation in operations
        )
        parts.append(f'<a href="#{_anchor(tag)}"><strong>{escape(tag)}</strong></a><ul>{entries}</ul>')
    return "".join(parts)


def _group(tag: Mapping[str, str], operations: Iterable[tuple[str, str, dict[str, Any]]], document: Any) -> str:
    name = tag["name"]
    heading = f'<h2 id="{_anchor(name)}">{escape(name)}</h2>{_prose(tag["description"])}'
    return heading + "".join(_operation(*each, document) for each in operations)


def _operation(method: str, path: str, operation: dict[str, Any], document: Any) -> str:
    parts = [
        f'<section id="{escape(operation["operationId"])}"><h3><b>{method}</b> {escape(path)}</h3>',
        f"<p><strong>{escape(operation['summary'])}.</strong></p>{_prose(operation['description'])}",
    ]
    if parameters := operation.get("parameters"):
        rows = "".join(
            f"<tr><td><code>{escape(each['name'])}</code></td><td>{escape(each['in'])}"
            f"{', required' if each['required'] else ''}</td><td>{_type(each['schema'])}</td>"
            f"<td>{_inline(each['description'])}</td></tr>"
            for each in parameters
        )
        parts.append(f"<table><tr><th>parameter<th>in<th>type<th>meaning</tr>{rows}</table>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        needed = "" if operation["requestBody"]["required"] else ", may be left out"
        parts.append(f"<p>Body: <code>{escape(kind)}</code>{needed}, {_type(content['schema'])}</p>")
    rows = "".join(_answer(status, answer, document) for status, answer in operation["responses"].items())
    parts.append(
        f"<details><summary>Answers</summary><table><tr><th>status<th>body<th>when</tr>{rows}</table></details>"
    )
    return "".join((*parts, "</section>"))


def _answer(status: str, answer: dict[str, Any], document: Any) -> str:
    if "$ref" in answer:
        answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    bodies = ", ".join(
        _type(content["schema"]) if kind == "application/json" else f"<code>{escape(kind)}</code>"
        for kind, content in answer.get("content", {}).items()
    )
    return f"<tr><td>{escape(status)}</td><td>{bodies or '-'}</td><td>{_inline(answer['description'])}</td></tr>"


def _shape(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{_type(inner)}{'' if field in required else ', optional'}</td>"
        f"<td>{_inline(inner.get('description', ''))}</td></tr>"
        for field, inner in schema.get("properties", {}).items()
    )
    table = f"<table><tr><th>field<th>type<th>meaning</tr>{rows}</table>" if rows else f"<p>{_type(schema)}</p>"
    about = f"<h3>{escape(name)}</h3>{_prose(schema.get('description', ''))}"
    return f'<section id="schema-{escape(name)}">{about}{table}</section>'


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words; named ones as links."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_type(each) for each in schema[several])
    if "enum" in schema or "const" in schema:
        return " or ".join(
            f"<code>{escape(json.dumps(each))}</code>" for each in schema.get("enum", [schema.get("const")])
        )
    kind = schema.get("type", "any JSON")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    limits = [f"{name} {schema[key]}" for key, name in _LIMITS.items() if key in schema]
    return escape(", ".join([str(kind), *([schema["format"]] if "format" in schema else []), *limits]))


_LIMITS = {
    "minimum": "at least",
    "maximum": "at most",
    "minLength": "characters at least",
    "maxLength": "characters at most",
    "default": "by default",
    "pattern": "matches",
}


def _prose(text: str) -> str:
    """Paragraphs."""
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    """Text with `code` in backticks."""
    return re.sub(r"`{1,2}([^`]+)`{1,2}", r"<code>\1</code>", escape(text))


def _anchor(tag: str) -> str:
    return "tag-" + re.sub(r"[^a-z0-9]+", "-", tag.lower())
