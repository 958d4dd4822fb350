"""Archives that nobody made on purpose, and some that somebody did: whatever the bytes, reading them ends soon, in a
package or in a refusal, holds little memory, and leaves nothing behind.
"""

from __future__ import annotations

import bz2
import contextlib
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cloacina.packages.archive import entries_of, extract, identify, pack
from cloacina.packages.errors import PackageRefused
from cloacina.packages.manifest import Manifest
from cloacina.packages.signature import read_signature, sign
from cloacina.packages.source import read_source

from .archives import MANIFEST, TASKS, honest, source, tar_of

SECONDS = 10
"""For one archive on a busy machine; idle, the slowest takes some tens of milliseconds."""

BYTES = 48 * 1024 * 1024
"""Memory that reading one may take: what is decompressed at a time, and the 8 MiB of text that a source view holds."""

EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

_Edit = tuple[str, int, bytes]


@cache
def _plain() -> bytes:
    return tar_of(*honest())


@cache
def _archives() -> tuple[bytes, bytes]:
    """One as `pack` makes it, and the same one signed."""
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(source(Path(folder), TASKS))
    return packed, sign(packed, Ed25519PrivateKey.from_private_bytes(b"k" * 32))


def _reading() -> Iterator[Callable[[Path, Path], object]]:
    """All that is ever done with an archive from outside."""
    yield lambda archive, _: read_signature(archive)
    yield lambda archive, _: identify(archive)
    yield lambda archive, _: [read() for _, size, read in entries_of(archive) if size < 1_000_000]
    yield lambda archive, _: read_source(archive)
    yield lambda archive, folder: Manifest.read(extract(archive, folder / "target"))


