"""Who made an archive: an Ed25519 signature in a line of text behind its bzip2 data.

The line has a fixed length, so that it is found without decompressing anything: a signature is judged before anything
of the archive is read. It covers every byte before it. Tools that read bzip2 skip it as data after the end.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloacina.errors import InvalidRequest
from cloacina.packages.errors import PackageRefused

_BEGIN = b"\ncloacina-signature-v1 "
_KEY_ID_CHARACTERS = 64
_SIGNATURE_CHARACTERS = 88
TRAILER_BYTES = len(_BEGIN) + _KEY_ID_CHARACTERS + 1 + _SIGNATURE_CHARACTERS + 1
"""Length of the line: its mark, the key's id in hex, a blank, the signature in base64, a newline."""

_STATEMENT = b"cloacina package signature v1\n"
"""What is signed begins so, that a signature made for something else is never taken for one of a package."""

_MAX_KEY_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature as it stands in an archive; `made_by` says whether it is one.

    Args:
        key_id: id of the key that it names.
        value: 64 bytes.
        digest: SHA-256 of the archive without its signature.
    """

    key_id: str
    value: bytes
    digest: bytes

    def made_by(self, public_key: bytes) -> bool:
        """Whether this key signed exactly these bytes.

        Args:
            public_key: 32 bytes.
        """
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(self.value, _STATEMENT + self.digest)
        except InvalidSignature:
            return False
        return self.key_id == key_id_of(public_key)


def signed_bytes(file: BinaryIO) -> int:
    """Bytes of an archive without its signature: all of them where it has none. The position in the file is lost."""
    size = file.seek(0, os.SEEK_END)
    return size - TRAILER_BYTES if _trailer(file, size) else size


def read_signature(archive: Path) -> Signature | None:
    """The signature of an archive; ``None`` where it has none. Nothing else of the archive is looked at.

    Raises:
        PackageRefused: there is one that cannot be read (code ``signature_invalid``).
    """
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        trailer = _trailer(file, size)
        if not trailer:
            return None
        named = trailer[len(_BEGIN) :]
        key_id, value = named[:_KEY_ID_CHARACTERS], named[_KEY_ID_CHARACTERS + 1 : -1]
        try:
            bytes.fromhex(key_id.decode())
            signature = base64.b64decode(value, validate=True)
        except ValueError:
            raise _unreadable() from None
        if trailer[-1:] != b"\n" or named[_KEY_ID_CHARACTERS : _KEY_ID_CHARACTERS + 1] != b" " or len(signature) != 64:
            raise _unreadable()
        return Signature(key_id.decode(), signature, _digest(file, size - TRAILER_BYTES))


def sign(archive: bytes, private_key: Ed25519PrivateKey) -> bytes:
    """The archive with a signature, in the place of the one that it may have.

    Args:
        archive: its bytes.
        private_key: see `read_private_key`.
    """
    payload = archive[:-TRAILER_BYTES] if archive[-TRAILER_BYTES:].startswith(_BEGIN) else archive
    value = private_key.sign(_STATEMENT + hashlib.sha256(payload).digest())
    key_id = key_id_of(_raw(private_key.public_key())).encode()
    return b"".join((payload, _BEGIN, key_id, b" ", base64.b64encode(value), b"\n"))


def key_id_of(public_key: bytes) -> str:
    """The id of a key: SHA-256 of the public one's 32 bytes, in hex."""
    return hashlib.sha256(public_key).hexdigest()


def make_key(path: Path, passphrase: str = "") -> Path:
    """Makes a key: the private one in a new file for its owner only, the public one beside it in ``<name>.pub``.

    Args:
        path: the private key's file.
        passphrase: to encrypt it with; empty for not.

    Returns:
        The public key's file.

    Raises:
        InvalidRequest: a file is there already, or cannot be made.
    """
    key = Ed25519PrivateKey.generate()
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = path.with_name(f"{path.name}.pub")
    try:
        if public.exists():
            raise FileExistsError(errno.EEXIST, "the file is there already", str(public))
        for place, content, mode in ((path, private, 0o600), (public, public_pem(_raw(key.public_key())), 0o644)):
            with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
    except OSError as error:
        raise InvalidRequest(f"the key cannot be written to {error.filename}: {error.strerror}") from None
    return public


def read_private_key(path: Path, passphrase: Callable[[], str]) -> Ed25519PrivateKey:
    """A private key from its file: PEM, PKCS #8, as `make_key` and ``openssl genpkey -algorithm ed25519`` make it.

    Args:
        path: the file.
        passphrase: is asked for it where the key is encrypted.

    Raises:
        InvalidRequest: it cannot be read, or is no such key.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise InvalidRequest(f"the key in {path} cannot be read: {error.strerror}") from None
    try:
        try:
            key = serialization.load_pem_private_key(text, None)
        except TypeError:  # it is encrypted
            key = serialization.load_pem_private_key(text, passphrase().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidRequest(
            f"the key in {path} cannot be used: it is no private key in PEM, or its passphrase is another; make one "
            "with: cloacinactl package keygen FILE"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidRequest(f"the key in {path} is no Ed25519 key; make one with: cloacinactl package keygen FILE")
    return key


def read_public_key(text: str) -> bytes:
    """The 32 bytes of a public key.

    Args:
        text: PEM, or the bytes in base64.

    Raises:
        InvalidRequest: it is neither.
    """
    if "PRIVATE KEY" in text:
        raise InvalidRequest(
            "'public_key' holds a private key: whoever has seen it can sign; make another, and send the file that ends "
            "in .pub"
        )
    try:
        if "-----BEGIN" in text:
            key = serialization.load_pem_public_key(text.encode())
            if not isinstance(key, Ed25519PublicKey):
                raise ValueError("another algorithm")
            return _raw(key)
        raw = base64.b64decode("".join(text.split()), validate=True)
        Ed25519PublicKey.from_public_bytes(raw)
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        raise InvalidRequest(
            "'public_key' must be an Ed25519 public key: PEM, or its 32 bytes in base64; `cloacinactl package keygen` "
            "writes one into a file that ends in .pub"
        ) from None
    return raw


def public_pem(public_key: bytes) -> bytes:
    """A public key as PEM.

    Args:
        public_key: 32 bytes.
    """
    return Ed25519PublicKey.from_public_bytes(public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _raw(public_key: Ed25519PublicKey) -> bytes:
    return public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _trailer(file: BinaryIO, size: int) -> bytes:
    """The line at the end; empty where there is none."""
    if size <= TRAILER_BYTES:
        return b""
    file.seek(size - TRAILER_BYTES)
    trailer = file.read(TRAILER_BYTES)
    return trailer if trailer.startswith(_BEGIN) else b""


def _digest(file: BinaryIO, size: int) -> bytes:
    file.seek(0)
    hashed, left = hashlib.sha256(), size
    while left and (chunk := file.read(min(left, 1 << 20))):
        hashed.update(chunk)
        left -= len(chunk)
    return hashed.digest()


def _unreadable() -> PackageRefused:
    return PackageRefused(
        "the signature at the end of the archive cannot be read; sign the archive again", code="signature_invalid"
    )
