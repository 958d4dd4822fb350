"""The input of an execution: a JSON object that fits the workflow's declared params."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from cloacina.errors import InvalidRequest
from cloacina.rpc.v1 import common_pb2

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


def accept_input(context: bytes, params: Sequence[common_pb2.InputSlot]) -> bytes:
    """The context an execution starts with.

    Args:
        context: what the caller sent; empty for nothing.
        params: what the workflow declares; with none, any object is accepted.

    Returns:
        The JSON object, with the defaults of what was left out.

    Raises:
        InvalidRequest: it is no JSON object, or does not fit the params (code ``workflow_input_invalid``).
    """
    if not context:
        context = b"{}"
    try:
        values = orjson.loads(context)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"'context' is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidRequest('\'context\' must be a JSON object, such as {"key": "value"}')
    if not params:
        return context
    for slot in params:
        _fill(values, slot)
    known = {slot.name for slot in params}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise _invalid(f"unknown params {unknown}; declared are {sorted(known)}")
    return orjson.dumps(values)


def _fill(values: dict[str, Any], slot: common_pb2.InputSlot) -> None:
    if slot.name not in values:
        if slot.required:
            raise _invalid(f"param {slot.name!r} is required")
        if slot.default_value:
            values[slot.name] = orjson.loads(slot.default_value)
        return
    wanted = orjson.loads(slot.schema).get("type") if slot.schema else None
    kinds = _TYPES.get(wanted) if isinstance(wanted, str) else None
    value = values[slot.name]
    if kinds is None:
        return
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise _invalid(f"param {slot.name!r} must be of type {wanted}, not {type(value).__name__}")


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="workflow_input_invalid")
