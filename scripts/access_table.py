"""Makes services/api/access_table.py from the table of routes in docs/security.md, or checks that it matches.

Usage: python scripts/access_table.py --write | --check
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "security.md"
MODULE = ROOT / "services" / "api" / "access_table.py"
COLUMNS = ("method", "path", "no key", "read", "write", "admin", "other tenant", "god mode")

_HEAD = '''"""Who may call which route: made by ``scripts/access_table.py`` from docs/security.md; do not edit."""

from __future__ import annotations

from collections.abc import Mapping

{imports}

ACCESS: Mapping[tuple[str, str], Access] = {
'''
_LEVELS = {
    ("yes", "yes", "yes"): "READ",
    ("no", "yes", "yes"): "WRITE",
    ("no", "no", "yes"): "ADMIN",
}


def rows(page: str) -> list[list[str]]:
    """The rows of the table, cell by cell.

    Raises:
        ValueError: the page has no such table, or a row has too many or too few cells.
    """
    head = f"| {' | '.join(COLUMNS)} |"
    _, found, rest = page.partition(f"{head}\n")
    if not found:
        raise ValueError(f"{PAGE.name} has no table with the head: {head}")
    lines = [line for line in re.match(r"(?:\|.*\n?)*", rest)[0].splitlines()[1:]]  # type: ignore[index]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for line, cells in zip(lines, table, strict=True):
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{PAGE.name}: this row needs {len(COLUMNS)} cells: {line}")
    return table


def access(cells: list[str]) -> str:
    """The name of the access that a row stands for.

    Raises:
        ValueError: its cells do not go together; the message says why.
    """
    method, path, nobody, read, write, admin, other, god = cells
    shown = f"{method} {path}"
    if god != "yes":
        raise ValueError(f"{shown}: a god-mode key may call everything: its cell must be yes")
    if other != ("-" if "{tenant_id}" not in path or nobody == "yes" else "no"):
        raise ValueError(
            f"{shown}: no key may reach another tenant: the cell 'other tenant' must be no, or - where "
            "the path has no {tenant_id} or no key is asked for"
        )
    roles = (read, write, admin)
    if nobody == "yes" and roles == ("yes", "yes", "yes"):
        return "PUBLIC"
    if nobody == "no" and roles == ("no", "no", "no"):
        return "PLATFORM"
    if nobody == "no" and roles in _LEVELS:
        reach = "TENANT" if "{tenant_id}" in path else "ANY"
        return f"{reach}_{_LEVELS[roles]}"
    raise ValueError(f"{shown}: cells are yes or no, and a role may what the roles before it may")


def module(page: str) -> str:
    """The text of the module.

    Raises:
        ValueError: see `rows` and `access`; or a route is there twice.
    """
    entries: dict[tuple[str, str], str] = {}
    for cells in rows(page):
        route = (cells[0], cells[1].strip("`"))
        if route in entries:
            raise ValueError(f"{' '.join(route)} is there twice")
        entries[route] = access(cells)
    lines = [f'    ("{method}", "{path}"): {value},\n' for (method, path), value in entries.items()]
    names = ", ".join(sorted({"Access", *entries.values()}, key=lambda name: (not name.isupper(), name)))
    imports = f"from services.api.access import {names}"
    return f"{_HEAD.replace('{imports}', imports)}{''.join(lines)}}}\n"


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    text = module(PAGE.read_text(encoding="utf-8"))
    if arguments == ["--write"]:
        MODULE.write_text(text, encoding="utf-8")
        return 0
    if MODULE.read_text(encoding="utf-8") != text:
        print(f"{MODULE} is not what {PAGE} says; run: python scripts/access_table.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
