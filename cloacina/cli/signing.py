"""``cloacinactl signing-key``, and the commands of ``package`` about signatures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloacina.cli.client import segment
from cloacina.errors import InvalidRequest
from cloacina.packages import archive, signature
from cloacina.packages.errors import PackageRefused

if TYPE_CHECKING:
    from cloacina.cli.invocation import Invocation

PASSPHRASE_VARIABLE = "CLOACINA_SIGNING_PASSPHRASE"  # noqa: S105 - the name of a variable

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("signing-key")
def signing_key() -> None:
    """Public keys whose signatures on packages the tenant trusts."""


@signing_key.command()
@click.argument("name")
@click.argument("public_key", type=_FILE)
@click.pass_obj
def add(invocation: Invocation, name: str, public_key: Path) -> None:
    """Trusts the key in PUBLIC_KEY (what `package keygen` wrote into a file ending in .pub), under NAME."""
    body = {"name": name, "public_key": _text(public_key)}
    signature.read_public_key(body["public_key"])
    invocation.printer.record(invocation.client().call("POST", _path(invocation), body), key="key_id")


@signing_key.command("list")
@click.pass_obj
def list_keys(invocation: Invocation) -> None:
    """The keys, revoked ones too."""
    answer = invocation.client().call("GET", _path(invocation))
    invocation.printer.rows(answer["items"], ("name", "key_id", "created_at", "created_by", "revoked_at"), key="key_id")


@signing_key.command()
@click.argument("key_id")
@click.pass_obj
def revoke(invocation: Invocation, key_id: str) -> None:
    """Revokes the key KEY_ID, for good. Packages that are loaded stay, and their details say so."""
    answer = invocation.client().call("DELETE", f"{_path(invocation)}/{segment(key_id)}")
    invocation.printer.record(answer, key="key_id")


def _path(invocation: Invocation) -> str:
    return f"/v1/tenants/{segment(invocation.tenant)}/signing-keys"


@click.command()
@click.argument("keyfile", type=click.Path(path_type=Path))
@click.option("--passphrase", "ask", is_flag=True, help="Asks for a passphrase to encrypt the private key with.")
@click.pass_obj
def keygen(invocation: Invocation, keyfile: Path, ask: bool) -> None:
    """Makes a key to sign packages with: KEYFILE, to be kept private, and KEYFILE.pub, to be trusted by tenants."""
    given = os.environ.get(PASSPHRASE_VARIABLE, "")
    if ask and not given:
        given = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True)
    public = signature.make_key(keyfile, given)
    key_id = signature.key_id_of(signature.read_public_key(_text(public)))
    invocation.printer.record({"key_id": key_id, "private": str(keyfile), "public": str(public)}, key="key_id")


@click.command()
@click.argument("file", type=_FILE)
@click.option("--key", "keyfile", type=_FILE, required=True, help="The private key.")
@click.option("-O", "--out", type=click.Path(path_type=Path), help="The signed file; FILE itself by default.")
@click.pass_obj
def sign(invocation: Invocation, file: Path, keyfile: Path, out: Path | None) -> None:
    """Signs the archive FILE. A signature that it has is replaced."""
    name, version = archive.identify(file)
    signed = signed_with(file.read_bytes(), keyfile)
    target = out or file
    target.write_bytes(signed)
    said = signature.read_signature(target)
    key_id = said.key_id if said is not None else ""
    record = {"file": str(target), "package": name, "version": version, "key_id": key_id}
    invocation.printer.record(record, key="key_id")


@click.command()
@click.argument("file", type=_FILE)
@click.option("--public-key", type=_FILE, help="The key that should have signed it; without one only its id is shown.")
@click.pass_obj
def inspect(invocation: Invocation, file: Path, public_key: Path | None) -> None:
    """What is in the archive FILE, and who signed it. Nothing of it is run."""
    said = signature.read_signature(file)
    status = "unsigned" if said is None else "not checked; give --public-key"
    if public_key is not None:
        status = _judged(said, signature.read_public_key(_text(public_key)))
    name, version = archive.identify(file)
    record: dict[str, Any] = {
        "package": name,
        "version": version,
        "digest": archive.digest_of(file),
        "size_bytes": file.stat().st_size,
        "signed_by": said.key_id if said is not None else None,
        "signature": status,
        "files": [f"{path} ({size} bytes)" for path, size, _ in archive.entries_of(file)],
    }
    invocation.printer.record(record, key="digest")


def _judged(said: signature.Signature | None, public_key: bytes) -> str:
    if said is None:
        raise PackageRefused("the archive is not signed", code="signature_required")
    if said.key_id != signature.key_id_of(public_key):
        raise PackageRefused(
            f"the archive is signed by another key: {said.key_id}, not {signature.key_id_of(public_key)}",
            code="signing_key_unknown",
        )
    if not said.made_by(public_key):
        raise PackageRefused("the archive was changed after it was signed", code="signature_invalid")
    return "valid"


def signed_with(content: bytes, keyfile: Path) -> bytes:
    """An archive signed with the key in a file. Its passphrase, where it has one, is in the environment or asked for.

    Args:
        content: the archive.
        keyfile: the private key.

    Raises:
        InvalidRequest: the key cannot be used, or the archive would be too large.
    """
    signed = signature.sign(content, signature.read_private_key(keyfile, _passphrase))
    if len(signed) > archive.MAX_ARCHIVE_BYTES:
        raise InvalidRequest(f"the signed archive would be larger than {archive.MAX_ARCHIVE_BYTES} bytes")
    return signed


def _passphrase() -> str:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    return given if given is not None else str(click.prompt("Passphrase of the key", hide_input=True, err=True))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read as text: {error}") from None
