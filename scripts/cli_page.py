"""Prints what ``cloacinactl --help`` says of every command as Markdown, or writes it into docs/cli.md.

It stands there between the lines ``<!-- commands -->`` and ``<!-- end of commands -->``.

Usage: python scripts/cli_page.py [--write|--check]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from cloacina.cli.main import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 100
NAMES = cli.context_settings["help_option_names"]
_BEGIN, _END = "<!-- commands -->", "<!-- end of commands -->"


def commands(group: click.Group, parent: click.Context) -> Iterator[tuple[str, str]]:
    """The path of every command below a group, and what its ``--help`` says."""
    for name in sorted(group.commands):
        command = group.commands[name]
        with click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH) as context:
            yield context.command_path, command.get_help(context)
            if isinstance(command, click.Group):
                yield from commands(command, context)


def text() -> str:
    """The part of the page that is made."""
    with click.Context(cli, info_name="cloacinactl", terminal_width=WIDTH, help_option_names=NAMES) as context:
        found = [("cloacinactl", cli.get_help(context)), *commands(cli, context)]
    parts = []
    for path, said in found:
        words = path.split()
        level = min(len(words) + 1, 4)
        lines = "\n".join(line.rstrip() for line in said.splitlines())
        parts.append(f"{'#' * level} {path if len(words) < 3 else ' '.join(words[1:])}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


def replaced(page: str) -> str:
    """The page with that part made anew.

    Raises:
        ValueError: it has no place for it.
    """
    made, times = re.subn(
        f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", lambda _: f"{_BEGIN}\n\n{text()}\n{_END}", page, flags=re.DOTALL
    )
    if times != 1:
        raise ValueError(f"{PAGE} must have one {_BEGIN} … {_END}")
    return made


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    page = PAGE.read_text(encoding="utf-8")
    if "--check" in arguments:
        if replaced(page) != page:
            print("docs/cli.md is not what --help says; run: python scripts/cli_page.py --write", file=sys.stderr)
            return 1
    elif "--write" in arguments:
        PAGE.write_text(replaced(page), encoding="utf-8")
    else:
        print(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
