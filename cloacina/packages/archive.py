"""The archive itself: a bzip2 tar with one top folder ``<name>-<version>/`` (contract, section 7).

Archives come from anyone, so extracting trusts nothing: headers are read one by one, only plain files and folders with
plain names are taken, and everything is counted while it is streamed. What is refused leaves nothing behind.
"""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cloacina.packages.errors import PackageRefused
from cloacina.packages.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, identity_in
from cloacina.packages.signature import signed_bytes

MAX_ARCHIVE_BYTES = 100_000_000
"""Bytes of an archive: what an upload may have."""

MAX_EXTRACTED_BYTES = 512 * 1024 * 1024
"""Bytes of the tar inside, file contents and headers together."""

MAX_ENTRIES = 10_000
"""Files and folders in an archive."""

MAX_RATIO = 200
"""How many times larger than the archive the tar inside may be. Source code compresses five- to tenfold."""

RATIO_FREE_BYTES = 16 * 1024 * 1024
"""Up to this many bytes of tar the ratio is not looked at: small archives of empty files have any ratio."""

MAX_PATH_BYTES = 512
"""Bytes of a path inside the archive, top folder included."""

MAX_DEPTH = 32
"""Parts of a path inside the archive, top folder included."""

_MAX_NAME_BYTES = 255  # of one part of a path: what file systems take
_MAX_EXTENSION_BYTES = 64 * 1024  # of one extension header; it holds a path
_MAX_STREAMS = 20_000  # parallel compressors write one bzip2 stream for every 100 kB or more
_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 64 * 1024


