"""How results are shown: as a table that fits the terminal, as JSON, as YAML, or as ids only."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FORMATS = ("table", "json", "yaml", "id")

_ENDLESS = 100_000
"""Columns of what is no terminal: nothing is cut that a program may read."""

_GAP = 2
_LEAST = 6

_STYLES = {
    "Completed": "green",
    "Running": "cyan",
    "Failed": "red",
    "Cancelled": "magenta",
    "Paused": "yellow",
    "Skipped": "dim",
    "ok": "green",
    "success": "green",
    "failed": "red",
    "degraded": "yellow",
    "unavailable": "red",
}


class Printer:
    """Shows results.

    Args:
        form: one of `FORMATS`.
        colour: whether a terminal may be given colour; ``NO_COLOR`` forbids it too.
    """

    def __init__(self, form: str, *, colour: bool = True) -> None:
        self.form = form
        self._colour = colour

    @property
    def structured(self) -> bool:
        """Whether results are for programs: see `document`."""
        return self.form in ("json", "yaml")

    def document(self, value: Any) -> None:
        """Shows a value whole, as JSON or YAML."""
        if self.form == "yaml":
            import yaml

            click.echo(yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True, width=120), nl=False)
        else:
            click.echo(json.dumps(value, indent=2))

    def line(self, value: Any) -> None:
        """Shows one value of a stream: a line of JSON, or a YAML document."""
        if self.form == "yaml":
            click.echo("---")
            self.document(value)
        else:
            click.echo(json.dumps(value))

    def rows(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, key: str) -> None:
        """Shows a list.

        Args:
            rows: what there is.
            columns: what a table shows of it.
            key: what stands for a row where only ids are wanted; never cut in a table.
        """
        if self.structured:
            self.document(list(rows))
        elif self.form == "id":
            for row in rows:
                click.echo(row[key])
        else:
            self._table(rows, columns, key)

    def record(self, record: Mapping[str, Any], *, key: str) -> None:
        """Shows one thing; see `rows`."""
        if self.structured:
            self.document(record)
        elif self.form == "id":
            click.echo(record[key])
        else:
            width = max(map(len, record), default=0)
            for name, value in record.items():
                click.echo(f"{name:<{width}}  {safe(_cell(value))}")

    def _table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], key: str) -> None:
        from rich.table import Table

        cells = [[_cell(row.get(column)) for column in columns] for row in rows]
        natural = [max(map(cell_width, column)) for column in zip(columns, *cells, strict=True)]
        kept = {index for index, column in enumerate(columns) if column == key}
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
        for column, width in zip(columns, fitting(natural, kept, _width()), strict=True):
            table.add_column(column.upper(), no_wrap=True, overflow="ellipsis", width=width)
        for row in cells:
            table.add_row(*map(styled, row))
        click.echo(self.rendered(table), nl=False)

    def rendered(self, what: Any) -> str:
        """Anything of rich as text that fits standard output, in colour where that is wanted."""
        output = io.StringIO()
        self.console(output).print(what)
        return "\n".join(line.rstrip() for line in output.getvalue().split("\n"))

    def console(self, output: Any = None) -> Console:
        """A console of rich that writes to `output`, or to standard output."""
        from rich.console import Console

        coloured = sys.stdout.isatty() and self._colour and "NO_COLOR" not in os.environ
        return Console(
            file=output or sys.stdout,
            force_terminal=coloured,
            no_color=not coloured,
            color_system="standard" if coloured else None,
            width=_width(),
            highlight=False,
            markup=False,
            emoji=False,
        )


def fitting(natural: Sequence[int], kept: Collection[int], available: int) -> list[int]:
    """Widths of columns that fit: the widest are cut, all to one width; what names a row is not.

    Args:
        natural: what each would like to have.
        kept: indexes of those that are never cut.
        available: columns of the terminal.
    """
    room = available - _GAP * (len(natural) - 1)
    cap = max(natural, default=0)
    while cap > _LEAST and sum(w if i in kept else min(w, cap) for i, w in enumerate(natural)) > room:
        cap -= 1
    return [width if index in kept else min(width, cap) for index, width in enumerate(natural)]


def cell_width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    from rich.cells import cell_len

    return cell_len(safe(text))


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _ENDLESS


def styled(text: str) -> Text:
    """A cell, in the colour of the state that it names."""
    from rich.text import Text

    return Text(safe(text), style=_STYLES.get(text, ""))


def safe(text: str) -> str:
    """On one line, and without what drives a terminal: tasks and clients choose what is in it."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return json.dumps(value)


def _plain(value: Any) -> Any:
    """Only what YAML writes plainly."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
