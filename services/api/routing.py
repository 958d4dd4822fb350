"""The route table: what each path takes, who may call it, what it answers.

Dispatch and the OpenAPI document come from here; who may call a route comes from the table in ``docs/security.md``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pydantic import BaseModel

from cloacina.errors import NotFound
from services.api.access import Access
from services.api.access_table import ACCESS
from services.api.errors import MethodNotAllowed

if TYPE_CHECKING:
    from aiohttp import web

    from services.api.call import Call

    Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of the table.

    Args:
        method: HTTP method; GET serves HEAD too.
        path: template, with ``{names}`` for single segments.
        handler: answers it.
        operation: unique name, the OpenAPI ``operationId``.
        tag: group in the documentation.
        summary: one line.
        answers: shape of the answer by status; ``None`` where it is not JSON.
        query: model of its query parameters.
        body: model of its JSON body.
        upload: whether its body is a multipart upload.
        body_required: whether there must be a body.
        errors: statuses beyond those that its access, body and upstreams imply.
        headers: request headers it knows, with what they mean.
        description: more than the summary.
        media: content type of answers that are not JSON.
        websocket: whether it is upgraded; then a ticket in the query stands for a key, and the request, which lasts as
            long as the connection, is not counted among those in flight.
    """

    method: str
    path: str
    handler: Handler
    operation: str
    tag: str
    summary: str
    answers: Mapping[int, Any]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    upload: bool = False
    body_required: bool = True
    errors: tuple[int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    websocket: bool = False
    media: str = "text/plain"

    def __post_init__(self) -> None:
        if (self.method, self.path) not in ACCESS:
            raise ValueError(
                f"nobody has said who may call {self.method} {self.path}: give it a row in the table of "
                "docs/security.md and run: python scripts/access_table.py --write"
            )

    @property
    def access(self) -> Access:
        """Who may call it."""
        return ACCESS[self.method, self.path]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names in its template, in order."""
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))


class _Node:
    """A place in the tree of path segments."""

    __slots__ = ("children", "routes", "wildcard")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.wildcard: _Node | None = None
        self.routes: dict[str, tuple[Route, tuple[str, ...]]] = {}


class Router:
    """Finds the route of a request. A literal segment is preferred to a ``{name}``; the method decides between them.

    Args:
        routes: the table.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            node = self._root
            for part in route.path.split("/")[1:]:
                if part.startswith("{"):
                    node.wildcard = node.wildcard or _Node()
                    node = node.wildcard
                else:
                    node = node.children.setdefault(part, _Node())
            methods = (route.method, "HEAD") if route.method == "GET" else (route.method,)
            for method in methods:
                if method in node.routes:
                    raise ValueError(f"two routes for {method} {route.path}")
                node.routes[method] = (route, route.parameters)

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """The route and its path parameters, decoded.

        Args:
            method: of the request.
            raw_path: path, still percent-encoded, without the query.

        Raises:
            NotFound: no route has this path.
            MethodNotAllowed: some have, none with this method.
        """
        parts = raw_path.split("/")[1:]
        allowed: set[str] = set()
        open_ends: list[tuple[_Node, int, tuple[str, ...]]] = [(self._root, 0, ())]
        while open_ends:
            node, depth, values = open_ends.pop()
            if depth == len(parts):
                found = node.routes.get(method)
                if found is not None:
                    return found[0], dict(zip(found[1], values, strict=True))
                allowed = allowed or set(node.routes)  # of the path that fits best: "pause" is no version of a package
                continue
            part = parts[depth]
            if node.wildcard is not None and part:
                open_ends.append((node.wildcard, depth + 1, (*values, unquote(part) if "%" in part else part)))
            literal = node.children.get(part)
            if literal is not None:
                open_ends.append((literal, depth + 1, values))
        if allowed:
            raise MethodNotAllowed(method, allowed)
        raise NotFound("no route matches this request")
