"""``cloacinactl server``: runs the services on this machine."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloacina.cli import backup, process_file
from cloacina.cli.client import ApiClient, ApiFailure
from cloacina.cli.status import EXIT_DOWN, SERVICE_COLUMNS
from cloacina.cli.supervisor import MOST_SCHEDULERS, SERVICES, Supervisor
from cloacina.errors import Unavailable
from cloacina.runtime.config_file import ConfigFile

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

EXIT_UNWELL = 5


@click.group()
def server() -> None:
    """The server: the four services on this machine, and the one that --server or the profile names."""


@server.command()
@click.option("--only", type=click.Choice(SERVICES), help="Only this service, in this process.")
@click.option("--host", help="Address to listen on (CLOACINA_HOST; 127.0.0.1 by default).")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port of the HTTP API (CLOACINA_API_PORT; 8080 by default)."
)
@click.option(
    "--database-url",
    help="postgresql://user:password@host:5432/database (CLOACINA_DATABASE_URL); SQLite files in the home by default.",
)
@click.option("--slots", type=click.IntRange(1), help="Tasks run at once (CLOACINA_SLOTS; 128 by default).")
@click.option(
    "--schedulers",
    type=click.IntRange(1, MOST_SCHEDULERS),
    default=1,
    show_default=True,
    help="How many schedulers; more than one needs PostgreSQL.",
)
@click.option("--log-retention-days", type=click.IntRange(0), help="Days of log files that are kept; 0 keeps all.")
@click.option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM certificate of the HTTP API, with its chain: it speaks TLS only (CLOACINA_API_TLS_CERT).",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM key of --tls-cert, without a password (CLOACINA_API_TLS_KEY).",
)
@click.option(
    "--require-signatures",
    is_flag=True,
    help="Refuse packages that no key which their tenant trusts has signed (CLOACINA_REQUIRE_SIGNATURES).",
)
@click.pass_obj
def start(
    invocation: Invocation,
    only: str | None,
    host: str | None,
    port: int | None,
    database_url: str | None,
    schedulers: int,
    slots: int | None,
    log_retention_days: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    require_signatures: bool,
) -> None:
    """Starts all four services, or one, and keeps them up until Ctrl-C, which drains them.

    Every other knob is an environment variable: see `python -m services.<name> --help`. The bootstrap key, made at the
    first start, is in <home>/bootstrap-key.

    \b
    Examples:
      cloacinactl server start
      cloacinactl server start --port 9000 --slots 8
      cloacinactl server start --database-url postgresql://cloacina:password@db:5432/cloacina
      cloacinactl server start --only executor
    """
    environment = {
        "CLOACINA_HOME": str(invocation.home),
        "CLOACINA_HOST": host,
        "CLOACINA_API_PORT": port,
        "CLOACINA_DATABASE_URL": database_url or _configured_database(invocation),
        "CLOACINA_SLOTS": slots,
        "CLOACINA_LOG_RETENTION_DAYS": log_retention_days,
        "CLOACINA_API_TLS_CERT": tls_cert and tls_cert.absolute(),
        "CLOACINA_API_TLS_KEY": tls_key and tls_key.absolute(),
        "CLOACINA_REQUIRE_SIGNATURES": "true" if require_signatures else None,
        "CLOACINA_VERBOSE": "true" if invocation.verbose else None,
    }
    os.environ.update({name: str(value) for name, value in environment.items() if value is not None})
    if schedulers > 1 and only is not None:
        raise click.UsageError("--schedulers and --only exclude each other: start `--only scheduler` several times")
    if schedulers > 1 and not os.environ.get("CLOACINA_DATABASE_URL"):
        raise click.UsageError(
            "--schedulers needs PostgreSQL, since a SQLite file serves one process: add --database-url postgresql://…"
        )
    if only is not None:
        os.execv(sys.executable, [sys.executable, "-m", f"services.{only}"])  # noqa: S606 - becomes the service
    invocation.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with process_file.held(invocation.home / process_file.SERVER):
        code = asyncio.run(Supervisor(invocation.home, verbose=invocation.verbose, schedulers=schedulers).run())
    sys.exit(code)


@server.command()
@click.option("--force", is_flag=True, help="Kills it (SIGKILL); what runs is run again at the next start.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    default=90.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until it has ended.",
)
@click.pass_obj
def stop(invocation: Invocation, force: bool, timeout_s: float) -> None:
    """Has the server on this home drain and end, and waits for it."""
    pid = process_file.holder(invocation.home / process_file.SERVER)
    if pid is None:
        raise Unavailable(f"no server runs on {invocation.home} (none holds {process_file.SERVER})")
    process_file.end(pid, "the server", force=force, timeout_s=timeout_s)
    click.echo(f"server stopped (pid {pid})")


@server.command()
@click.pass_obj
def status(invocation: Invocation) -> None:
    """The state of every service. Exits with 5 unless all are well, with 2 when nobody answers."""
    found = invocation.client().call("GET", "/v1/health/status")
    if invocation.printer.structured:
        invocation.printer.document(found)
    else:
        invocation.printer.rows(found["services"], SERVICE_COLUMNS, key="service")
    if found["status"] != "ok":
        sys.exit(EXIT_UNWELL)


@server.command()
@click.pass_obj
def health(invocation: Invocation) -> None:
    """Says `up` and exits with 0, or `down` and exits with 2; needs no key. For scripts and service managers."""
    try:
        ApiClient(invocation.server, "").call("GET", "/health")
    except ApiFailure:
        click.echo("down", err=True)
        sys.exit(EXIT_DOWN)
    click.echo("up")


server.add_command(backup.backup)
server.add_command(backup.restore)


def _configured_database(invocation: Invocation) -> str | None:
    """The database of the configuration file, unless the environment names one."""
    if os.environ.get("CLOACINA_DATABASE_URL"):
        return None
    return str(ConfigFile.read(invocation.home).document.get("database_url") or "") or None
