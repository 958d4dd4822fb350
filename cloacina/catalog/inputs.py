"""The input of an execution: a JSON object that fits what the workflow declares, within its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from cloacina.catalog.bindings import REFERENCES, take_bindings
from cloacina.domain.inputs import RESERVED_KEYS, Slot, faults_of, rebound, with_defaults, without_reserved
from cloacina.errors import InvalidRequest
from cloacina.rpc.v1 import common_pb2

_CODE = "workflow_input_invalid"


def accept_input(
    context: bytes,
    params: Sequence[common_pb2.InputSlot],
    secrets: Sequence[str] = (),
    *,
    limit_bytes: int,
    bound: Mapping[str, Any] | None = None,
    stamped: Mapping[str, Any] | None = None,
) -> bytes:
    """The context an execution starts with.

    Args:
        context: what the caller sent; empty for nothing.
        params: what the workflow declares.
        secrets: names of the secrets it declares.
        limit_bytes: most bytes of it.
        bound: what an instance binds.
        stamped: what the firing of a schedule sets: values of the reserved keys, which no caller can.

    Returns:
        The JSON object, with the defaults of what was left out, and references to secrets set apart.

    Raises:
        InvalidRequest: it is no JSON object, too large, or does not fit the params (code ``workflow_input_invalid``);
            the message names every faulty param.
    """
    values = _object(context or b"{}")
    plain = not params and not bound and not stamped and RESERVED_KEYS.isdisjoint(values)
    if plain:
        take_bindings(values, secrets)
        return _fitting(orjson.dumps(values) if REFERENCES in values else context or b"{}", limit_bytes)
    slots = [slot_from(param) for param in params]
    values = without_reserved(values)
    faults = rebound(values, bound or {})
    values |= bound or {}
    take_bindings(values, secrets)
    faults += faults_of(slots, values)
    if faults:
        raise InvalidRequest("the input does not fit the workflow: " + "; ".join(faults), code=_CODE)
    return _fitting(orjson.dumps({**with_defaults(slots, values), **(stamped or {})}), limit_bytes)


def slot_from(message: common_pb2.InputSlot) -> Slot:
    """A declared input from its message."""
    return Slot(
        name=message.name,
        schema=orjson.loads(message.schema) if message.schema else {},
        required=message.required,
        default=orjson.loads(message.default_value) if message.default_value else None,
        encrypted=message.encrypted,
    )


def _object(context: bytes) -> dict[str, Any]:
    try:
        values = orjson.loads(context)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"'context' is not JSON: {error}", code=_CODE) from None
    if not isinstance(values, dict):
        raise InvalidRequest('\'context\' must be a JSON object, such as {"key": "value"}', code=_CODE)
    return values


def _fitting(context: bytes, limit_bytes: int) -> bytes:
    if len(context) > limit_bytes:
        raise InvalidRequest(
            f"the input has {len(context)} bytes, the limit is {limit_bytes} (CLOACINA_MAX_CONTEXT_BYTES)", code=_CODE
        )
    return context
