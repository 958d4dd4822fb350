"""``cloacinactl instance``: params bound to a workflow under a name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from cloacina.cli.client import segment
from cloacina.cli.workflow import read_json, show_started

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation


@click.group()
def instance() -> None:
    """Named instances of workflows."""


@instance.command()
@click.argument("workflow")
@click.argument("name")
@click.option("--param", "pairs", multiple=True, metavar="KEY=VALUE", help="Binds one param; JSON where it is JSON.")
@click.option("--params", "text", default="{}", help="Binds a JSON object, or @FILE; --param wins.")
@click.option("--cron", help="Cron expression; without one it starts only when it is run.")
@click.option("--timezone", help="IANA time zone of --cron; UTC by default.")
@click.option("--disabled", is_flag=True, help="Makes its schedule switched off.")
@click.pass_obj
def create(
    invocation: Invocation,
    workflow: str,
    name: str,
    pairs: tuple[str, ...],
    text: str,
    cron: str | None,
    timezone: str | None,
    disabled: bool,
) -> None:
    """Binds params to WORKFLOW under NAME."""
    body: dict[str, Any] = {"instance_name": name, "params": _params(pairs, text), "enabled": not disabled}
    body |= {key: value for key, value in (("cron", cron), ("timezone", timezone)) if value is not None}
    answer = invocation.client().call("POST", _path(invocation, workflow), body)
    invocation.printer.record(answer, key="id")


@instance.command("list")
@click.argument("workflow")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True, help="How many to leave out first.")
@click.pass_obj
def list_instances(invocation: Invocation, workflow: str, limit: int, offset: int) -> None:
    """The instances of WORKFLOW."""
    answer = invocation.client().call("GET", f"{_path(invocation, workflow)}?limit={limit}&offset={offset}")
    columns = ("instance_name", "params", "cron_expression", "timezone", "enabled", "next_run_at")
    invocation.printer.rows(answer["items"], columns, key="instance_name")


@instance.command()
@click.argument("workflow")
@click.argument("name")
@click.pass_obj
def inspect(invocation: Invocation, workflow: str, name: str) -> None:
    """Instance NAME of WORKFLOW."""
    answer = invocation.client().call("GET", f"{_path(invocation, workflow)}/{segment(name)}")
    invocation.printer.record(answer, key="id")


@instance.command()
@click.argument("workflow")
@click.argument("name")
@click.pass_obj
def delete(invocation: Invocation, workflow: str, name: str) -> None:
    """Deletes instance NAME of WORKFLOW; executions that it began go on."""
    answer = invocation.client().call("DELETE", f"{_path(invocation, workflow)}/{segment(name)}")
    invocation.printer.record(answer, key="instance_name")


@instance.command()
@click.argument("workflow")
@click.argument("name")
@click.option("--context", "text", default="{}", help="What is added to the params: a JSON object, or @FILE.")
@click.option("--idempotency-key", default="", help="The same key never starts a second execution.")
@click.option("--wait", is_flag=True, help="Shows the tasks as they end, and the result.")
@click.pass_obj
def run(invocation: Invocation, workflow: str, name: str, text: str, idempotency_key: str, wait: bool) -> None:
    """Executes WORKFLOW with the params of instance NAME."""
    client = invocation.client()
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    path = f"{_path(invocation, workflow)}/{segment(name)}/execute"
    started = client.call("POST", path, {"context": read_json(text)}, headers=headers)
    show_started(invocation, client, started, wait=wait)


def _params(pairs: tuple[str, ...], text: str) -> dict[str, Any]:
    """The object, and over it the single params."""
    params = read_json(text, "--params")
    if not isinstance(params, dict):
        raise click.BadParameter("it must be a JSON object", param_hint="--params")
    for pair in pairs:
        key, given, value = pair.partition("=")
        if not key or not given:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--param")
        params[key] = _json_or_text(value)
    return params


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _path(invocation: Invocation, workflow: str) -> str:
    return f"/v1/tenants/{segment(invocation.tenant)}/workflows/{segment(workflow)}/instances"
