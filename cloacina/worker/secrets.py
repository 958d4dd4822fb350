"""The secrets that a task was given, as its context reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson


class Granted:
    """Answers `Context.secret` (a `cloacina.authoring.context.SecretResolver`). Never shows a value by itself.

    Args:
        fields: fields of each secret that may be read, by every name it may be read by.
        missing: names that are declared, and what stands behind them does not exist.
        unconfigured: names that are declared, where there are no secrets at all.
    """

    __slots__ = ("_fields", "_missing", "_unconfigured")

    def __init__(
        self,
        fields: Mapping[str, Mapping[str, str]] | None = None,
        missing: Iterable[str] = (),
        unconfigured: Iterable[str] = (),
    ) -> None:
        self._fields = dict(fields or {})
        self._missing = frozenset(missing)
        self._unconfigured = frozenset(unconfigured)

    def __repr__(self) -> str:
        return f"Granted({sorted(self._fields)!r})"

    def __bool__(self) -> bool:
        """Whether there is a value in it."""
        return bool(self._fields)

    @classmethod
    def from_body(cls, body: bytes) -> Granted:
        """From the body of a frame of kind ``secrets``; see `encode`."""
        given: dict[str, Any] = orjson.loads(body)
        return cls(given["fields"], given["missing"], given["unconfigured"])

    def encode(self) -> bytes:
        """The body of a frame of kind ``secrets``."""
        return orjson.dumps(
            {"fields": self._fields, "missing": list(self._missing), "unconfigured": list(self._unconfigured)}
        )

    def values(self) -> Iterable[tuple[str, str]]:
        """Every value, with the name of its secret."""
        for name, fields in self._fields.items():
            for value in fields.values():
                yield name, value

    def __call__(self, name: str) -> Mapping[str, str]:
        """The fields of a secret.

        Raises:
            PermissionError: the workflow does not declare it.
            KeyError: it is declared, and the tenant has no such secret.
            RuntimeError: the server keeps no secrets.
        """
        found = self._fields.get(name)
        if found is not None:
            return found
        if name in self._unconfigured:
            raise RuntimeError("secrets are not configured on this server (CLOACINA_SECRET_KEK of the reconciler)")
        if name in self._missing:
            raise KeyError(
                f"secret not found: {name!r}: the tenant has none of this name, and the execution bound it to no other"
            )
        raise PermissionError(f"secret not granted: {name!r}: declare it with @workflow_secrets({name!r})")
