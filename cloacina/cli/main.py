"""``cloacinactl``: noun, verb, and the options that all commands share."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from cloacina import __version__
from cloacina.cli import (
    account,
    admin,
    completions,
    config,
    daemon,
    execution,
    instance,
    key,
    observation,
    package,
    secret,
    server,
    signing,
    status,
    tenant,
    top,
    trigger,
    workflow,
)
from cloacina.cli.client import ApiFailure
from cloacina.cli.invocation import Invocation
from cloacina.cli.shared_options import spread, with_shared_options
from cloacina.errors import CloacinaError, Forbidden, NotFound, Unauthorized, Unavailable

EXIT_USER, EXIT_NETWORK, EXIT_NOT_FOUND, EXIT_AUTH, EXIT_SERVER = 1, 2, 3, 4, 5
_INTERRUPTED = 130

_EXITS = ((Unauthorized, EXIT_AUTH), (Forbidden, EXIT_AUTH), (NotFound, EXIT_NOT_FOUND), (Unavailable, EXIT_NETWORK))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@with_shared_options
@click.version_option(__version__, prog_name="cloacinactl")
@click.pass_context
def cli(context: click.Context) -> None:
    """Runs Cloacina and talks to it: a noun, a verb, and what it is about.

    The options below may stand here or behind the verb. What no option says comes from the environment, then from
    the profile in config.toml of the home folder.

    \b
    Examples:
      cloacinactl server start
      cloacinactl package new hello && cloacinactl package publish hello
      cloacinactl workflow run hello --context '{"name": "you"}' --wait
      cloacinactl execution list --status failed -o id | xargs -n1 cloacinactl explain

    \b
    Exit codes:
      0  done                          3  there is no such thing
      1  the command or its input      4  the key: missing, unknown, not allowed
      2  nobody answers                5  the server refused, or failed
    """
    context.ensure_object(Invocation)


for _command in (
    server.server,
    daemon.daemon,
    package.package,
    workflow.workflow,
    execution.execution,
    instance.instance,
    trigger.trigger,
    secret.secret,
    tenant.tenant,
    account.account,
    key.key,
    signing.signing_key,
    admin.admin,
    config.config,
    observation.explain,
    observation.logs,
    observation.trace,
    status.status,
    top.top,
    completions.completions,
):
    cli.add_command(_command)
spread(cli)


def main(arguments: list[str] | None = None) -> Any:
    """Runs a command. Exit codes: 0 ok, 1 the user's, 2 network, 3 not found, 4 key, 5 the server's."""
    invocation = Invocation()
    try:
        sys.exit(cli.main(args=arguments, prog_name="cloacinactl", standalone_mode=False, obj=invocation))
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER)
    except click.Abort:
        sys.exit(_INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        _close_quietly()
        sys.exit(0)
    except ApiFailure as error:
        said = {"error": error.prose, "code": error.code, "status": error.status, "request_id": error.request_id}
        _say(invocation, str(error), said)
        sys.exit(_exit_code(error.status))
    except CloacinaError as error:
        _say(invocation, error.message, {"error": error.message, "code": error.code})
        sys.exit(next((code for kind, code in _EXITS if isinstance(error, kind)), EXIT_USER))


def _say(invocation: Invocation, text: str, said: dict[str, Any]) -> None:
    """An error, on stderr: prose for people, an object where results are JSON."""
    print(json.dumps(said) if invocation.printer.form == "json" else f"cloacinactl: {text}", file=sys.stderr)


def _close_quietly() -> None:
    """Whoever read the output has gone, as `head` does; nothing more is to be said when the interpreter ends."""
    import os

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _exit_code(status: int) -> int:
    if status == 0:
        return EXIT_NETWORK
    if status in (401, 403):
        return EXIT_AUTH
    if status == 404:
        return EXIT_NOT_FOUND
    return EXIT_USER if status in (400, 413, 415, 422) else EXIT_SERVER
