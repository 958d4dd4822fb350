"""``cloacinactl execution``: what became of an execution."""

from __future__ import annotations

import re
import sys
import time
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from cloacina.cli.client import ApiClient, segment
from cloacina.cli.output import safe

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation
    from cloacina.cli.output import Printer

ENDED = frozenset(("Completed", "Failed", "Cancelled"))
STATUSES = ("Pending", "Running", "Completed", "Failed", "Cancelled", "Paused")
_SHORTEST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_PAGE = 1000
_EVENT_COLUMNS = ("created_at", "event_type", "task_name", "event_data")


@click.group()
def execution() -> None:
    """Executions: what runs, what ran, and how it ended."""


@execution.command()
@click.argument("execution_id")
@click.pass_obj
def status(invocation: Invocation, execution_id: str) -> None:
    """One execution, with its result.

    \b
    Example:
      cloacinactl --json execution status EXECUTION_ID | jq .output
    """
    answer = invocation.client().call("GET", execution_path(invocation.tenant, execution_id))
    invocation.printer.record(answer, key="execution_id")


@execution.command("list")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False), help="Only those in this state.")
@click.option("--workflow", help="Only those of this workflow.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True, help="How many to leave out first.")
@click.option("--all", "everything", is_flag=True, help="All of them, page by page.")
@click.pass_obj
def list_executions(
    invocation: Invocation, status: str | None, workflow: str | None, limit: int, offset: int, everything: bool
) -> None:
    """The executions of the tenant, newest first.

    \b
    Examples:
      cloacinactl execution list --status failed --workflow etl
      cloacinactl execution list --status running -o id | xargs -n1 cloacinactl execution cancel
    """
    filters = {"status": status, "workflow": workflow}
    wanted = sys.maxsize if everything else limit
    rows = list(_listed(invocation, {name: value for name, value in filters.items() if value}, wanted, offset))
    columns = ("id", "workflow_name", "status", "created_at", "completed_at", "error")
    invocation.printer.rows(rows, columns, key="id")


def _listed(invocation: Invocation, filters: dict[str, str], limit: int, offset: int) -> Iterator[Any]:
    client = invocation.client()
    query: dict[str, str] = {**filters, "offset": str(offset)}
    while limit > 0:
        query["limit"] = str(min(limit, _PAGE))
        answer = client.call(
            "GET", f"/v1/tenants/{segment(invocation.tenant)}/executions?{urllib.parse.urlencode(query)}"
        )
        yield from answer["items"]
        limit -= len(answer["items"])
        if not answer["items"] or not answer["next_cursor"]:
            return
        query = {**filters, "cursor": answer["next_cursor"]}


@execution.command()
@click.argument("execution_id")
@click.pass_obj
def tasks(invocation: Invocation, execution_id: str) -> None:
    """The tasks of an execution, in their order."""
    answer = invocation.client().call("GET", f"{execution_path(invocation.tenant, execution_id)}/tasks")
    columns = ("task_name", "status", "attempt", "started_at", "completed_at", "last_error")
    invocation.printer.rows(answer["tasks"], columns, key="task_name")


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?\Z", re.IGNORECASE)


def duration(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
    """Reads the value of an option that is a duration, such as ``90d``, ``7d12h`` or ``5m``."""
    if value is None:
        return None
    found = _DURATION.match(value)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
    if not (days or hours or minutes or seconds):
        raise click.BadParameter(f"{value!r} is no duration such as 90d, 7d12h, 30m or 5s")
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


@execution.command()
@click.argument("execution_id")
@click.option("-f", "--follow", is_flag=True, help="Goes on until the execution has ended; Ctrl-C ends it before.")
@click.option("--since", metavar="DURATION", callback=duration, help="Only events of the last so long: 5m, 2h, 1d12h.")
@click.pass_obj
def events(invocation: Invocation, execution_id: str, follow: bool, since: timedelta | None) -> None:
    """The events of an execution, oldest first.

    \b
    Examples:
      cloacinactl execution events EXECUTION_ID --follow
      cloacinactl --json execution events EXECUTION_ID --since 5m
    """
    client, path = invocation.client(), execution_path(invocation.tenant, execution_id)
    earliest = datetime.now(UTC) - since if since is not None else None
    if follow:
        from cloacina.cli.live_events import follow_events

        def show(event: Any) -> None:
            if _is_late(event, earliest):
                _show_event(invocation.printer, event)

        follow_events(client, execution_id, show)
        return
    found = [event for event in _pages_of_events(client, path, 0) if _is_late(event, earliest)]
    invocation.printer.rows(found, _EVENT_COLUMNS, key="id")


def _is_late(event: Any, earliest: datetime | None) -> bool:
    return earliest is None or datetime.fromisoformat(event["created_at"]) >= earliest


def _pages_of_events(client: ApiClient, path: str, after: int) -> Iterator[Any]:
    while True:
        page = client.call("GET", f"{path}/events?limit={_PAGE}&after={after}")["events"]
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1]["sequence_num"]


def _show_event(printer: Printer, event: Any) -> None:
    if printer.structured:
        printer.line(event)
    elif printer.form == "id":
        click.echo(event["id"])
    else:
        click.echo(safe("  ".join(str(event[column] or "-") for column in _EVENT_COLUMNS)))


@execution.command()
@click.argument("execution_id")
@click.pass_obj
def wait(invocation: Invocation, execution_id: str) -> None:
    """Shows the tasks as they end, then the result. Exits with 1 unless the execution completes."""
    show_end(follow(invocation.client(), invocation.tenant, execution_id), invocation.printer)


def _changes(verb: str, text: str) -> None:
    """Adds a command that changes an execution."""

    @execution.command(verb, help=text)
    @click.argument("execution_id")
    @click.option("--reason", default="", help="Why, for the events and logs.")
    @click.pass_obj
    def change(invocation: Invocation, execution_id: str, reason: str) -> None:
        path = f"{execution_path(invocation.tenant, execution_id)}/{verb}"
        answer = invocation.client().call("POST", path, {"reason": reason})
        invocation.printer.record(answer, key="execution_id")


_changes("cancel", "Stops an execution; what runs of it is told to stop.")
_changes("pause", "Starts no further task of an execution; those that run go on.")
_changes("resume", "Lets a paused execution go on.")
_changes("retry", "Runs again what did not succeed in an execution; what completed is kept.")


def follow(client: ApiClient, tenant: str, execution_id: str) -> Any:
    """Prints each task as it ends (on stderr, for people), until the execution has ended.

    Args:
        client: of the API.
        tenant: whose execution.
        execution_id: which.

    Returns:
        The execution, as the API has it.
    """
    path = execution_path(tenant, execution_id)
    shown: set[str] = set()
    pause = _SHORTEST_PAUSE_S
    while True:
        found = client.call("GET", path)
        for task in client.call("GET", f"{path}/tasks")["tasks"]:
            if task["completed_at"] and task["task_name"] not in shown:
                shown.add(task["task_name"])
                pause = _SHORTEST_PAUSE_S
                error = f"  {task['last_error']}" if task["last_error"] and task["status"] != "Completed" else ""
                line = f"  {task['task_name']:<24} {task['status']:<10} attempt {task['attempt']}{error}"
                click.echo(safe(line), err=True)
        if found["status"] in ENDED:
            return found
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)


def show_end(found: Any, printer: Printer) -> None:
    """Shows an execution that has ended, and ends the program with 1 if it did not complete."""
    printer.record(found, key="execution_id")
    if found["status"] != "Completed":
        sys.exit(1)


def execution_path(tenant: str, execution_id: str) -> str:
    """Where the API has an execution."""
    return f"/v1/tenants/{segment(tenant)}/executions/{segment(execution_id)}"
