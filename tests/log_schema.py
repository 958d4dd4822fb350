"""The published shape of a log line (docs/log-line.schema.json), and what a line has against it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "log-line.schema.json").read_text())
FIELDS = tuple(SCHEMA["properties"])
"""The stable fields in their order; ``exception`` is the last of a line, behind what an event says further."""

_VALIDATOR = Draft202012Validator(SCHEMA)


def faults(line: Mapping[str, Any]) -> list[str]:
    """What is wrong with a line; empty for nothing."""
    found = [f"{error.json_path}: {error.message}" for error in _VALIDATOR.iter_errors(line)]
    names = list(line)
    stable = [name for name in FIELDS[:-1] if name in line]
    if names[: len(stable)] != stable:
        found.append(f"the stable fields come first and in their order, not {names}")
    if "exception" in line and names[-1] != "exception":
        found.append(f"a traceback comes last, not before {names[-1]}")
    return found
