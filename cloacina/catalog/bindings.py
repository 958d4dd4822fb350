"""Which secrets an execution is bound to: names only, kept in its input beside the plain values.

``{"$secret": "name"}`` in the place of a declared secret binds it to the tenant's secret of that name. The bindings go
into the input under `REFERENCES`, the key that the original uses, and are read from the input again for every task:
what a task does to that key in its own context changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from cloacina.errors import InvalidRequest
from cloacina.rpc.v1 import secrets_pb2

REFERENCES = "__cloacina_secret_refs__"
"""Key of an execution's input that holds its bindings."""
_MARKER = "$secret"
_REFERENCES = REFERENCES.encode()
_MAX_NAME = 255


def take_bindings(values: dict[str, Any], declared: Sequence[str]) -> None:
    """Takes the references out of an input, and puts what they bind under `REFERENCES`.

    Args:
        values: the input; changed in place.
        declared: secrets that the workflow declares.

    Raises:
        InvalidRequest: a reference is malformed or stands for what is not declared, a declared secret is given a
            plain value, or the input uses the key of the bindings.
    """
    if REFERENCES in values:
        raise _invalid(f"the key {REFERENCES!r} is reserved")
    bound = {}
    for name, value in list(values.items()):
        target = _target(name, value)
        if target is not None:
            if name not in declared:
                raise _invalid(f"the workflow declares no secret {name!r}; it declares {sorted(declared)}")
            bound[name] = target
            del values[name]
        elif name in declared:
            raise _invalid(f'secret {name!r} is given as {{"{_MARKER}": "<name of a secret>"}}, never as a plain value')
    if bound:
        values[REFERENCES] = bound


def references(declared: Iterable[str], execution_input: bytes) -> Iterator[secrets_pb2.SecretReference]:
    """What a task of an execution may read.

    Args:
        declared: secrets that the workflow declares.
        execution_input: the input of the execution, as JSON.
    """
    bound = orjson.loads(execution_input).get(REFERENCES, {}) if _REFERENCES in execution_input else {}
    for name in declared:
        yield secrets_pb2.SecretReference(name=name, secret=bound.get(name, ""))


def _target(name: str, value: Any) -> str | None:
    """The secret that a value refers to; ``None`` for a plain value."""
    if not isinstance(value, dict) or _MARKER not in value:
        return None
    target = value[_MARKER]
    if len(value) != 1 or not isinstance(target, str) or not 1 <= len(target) <= _MAX_NAME:
        raise _invalid(f'{name!r}: a reference to a secret is {{"{_MARKER}": "<name of a secret>"}} and nothing else')
    return target


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="workflow_input_invalid")
