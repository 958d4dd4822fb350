"""``cloacinactl workflow``: what can be executed, and executing it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloacina.cli.client import ApiClient, segment
from cloacina.cli.execution import follow, show_end

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation


@click.group()
def workflow() -> None:
    """Workflows: what can be executed, and executing it."""


@workflow.command("list")
@click.option("--package", "part", default="", help="Only those whose package has this in its name.")
@click.pass_obj
def list_workflows(invocation: Invocation, part: str) -> None:
    """The workflows of the tenant."""
    answer = invocation.client().call("GET", f"/v1/tenants/{segment(invocation.tenant)}/workflows")
    found = [item for item in answer["items"] if part in item["package_name"]]
    columns = ("workflow_name", "version", "build_status", "paused", "tasks", "created_at")
    invocation.printer.rows(found, columns, key="workflow_name")


@workflow.command()
@click.argument("name")
@click.pass_obj
def inspect(invocation: Invocation, name: str) -> None:
    """Workflow NAME whole: build state, inputs, graph, package."""
    invocation.printer.record(invocation.client().call("GET", _path(invocation, name)), key="id")


@workflow.command()
@click.argument("name")
@click.pass_obj
def pause(invocation: Invocation, name: str) -> None:
    """Refuses new executions of workflow NAME until it is resumed; what runs goes on."""
    _control(invocation, name, "pause")


@workflow.command()
@click.argument("name")
@click.pass_obj
def resume(invocation: Invocation, name: str) -> None:
    """Takes new executions of workflow NAME again."""
    _control(invocation, name, "resume")


@workflow.command()
@click.argument("name")
@click.argument("path", required=False)
@click.pass_obj
def source(invocation: Invocation, name: str, path: str | None) -> None:
    """Lists the files of workflow NAME's package, or prints the one at PATH."""
    found = invocation.client().call("GET", f"{_path(invocation, name)}/source")
    if path is None:
        rows = [{**file, "lines": file["contents"].count("\n")} for file in found["files"]]
        invocation.printer.rows(rows, ("path", "language", "lines"), key="path")
        return
    contents = next((file["contents"] for file in found["files"] if file["path"] == path), None)
    if contents is None:
        raise click.BadParameter(f"the package has no file {path!r} that can be shown", param_hint="PATH")
    click.echo(contents, nl=False)


@workflow.command()
@click.argument("name")
@click.option(
    "--context", "text", default="{}", help="Input: a JSON object, a FILE with one (also @FILE), or - for stdin."
)
@click.option("--idempotency-key", default="", help="The same key never starts a second execution.")
@click.option("--priority", type=click.IntRange(-100, 100), default=0, show_default=True, help="Higher runs first.")
@click.option("--wait", is_flag=True, help="Shows the tasks as they end, and the result.")
@click.pass_obj
def run(invocation: Invocation, name: str, text: str, idempotency_key: str, priority: int, wait: bool) -> None:
    """Executes workflow NAME. With --wait it exits with 1 unless the execution completes.

    \b
    Examples:
      cloacinactl workflow run etl --context '{"day": "2026-04-02"}' --wait
      cloacinactl workflow run etl --context input.json --idempotency-key etl-2026-04-02
      cloacinactl -o id workflow run etl
    """
    client = invocation.client()
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    body = {"context": read_json(text), "priority": priority}
    started = client.call("POST", f"{_path(invocation, name)}/execute", body, headers=headers)
    show_started(invocation, client, started, wait=wait)


def show_started(invocation: Invocation, client: ApiClient, started: Any, *, wait: bool) -> None:
    """Shows an execution that was begun; with `wait` its end instead, and on stderr how it gets there.

    Args:
        invocation: whose options.
        client: that began it.
        started: the answer of the API.
        wait: whether to wait for the end.
    """
    if not wait:
        invocation.printer.record({**started, "request_id": client.request_id}, key="execution_id")
        return
    click.echo(f"execution {started['execution_id']}  request {client.request_id}", err=True)
    show_end(follow(client, invocation.tenant, started["execution_id"]), invocation.printer)


def _control(invocation: Invocation, name: str, verb: str) -> None:
    answer = invocation.client().call("POST", f"{_path(invocation, name)}/{verb}")
    invocation.printer.record(answer, key="id")


def _path(invocation: Invocation, name: str) -> str:
    return f"/v1/tenants/{segment(invocation.tenant)}/workflows/{segment(name)}"


def read_json(text: str, option: str = "--context") -> Any:
    """JSON from the command line, from the file that is named (also as ``@FILE``), or from standard input (``-``).

    Args:
        text: what was given.
        option: where, for messages.
    """
    given = text
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@") or Path(text).suffix == ".json":
        path = Path(text.removeprefix("@"))
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise click.BadParameter(f"{path} cannot be read: {reason}", param_hint=option) from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = "" if text is not given else "; a file is named by @FILE"
        raise click.BadParameter(f"not JSON: {error}{hint}", param_hint=option) from None
