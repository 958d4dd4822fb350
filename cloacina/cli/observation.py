"""``cloacinactl explain|logs|trace``: what happened, by the id of an execution or of a request."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cloacina.cli.client import ApiClient, ApiFailure, segment
from cloacina.cli.execution import ENDED, execution_path
from cloacina.cli.output import safe

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

_FOLLOW_PAUSE_S = 0.5
_LAST_LINES_S = 1.5
"""Seconds after the end of what is followed in which its last lines arrive."""
_BAR = 40
_IN_PLACE = frozenset(("timestamp", "level", "target", "message", "exception"))
_SHOWN_FIELDS = ("service", "task_name", "attempt", "reason", "error")
_IDENTIFYING = frozenset(
    ("service", "request_id", "trace_id", "span_id", "tenant_id", "package_id", "workflow_name", "execution_id")
)


@click.command()
@click.argument("identity", metavar="ID")
@click.pass_obj
def explain(invocation: Invocation, identity: str) -> None:
    """Why the execution ID, or each of the request ID, is not done, or how it ended.

    \b
    Example:
      cloacinactl explain 3f6c3dde-8e22-4f4a-bd15-1bea4c2b4f59
    """
    client = invocation.client()
    answers = [client.call("GET", f"{path}/explain") for path in _executions(client, invocation.tenant, identity)]
    if invocation.printer.structured:
        invocation.printer.document(answers)
        return
    for answer in answers:
        click.echo(f"{answer['workflow_name']} {answer['execution_id']}")
        click.echo(safe(answer["answer"]))
        for cause in answer["causes"]:
            since = f"  since {cause['since']}" if cause["since"] else ""
            click.echo(safe(f"  {cause['kind']:<20} {cause['text']}"))
            ids = "  ".join(f"{name}={value}" for name, value in cause["ids"].items())
            if since or ids:
                click.echo(safe(f"  {'':<20}{since}  {ids}".rstrip()))
        click.echo(f"request {answer['request_id'] or '-'}")
        if answer["trace_url"] or answer["trace_id"]:
            click.echo(f"trace   {answer['trace_url'] or answer['trace_id']}")


@click.command()
@click.argument("identity", metavar="ID")
@click.option(
    "--level",
    type=click.Choice(("trace", "debug", "info", "warn", "error")),
    default="trace",
    show_default=True,
    help="The lowest level shown.",
)
@click.option("-f", "--follow", is_flag=True, help="Goes on until the execution has ended.")
@click.pass_obj
def logs(invocation: Invocation, identity: str, level: str, follow: bool) -> None:
    """The log lines of the execution ID, or of the request ID, oldest first; tracebacks below their lines.

    \b
    Example:
      cloacinactl logs 3f6c3dde-8e22-4f4a-bd15-1bea4c2b4f59 --level warn --follow
    """
    client = invocation.client()
    for line in _lines(client, invocation.tenant, identity, level, follow):
        if invocation.printer.structured:
            invocation.printer.line(line)
        else:
            click.echo(_shown(line))


@click.command()
@click.argument("identity", metavar="ID")
@click.pass_obj
def trace(invocation: Invocation, identity: str) -> None:
    """Where the time of the execution ID, or of those of the request ID, went."""
    client = invocation.client()
    answers = [client.call("GET", f"{path}/trace") for path in _executions(client, invocation.tenant, identity)]
    if invocation.printer.structured:
        invocation.printer.document(answers)
        return
    for answer in answers:
        click.echo(f"{answer['workflow_name']} {answer['execution_id']}  {answer['status']}")
        for row in _tree(answer["spans"]):
            click.echo(row)
        click.echo(f"request {answer['request_id'] or '-'}")
        if answer["trace_url"] or answer["trace_id"]:
            click.echo(f"trace   {answer['trace_url'] or answer['trace_id']}")


def _executions(client: ApiClient, tenant: str, identity: str) -> list[str]:
    """Where the API has the execution of this id, or those that the request of this id began."""
    path = execution_path(tenant, identity)
    try:
        client.call("GET", path)
    except ApiFailure as error:
        if error.status != 404:
            raise
    else:
        return [path]
    found = client.call("GET", _request_path(identity, limit=1))["executions"]
    if not found:
        raise click.UsageError(f"the request {identity} began no execution; see: cloacinactl logs {identity}")
    return [execution_path(tenant, each["id"]) for each in found]


def _request_path(request_id: str, **query: object) -> str:
    return f"/v1/requests/{segment(request_id)}?{urllib.parse.urlencode(query)}"


def _lines(client: ApiClient, tenant: str, identity: str, level: str, follow: bool) -> Iterator[Any]:
    path, cursor = f"{execution_path(tenant, identity)}/logs", ""
    read_until = 0.0
    while True:
        query = {"level": level, **({"cursor": cursor} if cursor else {})}
        try:
            page = client.call("GET", f"{path}?{urllib.parse.urlencode(query)}")
        except ApiFailure as error:
            if error.status != 404 or cursor or path.startswith("/v1/requests"):
                raise
            path = f"/v1/requests/{segment(identity)}"
            continue
        yield from page["lines"]
        cursor = page["next_cursor"]
        if not page["complete"]:
            continue
        states = [page["status"]] if "status" in page else [each["status"] for each in page["executions"]]
        if all(state in ENDED for state in states) or not follow:
            if time.monotonic() >= read_until:
                return
        else:
            read_until = time.monotonic() + _LAST_LINES_S
        time.sleep(_FOLLOW_PAUSE_S)


def _shown(line: Any) -> str:
    others = [name for name in line if name not in (*_IN_PLACE, *_IDENTIFYING, *_SHOWN_FIELDS)]
    fields = "  ".join(f"{name}={line[name]}" for name in (*_SHOWN_FIELDS, *others) if line.get(name) is not None)
    text = f"{line['timestamp']} {line['level']:>5} {line['target']}: {line['message']}  {fields}"
    exception = str(line.get("exception") or "").splitlines()
    return "\n".join(safe(each) for each in (text, *exception))


def _tree(spans: list[Any]) -> Iterator[str]:
    """The spans, each indented below the one it is a part of, with a bar where it lies in the whole."""
    children: dict[str | None, list[Any]] = {}
    for span in spans:
        children.setdefault(span["parent_id"], []).append(span)
    root = children[None][0]
    whole = max(root["duration_ms"], 0.001)

    def rows(span: Any, depth: int) -> Iterator[str]:
        offset = _milliseconds(span["start"]) - _milliseconds(root["start"])
        begin = min(_BAR - 1, max(0, int(offset / whole * _BAR)))
        length = max(1, min(_BAR - begin, round(span["duration_ms"] / whole * _BAR)))
        bar = " " * begin + "━" * length
        name = f"{'  ' * depth}{span['name']}"
        status = "" if span["status"] == "ok" else span["status"]
        error = span["ids"].get("error", "") if span["kind"] == "attempt" else ""
        yield safe(f"{name:<36} {span['duration_ms']:>12.3f} ms  {bar:<{_BAR}}  {status}  {error}".rstrip())
        for child in children.get(span["span_id"], ()):
            yield from rows(child, depth + 1)

    yield from rows(root, 0)


def _milliseconds(timestamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(timestamp).timestamp() * 1000
