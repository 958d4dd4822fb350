"""``cloacinactl trigger``: what starts workflows by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cloacina.cli.client import segment
from cloacina.cli.workflow import read_json

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation


@click.group()
def trigger() -> None:
    """Cron schedules and polled triggers."""


@trigger.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=1000, show_default=True, help="How many at most.")
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True, help="How many to leave out first.")
@click.pass_obj
def list_triggers(invocation: Invocation, limit: int, offset: int) -> None:
    """The schedules of the tenant."""
    answer = invocation.client().call("GET", f"{_path(invocation.tenant)}?limit={limit}&offset={offset}")
    rows = [
        {**item, "when": item["cron_expression"] or f"every {item['poll_interval_ms'] / 1000:g} s"}
        for item in answer["items"]
    ]
    columns = ("trigger_name", "workflow_name", "when", "paused", "next_run_at", "last_outcome", "last_error")
    invocation.printer.rows(rows, columns, key="trigger_name")


@trigger.command()
@click.argument("name")
@click.pass_obj
def inspect(invocation: Invocation, name: str) -> None:
    """Trigger NAME whole, with its latest firings."""
    path = f"{_path(invocation.tenant)}/{segment(name)}"
    invocation.printer.record(invocation.client().call("GET", path), key="trigger_name")


@trigger.command()
@click.argument("name")
@click.pass_obj
def pause(invocation: Invocation, name: str) -> None:
    """Lets trigger NAME fire nothing until it is resumed."""
    _post(invocation, name, "pause")


@trigger.command()
@click.argument("name")
@click.pass_obj
def resume(invocation: Invocation, name: str) -> None:
    """Lets trigger NAME go on; what came due in the pause is not caught up."""
    _post(invocation, name, "resume")


@trigger.command()
@click.argument("name")
@click.option("--event", "text", default="{}", help="Merged into the contexts: a JSON object, or @FILE.")
@click.pass_obj
def fire(invocation: Invocation, name: str, text: str) -> None:
    """Starts the workflows of trigger NAME now."""
    path = f"{_path(invocation.tenant)}/{segment(name)}/fire"
    answer = invocation.client().call("POST", path, {"event": read_json(text, "--event")})
    invocation.printer.rows(answer["executions"], ("workflow_name", "execution_id"), key="execution_id")


def _post(invocation: Invocation, name: str, verb: str) -> None:
    answer = invocation.client().call("POST", f"{_path(invocation.tenant)}/{segment(name)}/{verb}")
    invocation.printer.record(answer, key="id")


def _path(tenant: str) -> str:
    return f"/v1/tenants/{segment(tenant)}/triggers"
