"""``cloacinactl completions``: scripts with which shells complete commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completions(context: click.Context, shell: str) -> None:
    """Prints the script with which SHELL completes cloacinactl.

    \b
    Examples:
      cloacinactl completions bash > ~/.local/share/bash-completion/completions/cloacinactl
      cloacinactl completions zsh > "${fpath[1]}/_cloacinactl"
      cloacinactl completions fish > ~/.config/fish/completions/cloacinactl.fish
    """
    root = context.find_root()
    found = get_completion_class(shell)
    assert found is not None
    source = found(root.command, {}, "cloacinactl", "_CLOACINACTL_COMPLETE").source()
    click.echo(source)
