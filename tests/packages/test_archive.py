"""What an archive must be, and that one which is not leaves nothing behind."""

from __future__ import annotations

import bz2
import os
import stat
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloacina.packages import archive as archives
from cloacina.packages.archive import digest_of, extract, identify, pack
from cloacina.packages.errors import PackageRefused
from cloacina.packages.manifest import Manifest

from .archives import MANIFEST, TASKS, entry, file, honest, source, tar_of, write


def tree(root: Path) -> dict[str, bytes | None]:
    """Every path below `root`: the contents of files, ``None`` for folders."""
    return {path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")}


def refusal(folder: Path, archive: Path) -> str:
    """The message an archive is refused with; checks that nothing was left."""
    before = tree(folder)
    with pytest.raises(PackageRefused) as refused:
        extract(archive, folder / "target")
    assert refused.value.code == "upload_failed"
    assert tree(folder) == before
    return refused.value.message


def test_a_package_is_extracted_without_its_top_folder(tmp_path: Path) -> None:
    target = extract(write(tmp_path, *honest()), tmp_path / "target")
    assert target == tmp_path / "target"
    assert tree(target)["package.toml"] == MANIFEST
    assert tree(target)["workflow/demo/tasks.py"] == TASKS
    assert identify(tmp_path / "made.cloacina") == ("demo", "1.0")


def test_modes_are_plain_whatever_the_archive_says(tmp_path: Path) -> None:
    loud = file("demo-1.0/run.sh", b"#!/bin/sh\n", mode=0o6777, uid=12345)
    folder = entry("demo-1.0/vendor", tarfile.DIRTYPE, mode=0o7777)
    target = extract(write(tmp_path, *honest(), loud, folder), tmp_path / "target")
    assert stat.S_IMODE((target / "run.sh").stat().st_mode) == 0o644
    assert (target / "run.sh").stat().st_uid == os.getuid()
    for path in (target, target / "vendor", target / "workflow"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755


HOSTILE = {
    "leads out": ([file("demo-1.0/../../evil")], "leads out of its folder"),
    "leads out at once": ([file("../evil")], "leads out of its folder"),
    "leads out behind a dot": ([file("./../evil")], "leads out of its folder"),
    "absolute": ([file("/etc/evil")], "absolute path"),
    "backslash": ([file("demo-1.0\\..\\evil")], "backslash"),
    "NUL": ([file("demo-1.0/e\0vil", pax_headers={"path": "demo-1.0/e\0vil"})], "control character"),
    "newline": ([file("demo-1.0/e\nvil")], "control character"),
    "empty part": ([file("demo-1.0//evil")], "empty part"),
    "symbolic link": ([entry("demo-1.0/l", tarfile.SYMTYPE, linkname="/etc/passwd")], "symbolic link"),
    "hard link": ([entry("demo-1.0/l", tarfile.LNKTYPE, linkname="demo-1.0/package.toml")], "hard link"),
    "character device": ([entry("demo-1.0/d", tarfile.CHRTYPE)], "device"),
    "block device": ([entry("demo-1.0/d", tarfile.BLKTYPE)], "device"),
    "named pipe": ([entry("demo-1.0/p", tarfile.FIFOTYPE)], "named pipe"),
    "unknown type": ([entry("demo-1.0/p", b"Z")], "entry of type"),
    "duplicate": ([file("demo-1.0/package.toml", MANIFEST)], "twice"),
    "duplicate by case": ([file("demo-1.0/Package.TOML", MANIFEST)], "differ only in case"),
    "duplicate folder": ([entry("demo-1.0/v", tarfile.DIRTYPE), entry("demo-1.0/v", tarfile.DIRTYPE)], "twice"),
    "folder by case": ([file("demo-1.0/Workflow/x.py")], "differ only in case"),
    "file as a folder": ([file("demo-1.0/package.toml/x")], "both as a file and as a folder"),
    "folder as a file": ([file("demo-1.0/workflow")], "both as a file and as a folder"),
    "two top folders": ([file("other/x")], "more than one top folder"),
    "file at the top": ([file("x")], "more than one top folder"),
    "long path": ([file("demo-1.0/" + "x/" * 10 + "y" * 250 + "/" + "z" * 250)], "too long"),
    "long name": ([file("demo-1.0/" + "y" * 256)], "too long"),
    "deep path": ([file("demo-1.0/" + "x/" * 40 + "y")], "nested more than"),
    "folder with contents": ([entry("demo-1.0/v", tarfile.DIRTYPE, b"x" * 10)], "contents of its own"),
}


@pytest.mark.parametrize(("more", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_entries_are_refused_by_name(tmp_path: Path, more: list, message: str) -> None:
    assert message in refusal(tmp_path, write(tmp_path, *honest(), *more))


LAYOUTS = {
    "wrong top folder": (honest(top="demo-2.0"), "makes it 'demo-1.0'"),
    "no manifest": (honest()[1:], "no package.toml"),
    "manifest deeper down": ([file("demo-1.0/workflow/package.toml", MANIFEST)], "no package.toml"),
    "nothing": ([], "no package.toml"),
    "only a file": ([file("package.toml", MANIFEST)], "outside of the archive's top folder"),
    "Rust": ([*honest(), file("demo-1.0/Cargo.toml")], "Rust"),
}


@pytest.mark.parametrize(("entries", "message"), LAYOUTS.values(), ids=LAYOUTS)
def test_wrong_layouts_are_refused(tmp_path: Path, entries: list, message: str) -> None:
    assert message in refusal(tmp_path, write(tmp_path, *entries))


def test_extension_headers_are_bounded(tmp_path: Path) -> None:
    huge = file("demo-1.0/x", pax_headers={"comment": "x" * 200_000})
    assert "extension header" in refusal(tmp_path, write(tmp_path, *honest(), huge))


def test_a_name_for_all_entries_is_refused(tmp_path: Path) -> None:
    tar = tarfile.TarInfo.create_pax_global_header({"path": "demo-1.0/x"}) + tar_of(*honest())
    path = tmp_path / "a.cloacina"
    path.write_bytes(bz2.compress(tar))
    assert "one name" in refusal(tmp_path, path)


GOOD = tar_of(*honest())
DAMAGED = {
    "empty": (b"", "empty"),
    "gzip": (b"\x1f\x8b\x08\x00" + b"\0" * 50, "not bzip2"),
    "text": (b"hello, this is no archive", "not bzip2"),
    "not a tar": (bz2.compress(b"hello" * 1000), "not a tar"),
    "cut off bzip2": (bz2.compress(GOOD)[:-20], "cut off"),
    "half a bzip2": (bz2.compress(GOOD)[: len(bz2.compress(GOOD)) // 2], "cut off"),
    "cut off tar": (bz2.compress(GOOD[:1000]), "cut off"),
    "no end mark": (bz2.compress(GOOD[: len(GOOD.rstrip(b"\0")) // 512 * 512 + 512]), "cut off"),
    "garbage after bzip2": (bz2.compress(GOOD) + b"garbage", "after its end"),
    "garbage after tar": (bz2.compress(GOOD + b"garbage"), "after its end"),
    "second tar": (bz2.compress(GOOD + GOOD), "after its end"),
    "wrong checksum": (bz2.compress(GOOD[:148] + b"00000000" + GOOD[156:]), "not a tar"),
}


@pytest.mark.parametrize(("data", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_archives_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.cloacina"
    path.write_bytes(data)
    assert message in refusal(tmp_path, path)


def test_archives_of_parallel_compressors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.cloacina"
    path.write_bytes(b"".join(bz2.compress(GOOD[at : at + 700]) for at in range(0, len(GOOD), 700)))
    assert (extract(path, tmp_path / "target") / "package.toml").read_bytes() == MANIFEST


def test_gnu_tars_with_a_leading_dot_are_read(tmp_path: Path) -> None:
    long = "demo-1.0/vendor/" + "x" * 90 + "/" + "y" * 90 + ".py"
    entries = [entry("./", tarfile.DIRTYPE), file("./demo-1.0/package.toml", MANIFEST), *honest()[1:], file(long, b"z")]
    path = tmp_path / "a.cloacina"
    path.write_bytes(bz2.compress(tar_of(*entries, format=tarfile.GNU_FORMAT)))
    target = extract(path, tmp_path / "target")
    assert (target / long.partition("/")[2]).read_bytes() == b"z"


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = write(tmp_path, *honest(), file("demo-1.0/zeros", bytes(20 * 1024 * 1024)))
    assert bomb.stat().st_size < 10_000
    assert "times larger" in refusal(tmp_path, bomb)
    monkeypatch.setattr(archives, "MAX_EXTRACTED_BYTES", 1_000_000)
    large = write(tmp_path, *honest(), file("demo-1.0/noise", os.urandom(1_100_000)))
    assert "larger than 1000000 bytes" in refusal(tmp_path, large)
    monkeypatch.setattr(archives, "MAX_ENTRIES", 10)
    many = write(tmp_path, *honest(), *(file(f"demo-1.0/{number}") for number in range(10)))
    assert "more than 10 entries" in refusal(tmp_path, many)
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 100)
    assert "larger than 100 bytes" in refusal(tmp_path, write(tmp_path, *honest()))


def test_a_size_that_the_archive_lacks_is_refused(tmp_path: Path) -> None:
    claims = tarfile.TarInfo("demo-1.0/claims")
    claims.size = 300 * 1024 * 1024
    path = tmp_path / "a.cloacina"
    path.write_bytes(bz2.compress(claims.tobuf() + b"a little"))
    assert "cut off" in refusal(tmp_path, path)


def test_a_target_that_is_there_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").touch()
    assert extract(write(tmp_path, *honest()), target) == target
    assert tree(target) == {"mine": b""}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.cloacina", "target"]


def test_packing_is_deterministic_and_leaves_out_what_is_not_source(tmp_path: Path) -> None:
    package = source(tmp_path)
    packed = pack(package)
    (package / "workflow" / "demo" / "__pycache__").mkdir()
    (package / "workflow" / "demo" / "__pycache__" / "tasks.pyc").touch()
    (package / ".git").mkdir()
    (package / ".env").write_text("SECRET=1")
    os.utime(package / "package.toml", (1, 1))
    (package / "package.toml").chmod(0o600)
    assert pack(package) == packed
    path = tmp_path / "a.cloacina"
    path.write_bytes(packed)
    target = extract(path, tmp_path / "target")
    assert ".env" not in tree(target)
    assert Manifest.read(target) == Manifest.read(package)
    assert len(digest_of(path)) == 64


def test_links_are_not_packed(tmp_path: Path) -> None:
    package = source(tmp_path)
    (package / "secret").symlink_to("/etc/passwd")
    with pytest.raises(PackageRefused, match="'secret' is a link"):
        pack(package)


_NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=12).filter(
    lambda name: (
        not name.startswith(".") and not name.endswith(".pyc") and name != "__pycache__" and not set(name) & {"/", "\\"}
    )
)
_TREES = st.dictionaries(
    _NAMES, st.recursive(st.binary(max_size=3000), lambda inner: st.dictionaries(_NAMES, inner, max_size=4)), max_size=5
)


def _grow(folder: Path, content: dict) -> None:
    for name, inner in content.items():
        if isinstance(inner, dict):
            (folder / name).mkdir(exist_ok=True)
            _grow(folder / name, inner)
        elif not (folder / name).is_dir():
            (folder / name).write_bytes(inner)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_TREES)
def test_extracting_what_was_packed_gives_the_same_tree(content: dict) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = source(folder)
        _grow(package / "workflow", {f"x{name}": inner for name, inner in content.items()})
        path = folder / "a.cloacina"
        try:
            path.write_bytes(pack(package))
        except PackageRefused as error:
            assert "differ only in case" in error.message
            return
        assert tree(extract(path, folder / "target")) == tree(package)


_PARTS = st.sampled_from(["demo-1.0", "..", ".", "", "a", "A", "b\\c", "package.toml", "x" * 300, "ü", "~", "C:"])
_PATHS = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)
_TYPES = st.sampled_from(
    [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)
_ENTRIES = st.lists(st.tuples(_PATHS, _TYPES, _PATHS), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_ENTRIES, st.integers(0, 400), st.booleans())
def test_no_extraction_writes_outside_of_its_target(entries: list, damage: int, damaged: bool) -> None:
    made = [entry(path, type_, b"", linkname=link) for path, type_, link in entries]
    data = bytearray(bz2.compress(tar_of(*honest(), *made)))
    if damaged:
        data[damage % len(data)] ^= 1 << damage % 8
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inner").mkdir()
        path = folder / "a.cloacina"
        path.write_bytes(data)
        try:
            target = extract(path, folder / "inner" / "target")
        except PackageRefused:
            assert tree(folder) == {"a.cloacina": bytes(data), "inner": None}
        else:
            assert {each.name for each in folder.iterdir()} == {"a.cloacina", "inner"}
            assert {each.name for each in (folder / "inner").iterdir()} == {"target"}
            assert not any(each.is_symlink() for each in target.rglob("*"))
