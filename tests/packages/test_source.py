"""The text files of an archive: what is shown, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloacina.packages import source
from cloacina.packages.errors import PackageRefused
from cloacina.packages.source import read_source

from .archives import TASKS, entry, file, honest, write


def paths(shown: source.Source) -> list[str]:
    return [path for path, _ in shown.files]


def test_text_files_are_shown_sorted_and_as_they_are(tmp_path: Path) -> None:
    text = "größer\r\n\ttabs\n"
    shown = read_source(write(tmp_path, *honest(), file("demo-1.0/README.md", text.encode())))

    assert paths(shown) == ["README.md", "package.toml", "workflow/demo/__init__.py", "workflow/demo/tasks.py"]
    assert dict(shown.files)["README.md"] == text
    assert dict(shown.files)["workflow/demo/tasks.py"] == TASKS.decode()
    assert shown.omitted == 0


def test_what_is_no_text_too_large_or_vendored_is_left_out_and_counted(tmp_path: Path) -> None:
    files = [
        file("demo-1.0/workflow/demo/model.bin", b"\x80\x81\xff"),
        file("demo-1.0/workflow/demo/zeros.txt", b"a\0b"),
        file("demo-1.0/workflow/demo/large.csv", b"1," * (source.MAX_FILE_BYTES // 2 + 1)),
        file("demo-1.0/vendor/other/__init__.py", b"x = 1\n"),
        file("demo-1.0/workflow/demo/vendor/ours.py", b"x = 1\n"),
    ]
    shown = read_source(write(tmp_path, *honest(), *files))

    assert shown.omitted == 4
    assert len(shown.files) == 4
    assert "workflow/demo/vendor/ours.py" in paths(shown)


@pytest.mark.parametrize(("limit", "value", "shown_of"), [("MAX_TOTAL_BYTES", 1000, 3), ("MAX_FILES", 5, 2)])
def test_all_together_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, shown_of: int
) -> None:
    monkeypatch.setattr(source, limit, value)
    before = read_source(write(tmp_path, *honest()))
    used = sum(len(text.encode()) for _, text in before.files)
    monkeypatch.setattr(source, "MAX_TOTAL_BYTES", used + 300)
    files = [file(f"demo-1.0/workflow/demo/{number}.txt", b"x" * 100) for number in range(10)]
    shown = read_source(write(tmp_path, *honest(), *files))

    assert len(shown.files) == 3 + shown_of
    assert shown.omitted == 10 - shown_of


@pytest.mark.parametrize(
    "hostile",
    [
        file("demo-1.0/../../etc/passwd", b"root"),
        file("/etc/passwd", b"root"),
        entry("demo-1.0/link", b"2", linkname="/etc/passwd"),
        entry("demo-1.0/hard", b"1", linkname="/etc/passwd"),
    ],
    ids=["climbs", "absolute", "symbolic link", "hard link"],
)
def test_nothing_outside_of_the_archive_is_read(tmp_path: Path, hostile) -> None:
    with pytest.raises(PackageRefused):
        read_source(write(tmp_path, *honest(), hostile))
