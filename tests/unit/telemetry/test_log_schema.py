"""The shape of a log line is published, and frozen: a change here is a change for everybody who reads the logs."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cloacina.telemetry import logs, scope
from cloacina.telemetry.directives import TRACE
from tests.log_schema import FIELDS, SCHEMA, faults

log = logging.getLogger("cloacina.engine.engine")

FROZEN = (
    *("timestamp", "level", "target", "message", "service", "request_id", "trace_id", "span_id", "tenant_id"),
    *("package_id", "workflow_name", "execution_id", "task_name", "attempt", "error", "exception"),
)
"""What the first release had. A later one may add a field before ``exception``; none goes, moves or changes."""


def test_the_schema_is_one_and_has_the_fields_of_the_first_release_in_their_order() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert tuple(name for name in FIELDS if name in FROZEN) == FROZEN
    assert SCHEMA["required"] == list(FROZEN[:5])
    types = {name: what.get("type") for name, what in SCHEMA["properties"].items()}
    assert types == {**dict.fromkeys(FROZEN, "string"), "level": None, "attempt": "integer"}
    assert SCHEMA["properties"]["level"]["enum"] == ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]


def everything_at_once() -> None:
    for level in (TRACE, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "said at %s", level)
    ids = {name: 1 if name == "attempt" else f"of-{name}" for name in scope.SCOPE_FIELDS}
    with scope.bind(**ids):
        try:
            raise ValueError("boom")
        except ValueError:
            log.exception("it broke", extra={"error": "boom", "reason": "task_error", "zeta": [1, None, "a"]})
    logs.emit_foreign(
        created=time.time(),
        level=logging.INFO,
        target="task.flow.clean",
        message="a\nb",
        about=scope.Scope(request_id="r9", task_name="clean", attempt=1),
        fields={"deep": {"a": {"b": [1]}}, "pairs": [[1, 2]], "name": "clash", "error": {"a": 1}, "execution_id": 7},
        exception="Traceback: x",
        trace=("a" * 32, "b" * 16),
    )


def test_every_kind_of_line_has_the_shape(configure) -> None:
    logged = configure("trace")
    everything_at_once()
    lines = logged.lines()
    assert len(lines) == 8
    assert [fault for line in lines for fault in faults(line)] == []
    assert {name for line in lines for name in line} >= set(FIELDS)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"rows": {"read": 3}}, '{"rows":{"read":3}}'),
        ([{"a": 1}], '[{"a":1}]'),
        ([[1, 2], 3], "[[1,2],3]"),
        ((1, "two", None, True), [1, "two", None, True]),
        ([], []),
        ({}, "{}"),
        ({1: 2**70}, "{1: 1180591620717411303424}"),
    ],
)
def test_keys_are_flat_whatever_a_field_holds(configure, value: Any, shown: Any) -> None:
    logged = configure()
    log.info("odd", extra={"value": value})
    assert logged.last()["value"] == shown
    assert faults(logged.last()) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"timestamp": "2026-03-01T00:00:00Z"}, "$.timestamp"),
        ({"level": "WARNING"}, "$.level"),
        ({"trace_id": "a" * 32}, "span_id"),
        ({"rows": {"read": 3}}, "$.rows"),
        ({"attempt": "1"}, "$.attempt"),
    ],
)
def test_a_line_of_another_shape_is_noticed(configure, change: dict[str, Any], fault: str) -> None:
    logged = configure()
    log.info("x")
    assert faults(logged.last()) == []
    assert fault in "; ".join(faults({**logged.last(), **change}))


def test_the_order_is_part_of_the_shape(configure) -> None:
    logged = configure()
    log.info("x", extra={"rows": 1, "request_id": "r"})
    line = logged.last()
    assert faults(line) == []
    assert faults(dict(sorted(line.items()))) != []
    assert faults(json.loads(json.dumps({"exception": "t", **line}))) != []


def test_the_table_of_fields_has_the_same_order() -> None:
    page = (Path(__file__).parents[3] / "docs" / "telemetry.md").read_text()
    rows = page[page.index("| field | in | means |") :].split("\n\n")[0].splitlines()[2:]
    assert tuple(name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])) == FIELDS
