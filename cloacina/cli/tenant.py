"""``cloacinactl tenant``: tenants of the platform. Needs a god-mode key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cloacina.cli.client import segment

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

_REMOVAL_S = 300.0
"""A removal drains first."""


@click.group()
def tenant() -> None:
    """Tenants (with a god-mode key)."""


@tenant.command()
@click.argument("name")
@click.option("--description", default="", help="Prose about it.")
@click.pass_obj
def create(invocation: Invocation, name: str, description: str) -> None:
    """Makes the tenant NAME: 1 to 63 of a-z 0-9 _.

    \b
    Example:
      cloacinactl tenant create acme --description "the acme team"
      cloacinactl --tenant acme key create ci --role write
    """
    body = {"name": name, "description": description}
    invocation.printer.record(invocation.client().call("POST", "/v1/tenants", body), key="name")


@tenant.command("list")
@click.pass_obj
def list_tenants(invocation: Invocation) -> None:
    """All tenants."""
    answer = invocation.client().call("GET", "/v1/tenants")
    invocation.printer.rows(answer["items"], ("name", "description", "created_at"), key="name")


@tenant.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Asks nothing.")
@click.pass_obj
def delete(invocation: Invocation, name: str, force: bool) -> None:
    """Removes the tenant NAME with all that is its: keys, packages, executions, secrets.

    It drains first, as long as the server allows, and may be repeated when it was broken off.
    """
    if not force:
        click.confirm(f"Remove the tenant {name!r} with everything in it, for good?", abort=True, err=True)
    answer = invocation.client().call("DELETE", f"/v1/tenants/{segment(name)}", deadline_s=_REMOVAL_S)
    invocation.printer.record(answer, key="schema_name")


@tenant.command()
@click.argument("name")
@click.option("--requests-per-s", type=click.FloatRange(0), help="Requests a second; 0 for no limit.")
@click.option("--executions", type=click.IntRange(0), help="Executions that may be unfinished; 0 for no limit.")
@click.option("--package-bytes", type=click.IntRange(0), help="Bytes of packages; 0 for no limit.")
@click.pass_obj
def quotas(
    invocation: Invocation, name: str, requests_per_s: float | None, executions: int | None, package_bytes: int | None
) -> None:
    """What the tenant NAME may use; changes what an option names, and leaves the rest.

    \b
    Example:
      cloacinactl tenant quotas acme --executions 1000
    """
    client, path = invocation.client(), f"/v1/tenants/{segment(name)}/quotas"
    given = {"requests_per_s": requests_per_s, "executions": executions, "package_bytes": package_bytes}
    changed = {key: value for key, value in given.items() if value is not None}
    answer = client.call("GET", path)
    if changed:
        answer = client.call("PUT", path, {**answer, **changed})
    invocation.printer.record({"tenant": name, **answer}, key="tenant")
