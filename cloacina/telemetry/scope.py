"""The ids of what is being worked on: set once at the edge, in every log line and span below it.

The scope is one contextvars object. The gateway sets it for a request; it travels as gRPC metadata, is stored with the
execution, and is bound again around every later step.
"""

from __future__ import annotations

import re
from contextvars import ContextVar, Token
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class Scope:
    """Ids that apply; ``None`` where one does not."""

    request_id: str | None = None
    tenant_id: str | None = None
    package_id: str | None = None
    workflow_name: str | None = None
    execution_id: str | None = None
    task_name: str | None = None
    attempt: int | None = None


SCOPE_FIELDS = tuple(field.name for field in fields(Scope))
_scope: ContextVar[Scope] = ContextVar("cloacina_scope", default=Scope())  # noqa: B039 - a Scope is immutable
_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


def current() -> Scope:
    """The scope of the running task or thread."""
    return _scope.get()


class within:
    """Makes a scope current for the length of a with-block.

    Args:
        scope: it.
    """

    __slots__ = ("_bound", "_token")

    def __init__(self, scope: Scope) -> None:
        self._bound = scope
        self._token: Token[Scope] | None = None

    def __enter__(self) -> Scope:
        self._token = _scope.set(self._bound)
        return self._bound

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None
        _scope.reset(self._token)


class bind(within):
    """Adds ids to the scope for the length of a with-block.

    Args:
        ids: fields of `Scope`.
    """

    __slots__ = ("_ids",)

    def __init__(self, **ids: Any) -> None:
        self._ids = ids

    def __enter__(self) -> Scope:
        self._bound = replace(_scope.get(), **self._ids)
        return super().__enter__()


def attach(scope: Scope) -> None:
    """Makes a scope current for the rest of this task or thread."""
    _scope.set(scope)


def new_request_id() -> str:
    """A fresh x-request-id (UUIDv4)."""
    return str(uuid4())


def valid_request_id(candidate: str) -> bool:
    """Whether a client's x-request-id is kept: 1-128 of ``A-Z a-z 0-9 . _ -`` (contract, section 3)."""
    return _VALID_REQUEST_ID.match(candidate) is not None


def accept_request_id(candidate: str | None) -> str:
    """The candidate if it is valid, else a fresh one."""
    return candidate if candidate is not None and valid_request_id(candidate) else new_request_id()
