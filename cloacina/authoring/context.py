"""Context: the JSON object that flows through a workflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

SecretResolver = Callable[[str], Mapping[str, str]]
_MISSING = object()


class Context:
    """A dictionary of JSON values that tasks read, change and pass on.

    Args:
        data: initial values.

    Raises:
        ValueError: a value is not JSON.
    """

    __slots__ = ("_data", "_raw", "_secrets")

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        self._raw: bytes | None = None
        self._data: dict[str, Any] | None = {}
        self._secrets: SecretResolver | None = None
        if data is not None:
            self.update_from_dict(data)

    @classmethod
    def from_raw(cls, raw: bytes, secrets: SecretResolver | None = None) -> Context:
        """A context of a JSON object that is parsed when it is first looked into (ours, for runtimes).

        Args:
            raw: the JSON object.
            secrets: gives the fields of a secret that was granted.
        """
        context = cls.__new__(cls)
        context._raw, context._data, context._secrets = raw, None, secrets
        return context

    def to_raw(self) -> bytes:
        """The JSON object; the very bytes it was made from if nothing could have changed it (ours, for runtimes).

        Raises:
            ValueError: a value that was changed in place is not JSON any more.
        """
        if self._data is None and self._raw is not None:
            return self._raw
        try:
            return orjson.dumps(self._values(), option=orjson.OPT_NON_STR_KEYS)
        except TypeError as error:
            raise ValueError(f"the context is not JSON: {error}") from None

    def _values(self) -> dict[str, Any]:
        if self._data is None:
            self._data = orjson.loads(self._raw or b"{}")
        return self._data

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        return self._values().get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Sets a key, new or not.

        Raises:
            ValueError: the value is not JSON.
        """
        self._values()[_key(key)] = _json(key, value)

    def insert(self, key: str, value: Any) -> None:
        """Sets a key that is not there yet.

        Raises:
            ValueError: it is there, or the value is not JSON.
        """
        if key in self._values():
            raise ValueError(f"Key already exists: {key}")
        self.set(key, value)

    def update(self, key: str, value: Any) -> None:
        """Sets a key that is there.

        Raises:
            KeyError: it is not.
            ValueError: the value is not JSON.
        """
        if key not in self._values():
            raise KeyError(f"Key not found: {key}")
        self.set(key, value)

    def update_from_dict(self, data: Mapping[str, Any]) -> None:
        """Sets every key of `data`.

        Raises:
            ValueError: a value is not JSON; then nothing is set.
        """
        checked = {_key(key): _json(key, value) for key, value in data.items()}
        self._values().update(checked)

    def remove(self, key: str) -> Any:
        """Takes a key out and returns its value; ``None`` if it was not there."""
        return self._values().pop(key, None)

    def to_dict(self) -> dict[str, Any]:
        """A copy as a dictionary."""
        copied: dict[str, Any] = orjson.loads(self.to_raw())
        return copied

    def to_json(self) -> str:
        """A copy as JSON text."""
        return self.to_raw().decode()

    @staticmethod
    def from_json(json_str: str) -> Context:
        """A context from JSON text.

        Raises:
            ValueError: the text is not a JSON object.
        """
        try:
            data = orjson.loads(json_str)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(data, dict):
            raise ValueError(f"a context is a JSON object, not {type(data).__name__}")
        context = Context()
        context._data = data
        return context

    def secret(self, name: str) -> dict[str, str]:
        """The fields of a secret that the workflow declares; never part of the context's values.

        Raises:
            RuntimeError: no secrets are configured where this runs.
            KeyError: there is no such secret.
            PermissionError: the workflow does not declare it.
        """
        if self._secrets is None:
            raise RuntimeError("no secret resolver is configured for this context")
        return dict(self._secrets(name))

    def secret_field(self, name: str, field: str) -> str:
        """One field of a secret.

        Raises:
            KeyError: as `secret`, or it has no such field.
        """
        fields = self.secret(name)
        if field not in fields:
            raise KeyError(f"secret {name!r} has no field {field!r}")
        return fields[field]

    def __getitem__(self, key: str) -> Any:
        value = self._values().get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(f"Key not found: {key}")
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        if key not in self._values():
            raise KeyError(f"Key not found: {key}")
        del self._values()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values()

    def __len__(self) -> int:
        return len(self._values())

    def __repr__(self) -> str:
        return f"Context({self._values()!r})"


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise ValueError(f"a context key must be a string, not {type(key).__name__}")
    return key


_SCALARS = (str, bool, type(None))


def _json(key: object, value: Any) -> Any:
    """The value as JSON has it: tuples become lists, and what JSON cannot hold is refused by name."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is int:
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"context key {key!r}: the integer {value} is over 64 bits")
        return value
    try:
        return orjson.loads(
            orjson.dumps(
                value,
                option=orjson.OPT_PASSTHROUGH_DATETIME
                | orjson.OPT_PASSTHROUGH_SUBCLASS
                | orjson.OPT_PASSTHROUGH_DATACLASS,
            )
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"context key {key!r}: a value of type {kind.__name__} is not JSON ({error})") from None
