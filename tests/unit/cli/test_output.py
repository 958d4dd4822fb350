"""Tables fit the terminal and are whole elsewhere; the other forms are for programs."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from cloacina.cli import output
from cloacina.cli.output import Printer

ROWS = [
    {"id": "3f6c3dde-8e22-4f4a-bd15-1bea4c2b4f59", "status": "Failed", "error": "the table is locked " * 10},
    {"id": "short", "status": "Completed", "error": None},
]
COLUMNS = ("id", "status", "error")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Makes standard output a terminal of 80 columns."""

    def make(**environment: str) -> None:
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(output.sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(output.shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))

    return make


def test_a_table_fits_the_terminal_and_keeps_its_key_whole(terminal, capsys: pytest.CaptureFixture[str]) -> None:
    terminal(NO_COLOR="1")
    Printer("table").rows(ROWS, COLUMNS, key="id")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ID", "STATUS", "ERROR"]
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].startswith(ROWS[0]["id"])
    assert lines[1].endswith("…")
    assert "\x1b" not in "".join(lines)


def test_what_is_no_terminal_gets_everything_and_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    Printer("table").rows(ROWS, COLUMNS, key="id")
    out = capsys.readouterr().out
    assert ROWS[0]["error"].strip() in out
    assert "\x1b" not in out
    assert out.splitlines()[2].split() == ["short", "Completed", "-"]


def test_a_terminal_gets_colour_unless_it_is_forbidden(terminal, capsys: pytest.CaptureFixture[str]) -> None:
    terminal()
    Printer("table").rows(ROWS, COLUMNS, key="id")
    assert "\x1b[31mFailed" in capsys.readouterr().out
    Printer("table", colour=False).rows(ROWS, COLUMNS, key="id")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_programs_get_every_field(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    Printer(form).rows(ROWS, ("id",), key="id")
    read = {"json": json.loads, "yaml": yaml.safe_load}[form]
    assert read(capsys.readouterr().out) == ROWS


def test_ids_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    Printer("id").rows(ROWS, ("status",), key="id")
    assert capsys.readouterr().out.split() == [row["id"] for row in ROWS]


def test_what_drives_a_terminal_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    Printer("table").rows([{"id": "1", "error": "boom\x1b[2J\nforged"}], ("id", "error"), key="id")
    Printer("table").record({"error": "boom\x1b[2J\nforged"}, key="error")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count("boom\\x1b[2J\\nforged") == 2
