"""What a task's context says of secrets: given, missing, not declared, not there at all."""

from __future__ import annotations

import pytest

from cloacina.authoring.context import Context
from cloacina.worker.secrets import Granted

GRANTED = Granted({"db": {"password": "p4ssw0rd"}, "db_prod": {"password": "p4ssw0rd"}}, ["absent"], ["off"])


@pytest.mark.parametrize("granted", [GRANTED, Granted.from_body(GRANTED.encode())], ids=["here", "over the wire"])
def test_each_name_has_its_answer(granted: Granted) -> None:
    context = Context.from_raw(b"{}", granted)
    assert context.secret("db") == {"password": "p4ssw0rd"}
    assert context.secret_field("db_prod", "password") == "p4ssw0rd"
    with pytest.raises(KeyError, match="absent"):
        context.secret("absent")
    with pytest.raises(PermissionError, match="workflow_secrets"):
        context.secret("other")
    with pytest.raises(RuntimeError, match="not configured"):
        context.secret("off")
    assert context.to_raw() == b"{}"


def test_what_a_task_does_to_its_copy_changes_nothing() -> None:
    context = Context.from_raw(b"{}", GRANTED)
    context.secret("db").clear()
    assert context.secret("db") == {"password": "p4ssw0rd"}


def test_it_shows_no_value() -> None:
    assert repr(GRANTED) == "Granted(['db', 'db_prod'])"
    assert "p4ssw0rd" not in repr(Context.from_raw(b"{}", GRANTED))


def test_it_is_true_when_it_holds_a_value() -> None:
    assert GRANTED
    assert not Granted(missing=["a"])
    assert sorted(GRANTED.values()) == [("db", "p4ssw0rd"), ("db_prod", "p4ssw0rd")]