def pack(source: Path) -> bytes:
    """Makes the archive of a package; the same files make the same bytes.

    ``__pycache__``, ``*.pyc`` and names that begin with a dot are left out.

    Args:
        source: the package root.

    Raises:
        PackageRefused: what `extract` would refuse: the manifest, a link, a name, too much of something.
    """
    top = Manifest.read(source).folder
    packed = io.BytesIO()
    names = _Names()
    total = 0
    with (
        bz2.BZ2File(packed, "wb") as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path, mode, size in _files_below(source):
            name = f"{top}/{path.relative_to(source).as_posix()}"
            names.add(name, folder=stat.S_ISDIR(mode))
            total += size + _BLOCK
            if total > MAX_EXTRACTED_BYTES:
                raise _too_large()
            member = tarfile.TarInfo(name)
            if stat.S_ISDIR(mode):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            else:
                member.size, member.mode = size, 0o644
                with path.open("rb") as file:
                    tar.addfile(member, file)
    if packed.tell() > MAX_ARCHIVE_BYTES:
        raise PackageRefused(f"the archive is larger than {MAX_ARCHIVE_BYTES} bytes")
    return packed.getvalue()


def extract(archive: Path, target: Path) -> Path:
    """Verifies an archive while extracting it; `target` appears whole or not at all.

    A `target` that is there already is left as it is: callers name it by the archive's digest, or anew each time.

    Args:
        archive: the file.
        target: the folder to make; it becomes the package root, the top folder's name is not part of it.

    Returns:
        `target`.

    Raises:
        PackageRefused: the archive breaks a rule; the message names the entry.
    """
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        top = _extract_into(archive, staging)
        expected = Manifest.read(staging).folder
        if top != expected:
            raise PackageRefused(
                f"the top folder of the archive is {_shown(top)}, but its {MANIFEST_NAME} makes it {expected!r}"
            )
        staging.chmod(0o755)
        try:
            staging.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return target


def identify(archive: Path) -> tuple[str, str]:
    """Name and version that an archive claims in its manifest; nothing is written, and nothing else is checked.

    Raises:
        PackageRefused: it cannot be read that far, or has no manifest.
    """
    with _opened(archive) as tar:
        for entry in _entries(tar):
            if not entry.folder and len(entry.parts) == 2 and entry.parts[1] == MANIFEST_NAME:
                return identity_in(b"".join(entry.data(tar, at_most=MAX_MANIFEST_BYTES)))
            entry.skip(tar)
    raise _no_manifest()


def entries_of(archive: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """The files of an archive, in its order: path below the top folder, size in bytes, and a function that reads the
    contents, which must be called before the next entry is asked for, or never.

    Raises:
        PackageRefused: the archive breaks a rule.
    """
    with _opened(archive) as tar:
        for entry in _entries(tar):
            chunks = entry.data(tar)

            def read(chunks: Iterator[bytes] = chunks) -> bytes:
                return b"".join(chunks)

            if not entry.folder:
                yield "/".join(entry.parts[1:]), entry.size, read
            for _ in chunks:  # what was not read
                pass


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex: the identity of an archive."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_below(source: Path) -> Iterator[tuple[Path, int, int]]:
    """Files and folders to pack with mode and size, the manifest first, then in the order of their names."""
    listed = sorted(os.scandir(source), key=lambda entry: (entry.name != MANIFEST_NAME, entry.name))
    for entry in listed:
        if entry.name.startswith(".") or entry.name == "__pycache__" or entry.name.endswith(".pyc"):
            continue
        found = entry.stat(follow_symlinks=False)
        path = Path(entry.path)
        if stat.S_ISDIR(found.st_mode):
            yield path, found.st_mode, 0
            yield from _files_below(path)
        elif stat.S_ISREG(found.st_mode):
            yield path, found.st_mode, found.st_size
        else:
            raise PackageRefused(f"{_shown(entry.name)} is a link or a device; a package holds plain files only")


def _extract_into(archive: Path, staging: Path) -> str:
    """Writes the entries below the top folder into `staging`; returns the top folder's name."""
    top = ""
    made: set[Path] = {staging}
    manifest = False
    with _opened(archive) as tar:
        for entry in _entries(tar):
            top = entry.parts[0]
            place = staging.joinpath(*entry.parts[1:])
            _make_folder(place if entry.folder else place.parent, made)
            if not entry.folder:
                manifest = manifest or entry.parts[1:] == (MANIFEST_NAME,)
                _write_file(place, entry.data(tar))
    if not manifest:
        raise _no_manifest()
    return top


def _make_folder(place: Path, made: set[Path]) -> None:
    if place in made:
        return
    _make_folder(place.parent, made)
    place.mkdir()
    place.chmod(0o755)
    made.add(place)


def _write_file(place: Path, data: Iterator[bytes]) -> None:
    with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        for chunk in data:
            file.write(chunk)
        os.fchmod(file.fileno(), 0o644)


class _Tar:
    """The tar inside the archive, decompressed as it is read, within the limits."""

    def __init__(self, file: BinaryIO, archive_bytes: int) -> None:
        self._file = file
        self._left = archive_bytes  # what comes after is its signature
        self._most = min(MAX_EXTRACTED_BYTES, max(RATIO_FREE_BYTES, MAX_RATIO * archive_bytes))
        self._bomb = self._most < MAX_EXTRACTED_BYTES
        self._decompressor = bz2.BZ2Decompressor()
        self._waiting = b""  # read from the file, not decompressed yet
        self._streams = 1
        self._read = 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end of the archive.

        Raises:
            PackageRefused: the archive is cut off or damaged, holds something else at its end, or too much.
        """
        while True:
            if self._decompressor.eof and not self._next_stream():
                return b""
            compressed = b""
            if self._decompressor.needs_input:
                compressed, self._waiting = self._waiting or self._next_chunk(), b""
                if not compressed:
                    raise PackageRefused("the archive is cut off: it ends in the middle of its bzip2 data")
            try:
                data = self._decompressor.decompress(compressed, size)
            except OSError:
                raise PackageRefused("the archive is not bzip2 data, or it is damaged") from None
            if data:
                self._count(len(data))
                return data

    def read_exactly(self, size: int) -> bytes:
        """`size` bytes.

        Raises:
            PackageRefused: as `read`, or the tar ends before.
        """
        parts, left = [], size
        while left:
            part = self.read(left)
            if not part:
                raise PackageRefused("the archive is cut off: its tar ends in the middle")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _next_chunk(self) -> bytes:
        chunk = self._file.read(min(_CHUNK, self._left))
        self._left -= len(chunk)
        return chunk

    def _next_stream(self) -> bool:
        """Goes on with the next bzip2 stream, if one follows: parallel compressors write several."""
        self._waiting = self._decompressor.unused_data or self._next_chunk()
        if not self._waiting:
            return False
        if not self._waiting.startswith(b"BZh"[: len(self._waiting)]):
            raise PackageRefused("the archive has other data after its end")
        self._streams += 1
        if self._streams > _MAX_STREAMS:
            raise PackageRefused(f"the archive consists of more than {_MAX_STREAMS} bzip2 streams")
        self._decompressor = bz2.BZ2Decompressor()
        return True

    def _count(self, size: int) -> None:
        self._read += size
        if self._read > self._most:
            if self._bomb:
                raise PackageRefused(f"the archive's contents are more than {MAX_RATIO} times larger than the archive")
            raise _too_large()


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[_Tar]:
    size = archive.stat().st_size
    if size == 0:
        raise PackageRefused("the archive is empty")
    if size > MAX_ARCHIVE_BYTES:
        raise PackageRefused(f"the archive is larger than {MAX_ARCHIVE_BYTES} bytes")
    with archive.open("rb") as file:
        payload = signed_bytes(file)
        file.seek(0)
        yield _Tar(file, payload)


@dataclass(slots=True)
class _Entry:
    """A file or folder in the tar; its data must be read or skipped before the next one."""

    parts: tuple[str, ...]
    folder: bool
    size: int

    def data(self, tar: _Tar, at_most: int = MAX_EXTRACTED_BYTES) -> Iterator[bytes]:
        """The contents in chunks, and the padding after them."""
        if self.size > at_most:
            raise PackageRefused(f"{_shown('/'.join(self.parts))} is larger than {at_most} bytes")
        left = self.size
        while left:
            chunk = tar.read_exactly(min(left, _CHUNK))
            left -= len(chunk)
            yield chunk
        tar.read_exactly(-self.size % _BLOCK)

    def skip(self, tar: _Tar) -> None:
        """Reads the contents away."""
        for _ in self.data(tar):
            pass


def _entries(tar: _Tar) -> Iterator[_Entry]:
    """The entries, each checked by itself and against those before it; ends after the end of the archive."""
    names = _Names()
    extension: dict[str, str] = {}
    extensions = 0
    while True:
        member = _header(tar)
        if member is None:
            if extension:
                raise PackageRefused("the archive is cut off: an extension header is the last of it")
            _check_end(tar)
            return
        if member.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            extensions += 1
            if extensions > 2 * MAX_ENTRIES:
                raise PackageRefused(f"the archive has more than {2 * MAX_ENTRIES} extension headers")
            extension |= _read_extension(tar, member)
            continue
        name, size = extension.get("path", member.name), _size(extension, member)
        extension = {}
        folder = member.type == tarfile.DIRTYPE
        if not folder and member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise PackageRefused(
                f"{_shown(name)} is a {_kind(member.type)}; an archive may hold plain files and folders only"
            )
        if folder and size:
            raise PackageRefused(f"the folder {_shown(name)} has contents of its own; the archive is damaged")
        if folder and name in (".", "./"):  # what `tar -C folder -c .` begins with
            continue
        yield _Entry(names.add(name, folder=folder), folder, size)


def _header(tar: _Tar) -> tarfile.TarInfo | None:
    """The next header; ``None`` at the mark that ends a tar."""
    block = tar.read_exactly(_BLOCK)
    if block.count(0) == _BLOCK:
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise PackageRefused("the archive is damaged: what is inside its bzip2 data is not a tar") from None


def _read_extension(tar: _Tar, member: tarfile.TarInfo) -> dict[str, str]:
    """What an extension header (pax, or GNU's long name) says of the entry after it."""
    if not 0 <= member.size <= _MAX_EXTENSION_BYTES:
        raise PackageRefused(f"the archive has an extension header of more than {_MAX_EXTENSION_BYTES} bytes")
    body = tar.read_exactly(member.size)
    tar.read_exactly(-member.size % _BLOCK)
    if member.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": body.removesuffix(b"\0").decode("utf-8", "surrogateescape")}
    said = _pax_records(body)
    if any(key.startswith("GNU.sparse") for key in said):
        raise PackageRefused("the archive holds a sparse file; an archive may hold plain files and folders only")
    if member.type == tarfile.XGLTYPE:  # comments of `git archive` and the like
        if not said.keys().isdisjoint(("path", "size", "linkpath")):
            raise PackageRefused("the archive gives all its entries one name or size; the archive is damaged")
        return {}
    return {key: said[key] for key in ("path", "size") if key in said}


def _pax_records(body: bytes) -> dict[str, str]:
    """The records ``<length> <key>=<value>\\n`` of a pax header."""
    records: dict[str, str] = {}
    while body:
        digits, blank, _ = body.partition(b" ")
        length = int(digits) if blank and digits.isdigit() and len(digits) <= 8 else 0
        record = body[len(digits) + 1 : length]
        if not 0 < length <= len(body) or not record.endswith(b"\n") or b"=" not in record:
            raise PackageRefused("the archive is damaged: a pax header cannot be read")
        key, _, value = record[:-1].partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        body = body[length:]
    return records


def _size(extension: dict[str, str], member: tarfile.TarInfo) -> int:
    said = extension.get("size")
    if said is not None and not (said.isascii() and said.isdigit() and len(said) <= 18):
        raise PackageRefused("the archive is damaged: a pax header has a size that is no number")
    size = member.size if said is None else int(said)
    if size < 0:
        raise PackageRefused(f"{_shown(member.name)} has a negative size; the archive is damaged")
    if size > MAX_EXTRACTED_BYTES:
        raise _too_large()
    return size


def _check_end(tar: _Tar) -> None:
    """After the end mark only the padding of a tar may follow."""
    while data := tar.read(_CHUNK):
        if data.count(0) != len(data):
            raise PackageRefused("the archive has other data after its end")


_KINDS = {
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.GNUTYPE_LONGLINK: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "named pipe",
    tarfile.GNUTYPE_SPARSE: "sparse file",
}


def _kind(type_: bytes) -> str:
    return _KINDS.get(type_, f"entry of type {type_!r}")


class _Names:
    """The paths seen so far: plain, below one top folder, and distinct, also where a file system ignores case."""

    def __init__(self) -> None:
        self._top: str | None = None
        self._seen: dict[str, tuple[str, bool, bool]] = {}  # folded path: path, is a folder, was an entry itself
        self._entries = 0

    def add(self, name: str, *, folder: bool) -> tuple[str, ...]:
        """Takes a path and returns its parts.

        Raises:
            PackageRefused: it breaks a rule.
        """
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise PackageRefused(f"the archive has more than {MAX_ENTRIES} entries")
        parts = _parts_of(name.removeprefix("./").rstrip("/") if folder else name.removeprefix("./"), name)
        if self._top is None:
            self._top = parts[0]
        if parts[0] != self._top:
            raise PackageRefused(
                f"the archive has more than one top folder: {_shown(self._top)} and {_shown(parts[0])}"
            )
        if not folder and len(parts) == 1:
            raise PackageRefused(f"the file {_shown(name)} is outside of the archive's top folder")
        for depth in range(1, len(parts)):
            self._note("/".join(parts[:depth]), folder=True, entry=False)
        self._note("/".join(parts), folder=folder, entry=True)
        return parts

    def _note(self, path: str, *, folder: bool, entry: bool) -> None:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        before = self._seen.get(folded)
        if before is None:
            self._seen[folded] = (path, folder, entry)
            return
        path_before, folder_before, entry_before = before
        if path_before != path:
            raise PackageRefused(
                f"{_shown(path)} and {_shown(path_before)} differ only in case or accents' encoding; rename one"
            )
        if folder_before != folder:
            raise PackageRefused(f"{_shown(path)} is in the archive both as a file and as a folder")
        if entry and (entry_before or not folder):
            raise PackageRefused(f"{_shown(path)} is in the archive twice")
        self._seen[folded] = (path, folder, entry_before or entry)


def _parts_of(path: str, name: str) -> tuple[str, ...]:
    """The parts of a relative path of plain names. `name` is what messages show."""
    if path.startswith("/"):
        raise PackageRefused(f"{_shown(name)} is an absolute path; paths in an archive are relative")
    if "\\" in path:
        raise PackageRefused(f"{_shown(name)} has a backslash in its path")
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise PackageRefused(f"{_shown(name)} is not UTF-8") from None
    if any(unicodedata.category(character) == "Cc" for character in path):
        raise PackageRefused(f"{_shown(name)} has a control character in its path")
    parts = tuple(path.split("/"))
    if ".." in parts:
        raise PackageRefused(f"{_shown(name)} leads out of its folder ('..')")
    if "" in parts or "." in parts:
        raise PackageRefused(f"{_shown(name)} has an empty part in its path")
    if len(encoded) > MAX_PATH_BYTES or any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        raise PackageRefused(f"{_shown(name)} is too long: a path has at most {MAX_PATH_BYTES} bytes")
    if len(parts) > MAX_DEPTH:
        raise PackageRefused(f"{_shown(name)} is nested more than {MAX_DEPTH} deep")
    return parts


def _too_large() -> PackageRefused:
    return PackageRefused(f"the archive's contents are larger than {MAX_EXTRACTED_BYTES} bytes")


def _no_manifest() -> PackageRefused:
    return PackageRefused(f"the archive has no {MANIFEST_NAME} in its top folder")


def _shown(name: str) -> str:
    """A name from an archive, fit for a message."""
    shown = repr(name)
    return shown if len(shown) <= 120 else f"{shown[:117]}..."
