"""Values of secrets are taken out of what a worker says, however they are shown."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cloacina.worker.redaction import MIN_LENGTH, Redactor

_VALUE = st.text(st.characters(exclude_categories=["Cs"]), min_size=MIN_LENGTH)


def _redactor(*values: tuple[str, str]) -> Redactor:
    redactor = Redactor()
    redactor.add(values)
    return redactor


@given(_VALUE, st.text())
def test_a_value_never_gets_through(value: str, around: str) -> None:
    assume(len(value.strip("\r\n")) >= MIN_LENGTH)
    assume(value not in "[secret db]")
    redactor = _redactor(("db", value))
    for form in (value, repr(value), json.dumps(value), json.dumps(value, ensure_ascii=False), quote(value, safe="")):
        said = redactor.text(f"\x00{form}\x00")
        assert value.strip("\r\n") not in said
        assert "[secret db]" in said
    assert "[secret db]" in redactor.text(f"{around}{value}{around}")


@pytest.mark.parametrize(
    "shown",
    [
        "p4ss w/rd&é",
        repr("p4ss w/rd&é"),
        json.dumps({"password": "p4ss w/rd&é"}),
        quote("p4ss w/rd&é"),
        quote("p4ss w/rd&é", safe=""),
        quote_plus("p4ss w/rd&é"),
        "postgresql://user:p4ss w/rd&é@host",
    ],
)
def test_forms_that_programs_show(shown: str) -> None:
    said = _redactor(("db", "p4ss w/rd&é")).text(shown)
    assert "[secret db]" in said
    assert "p4ss" not in said


def test_a_value_of_many_lines_is_taken_out_line_by_line() -> None:
    key = "-----BEGIN KEY-----\nMIIabcdef\r\n  0123456\n-----END KEY-----\n"
    redactor = _redactor(("tls", key))
    for line in ("MIIabcdef", "  0123456", "-----END KEY-----"):
        assert line.strip() not in redactor.text(f"line: {line}")
    assert redactor.text(repr(key)) == "'[secret tls]\\n'"


def test_the_longest_value_is_taken_first() -> None:
    redactor = _redactor(("short", "abcd"), ("long", "abcdefgh"))
    assert redactor.text("abcdefgh abcd") == "[secret long] [secret short]"


@pytest.mark.parametrize("value", ["", "a", "abc", "\nab\n"])
def test_short_values_are_left_alone(value: str) -> None:
    redactor = _redactor(("db", value))
    assert not redactor
    assert redactor.text("a cab abc") == "a cab abc"


def test_what_a_log_record_holds_is_cleaned_whole() -> None:
    redactor = _redactor(("db", "12345678"), ("mail", "truetrue"))
    record = {"message": "is 12345678", "fields": {"a": ["12345678", 5, True, None], "12345678": 12345678, "b": 1.5}}
    assert redactor.tree(record) == {
        "message": "is [secret db]",
        "fields": {"a": ["[secret db]", 5, True, None], "[secret db]": "[secret db]", "b": 1.5},
    }


def test_what_was_looked_for_once_is_looked_for_always() -> None:
    redactor = _redactor(("db", "first-value"))
    redactor.add([("db", "second-value")])
    redactor.add([("db", "second-value")])
    assert re.findall(r"\[secret db\]", redactor.text("first-value second-value")) == ["[secret db]"] * 2
