"""Signatures of package files: keys that the configuration trusts, before anything of an archive is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloacina.daemon.artifacts import ExtractedPackages, digest_of
from cloacina.daemon.trust import TrustedKeys
from cloacina.errors import InvalidRequest
from cloacina.packages import archive
from cloacina.packages.errors import PackageRefused
from cloacina.packages.signature import TRAILER_BYTES, make_key, read_private_key, sign
from tests.system.running import write_package

_CODE = """
import cloaca


@cloaca.task(id="only")
def only(context):
    return context
"""


@pytest.fixture
def packed(tmp_path: Path) -> bytes:
    return archive.pack(write_package(tmp_path, "tools", _CODE))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; the public one is beside it."""
    make_key(tmp_path / "key")
    return tmp_path / "key"


def _public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def _signed(packed: bytes, key: Path) -> bytes:
    return sign(packed, read_private_key(key, str))


async def _extract(folder: Path, content: bytes, trusted: TrustedKeys) -> Path:
    file = folder / "file.cloacina"
    file.write_bytes(content)
    extracted = ExtractedPackages(folder / "extracted", trusted.judge)
    await extracted.start()
    return await extracted.add(file, digest_of(file))


async def test_what_a_trusted_key_signed_is_taken(tmp_path: Path, packed: bytes, key: Path) -> None:
    root = await _extract(tmp_path, _signed(packed, key), TrustedKeys([_public(key)], required=True))
    assert (root / "package.toml").exists()


@pytest.mark.parametrize("how", ["unsigned", "by a stranger", "changed"])
async def test_where_signatures_are_required_nothing_else_is(
    tmp_path: Path, packed: bytes, key: Path, how: str
) -> None:
    content, code = packed, "signature_required"
    if how == "by a stranger":
        make_key(tmp_path / "stranger")
        content, code = _signed(packed, tmp_path / "stranger"), "signing_key_unknown"
    if how == "changed":
        signed, code = _signed(packed, key), "signature_invalid"
        content = packed[:-1] + bytes([packed[-1] ^ 1]) + signed[-TRAILER_BYTES:]
    with pytest.raises(PackageRefused) as refused:
        await _extract(tmp_path, content, TrustedKeys([_public(key)], required=True))
    assert refused.value.code == code
    assert not [entry for entry in (tmp_path / "extracted").iterdir() if not entry.name.startswith(".")]


async def test_what_was_extracted_before_signatures_were_required_is_judged_again(
    tmp_path: Path, packed: bytes, key: Path
) -> None:
    await _extract(tmp_path, packed, TrustedKeys([], required=False))
    with pytest.raises(PackageRefused, match="not signed"):
        await _extract(tmp_path, packed, TrustedKeys([_public(key)], required=True))


async def test_a_signature_that_a_trusted_key_did_not_make_is_refused_in_any_case(
    tmp_path: Path, packed: bytes, key: Path
) -> None:
    changed = packed[:-1] + bytes([packed[-1] ^ 1]) + _signed(packed, key)[-TRAILER_BYTES:]
    with pytest.raises(PackageRefused, match="changed after it was signed"):
        await _extract(tmp_path, changed, TrustedKeys([_public(key)], required=False))


async def test_without_a_requirement_the_rest_is_taken(tmp_path: Path, packed: bytes, key: Path) -> None:
    for content in (packed, _signed(packed, key)):
        assert await _extract(tmp_path, content, TrustedKeys([], required=False))


def test_keys_that_cannot_be_used_are_named_at_the_start(tmp_path: Path, key: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"trusted_keys: .*/none\.pub cannot be read"):
        TrustedKeys([tmp_path / "none.pub"], required=False)
    with pytest.raises(InvalidRequest, match="private key"):
        TrustedKeys([key], required=False)
    with pytest.raises(InvalidRequest, match="no key is trusted"):
        TrustedKeys([], required=True)
