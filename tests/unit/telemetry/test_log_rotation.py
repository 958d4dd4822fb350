"""Several processes write one file a day: over midnight, over a disk that fills up, over a file that is taken away."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloacina.telemetry import logs

log = logging.getLogger("cloacina.engine.engine")
_ROOT = Path(__file__).parents[3]
_UNWRITABLE = "the log file cannot be written"

WRITERS = 4
EACH = 50_000

WRITER = """
import logging, sys, time
from pathlib import Path

name, home, each, before_midnight = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
midnight = 1_772_409_600  # 2026-03-02T00:00:00Z
written = 0


def now():
    return midnight + (written - before_midnight) / 1000  # every line is a millisecond


time.time, time.time_ns = now, lambda: round(now() * 1e9)
from cloacina.telemetry import logs

logs.configure(name, home=home, stream=open("/dev/null", "w"))
log = logging.getLogger("cloacina.x")
print("ready", flush=True)
sys.stdin.readline()
for written in range(each):
    log.info("line", extra={"number": written, "padding": name * (written % 97)})
"""


def run(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "CLOACINA_LOG": "info"},
    )


@pytest.mark.timeout(300)
def test_two_hundred_thousand_lines_of_four_processes_over_midnight(tmp_path: Path) -> None:
    """No line is lost, none is torn, each is in the file of its day, and each process' lines are in their order."""
    writers = [
        run(WRITER, str(number), str(tmp_path), str(EACH), str(EACH // 2 + 1000 * number)) for number in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=240)
        assert writer.returncode == 0

    folder = tmp_path / "logs"
    assert sorted(path.name for path in folder.iterdir()) == [
        "cloacina-server.2026-03-01.log",
        "cloacina-server.2026-03-02.log",
        "cloacina-server.log",
    ]
    assert (folder / "cloacina-server.log").readlink() == Path("cloacina-server.2026-03-02.log")
    found: dict[str, list[int]] = {str(number): [] for number in range(WRITERS)}
    for day in ("2026-03-01", "2026-03-02"):
        content = (folder / f"cloacina-server.{day}.log").read_bytes()
        assert content.endswith(b"\n")
        for line in map(orjson.loads, content.splitlines()):
            number, service = line["number"], line["service"]
            assert line["timestamp"].startswith(day)
            assert line["padding"] == service * (number % 97)
            found[service].append(number)
    for service, numbers in found.items():
        assert numbers == list(range(EACH)), f"lines of the writer {service}"


def records(path: Path) -> Iterator[Any]:
    """Lines of a file as `jq` takes them: what is blank is none."""
    for line in path.read_text().split("\n"):
        if line.strip():
            yield json.loads(line)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next line tries again."""
    monkeypatch.setattr(logs, "_RETRY_AFTER_S", 0.0)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line looks whether its file is there."""
    monkeypatch.setattr(logs, "_LOOK_EVERY_S", -1.0)


def test_a_folder_that_cannot_be_written_costs_one_warning(configure, tmp_path: Path, impatient: None) -> None:
    (tmp_path / "logs").write_text("a file in its place")
    logged = configure()
    for _ in range(5):
        log.info("goes on")
    assert logged.human.getvalue().count("goes on") == 5
    assert logged.human.getvalue().count(_UNWRITABLE) == 1
    (tmp_path / "logs").unlink()
    log.info("again")
    assert logged.last()["message"] == "again"


def test_a_folder_that_stays_unwritable_is_tried_once_a_second(configure, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file in its place")
    logged = configure()
    log.info("refused")
    (tmp_path / "logs").unlink()
    log.info("not tried yet")
    assert not logged.link.exists()


def test_a_full_disk_costs_one_warning_each_time_it_fills_up(configure, impatient: None) -> None:
    logged = configure()
    log.info("there was room")
    file = logged.link.resolve()
    for time in (1, 2):
        logs._Output.close(logging.getLogger().handlers[-1])  # type: ignore[arg-type]
        file.rename(kept := file.with_suffix(".kept"))
        file.symlink_to("/dev/full")  # every write to it is answered with ENOSPC
        for _ in range(5):
            log.info("no room")
        human = logged.human.getvalue()
        assert human.count("no room") == 5 * time
        assert human.count(_UNWRITABLE) == time
        assert os.strerror(errno.ENOSPC) in human
        file.unlink()
        kept.rename(file)
        log.info("room again")
    assert [line["message"] for line in records(logged.link)] == ["there was room", *["room again"] * 2]


NARROW = """
import io, json, logging, resource, sys
from pathlib import Path
from cloacina.telemetry import logs

human = io.StringIO()
logs._RETRY_AFTER_S = 0.0
logs.configure("narrow", home=Path(sys.argv[1]), stream=human)
log = logging.getLogger("cloacina.x")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
log.info("whole", extra={"padding": "x" * 300})
size = (Path(sys.argv[1]) / "logs" / "cloacina-server.log").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
log.info("torn", extra={"padding": "y" * 300})
log.info("refused", extra={"padding": "z" * 300})
print(human.getvalue().count("the log file cannot be written"), flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.info("whole again")
"""


def test_a_line_that_the_disk_has_half_the_room_for_leaves_no_trace(configure, tmp_path: Path) -> None:
    """Neither the half of it, nor the line of another process behind that half, breaks a reader."""
    narrow = run(NARROW, str(tmp_path))
    assert narrow.stdout is not None
    assert narrow.stdout.readline() == "1\n"
    logged = configure()
    log.info("of another process")
    narrow.communicate("go\n", timeout=60)
    assert narrow.returncode == 0
    assert [line["message"] for line in records(logged.link)] == ["whole", "of another process", "whole again"]
    assert b"torn" not in logged.link.read_bytes()


def test_a_file_that_was_removed_is_made_again(configure, watchful: None) -> None:
    logged = configure()
    log.info("before")
    logged.link.resolve().unlink()
    log.info("after")
    assert [line["message"] for line in logged.lines()] == ["after"]


def test_a_symlink_that_was_removed_is_made_again(configure, watchful: None) -> None:
    logged = configure()
    log.info("before")
    logged.link.unlink()
    log.info("after")
    assert [line["message"] for line in logged.lines()] == ["before", "after"]
