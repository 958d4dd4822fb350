"""What Schemathesis is told about this API beyond its document; loaded by its command (``SCHEMATHESIS_HOOKS``)."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import schemathesis

KNOWN: dict[str, Any] = json.loads(os.environ["FUZZ_KNOWN"])
"""What is there: tenant, workflow, instance, trigger, executions."""

_SPARED = frozenset((f"/v1/auth/keys/{KNOWN['key_id']}", f"/v1/tenants/{KNOWN['tenant']}", "/v1/tenants/public"))
"""What must not be deleted: everything else would be answered 401 from then on."""

_draw = random.Random(7)


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Mostly what is there, so that requests get further than 404."""
    if not isinstance(path_parameters, dict):
        return path_parameters
    path = context.operation.path
    if "tenant_id" in path_parameters and _draw.random() < 0.95:
        path_parameters["tenant_id"] = KNOWN["tenant"]
    if "exec_id" in path_parameters and _draw.random() < 0.7:
        path_parameters["exec_id"] = _draw.choice(KNOWN["executions"])
    if "instance" in path_parameters and _draw.random() < 0.7:
        path_parameters["instance"] = KNOWN["instance"]
    if "name" in path_parameters and _draw.random() < 0.7:
        for part, name in (("/workflows/", "workflow"), ("/triggers/", "trigger"), ("/secrets/", "secret")):
            if part in path and "{version}" not in path:
                path_parameters["name"] = KNOWN[name]
    return path_parameters


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Integers have 64 bits here, which a schema of any JSON cannot say."""
    return _bounded(body)


def _bounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_bounded(inner) for inner in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) >= 2**63:
        return 2**62
    return value


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Spares the key and the tenant that this run lives on, and the limit on guessing."""
    if case.method.upper() == "DELETE" and case.formatted_path in _SPARED:
        case.path_parameters = dict.fromkeys(case.path_parameters, "00000000-0000-4000-8000-000000000000")
