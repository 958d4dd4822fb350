"""``cloacinactl top``: what runs now, kept current on a terminal."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from cloacina.cli.client import ApiClient, ApiFailure, segment
from cloacina.cli.execution import execution_path
from cloacina.cli.output import styled

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cloacina.cli.invocation import Invocation

_MOST_DETAILED = 20
"""Executions whose tasks are asked for each time."""

_DONE = frozenset(("Completed", "Failed", "Skipped"))


@click.command()
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--limit", type=click.IntRange(1, 200), default=30, show_default=True, help="Executions that are shown.")
@click.option("--once", is_flag=True, help="One look, then the end; so it is where the output is no terminal.")
@click.pass_obj
def top(invocation: Invocation, interval: float, limit: int, once: bool) -> None:
    """What runs now: the services, and the unfinished executions of the tenant with the tasks they are at.

    Keeps itself current on a terminal until Ctrl-C. While the server cannot be reached it says so and goes on.
    """
    client = invocation.client()
    if invocation.printer.structured:
        invocation.printer.document(look(client, invocation.tenant, limit))
    elif once or not sys.stdout.isatty():
        seen = look(client, invocation.tenant, limit)
        click.echo(invocation.printer.rendered(view(seen, invocation)), nl=False)
    else:
        _live(client, invocation, interval, limit)


def _live(client: ApiClient, invocation: Invocation, interval: float, limit: int) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = invocation.printer.console()
    shown: RenderableType = Text("looking …")
    with Live(shown, console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                shown = view(look(client, invocation.tenant, limit), invocation)
                live.update(shown, refresh=True)
            except ApiFailure as error:
                if error.status in (401, 403):
                    raise
                live.update(Group(Text(str(error), style="red"), shown), refresh=True)
            time.sleep(interval)


def look(client: ApiClient, tenant: str, limit: int) -> dict[str, Any]:
    """What there is to see now.

    Args:
        client: of the API.
        tenant: whose executions.
        limit: executions that are looked at.
    """
    system = client.call("GET", "/v1/health/status")
    unfinished: list[Any] = []
    total = 0
    for status in ("Running", "Paused", "Pending"):
        path = f"/v1/tenants/{segment(tenant)}/executions?status={status}&limit={limit}"
        page = client.call("GET", path)
        unfinished += page["items"]
        total += page["total"]
    unfinished = unfinished[:limit]
    for execution in unfinished[:_MOST_DETAILED]:
        execution["tasks"] = client.call("GET", f"{execution_path(tenant, execution['id'])}/tasks")["tasks"]
    return {"status": system["status"], "services": system["services"], "executions": unfinished, "unfinished": total}


def view(seen: dict[str, Any], invocation: Invocation) -> RenderableType:
    """It, laid out."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    now = datetime.now(UTC)
    head = Text.assemble(
        f"cloacina top  {invocation.server}  tenant {invocation.tenant}  {now:%H:%M:%S}  system ",
        styled(seen["status"]),
        f"  unfinished {seen['unfinished']}",
    )
    services = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("SERVICE", "STATUS", "FIGURES"):
        services.add_column(column, no_wrap=True, overflow="ellipsis")
    for service in seen["services"]:
        services.add_row(service["service"], styled(service["status"]), _figures(service))
    executions = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("EXECUTION", "WORKFLOW", "STATUS", "AGE", "DONE", "AT"):
        executions.add_column(
            column, no_wrap=True, overflow="ellipsis", min_width=36 if column == "EXECUTION" else None
        )
    for execution in seen["executions"]:
        executions.add_row(
            execution["id"],
            styled(execution["workflow_name"]),
            styled(execution["status"]),
            _age(execution["created_at"], now),
            *_progress(execution.get("tasks"), now),
        )
    nothing = () if seen["executions"] else (Text("nothing runs"),)
    return Group(head, Text(), services, Text(), executions, *nothing)


def _figures(service: dict[str, Any]) -> str:
    wanted = ("active_workflows", "active_tasks", "ready_tasks", "busy_slots", "slots", "workers", "packages_loaded")
    figures = service.get("figures") or {}
    return "  ".join(f"{name} {figures[name]:g}" for name in wanted if name in figures) or service.get("reason") or "-"


def _progress(tasks: list[Any] | None, now: datetime) -> tuple[str, Any]:
    if tasks is None:
        return "-", styled("-")
    done = sum(task["status"] in _DONE for task in tasks)
    at = [
        f"{task['task_name']} {_age(task['started_at'], now)}" if task["started_at"] else str(task["task_name"])
        for task in tasks
        if task["status"] == "Running"
    ]
    waiting = sum(task["status"] == "Ready" for task in tasks)
    said = ", ".join(at) or (f"{waiting} waiting for a slot" if waiting else "-")
    return f"{done}/{len(tasks)}", styled(said)


def _age(timestamp: str, now: datetime) -> str:
    from cloacina.daemon.health import duration

    return duration(int((now - datetime.fromisoformat(timestamp)).total_seconds())).replace(" ", "")
