"""The options that every command takes, before the noun or behind the verb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cloacina.cli.invocation import DEFAULT_SERVER, DEFAULT_TENANT, Invocation
from cloacina.cli.output import FORMATS


def _take(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name is not None:
        context.ensure_object(Invocation).take(parameter.name, value)


def _option(*names: str, **more: Any) -> click.Option:
    return click.Option(names, callback=_take, expose_value=False, default=None, **more)


def _shared_options(*, hidden: bool) -> list[click.Option]:
    return [
        _option(
            "--home",
            type=click.Path(path_type=Path, file_okay=False),
            hidden=hidden,
            help="Folder of databases, logs, keys and config.toml (CLOACINA_HOME; ~/.cloacina by default).",
        ),
        _option("--profile", hidden=hidden, help="Profile of config.toml: server, key and tenant by one name."),
        _option("--server", hidden=hidden, help=f"Base URL of the API (CLOACINA_SERVER; {DEFAULT_SERVER} by default)."),
        _option(
            "--api-key",
            hidden=hidden,
            help="API key, or env:VARIABLE or file:PATH (CLOACINA_API_KEY); by default the bootstrap key in the home "
            "folder, for a server on this machine.",
        ),
        _option("--tenant", hidden=hidden, help=f"Whose workflows (CLOACINA_TENANT; {DEFAULT_TENANT} by default)."),
        _option(
            "-o",
            "--output",
            type=click.Choice(FORMATS),
            hidden=hidden,
            help="Form of results (table by default); json, yaml and id are for scripts.",
        ),
        _option("--json", "as_json", is_flag=True, flag_value=True, hidden=hidden, help="The same as -o json."),
        _option(
            "--no-color", is_flag=True, flag_value=True, hidden=hidden, help="No colour on a terminal; NO_COLOR too."
        ),
        _option("-v", "--verbose", is_flag=True, flag_value=True, hidden=hidden, help="Log at debug level."),
    ]


def with_shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a click command that is being made."""
    parameters = getattr(command, "__click_params__", [])
    command.__click_params__ = [*parameters, *reversed(_shared_options(hidden=False))]  # type: ignore[attr-defined]
    return command


def spread(group: click.Group) -> None:
    """Adds the options to every verb below a group, but for names that the verb uses itself."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            spread(command)
            continue
        used = {name for parameter in command.params for name in parameter.opts}
        command.epilog = command.epilog or "The options of `cloacinactl --help` may stand here, too."
        command.params.extend(each for each in _shared_options(hidden=True) if not used & set(each.opts))
