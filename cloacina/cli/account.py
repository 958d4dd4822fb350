"""``cloacinactl account``: people of the tenant, who log in with a password, which no command line ever holds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from cloacina.cli.client import segment

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation


@click.group()
def account() -> None:
    """Accounts of the tenant: people who log in with a name and a password."""


@account.command()
@click.argument("username")
@click.option(
    "--role",
    type=click.Choice(("read", "write", "admin")),
    default="read",
    show_default=True,
    help="What they may do: look, also run and upload, also manage keys, accounts and secrets.",
)
@click.pass_obj
def create(invocation: Invocation, username: str, role: str) -> None:
    """Makes the account USERNAME. The password is asked for, or read from standard input.

    \b
    Example:
      cloacinactl --tenant acme account create ada --role write < password.txt
    """
    body = {"username": username, "password": _password(), "role": role}
    invocation.printer.record(invocation.client().call("POST", _path(invocation), body), key="id")


@account.command("list")
@click.pass_obj
def list_accounts(invocation: Invocation) -> None:
    """The accounts of the tenant, disabled ones too."""
    answer = invocation.client().call("GET", _path(invocation))
    invocation.printer.rows(answer["items"], ("id", "username", "role", "status"), key="id")


@account.command()
@click.argument("account_id")
@click.pass_obj
def password(invocation: Invocation, account_id: str) -> None:
    """Gives an account another password, which is asked for, or read from standard input."""
    path = f"{_path(invocation)}/{segment(account_id)}/password"
    invocation.printer.record(invocation.client().call("POST", path, {"password": _password()}), key="id")


@account.command()
@click.argument("account_id")
@click.option("--force", is_flag=True, help="Asks nothing.")
@click.pass_obj
def disable(invocation: Invocation, account_id: str, force: bool) -> None:
    """Disables an account: its sessions end, and it logs in no more."""
    if not force:
        click.confirm(f"Disable the account {account_id} of tenant {invocation.tenant!r}?", abort=True, err=True)
    path = f"{_path(invocation)}/{segment(account_id)}"
    invocation.printer.record(invocation.client().call("DELETE", path), key="id")


def _password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


def _path(invocation: Invocation) -> str:
    return f"/v1/tenants/{segment(invocation.tenant)}/accounts"
