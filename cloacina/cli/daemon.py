"""``cloacinactl daemon``: the local mode, without HTTP."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloacina.cli import process_file
from cloacina.cli.daemon_secret import secret
from cloacina.errors import CloacinaError

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

EXIT_DOWN = 2


@click.group()
def daemon() -> None:
    """The daemon: runs the packages of watched folders on this machine, without HTTP."""


@daemon.command()
@click.option(
    "--watch",
    "--watch-dir",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A further folder of packages to watch; may be given several times.",
)
@click.option("--slots", type=click.IntRange(1, 4096), help="Tasks that run at once (CLOACINA_SLOTS; 32 by default).")
@click.option(
    "--poll-interval",
    type=click.IntRange(100, 3_600_000),
    metavar="MS",
    help="Milliseconds between scans for what the file system does not tell (30000 by default).",
)
@click.option("--log-retention-days", type=click.IntRange(0), help="Days of log files that are kept; 0 keeps all.")
@click.pass_obj
def start(
    invocation: Invocation,
    folders: tuple[Path, ...],
    slots: int | None,
    poll_interval: int | None,
    log_retention_days: int | None,
) -> None:
    """Runs the daemon in the foreground until Ctrl-C, which drains it; a second Ctrl-C ends it at once.

    It watches <home>/packages: a .cloacina file that is put there is loaded, one that is taken away is unloaded, one
    that is replaced is superseded. SIGHUP (or `daemon reload`) reads <home>/config.toml again.

    \b
    Examples:
      cloacinactl daemon start
      cloacinactl daemon start --watch ./packages --watch /srv/packages
      cloacinactl -v daemon start --slots 4
    """
    from cloacina.daemon.daemon import run

    options = {
        "watch_directories": folders or None,
        "slots": slots,
        "poll_interval_ms": poll_interval,
        "log_retention_days": log_retention_days,
        "verbose": True if invocation.verbose else None,
    }
    sys.exit(run(invocation.home, {name: value for name, value in options.items() if value is not None}))


@daemon.command()
@click.option("--force", is_flag=True, help="Kills it (SIGKILL); what runs is run again at the next start.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until it has ended.",
)
@click.pass_obj
def stop(invocation: Invocation, force: bool, timeout_s: float) -> None:
    """Has the daemon drain and end, and waits for it."""
    from cloacina.daemon.health import pid_of

    pid = pid_of(invocation.home)
    process_file.end(pid, "the daemon", force=force, timeout_s=timeout_s)
    click.echo(f"daemon stopped (pid {pid})")


@daemon.command()
@click.pass_obj
def reload(invocation: Invocation) -> None:
    """Has the daemon read <home>/config.toml again (SIGHUP); its log says what changed."""
    from cloacina.daemon.health import pid_of

    pid = pid_of(invocation.home)
    try:
        os.kill(pid, signal.SIGHUP)
    except (ProcessLookupError, PermissionError) as error:
        raise CloacinaError(f"the daemon (pid {pid}) cannot be told: {error.strerror}") from None
    click.echo(f"daemon told to reload (pid {pid})")


@daemon.command()
@click.pass_obj
def status(invocation: Invocation) -> None:
    """What the daemon says of itself, over its Unix socket: no HTTP, no key. Exits with 2 when it is down.

    \b
    Examples:
      cloacinactl daemon status
      cloacinactl --json daemon status
    """
    from cloacina.daemon.health import ask, block

    health = ask(invocation.home)
    if invocation.printer.form == "table":
        click.echo(block(health))
    else:
        invocation.printer.record(health.model_dump(), key="pid")


@daemon.command()
@click.pass_obj
def health(invocation: Invocation) -> None:
    """Says `up` and exits with 0, or `down` and exits with 2. For scripts and service managers."""
    from cloacina.daemon.health import DaemonDown, ask

    try:
        ask(invocation.home)
    except DaemonDown:
        click.echo("down", err=True)
        sys.exit(EXIT_DOWN)
    click.echo("up")


daemon.add_command(secret)
