"""``cloacinactl secret``: secrets of the tenant. Values come from files, standard input or a prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloacina.cli.client import segment

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

_Command = Callable[..., Any]


@click.group()
def secret() -> None:
    """Secrets, whose values nobody sees again."""


def field_options(command: _Command) -> _Command:
    """The two ways to give fields, for `read_fields`."""
    command = click.option(
        "--literal",
        "literals",
        multiple=True,
        metavar="FIELD=VALUE",
        help="A value on the command line, where the shell's history and every user of this machine can see it.",
    )(command)
    return click.option(
        "-f",
        "--field",
        "sources",
        multiple=True,
        metavar="FIELD=@FILE|FIELD=-|FIELD",
        help="A field, and where its value is: in a file, on standard input, or asked for. May be repeated.",
    )(command)


@secret.command()
@click.argument("name")
@field_options
@click.pass_obj
def create(invocation: Invocation, name: str, sources: Sequence[str], literals: Sequence[str]) -> None:
    """Makes secret NAME."""
    body = {"name": name, "fields": read_fields(sources, literals)}
    invocation.printer.record(invocation.client().call("POST", _path(invocation), body), key="name")


@secret.command()
@click.argument("name")
@field_options
@click.pass_obj
def rotate(invocation: Invocation, name: str, sources: Sequence[str], literals: Sequence[str]) -> None:
    """Replaces the fields of secret NAME, all of them."""
    body = {"fields": read_fields(sources, literals)}
    invocation.printer.record(invocation.client().call("PUT", _path(invocation, name), body), key="name")


@secret.command("list")
@click.pass_obj
def list_secrets(invocation: Invocation) -> None:
    """The secrets of the tenant."""
    answer = invocation.client().call("GET", _path(invocation))
    invocation.printer.rows(answer["items"], ("name", "field_names", "version", "updated_at"), key="name")


@secret.command()
@click.argument("name")
@click.pass_obj
def get(invocation: Invocation, name: str) -> None:
    """What is shown of secret NAME."""
    invocation.printer.record(invocation.client().call("GET", _path(invocation, name)), key="name")


@secret.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Asks nothing.")
@click.pass_obj
def delete(invocation: Invocation, name: str, force: bool) -> None:
    """Removes secret NAME."""
    if not force:
        click.confirm(f"Remove the secret {name!r} of tenant {invocation.tenant!r}?", abort=True, err=True)
    invocation.printer.record(invocation.client().call("DELETE", _path(invocation, name)), key="name")


def _path(invocation: Invocation, name: str | None = None) -> str:
    path = f"/v1/tenants/{segment(invocation.tenant)}/secrets"
    return path if name is None else f"{path}/{segment(name)}"


def read_fields(sources: Sequence[str], literals: Sequence[str]) -> dict[str, str]:
    """Values by field.

    Raises:
        click.BadParameter: a field is there twice, or its value cannot be read.
    """
    fields: dict[str, str] = {}
    if [each.partition("=")[2] for each in sources].count("-") > 1:
        raise click.BadParameter("standard input is one value: only one field is read from it", param_hint="--field")
    for given, literal in (*((each, False) for each in sources), *((each, True) for each in literals)):
        field, equals, source = given.partition("=")
        if not field or field in fields:
            raise click.BadParameter(f"the field {field!r} is empty, or there twice", param_hint="--field")
        if literal and not equals:
            raise click.BadParameter("write FIELD=VALUE", param_hint="--literal")
        fields[field] = source if literal else _value(field, source if equals else "?")
    if not fields:
        raise click.BadParameter("at least one is needed", param_hint="--field")
    return fields


def _value(field: str, source: str) -> str:
    if source.startswith("@"):
        try:
            return _without_line_end(Path(source[1:]).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise click.BadParameter(f"{source[1:]} cannot be read: {reason}", param_hint="--field") from None
    if source == "-":
        return _without_line_end(sys.stdin.read())
    if source == "?":
        if sys.stdin.isatty():
            return str(click.prompt(field, hide_input=True, err=True))
        return _without_line_end(sys.stdin.readline())
    raise click.BadParameter(
        f"field {field!r}: a value on the command line can be seen by others. Write {field}=@FILE, {field}=- or "
        f"{field}; or, knowing that, --literal {field}=VALUE",
        param_hint="--field",
    )


def _without_line_end(text: str) -> str:
    """Files and pipes usually end with a line end that is none of the value."""
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
