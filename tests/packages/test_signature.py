"""Signatures of archives: what they cover, what is no signature, and the files of keys."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloacina.errors import InvalidRequest
from cloacina.packages import archive
from cloacina.packages.errors import PackageRefused
from cloacina.packages.signature import (
    TRAILER_BYTES,
    key_id_of,
    make_key,
    public_pem,
    read_private_key,
    read_public_key,
    read_signature,
    sign,
)

from .archives import source

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()


def never() -> str:
    raise AssertionError("no passphrase is needed")


@pytest.fixture
def unsigned(tmp_path: Path) -> bytes:
    return archive.pack(source(tmp_path))


def written(folder: Path, data: bytes) -> Path:
    path = folder / "made.cloacina"
    path.write_bytes(data)
    return path


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_signed_archive_is_the_same_package(tmp_path: Path, unsigned: bytes) -> None:
    signed = written(tmp_path, sign(unsigned, KEY))
    found = read_signature(signed)
    assert found is not None
    assert (found.key_id, found.made_by(PUBLIC)) == (key_id_of(PUBLIC), True)
    assert signed.stat().st_size == len(unsigned) + TRAILER_BYTES
    assert archive.identify(signed) == ("demo", "1.0")
    plain = tmp_path / "plain.cloacina"
    plain.write_bytes(unsigned)
    assert read_signature(plain) is None
    assert tree(archive.extract(signed, tmp_path / "a")) == tree(archive.extract(plain, tmp_path / "b"))


def test_signing_again_replaces_the_signature(tmp_path: Path, unsigned: bytes) -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    assert sign(sign(unsigned, other), KEY) == sign(unsigned, KEY)


def test_no_byte_can_change(tmp_path: Path, unsigned: bytes) -> None:
    signed = sign(unsigned, KEY)
    for place in [*range(0, len(unsigned), 37), *range(len(unsigned), len(signed))]:
        changed = bytearray(signed)
        changed[place] ^= 1
        path = written(tmp_path, bytes(changed))
        try:
            found = read_signature(path)
        except PackageRefused as error:
            assert error.code == "signature_invalid"
            continue
        if found is None:  # its mark is gone: what is left of it is foreign data behind the archive
            with pytest.raises(PackageRefused, match="other data after its end"):
                archive.extract(path, tmp_path / "never")
        else:
            assert not found.made_by(PUBLIC), place
    for added in (b"\n", signed[-TRAILER_BYTES:]):
        path = written(tmp_path, signed + added)
        found = read_signature(path)
        assert found is None or not found.made_by(PUBLIC)
        with pytest.raises(PackageRefused, match="other data after its end"):
            archive.extract(path, tmp_path / "never")


def test_a_signature_of_something_else_is_none(tmp_path: Path, unsigned: bytes) -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    found = read_signature(written(tmp_path, sign(unsigned, other)))
    assert found is not None
    assert not found.made_by(PUBLIC)


@pytest.mark.parametrize("passphrase", ["", "long enough"])
def test_the_files_of_a_key(tmp_path: Path, unsigned: bytes, passphrase: str) -> None:
    private = tmp_path / "release"
    public = make_key(private, passphrase)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in private.read_bytes()) == bool(passphrase)
    key = read_private_key(private, (lambda: passphrase) if passphrase else never)
    found = read_signature(written(tmp_path, sign(unsigned, key)))
    assert found is not None
    assert found.made_by(read_public_key(public.read_text()))
    with pytest.raises(InvalidRequest, match="the file is there already|File exists"):
        make_key(private)
    if passphrase:
        with pytest.raises(InvalidRequest, match="its passphrase is another"):
            read_private_key(private, lambda: "wrong")


def test_forms_of_a_public_key() -> None:
    import base64

    assert read_public_key(public_pem(PUBLIC).decode()) == PUBLIC
    assert read_public_key(base64.b64encode(PUBLIC).decode() + "\n") == PUBLIC


PRIVATE_PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
CURVE = ec.generate_private_key(ec.SECP256R1())
CURVE_PEM = CURVE.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be an Ed25519 public key"),
        ("AAAA", "must be an Ed25519 public key"),
        ("ä" * 44, "must be an Ed25519 public key"),
        ("-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----", "must be an Ed25519 public key"),
        (CURVE_PEM.decode(), "must be an Ed25519 public key"),
        (PRIVATE_PEM.decode(), "holds a private key: whoever has seen it can sign"),
    ],
)
def test_what_is_no_public_key(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_public_key(text)


def test_what_is_no_private_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(InvalidRequest, match="cannot be read: No such file"):
        read_private_key(path, never)
    for content, message in (
        (b"nonsense", "it is no private key in PEM"),
        (public_pem(PUBLIC), "it is no private key in PEM"),
        (
            CURVE.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            "is no Ed25519 key",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(InvalidRequest, match=message):
            read_private_key(path, never)
