"""The input that the scheduler accepts: JSON, its size, declared params, what an instance binds and a firing sets."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cloacina.catalog.inputs import accept_input
from cloacina.catalog.workflows import workflow_from
from cloacina.domain.inputs import RESERVED_KEYS
from cloacina.errors import InvalidRequest
from cloacina.rpc.v1 import common_pb2

PARAMS = [
    common_pb2.InputSlot(name="day", schema='{"type":"string"}', required=True),
    common_pb2.InputSlot(name="limit", schema='{"type":"integer"}', default_value="10"),
    common_pb2.InputSlot(name="note", schema="{}", default_value="null"),
]
LIMIT = 1000


def accepted(values: Any, params: Any = PARAMS, **further: Any) -> Any:
    return orjson.loads(accept_input(orjson.dumps(values), params, limit_bytes=LIMIT, **further))


def refusal(context: bytes, params: Any = PARAMS, **further: Any) -> str:
    with pytest.raises(InvalidRequest) as refused:
        accept_input(context, params, limit_bytes=LIMIT, **further)
    assert refused.value.code == "workflow_input_invalid"
    return refused.value.message


@pytest.mark.parametrize("context", [b"{", b"[]", b"null", b"5", b'"text"', b"\xff", b'{"a":1}x'])
@pytest.mark.parametrize("params", [[], PARAMS], ids=["undeclared", "declared"])
def test_what_is_no_json_object_is_refused(context: bytes, params: Any) -> None:
    assert "'context'" in refusal(context, params)


def test_a_workflow_that_declares_nothing_takes_the_bytes_as_they_came() -> None:
    for context in (b'{ "a" : [1] }', b"{}"):
        assert accept_input(context, [], limit_bytes=LIMIT) == context
    assert accept_input(b"", [], limit_bytes=LIMIT) == b"{}"


def test_defaults_are_filled_and_what_is_not_declared_passes() -> None:
    assert accepted({"day": "monday", "more": {"a": 1}}) == {
        "day": "monday",
        "limit": 10,
        "note": None,
        "more": {"a": 1},
    }


def test_every_fault_is_said_at_once() -> None:
    said = refusal(b'{"limit":"ten","note":5}')
    assert "'day' is required" in said
    assert "'limit' must be of type integer, not string" in said
    assert "'note'" not in said


@pytest.mark.parametrize("params", [[], PARAMS], ids=["undeclared", "declared"])
def test_a_client_cannot_pretend_a_firing_and_a_schedule_can_fire(params: Any) -> None:
    spoofed = dict.fromkeys(RESERVED_KEYS, "spoofed") | {"day": "monday"}
    assert RESERVED_KEYS.isdisjoint(accepted(spoofed, params))
    stamped = accepted(spoofed, params, stamped={"scheduled_time": "now"})
    assert stamped["scheduled_time"] == "now"
    assert "schedule_id" not in stamped


def test_what_is_bound_is_added_and_cannot_be_changed() -> None:
    bound = {"day": "monday", "limit": 5}
    assert accepted({"note": 1}, bound=bound) == {"day": "monday", "limit": 5, "note": 1}
    assert accepted({"limit": 5}, [], bound=bound) == bound
    said = refusal(b'{"day":"tuesday","limit":true}', bound=bound)
    assert "'day' is bound by the instance" in said
    assert "'limit' is bound by the instance" in said


def test_an_instance_that_a_new_version_does_not_take_says_so() -> None:
    assert "'limit' must be of type integer" in refusal(b"{}", bound={"day": "monday", "limit": "many"})
    assert "'day' is required" in refusal(b"{}", bound={"limit": 1})


def test_the_limit_is_on_all_of_it() -> None:
    fits = b'{"a":"' + b"x" * (LIMIT - 8) + b'"}'
    assert len(fits) == LIMIT
    assert accept_input(fits, [], limit_bytes=LIMIT) == fits
    assert f"{LIMIT + 1} bytes, the limit is {LIMIT}" in refusal(fits.replace(b"x", b"xx", 1), [])
    nearly = orjson.dumps({"day": "x" * (LIMIT - 20)})
    assert len(nearly) < LIMIT
    assert "bytes, the limit is" in refusal(nearly), "the defaults count"
    assert "bytes, the limit is" in refusal(b"{}", bound={"day": "x" * LIMIT})


def test_a_pause_is_no_part_of_what_is_stored_with_executions() -> None:
    message = common_pb2.WorkflowDefinition(
        tenant_id="acme", workflow_name="daily", package_id="p", tasks=[common_pb2.TaskDefinition(id="one")]
    )
    before = workflow_from(message)
    message.paused = True
    after = workflow_from(message)
    assert after.message.paused
    assert after.definition.body == before.definition.body
    assert after.definition.definition_id == before.definition.definition_id
