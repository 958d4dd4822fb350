"""``cloacinactl admin``: what the operator of the platform does by hand."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Age(click.ParamType):  # type: ignore[type-arg]
    """A length of time as people write it: ``90d``, ``12h``, ``30m``, ``45s``, ``2w``. Its value is in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no age; write a number and one of s, m, h, d, w, such as 90d", param, context)
        return float(found[1]) * _UNITS[found[2]]


@click.group()
def admin() -> None:
    """Maintenance of the platform; asks for a god-mode key."""


@admin.command("cleanup-events")
@click.option("--older-than", type=Age(), default="90d", show_default=True, help="Age since the execution's end.")
@click.option("--executions", is_flag=True, help="Delete the executions too, with their tasks and outputs.")
@click.option("--dry-run", is_flag=True, help="Only count what would be deleted.")
@click.pass_obj
def cleanup_events(invocation: Invocation, older_than: float, executions: bool, dry_run: bool) -> None:
    """Deletes the events of executions that ended long ago, of all tenants."""
    client, began = invocation.client(), time.monotonic()
    order = {"older_than_s": older_than, "executions": executions, "dry_run": dry_run}
    answer = client.call("POST", "/v1/admin/cleanup-events", order)
    total = dict(answer)
    while not answer["complete"]:
        click.echo(f"{total['executions']} executions, {total['events']} events so far", err=True)
        order["older_than_s"] = older_than + time.monotonic() - began  # what has ended since then stays
        answer = client.call("POST", "/v1/admin/cleanup-events", order)
        for name in ("executions", "events"):
            total[name] += answer[name]
    total["complete"] = True
    invocation.printer.record(total, key="events")
