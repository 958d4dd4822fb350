"""``cloacinactl package``: making archives, checking, uploading and looking after them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloacina.cli import scaffold, signing
from cloacina.cli.client import ApiFailure, segment
from cloacina.packages import archive
from cloacina.packages.manifest import Manifest
from cloacina.packages.vendoring import requirements_of, with_vendored

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

_LARGE_BYTES = 1 << 20
"""An upload of this size shows how far it is."""

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_SOURCE = click.Path(exists=True, path_type=Path)
_SIGN_HELP = "Signs the archive with this private key; see `package keygen`."
_COLUMNS = ("package_name", "version", "workflow_name", "build_status", "created_at", "id")


def _signing_option(command: Callable[..., Any]) -> Callable[..., Any]:
    kind = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option("--sign", "keyfile", type=kind, help=_SIGN_HELP)(command)


@click.group()
def package() -> None:
    """Packages: from an empty folder to what runs on the server."""


@package.command()
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(scaffold.KINDS),
    default="workflow",
    show_default=True,
    help="Started by hand or over the API; or by time as well; or by a trigger that is polled.",
)
@click.option("--path", "folder", type=click.Path(path_type=Path), help="Where; ./NAME by default.")
def new(name: str, kind: str, folder: Path | None) -> None:
    """Makes the package NAME, which runs as it is and is changed from there.

    \b
    Examples:
      cloacinactl package new hello
      cloacinactl package new nightly-report --kind cron --path ~/work/nightly
    """
    for path in scaffold.scaffold(name, kind, folder or Path(name)):
        click.echo(str(path))


@package.command()
@click.argument("source", type=_SOURCE)
@click.pass_obj
def validate(invocation: Invocation, source: Path) -> None:
    """Finds what the server would refuse in SOURCE, a folder or an archive, and where. Exits with 1 if there is such.

    Its modules are imported in a confined process, as the server does it; no task is run.

    \b
    Example:
      cloacinactl package validate ./hello
    """
    from cloacina.cli.package_check import check

    checked = check(source)
    if invocation.printer.structured:
        findings = [
            {"path": each.path, "line": each.line, "severity": each.severity, "message": each.message}
            for each in checked.findings
        ]
        invocation.printer.document({"valid": not checked.refused, "findings": findings, "contents": checked.contents})
    else:
        for finding in checked.findings:
            click.echo(str(finding))
        if not checked.refused and checked.manifest is not None and checked.contents is not None:
            tasks, triggers = len(checked.contents["tasks"]), len(checked.contents["triggers"])
            click.echo(
                f"{checked.manifest.name} {checked.manifest.version} is valid: tasks {tasks}, triggers {triggers}"
            )
    if checked.refused:
        sys.exit(1)


@package.command()
@click.argument("folder", type=_FOLDER)
@click.option("-O", "--out", type=click.Path(path_type=Path), help="The file; <name>-<version>.cloacina by default.")
@click.option("--no-validate", is_flag=True, help="Does not look first for what the server would refuse.")
@_signing_option
def pack(folder: Path, out: Path | None, no_validate: bool, keyfile: Path | None) -> None:
    """Makes a .cloacina archive of FOLDER (which holds package.toml).

    What [project] dependencies of its pyproject.toml requires is resolved with pip into vendor/ of the archive, from
    pure-Python wheels; FOLDER itself is not changed.

    \b
    Examples:
      cloacinactl package pack ./hello
      cloacinactl package pack ./hello -O ~/.cloacina/packages/hello.cloacina --sign team.key
    """
    content = _packed(folder, validated=not no_validate)
    manifest = Manifest.read(folder)
    target = out or Path(f"{manifest.name}-{manifest.version}.cloacina")
    # whole at once: a daemon may watch the folder
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content if keyfile is None else signing.signed_with(content, keyfile))
        part.replace(target)
    except OSError as error:
        raise click.FileError(str(target), error.strerror) from None
    finally:
        part.unlink(missing_ok=True)
    click.echo(str(target))


@package.command()
@click.argument("source", type=_SOURCE)
@_signing_option
@click.pass_obj
def upload(invocation: Invocation, source: Path, keyfile: Path | None) -> None:
    """Uploads SOURCE: an archive, or a folder, which is packed first."""
    content = _packed(source, validated=False) if source.is_dir() else source.read_bytes()
    _upload(invocation, source.name, content, keyfile)


@package.command()
@click.argument("folder", type=_FOLDER)
@_signing_option
@click.pass_obj
def publish(invocation: Invocation, folder: Path, keyfile: Path | None) -> None:
    """Validates, packs and uploads FOLDER.

    \b
    Example:
      cloacinactl --profile prod package publish ./hello --sign team.key
    """
    _upload(invocation, folder.name, _packed(folder, validated=True), keyfile)


@package.command("list")
@click.option("--filter", "part", default="", help="Only those with this in their name.")
@click.pass_obj
def list_packages(invocation: Invocation, part: str) -> None:
    """The packages of the tenant, every version, newest first."""
    answer = invocation.client().call("GET", f"/v1/tenants/{segment(invocation.tenant)}/workflows")
    found = [item for item in answer["items"] if part in item["package_name"]]
    invocation.printer.rows(found, _COLUMNS, key="id")


@package.command()
@click.argument("name", metavar="NAME|FILE")
@click.option(
    "--public-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of a FILE: the key that should have signed it; without one only its id is shown.",
)
@click.pass_context
def inspect(context: click.Context, name: str, public_key: Path | None) -> None:
    """What the server has under NAME; or what is in the archive FILE, and who signed it. Nothing of it is run."""
    if Path(name).is_file() or name.endswith(".cloacina") or public_key is not None:
        context.invoke(signing.inspect, file=_existing(Path(name)), public_key=public_key)
    else:
        invocation: Invocation = context.obj
        invocation.printer.record(_detail(invocation, name), key="id")


@package.command()
@click.argument("name")
@click.argument("version", required=False)
@click.option("--force", is_flag=True, help="Asks nothing.")
@click.pass_obj
def delete(invocation: Invocation, name: str, version: str | None, force: bool) -> None:
    """Takes the package NAME out of use: VERSION of it, or the newest. Executions that run keep it.

    \b
    Example:
      cloacinactl package delete hello 0.1.0 --force
    """
    found = _detail(invocation, name)
    package_name, version = found["package_name"], version or found["version"]
    if not force:
        click.confirm(f"Delete package {package_name} {version} of tenant {invocation.tenant!r}?", abort=True, err=True)
    path = f"/v1/tenants/{segment(invocation.tenant)}/workflows/{segment(package_name)}/{segment(version)}"
    invocation.printer.record(invocation.client().call("DELETE", path), key="package_name")


package.add_command(signing.keygen)
package.add_command(signing.sign)


def _packed(folder: Path, *, validated: bool) -> bytes:
    """The archive of a folder, with what it requires; ends the program if the server would refuse it."""
    if validated:
        from cloacina.cli.package_check import check

        checked = check(folder)
        for finding in checked.findings:
            click.echo(str(finding), err=True)
        if checked.refused:
            sys.exit(1)
    if requirements_of(folder):
        click.echo("resolving the requirements of pyproject.toml …", err=True)
    with with_vendored(folder) as (root, vendored):
        for each in vendored:
            click.echo(f"vendored {each.name} {each.version}", err=True)
        return archive.pack(root)


def _upload(invocation: Invocation, name: str, content: bytes, keyfile: Path | None) -> None:
    if keyfile is not None:
        content = signing.signed_with(content, keyfile)
    client = invocation.client()
    path = f"/v1/tenants/{segment(invocation.tenant)}/workflows"
    with _progress(len(content)) as on_sent:
        answer = client.upload(path, name, content, on_sent=on_sent)
    invocation.printer.record(answer, key="package_id")


@contextlib.contextmanager
def _progress(size: int) -> Iterator[Callable[[int], object]]:
    """Shows on a terminal how much of something large went."""
    if size < _LARGE_BYTES or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=size, label="uploading", file=sys.stderr) as bar:
        yield bar.update


def _detail(invocation: Invocation, name: str) -> Any:
    """What the server has under a name, or under the id of a package."""
    client, tenant = invocation.client(), segment(invocation.tenant)
    try:
        return client.call("GET", f"/v1/tenants/{tenant}/workflows/{segment(name)}")
    except ApiFailure as error:
        if error.status != 404:
            raise
        listed = client.call("GET", f"/v1/tenants/{tenant}/workflows")["items"]
        named = next((item["package_name"] for item in listed if item["id"] == name), None)
        if named is None:
            raise error from None
        return client.call("GET", f"/v1/tenants/{tenant}/workflows/{segment(named)}")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise click.BadParameter(f"there is no file {path}", param_hint="NAME|FILE")
    return path