def survives(data: bytes) -> None:
    """Asserts what must hold for any bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = folder / "a.cloacina"
        archive.write_bytes(data)
        for read in _reading():
            tracemalloc.start()
            began = time.monotonic()
            try:
                with contextlib.suppress(PackageRefused):
                    read(archive, folder)
                assert time.monotonic() - began < SECONDS
                assert tracemalloc.get_traced_memory()[1] < BYTES
            finally:
                tracemalloc.stop()
        target = folder / "target"
        assert set(folder.iterdir()) <= {archive, target}, "something was left, or written elsewhere"
        for path in target.rglob("*") if target.exists() else ():
            assert not path.is_symlink()
            assert path.is_file() or path.is_dir()
        shutil.rmtree(target, ignore_errors=True)


_EDITS = st.lists(
    st.tuples(
        st.sampled_from(("replace", "insert", "delete", "repeat")),
        st.integers(0, 1 << 20),
        st.binary(min_size=1, max_size=24),
    ),
    min_size=1,
    max_size=8,
)


def edited(data: bytes, edits: list[_Edit]) -> bytes:
    changed = bytearray(data)
    for kind, place, content in edits:
        at = place % (len(changed) + 1)
        if kind == "replace":
            changed[at : at + len(content)] = content
        elif kind == "insert":
            changed[at:at] = content
        elif kind == "delete":
            del changed[at : at + len(content) ** 2]
        else:
            changed[at:at] = changed[max(0, at - 1024) : at]
    return bytes(changed)


@EXAMPLES
@given(st.sampled_from((0, 1)), _EDITS)
def test_damaged_archives(which: int, edits: list[_Edit]) -> None:
    survives(edited(_archives()[which], edits))


@EXAMPLES
@given(_EDITS)
def test_damaged_tars(edits: list[_Edit]) -> None:
    survives(bz2.compress(edited(_plain(), edits)))


@EXAMPLES
@given(st.binary(max_size=4096), st.booleans())
@example(b"", False)
@example(b"", True)
@example(bytes(1024), True)
def test_any_bytes(data: bytes, compressed: bool) -> None:
    survives(bz2.compress(data) if compressed else data)


_NUMBERS = st.one_of(
    st.integers(0, 8**11 - 1).map(lambda number: b"%011o\0" % number),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b"\x80" + number.to_bytes(11, "big", signed=True)),
    st.binary(min_size=12, max_size=12),
)
_NAMES = st.one_of(
    st.sampled_from(
        (
            b"demo-1.0/package.toml",
            b"demo-1.0/workflow/demo/tasks.py",
            b"demo-1.0",
            b"demo-1.0/../../escaped",
            b"/etc/escaped",
            b"demo-1.0/" + b"a/" * 45,
            b"demo-1.0/PACKAGE.TOML",
        )
    ),
    st.binary(min_size=1, max_size=100),
)
_EXTENSIONS = st.one_of(
    st.binary(max_size=200),
    st.dictionaries(
        st.sampled_from(("path", "size", "linkpath", "GNU.sparse.major", "mtime", "")),
        st.one_of(st.text(max_size=40), st.integers(-5, 10**20).map(str)),
        max_size=4,
    ).map(lambda said: b"".join(_record(key, value) for key, value in said.items())),
)


def _record(key: str, value: str) -> bytes:
    said = f" {key}={value}\n".encode("utf-8", "surrogatepass")
    length = len(said) + 1
    while len(str(length)) + len(said) != length:
        length = len(str(length)) + len(said)
    return str(length).encode() + said


_ENTRIES = st.tuples(
    st.one_of(st.sampled_from(b"0\0" + b"1234567LKSxgD"), st.integers(0, 255)),
    _NAMES,
    st.one_of(st.none(), _NUMBERS),
    st.one_of(st.sampled_from((MANIFEST, TASKS, b"")), st.binary(max_size=700), _EXTENSIONS),
)


def forged(kind: int, name: bytes, size: bytes | None, data: bytes) -> bytes:
    """An entry with a header that adds up, whatever it says."""
    said = b"%011o\0" % len(data) if size is None else size
    head = bytearray(512)
    head[:100] = name[:100].ljust(100, b"\0")
    head[100:124] = b"0000644\0" * 3
    head[124:136] = said
    head[136:148] = b"%011o\0" % 0
    head[148:156] = b" " * 8
    head[156] = kind
    head[257:265] = b"ustar\x0000"
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data + bytes(-len(data) % 512)


@EXAMPLES
@given(st.lists(_ENTRIES, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_forged_entries(entries: list[tuple[int, bytes, bytes | None, bytes]], ended: bool, honest_first: bool) -> None:
    begin = _plain().rstrip(b"\0") if honest_first else b""
    begin += bytes(-len(begin) % 512)
    survives(bz2.compress(begin + b"".join(forged(*entry) for entry in entries) + bytes(1024 * ended)))


@EXAMPLES
@given(
    st.one_of(
        st.binary(max_size=300),
        st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(
            st.sampled_from(
                (
                    b"[package]\n",
                    b"[metadata]\n",
                    b'name = "demo"\n',
                    b'version = "1.0"\n',
                    b'workflow_name = "demo"\n',
                    b'entry_module = "demo.tasks"\n',
                    b"entry_module = 1\n",
                    b'requires_python = "<<<"\n',
                    b"accumulators = [[[[[]]]]]\n",
                    b'language = "rust"\n',
                    b"a = " + b"[" * 2000 + b"\n",
                    b'"\\u0000" = 1\n',
                )
            ),
            max_size=8,
        ).map(b"".join),
    )
)
def test_any_manifest(manifest: bytes) -> None:
    survives(bz2.compress(tar_of(*honest(manifest=manifest))))


@pytest.mark.parametrize("streams", [1, 40])
def test_bombs_are_given_up_before_they_are_large(streams: int) -> None:
    """40 streams are 1.3 GB; each holds 32 MiB of nothing in a few dozen bytes."""
    stream = bz2.compress(bytes(32 * 1024 * 1024))
    survives(stream * streams)
    survives(bz2.compress(_plain()[:-1024]) + stream * streams)
