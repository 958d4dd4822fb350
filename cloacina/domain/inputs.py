"""The input of an execution: what a workflow declares, what is wrong with given values, and what an instance binds.

Both shells use it: the scheduler for workflows of packages, the embedded runner for those of its process. As in the
original, a value is held against the top-level ``type`` of its JSON Schema only; a schema without one takes anything;
keys that are not declared pass; a workflow that declares nothing takes any object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_CONTEXT_BYTES = 1024 * 1024
"""Largest context of an execution's input or a task's output, unless configured (contract, section 5)."""

LARGEST_CONTEXT_BYTES = 8 * 1024 * 1024
"""What it can be configured to: a message between services must hold a context and what goes with it."""

RESERVED_KEYS = frozenset(
    {
        "scheduled_time",
        "schedule_id",
        "schedule_timezone",
        "schedule_expression",
        "trigger_name",
        "triggered_at",
    }
)
"""Context keys that only a schedule sets: neither a client nor an instance can pretend a firing."""

SECRET_MARK = "$secret"  # noqa: S105 - the key of a reference, no secret
"""``{"$secret": "name"}`` in place of a value names a secret."""

_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """A declared input.

    Args:
        name: the context key.
        schema: JSON Schema of its values.
        required: whether it must be given.
        default: taken when it is left out and not required.
        encrypted: whether it takes a secret's name, and never a value.
    """

    name: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True
    default: Any = None
    encrypted: bool = False

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Slot:
        """Reads the form that ``workflow_params`` declares."""
        return cls(
            name=wire["name"],
            schema=wire.get("schema") or {},
            required=bool(wire["required"]),
            default=wire.get("default"),
            encrypted=bool(wire.get("encrypted")),
        )


def faults_of(slots: Iterable[Slot], values: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with given values, one sentence for each faulty param; empty when nothing is.

    Args:
        slots: what the workflow declares.
        values: what is given.
    """
    faults = []
    for slot in slots:
        if slot.name not in values:
            if slot.required:
                faults.append(f"param {slot.name!r} is required")
        elif fault := _fault(slot, values[slot.name]):
            faults.append(fault)
    return faults


def with_defaults(slots: Iterable[Slot], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and the defaults of what is left out."""
    defaults = {slot.name: slot.default for slot in slots if not slot.required and slot.name not in values}
    return {**values, **defaults}


def without_reserved(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values a client may set: those of `RESERVED_KEYS` are dropped, as the original drops them."""
    return {name: value for name, value in values.items() if name not in RESERVED_KEYS}


def instance_faults(slots: Iterable[Slot], params: Mapping[str, Any]) -> list[str]:
    """Like `faults_of`, for the params that an instance binds: all that is required, and nothing reserved."""
    reserved = [f"{name!r} is set by schedules and cannot be bound" for name in params if name in RESERVED_KEYS]
    return reserved + faults_of(slots, params)


def rebound(values: Mapping[str, Any], bound: Mapping[str, Any]) -> list[str]:
    """What an execution of an instance tries to give another value than the bound one, one sentence each."""
    return [
        f"param {name!r} is bound by the instance, to another value"
        for name, value in values.items()
        if name in bound and not same_json(value, bound[name])
    ]


def same_json(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal; ``true`` is not ``1``, though Python says so."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def is_secret_reference(value: Any) -> bool:
    """Whether a value is ``{"$secret": "name"}`` and nothing else."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    name = value.get(SECRET_MARK)
    return isinstance(name, str) and bool(name)


def _fault(slot: Slot, value: Any) -> str:
    if slot.encrypted:
        if is_secret_reference(value):
            return ""
        return f'param {slot.name!r} takes the name of a secret, {{"$secret": "name"}}, and never a value'
    wanted = slot.schema.get("type")
    kinds = _KINDS.get(wanted) if isinstance(wanted, str) else None
    if kinds is None or (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))):
        return ""
    return f"param {slot.name!r} must be of type {wanted}, not {_name_of(value)}"


def _name_of(value: Any) -> str:
    """The JSON type of a value; a whole number is an integer."""
    if isinstance(value, bool):
        return "boolean"
    return next((name for name, kinds in _KINDS.items() if isinstance(value, kinds)), type(value).__name__)
