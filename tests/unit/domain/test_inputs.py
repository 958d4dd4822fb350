"""What a workflow's params accept, what an instance may bind, and what neither may."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloacina.domain.inputs import (
    RESERVED_KEYS,
    Slot,
    faults_of,
    instance_faults,
    is_secret_reference,
    rebound,
    same_json,
    with_defaults,
    without_reserved,
)

KINDS = ("string", "integer", "number", "boolean", "object", "array", "null")
EXAMPLES: dict[str, list[Any]] = {
    "string": ["", "text"],
    "integer": [0, -3, 2**60],
    "number": [0.5, -1e9],
    "boolean": [True, False],
    "object": [{}, {"a": 1}],
    "array": [[], [1, "a"]],
    "null": [None],
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def accepts(kind: str, value: Any) -> bool:
    return not faults_of([Slot("it", {"type": kind})], {"it": value})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_value_is_held_against_its_type(kind: str, other: str) -> None:
    fits = kind == other or (kind, other) == ("number", "integer")
    for value in EXAMPLES[other]:
        assert accepts(kind, value) is fits, (kind, value)


def test_a_boolean_is_no_number_and_a_number_with_a_point_no_integer() -> None:
    assert not accepts("integer", True)
    assert not accepts("number", False)
    assert not accepts("integer", 3.0)


@given(json_values)
def test_every_value_has_a_type_and_only_that_one_besides_number(value: Any) -> None:
    fitting = {kind for kind in KINDS if accepts(kind, value)}

    assert len(fitting - {"number"}) <= 1
    assert fitting


@pytest.mark.parametrize("schema", [{}, {"type": ["string", "null"]}, {"enum": [1]}, {"type": "of the future"}])
@given(value=json_values)
def test_a_schema_without_a_simple_type_takes_anything(schema: dict[str, Any], value: Any) -> None:
    assert faults_of([Slot("it", schema)], {"it": value}) == []


def test_only_the_outermost_type_is_looked_at() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}

    assert faults_of([Slot("it", schema)], {"it": {"a": 1}}) == []


def test_every_faulty_param_is_named() -> None:
    slots = [
        Slot("day", {"type": "string"}),
        Slot("limit", {"type": "integer"}, required=False, default=10),
        Slot("flags", {"type": "array"}),
        Slot("fine", {"type": "boolean"}),
    ]

    assert faults_of(slots, {"limit": "ten", "flags": {}, "fine": True}) == [
        "param 'day' is required",
        "param 'limit' must be of type integer, not string",
        "param 'flags' must be of type array, not object",
    ]


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=4))
def test_what_is_not_declared_passes(values: dict[str, Any]) -> None:
    slots = [Slot("a long name", required=False, default=1)]

    assert faults_of(slots, values) == []
    assert with_defaults(slots, values) == {**values, "a long name": 1}


def test_a_default_fills_what_is_left_out_and_nothing_else() -> None:
    slots = [Slot("given", required=False, default=1), Slot("left", required=False, default=None), Slot("must")]

    assert with_defaults(slots, {"given": 2}) == {"given": 2, "left": None}


def test_an_encrypted_param_takes_a_reference_and_never_a_value() -> None:
    slot = Slot("db", encrypted=True)

    assert faults_of([slot], {"db": {"$secret": "db_prod"}}) == []
    for value in ("hunter2", {"$secret": ""}, {"$secret": 5}, {"$secret": "a", "x": 1}, None):
        (fault,) = faults_of([slot], {"db": value})
        assert "'db'" in fault
        assert "hunter2" not in fault
    assert is_secret_reference({"$secret": "x"})
    assert not is_secret_reference("$secret")


def test_reserved_keys_are_dropped_from_what_clients_send_and_refused_to_instances() -> None:
    values = dict.fromkeys(sorted(RESERVED_KEYS), "spoofed") | {"mine": 1}

    assert without_reserved(values) == {"mine": 1}
    assert len(instance_faults([], values)) == len(RESERVED_KEYS)
    assert instance_faults([Slot("mine")], {}) == ["param 'mine' is required"]


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_a_bound_value_can_be_said_again_but_not_changed(bound: dict[str, Any]) -> None:
    assert rebound(bound, bound) == []
    assert rebound({"besides": 1}, {}) == []
    changed = {name: [value, "other"] for name, value in bound.items()}
    assert len(rebound(changed, bound)) == len(bound)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [(1, 1.0, True), (True, 1, False), ([True], [1], False), ({"a": [0]}, {"a": [False]}, False), ([1], [1, 2], False)],
)
def test_json_values_are_compared_as_json(left: Any, right: Any, same: bool) -> None:
    assert same_json(left, right) is same
    assert same_json(right, left) is same
