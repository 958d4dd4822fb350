"""Bindings of secrets in an execution's input: names only, checked before anything is stored."""

from __future__ import annotations

import orjson
import pytest

from cloacina.catalog.bindings import REFERENCES, references
from cloacina.catalog.inputs import accept_input
from cloacina.errors import InvalidRequest
from cloacina.rpc.v1 import common_pb2

PARAMS = [common_pb2.InputSlot(name="channel", schema='{"type":"string"}', default_value='"#ops"')]


def _accept(values: object, params: list[common_pb2.InputSlot] = PARAMS, secrets: tuple[str, ...] = ("db",)) -> object:
    return orjson.loads(accept_input(orjson.dumps(values), params, secrets, limit_bytes=1 << 20))


def _refused(values: object, **declared: object) -> str:
    with pytest.raises(InvalidRequest) as refused:
        _accept(values, **declared)
    assert refused.value.code == "workflow_input_invalid"
    return refused.value.message


def test_a_reference_is_set_apart_from_the_values() -> None:
    accepted = _accept({"db": {"$secret": "db_prod"}})
    assert accepted == {"channel": "#ops", REFERENCES: {"db": "db_prod"}}
    assert _accept({"db": {"$secret": "x"}, "free": 1}, params=[]) == {"free": 1, REFERENCES: {"db": "x"}}


def test_without_a_reference_the_input_is_as_it_was() -> None:
    assert _accept({"channel": "a"}) == {"channel": "a"}
    assert accept_input(b'{"x":  1}', [], ["db"], limit_bytes=1 << 20) == b'{"x":  1}'


@pytest.mark.parametrize("value", [{"$secret": "a", "b": 1}, {"$secret": 5}, {"$secret": ""}, {"$secret": "x" * 256}])
def test_a_malformed_reference_is_refused(value: object) -> None:
    assert "and nothing else" in _refused({"db": value})


@pytest.mark.parametrize("value", ["plain-value", {"password": "plain-value"}, None, 5])
def test_a_plain_value_for_a_secret_is_refused_and_not_shown(value: object) -> None:
    said = _refused({"db": value})
    assert "never as a plain value" in said
    assert "plain-value" not in said


def test_what_is_not_declared_cannot_be_bound() -> None:
    assert "declares no secret 'channel'" in _refused({"channel": {"$secret": "db"}})
    assert "declares no secret 'x'" in _refused({"x": {"$secret": "db"}}, params=[], secrets=())
    assert "reserved" in _refused({REFERENCES: {}})


def test_a_reference_below_the_top_is_a_value_like_any_other() -> None:
    values = {"list": [{"$secret": "a"}], "object": {"deep": {"$secret": "a"}}}
    assert _accept(values, params=[]) == values


def test_a_task_may_read_what_is_declared_as_the_input_binds_it() -> None:
    given = orjson.dumps(_accept({"db": {"$secret": "db_prod"}}, secrets=("db", "mail")))
    found = [(each.name, each.secret) for each in references(("db", "mail"), given)]
    assert found == [("db", "db_prod"), ("mail", "")]
    assert list(references((), given)) == []
    assert [each.secret for each in references(("db",), b"{}")] == [""]
