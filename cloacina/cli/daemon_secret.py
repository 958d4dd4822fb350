"""``cloacinactl daemon secret``: secrets of the daemon of a home folder. No daemon need run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson

from cloacina.cli.secret import field_options, read_fields

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation
    from cloacina.secrets.vault import Vault
    from cloacina.store.secrets import SecretRow

_Answer = TypeVar("_Answer")


@click.group()
def secret() -> None:
    """Secrets of the daemon, whose values nobody sees again."""


@secret.command()
@click.argument("name")
@field_options
@click.pass_obj
def create(invocation: Invocation, name: str, sources: Sequence[str], literals: Sequence[str]) -> None:
    """Makes secret NAME.

    \b
    Examples:
      cloacinactl daemon secret create warehouse -f user=- -f password=@password.txt
    """
    fields = read_fields(sources, literals)
    row = _with_vault(invocation, lambda vault: vault.create(_tenant(), name, fields))
    invocation.printer.record(_shown(row), key="name")


@secret.command()
@click.argument("name")
@field_options
@click.pass_obj
def rotate(invocation: Invocation, name: str, sources: Sequence[str], literals: Sequence[str]) -> None:
    """Replaces the fields of secret NAME, all of them."""
    fields = read_fields(sources, literals)
    row = _with_vault(invocation, lambda vault: vault.rotate(_tenant(), name, fields))
    invocation.printer.record(_shown(row), key="name")


@secret.command("list")
@click.pass_obj
def list_secrets(invocation: Invocation) -> None:
    """The secrets of the daemon."""
    rows = _with_vault(invocation, lambda vault: vault.of_tenant(_tenant()))
    columns = ("name", "field_names", "version", "updated_at")
    invocation.printer.rows([_shown(row) for row in rows], columns, key="name")


@secret.command()
@click.argument("name")
@click.pass_obj
def get(invocation: Invocation, name: str) -> None:
    """What is shown of secret NAME."""
    row = _with_vault(invocation, lambda vault: vault.get(_tenant(), name))
    invocation.printer.record(_shown(row), key="name")


@secret.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Asks nothing.")
@click.pass_obj
def delete(invocation: Invocation, name: str, force: bool) -> None:
    """Removes secret NAME."""
    if not force:
        click.confirm(f"Remove the secret {name!r} of the daemon?", abort=True, err=True)
    _with_vault(invocation, lambda vault: vault.delete(_tenant(), name))
    invocation.printer.record({"name": name}, key="name")


def _with_vault(invocation: Invocation, act: Callable[[Vault], Awaitable[_Answer]]) -> _Answer:
    from cloacina.daemon.secrets import open_vault
    from cloacina.daemon.settings import settings_from

    async def run() -> _Answer:
        settings, _ = settings_from(invocation.home, {})
        async with open_vault(settings) as vault:
            return await act(vault)

    return asyncio.run(run())


def _tenant() -> str:
    from cloacina.daemon.packages import TENANT

    return TENANT


def _shown(row: SecretRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "field_names": orjson.loads(row.field_names),
        "version": row.version,
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
    }


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="seconds")
