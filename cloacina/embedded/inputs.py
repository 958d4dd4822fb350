"""The input of an execution in an embedded runner: what the workflow declares holds here as it does on a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from cloacina.authoring.context import Context
from cloacina.authoring.workflow import Workflow
from cloacina.domain.inputs import Slot, faults_of, rebound, with_defaults
from cloacina.errors import InvalidRequest


def slots_of(workflow: Workflow) -> list[Slot]:
    """What a workflow declares."""
    return [Slot.from_wire(param) for param in workflow.params]


def accept_context(workflow: Workflow, context: Context, bound: Mapping[str, Any] | None = None) -> bytes:
    """The context an execution starts with, as JSON.

    Args:
        workflow: what is to run.
        context: what the caller gives.
        bound: what an instance binds.

    Raises:
        InvalidRequest: it does not fit what the workflow declares (code ``workflow_input_invalid``); the message names
            every faulty param.
    """
    raw = context.to_raw()
    if not workflow.params and not bound:
        return raw
    slots = slots_of(workflow)
    values: dict[str, Any] = orjson.loads(raw)
    faults = rebound(values, bound or {})
    values |= bound or {}
    faults += faults_of(slots, values)
    if faults:
        raise InvalidRequest("the input does not fit the workflow: " + "; ".join(faults), code="workflow_input_invalid")
    return orjson.dumps(with_defaults(slots, values))
