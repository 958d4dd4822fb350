"""The context that tasks read and change: a JSON object, whatever is put into it."""

from __future__ import annotations

import datetime
import decimal
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloacina.authoring import Context

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=5), json_values, max_size=4)


@settings(max_examples=200, deadline=None)
@given(data=objects)
def test_what_goes_in_comes_out_and_over_the_wire(data: dict[str, Any]) -> None:
    context = Context(data)
    assert context.to_dict() == data
    assert Context.from_json(context.to_json()).to_dict() == data
    raw = context.to_raw()
    again = Context.from_raw(raw)
    assert again.to_raw() == raw
    assert {key: again[key] for key in data} == data
    assert len(again) == len(data)


def test_bytes_that_nobody_looked_into_pass_through_unchanged() -> None:
    raw = b'{ "b" : 1.0, "a": 1e2 }'
    assert Context.from_raw(raw).to_raw() is raw


def test_a_copy_is_a_copy() -> None:
    given_data = {"list": [1]}
    context = Context(given_data)
    given_data["list"].append(2)
    context.to_dict()["list"].append(3)
    assert context["list"] == [1]


def test_reading_and_changing() -> None:
    context = Context({"a": 1})
    assert (context.get("a"), context.get("b"), context.get("b", 5)) == (1, None, 5)
    context.set("a", 2)
    context["b"] = 3
    context.insert("c", 4)
    context.update("c", 5)
    context.update_from_dict({"d": (1, 2)})
    assert context.to_dict() == {"a": 2, "b": 3, "c": 5, "d": [1, 2]}
    assert "a" in context
    assert 7 not in context
    assert context.remove("a") == 2
    assert context.remove("a") is None
    del context["b"]
    assert len(context) == 2
    assert repr(context) == "Context({'c': 5, 'd': [1, 2]})"


def test_misuse_is_named() -> None:
    context = Context({"a": None})
    with pytest.raises(ValueError, match="Key already exists: a"):
        context.insert("a", 1)
    with pytest.raises(KeyError, match="Key not found: b"):
        context.update("b", 1)
    with pytest.raises(KeyError, match="Key not found: b"):
        context["b"]
    with pytest.raises(KeyError, match="Key not found: b"):
        del context["b"]
    with pytest.raises(ValueError, match="must be a string, not int"):
        context.set(1, 1)  # type: ignore[arg-type]
    assert context.to_dict() == {"a": None}


@dataclass
class Point:
    x: int = 0


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"bytes",
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        decimal.Decimal(1),
        Point(),
        2**64,
        -(2**63) - 1,
        {"deep": [object()]},
        lambda: None,
    ],
)
def test_what_is_not_json_is_refused_by_the_name_of_its_key(value: Any) -> None:
    context = Context({"kept": 1})
    for put in (context.set, context.insert, lambda key, value: context.update_from_dict({"fine": 1, key: value})):
        with pytest.raises(ValueError, match="'odd'"):
            put("odd", value)
    assert context.to_dict() == {"kept": 1}, "nothing is half set"


@pytest.mark.parametrize("value", [object(), "\ud800", 2**64])
def test_a_value_that_stopped_being_json_is_found_at_the_latest_when_it_leaves(value: Any) -> None:
    context = Context({"list": []})
    context["list"].append(value)
    with pytest.raises(ValueError, match="not JSON"):
        context.to_raw()


def test_what_was_changed_in_place_is_passed_on() -> None:
    context = Context.from_raw(b'{"list":[1]}')
    context["list"].append(2)
    assert context.to_raw() == b'{"list":[1,2]}'


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"', "{", "", "{'a': 1}"])
def test_only_an_object_is_a_context(text: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Context.from_json(text)


def test_secrets_are_resolved_and_never_part_of_the_values() -> None:
    def resolve(name: str) -> dict[str, str]:
        if name != "db":
            raise PermissionError(name)
        return {"user": "u", "password": "p"}

    context = Context.from_raw(b"{}", resolve)
    assert context.secret("db") == {"user": "u", "password": "p"}
    assert context.secret_field("db", "password") == "p"
    with pytest.raises(KeyError, match="no field 'port'"):
        context.secret_field("db", "port")
    with pytest.raises(PermissionError):
        context.secret("other")
    assert context.to_raw() == b"{}"
    with pytest.raises(RuntimeError, match="no secret resolver"):
        Context().secret("db")
