"""``cloacinactl status``: the daemon and the server, side by side."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from cloacina.cli.client import ApiFailure
from cloacina.errors import CloacinaError

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

EXIT_DOWN = 2
SERVICE_COLUMNS = ("service", "status", "version", "uptime_s", "reason")


@click.command()
@click.pass_obj
def status(invocation: Invocation) -> None:
    """The daemon of this home and the server that is configured, side by side. Exits with 2 when neither answers."""
    daemon, daemon_error = _daemon(invocation)
    server, server_error = system(invocation)
    if invocation.printer.structured:
        invocation.printer.document(
            {
                "daemon": daemon.model_dump() if daemon is not None else {"error": daemon_error},
                "server": server if server is not None else {"error": server_error},
            }
        )
    else:
        _show(invocation, daemon, daemon_error, server, server_error)
    if daemon is None and server is None:
        sys.exit(EXIT_DOWN)


def system(invocation: Invocation) -> tuple[Any, str]:
    """What the server says of its services; or ``None``, and why."""
    try:
        return invocation.client().call("GET", "/v1/health/status"), ""
    except ApiFailure as error:
        return None, str(error)
    except CloacinaError as error:
        return None, error.message


def _daemon(invocation: Invocation) -> tuple[Any, str]:
    from cloacina.daemon.health import DaemonDown, ask

    try:
        return ask(invocation.home), ""
    except DaemonDown as error:
        return None, error.message


def _show(invocation: Invocation, daemon: Any, daemon_error: str, server: Any, server_error: str) -> None:
    from cloacina.daemon.health import block

    click.echo(block(daemon) if daemon is not None else f"Daemon\n{daemon_error}")
    click.echo()
    click.echo(f"Server {invocation.server}")
    if server is None:
        click.echo(server_error)
    else:
        click.echo(f"Health: {server['status']}")
        invocation.printer.rows(server["services"], SERVICE_COLUMNS, key="service")
