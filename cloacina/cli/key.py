"""``cloacinactl key``: API keys, of the platform or of the tenant that is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cloacina.cli.client import segment

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

_COLUMNS = ("id", "name", "permissions", "tenant_id", "is_admin", "created_at", "revoked")


@click.group()
def key() -> None:
    """API keys: of the tenant that --tenant or the profile names, else of the platform (with a god-mode key)."""


@key.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(("read", "write", "admin")),
    default="read",
    show_default=True,
    help="What it may do: look, also run and upload, also manage keys and secrets.",
)
@click.pass_obj
def create(invocation: Invocation, name: str, role: str) -> None:
    """Makes a key under NAME. It is shown this once, and never again.

    \b
    Examples:
      cloacinactl --tenant acme key create ci --role write
      cloacinactl --tenant acme --json key create ci --role write | jq -r .key > ci-key
    """
    answer = invocation.client().call("POST", _path(invocation), {"name": name, "role": role})
    invocation.printer.record(answer, key="key")
    if not invocation.printer.structured:
        click.echo("Keep the key now: it is shown only once.", err=True)


@key.command("list")
@click.pass_obj
def list_keys(invocation: Invocation) -> None:
    """The keys, revoked ones too; never their values."""
    answer = invocation.client().call("GET", _path(invocation))
    invocation.printer.rows(answer["items"], _COLUMNS, key="id")


@key.command()
@click.argument("key_id")
@click.option("--force", is_flag=True, help="Asks nothing.")
@click.pass_obj
def revoke(invocation: Invocation, key_id: str, force: bool) -> None:
    """Revokes the key of this id, for good."""
    if not force:
        click.confirm(f"Revoke the key {key_id}? Whatever uses it is refused from then on", abort=True, err=True)
    answer = invocation.client().call("DELETE", f"{_path(invocation)}/{segment(key_id)}")
    invocation.printer.record(answer, key="id")


@key.command()
@click.pass_obj
def whoami(invocation: Invocation) -> None:
    """Whose key is in use, and what it may do."""
    invocation.printer.record(invocation.client().call("GET", "/v1/auth/whoami"), key="name")


def _path(invocation: Invocation) -> str:
    if invocation.tenant_is_given:
        return f"/v1/tenants/{segment(invocation.tenant)}/keys"
    return "/v1/auth/keys"
