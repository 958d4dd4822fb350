"""docs/cli.md says what `--help` says, of every command."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import click

from cloacina.cli.main import cli

ROOT = Path(__file__).resolve().parents[3]


def verbs(group: click.Group, path: tuple[str, ...] = ()):
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))


def test_the_page_is_what_help_says() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")

    # in a process of its own: click keeps what the first call of a command made of its help
    command = [sys.executable, str(ROOT / "scripts" / "cli_page.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stderr
    for path, _ in verbs(cli):
        assert f"Usage: cloacinactl {' '.join(path)} [" in page, path


def test_every_command_says_what_it_does() -> None:
    for path, command in verbs(cli):
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)


def test_every_example_is_a_command() -> None:
    """What follows `cloacinactl` in an example names a command that there is."""
    for path, command in [((), cli), *verbs(cli)]:
        for example in re.findall(r"^ {2}(cloacinactl .*)$", command.help or "", re.MULTILINE):
            words = [word for word in example.split()[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
            assert any(_is_command(words[start:]) for start in range(len(words))), f"{' '.join(path)}: {example}"


def _is_command(words: list[str]) -> bool:
    found: click.Command = cli
    for depth, word in enumerate(words):
        if not isinstance(found, click.Group):
            return True
        if word not in found.commands:
            return depth > 0 and not isinstance(found, click.Group)
        found = found.commands[word]
    return not isinstance(found, click.Group)


def test_the_operators_page_has_every_setting() -> None:
    spec = importlib.util.spec_from_file_location("settings_table", ROOT / "scripts" / "settings_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / script.EVERY).read_text(encoding="utf-8")

    assert script.with_every_setting(page) == page, "run: python scripts/settings_table.py --write"
    for kind in script.CLASSES.values():
        for field, info in kind.model_fields.items():
            assert f"| `{script.variable(field, info)}` |" in page
