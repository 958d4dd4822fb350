"""Reading the daily log files back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloacina.errors import InvalidRequest
from cloacina.telemetry.log_files import Page, Position, Search, read_page

FAMILY = "cloacina-server"
BEGIN = datetime(2026, 4, 2, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def line(at: float, execution_id: str = "e1", **fields: Any) -> bytes:
    entry = {"timestamp": stamp(at), "level": "INFO", "target": "t", "message": "m", "execution_id": execution_id}
    return json.dumps({**entry, **fields}, separators=(",", ":")).encode() + b"\n"


def write(folder: Path, at: float, *lines: bytes) -> Path:
    path = folder / f"{FAMILY}.{stamp(at)[:10]}.log"
    with path.open("ab") as file:
        file.write(b"".join(lines))
    return path


def read(
    folder: Path, start: Position | None = None, *, limit: int = 1000, page_bytes: int = 1 << 30, **search: Any
) -> Page:
    given = {"since": BEGIN, "until": BEGIN + 10 * DAY_S, **search}
    return read_page(folder, FAMILY, Search("execution_id", "e1", **given), start, limit=limit, page_bytes=page_bytes)


def messages(page: Page) -> list[str]:
    return [json.loads(each)["message"] for each in page.lines]


def test_lines_of_several_days_in_order(tmp_path: Path) -> None:
    for day in (0, 1, 3):
        write(tmp_path, BEGIN + day * DAY_S, line(BEGIN + day * DAY_S, message=str(day)), line(BEGIN, "e2"))
    page = read(tmp_path)
    assert (messages(page), page.complete) == (["0", "1", "3"], True)


def test_no_files_are_no_lines(tmp_path: Path) -> None:
    page = read(tmp_path / "nowhere")
    assert (page.lines, page.complete) == ([], True)
    assert read(tmp_path / "nowhere", page.end).complete


@pytest.mark.parametrize("limit", [1, 2, 7])
@pytest.mark.parametrize("page_bytes", [1, 4096, 1 << 30])
def test_pages_join_without_a_gap_or_a_double(tmp_path: Path, limit: int, page_bytes: int) -> None:
    expected = []
    for number in range(40):
        at = BEGIN + number * DAY_S / 20
        write(tmp_path, at, line(at, message=str(number)), line(at, "e2"))
        expected.append(str(number))
    found: list[str] = []
    place = None
    for _ in range(1000):
        page = read(tmp_path, place, limit=limit, page_bytes=page_bytes)
        assert len(page.lines) <= limit
        found += messages(page)
        place = Position.parse(str(page.end))
        if page.complete:
            break
    assert found == expected


def test_what_is_written_later_comes_behind_the_last_page(tmp_path: Path) -> None:
    write(tmp_path, BEGIN, line(BEGIN, message="first"))
    place = read(tmp_path).end
    whole = line(BEGIN + 1, message="second")
    write(tmp_path, BEGIN, whole[:20])
    half = read(tmp_path, place)
    assert (half.lines, half.complete) == ([], True)
    write(tmp_path, BEGIN, whole[20:])
    assert messages(read(tmp_path, half.end)) == ["second"]
    write(tmp_path, BEGIN + DAY_S, line(BEGIN + DAY_S, message="next day"))
    assert messages(read(tmp_path, half.end)) == ["second", "next day"]


def test_a_time_is_found_without_reading_what_was_before(tmp_path: Path) -> None:
    rows = [line(BEGIN + number / 100, "e1", message=str(number), padding="x" * 200) for number in range(20_000)]
    path = write(tmp_path, BEGIN, *rows)
    assert path.stat().st_size > 5_000_000
    page = read(tmp_path, since=BEGIN + 150, until=BEGIN + 160, page_bytes=2_500_000, limit=20_000)
    found = [int(each) for each in messages(page)]
    assert page.complete, "a page of 2.5 MB was enough for a file that is more than twice as long"
    assert found[0] <= 15_000 - 500
    assert set(range(14_500, 16_500)) <= set(found)
    assert found[0] > 10_000


def test_a_level_and_an_own_judgement(tmp_path: Path) -> None:
    rows = [line(BEGIN, message=level, level=level) for level in ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "ODD")]
    write(tmp_path, BEGIN, *rows)
    assert messages(read(tmp_path, level="WARN")) == ["WARN", "ERROR"]
    assert messages(read(tmp_path, accept=lambda each: each["message"] == "DEBUG")) == ["DEBUG"]


def test_what_only_looks_like_the_id_is_left_out(tmp_path: Path) -> None:
    inside = {"nested": {"execution_id": "e1"}}
    write(
        tmp_path,
        BEGIN,
        line(BEGIN, "e2", message='"execution_id":"e1"'),
        line(BEGIN, "e2", **inside),
        b'{"timestamp":"torn","execution_id":"e1"\n',
        b'["execution_id":"e1"]\n',
        b"\xff\xfe execution_id\n",
        line(BEGIN, message="true"),
    )
    assert messages(read(tmp_path)) == ["true"]


def test_a_line_longer_than_a_piece_is_whole(tmp_path: Path) -> None:
    write(tmp_path, BEGIN, line(BEGIN, message="x" * 3_000_000), line(BEGIN, message="short"))
    assert [len(each) for each in messages(read(tmp_path))] == [3_000_000, 5]


def test_a_cursor_in_the_middle_of_a_line_goes_on_with_the_next(tmp_path: Path) -> None:
    write(tmp_path, BEGIN, line(BEGIN, message="one"), line(BEGIN, message="two"))
    assert messages(read(tmp_path, Position(stamp(BEGIN)[:10], 5))) == ["two"]
    assert read(tmp_path, Position(stamp(BEGIN)[:10], 10**15)).complete


@pytest.mark.parametrize(
    "text", ["", "x", "2026-04-02", "2026-02-30.1", "2026-04-02.-1", "2026-04-02.1x", "..", "٢٠٢٦-04-02.1"]
)
def test_a_cursor_that_is_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        Position.parse(text)
