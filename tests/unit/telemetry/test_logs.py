"""The two log outputs: the shape of a line, whole lines whatever happens, one file a day."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloacina.telemetry import logs, scope
from cloacina.telemetry.directives import TRACE

log = logging.getLogger("cloacina.engine.engine")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")


def test_fields_come_in_the_order_of_the_contract(configure) -> None:
    logged = configure()
    with scope.bind(
        attempt=2,
        task_name="t",
        execution_id="e",
        workflow_name="w",
        package_id="p",
        tenant_id="acme",
        request_id="r",
    ):
        try:
            raise ValueError("boom")
        except ValueError:
            log.exception("it %s", "broke", extra={"zeta": 1, "error": "boom", "alpha": [1, None]})
    line = logged.last()
    assert list(line) == [
        "timestamp",
        "level",
        "target",
        "message",
        "service",
        "request_id",
        "tenant_id",
        "package_id",
        "workflow_name",
        "execution_id",
        "task_name",
        "attempt",
        "error",
        "zeta",
        "alpha",
        "exception",
    ]
    assert (line["message"], line["level"], line["target"]) == ("it broke", "ERROR", "cloacina.engine.engine")
    assert (line["service"], line["attempt"], line["alpha"]) == ("api", 2, [1, None])
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: boom\n")


def test_ids_given_with_a_record_stand_where_those_of_the_scope_do(configure) -> None:
    logged = configure()
    log.info("x", extra={"detail": 1, "execution_id": "e", "request_id": "r"})
    assert list(logged.last()) == [
        "timestamp",
        "level",
        "target",
        "message",
        "service",
        "request_id",
        "execution_id",
        "detail",
    ]


def test_ids_that_do_not_apply_are_left_out(configure) -> None:
    logged = configure()
    log.info("plain")
    assert list(logged.last()) == ["timestamp", "level", "target", "message", "service"]


@pytest.mark.parametrize(
    "at", [0.0, 1_700_000_000.0, 1_700_000_000.000001, 1_700_000_000.999999, 1_735_689_599.9999999]
)
def test_timestamps_are_rfc_3339_in_utc_with_microseconds(configure, at: float) -> None:
    logged = configure()
    record = logging.LogRecord("cloacina.x", logging.INFO, "", 0, "m", None, None)
    record.created = at
    logging.getLogger().handle(record)
    day = datetime.fromtimestamp(at, UTC).date().isoformat()
    line = json.loads((logged.home / "logs" / f"cloacina-server.{day}.log").read_text())
    assert _RFC3339.match(line["timestamp"])
    assert datetime.fromisoformat(line["timestamp"]).timestamp() == pytest.approx(at, abs=1e-6)


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (TRACE, "TRACE"),
        (1, "TRACE"),
        (10, "DEBUG"),
        (15, "DEBUG"),
        (20, "INFO"),
        (30, "WARN"),
        (40, "ERROR"),
        (50, "ERROR"),
    ],
)
def test_levels_have_the_names_of_the_contract(level: int, name: str) -> None:
    assert logs.level_name(level) == name


_NASTY = 'a\nb\r\x00\x1b[31m\x85\u2028"\\\t\x7f é 🜚'


def test_control_characters_from_outside_break_no_line(configure) -> None:
    logged = configure()
    with scope.bind(tenant_id=_NASTY):
        log.info("%s", _NASTY, extra={"error": _NASTY, "bad\nkey": "v", "value": _NASTY})
    logs.emit_foreign(
        created=time.time(),
        level=logging.INFO,
        target="task.w.t\nforged",
        message=_NASTY,
        about=scope.Scope(request_id="r"),
        fields={"other\nkey\x1b": 1},
    )
    raw = logged.link.read_bytes()
    assert raw.count(b"\n") == 2
    assert not any(byte < 0x20 for byte in raw.replace(b"\n", b""))
    line = logged.lines()[0]
    assert line["message"] == line["error"] == line["tenant_id"] == line["value"] == _NASTY, "nothing is lost either"
    human = logged.human.getvalue()
    assert human.count("\n") == 2
    assert "\x1b" not in human
    assert "\r" not in human


@pytest.mark.parametrize("value", ["\ud800", 2**70, {1: {2: object()}}, b"\xff", {"k": {1, 2}}, float("nan")])
def test_a_line_is_written_whatever_a_field_holds(configure, value: object) -> None:
    logged = configure()
    log.info("odd", extra={"value": value})
    assert logged.last()["message"] == "odd"
    assert "value" in logged.last()


def test_a_field_cannot_forge_what_every_line_has(configure) -> None:
    logged = configure()
    log.info("true", extra={"timestamp": "t", "level": "l", "target": "x", "service": "s", "trace_id": "t"})
    line = logged.last()
    assert (line["service"], line["target"]) == ("api", "cloacina.engine.engine")
    assert "trace_id" not in line


def test_the_file_and_its_folder_belong_to_the_owner_only(configure) -> None:
    logged = configure()
    log.info("x")
    assert (logged.home / "logs").stat().st_mode & 0o077 == 0
    assert logged.link.stat().st_mode & 0o077 == 0


def test_human_lines_have_no_colour_off_a_terminal(configure) -> None:
    logged = configure()
    with scope.bind(request_id="r1"):
        log.warning("look", extra={"note": "two words"})
    line = logged.human.getvalue()
    assert re.match(r'\S+Z  WARN cloacina\.engine\.engine: look service=api request_id=r1 note="two words"\n\Z', line)


# Files


def _day_file(home: Path, day: str) -> Path:
    return home / "logs" / f"cloacina-server.{day}.log"


def _say_at(when: str, message: str) -> None:
    record = logging.LogRecord("cloacina.x", logging.INFO, "", 0, message, None, None)
    record.created = datetime.fromisoformat(when).timestamp()
    logging.getLogger().handle(record)


def test_midnight_begins_a_new_file_and_moves_the_symlink(configure) -> None:
    logged = configure()
    _say_at("2026-03-01T23:59:59.999+00:00", "before")
    assert logged.link.readlink() == Path("cloacina-server.2026-03-01.log")
    _say_at("2026-03-02T00:00:00+00:00", "after")
    assert logged.link.is_symlink()
    assert logged.link.readlink() == Path("cloacina-server.2026-03-02.log")
    _say_at("2026-03-01T23:59:59.9999+00:00", "late")
    assert [line["message"] for line in logged.lines()] == ["after", "late"], "a straggler reopens no old file"
    assert json.loads(_day_file(logged.home, "2026-03-01").read_text())["message"] == "before"


def test_a_process_that_is_late_does_not_move_the_symlink_back(configure, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "cloacina-server.log").symlink_to("cloacina-server.2026-03-05.log")
    configure()
    _say_at("2026-03-04T12:00:00+00:00", "x")
    assert (folder / "cloacina-server.log").readlink() == Path("cloacina-server.2026-03-05.log")


@pytest.mark.parametrize(("days", "kept"), [(2, ["08", "09", "10"]), (0, ["01", "07", "08", "09", "10"])])
def test_old_files_of_the_family_are_removed(configure, tmp_path: Path, days: int, kept: list[str]) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for day in ("01", "07", "08", "09"):
        _day_file(tmp_path, f"2026-03-{day}").write_text("")
    strangers = [folder / "cloacina.2026-03-01.log", folder / "cloacina-server.notes.log", folder / "other.txt"]
    for stranger in strangers:
        stranger.write_text("")
    configure(retention_days=days)
    _say_at("2026-03-10T12:00:00+00:00", "today")
    assert sorted(each.name[24:26] for each in folder.glob("cloacina-server.2026-*")) == kept
    assert all(stranger.exists() for stranger in strangers)


def test_the_daemon_has_files_of_its_own(configure) -> None:
    logged = configure(family="cloacina")
    log.info("x")
    assert (logged.home / "logs" / "cloacina.log").is_symlink()
    assert not logged.link.exists()


def test_uncaught_exceptions_of_the_process_and_of_threads_are_logged(configure) -> None:
    logged = configure()

    def die() -> None:
        raise RuntimeError("in a thread")

    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    assert "RuntimeError: in a thread" in logged.last()["exception"]
    error = RuntimeError("in the process")
    sys.excepthook(RuntimeError, error, None)
    assert "in the process" in logged.last()["exception"]


def test_records_of_another_process_keep_their_time_target_and_ids(configure) -> None:
    logged = configure()
    with scope.bind(request_id="of the receiver", tenant_id="receiver"):
        logs.emit_foreign(
            created=1_700_000_000.5,
            level=logging.WARNING,
            target="task.flow.clean",
            message="100% done",
            about=scope.Scope(request_id="r9", task_name="clean", attempt=1),
            exception="Traceback: x",
            fields={"rows": 3, "name": "clash", "service": "forged"},
            trace=("a" * 32, "b" * 16),
        )
    line = json.loads(_day_file(logged.home, "2023-11-14").read_text())
    assert line == {
        "timestamp": "2023-11-14T22:13:20.500000Z",
        "level": "WARN",
        "target": "task.flow.clean",
        "message": "100% done",
        "service": "api",
        "request_id": "r9",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "task_name": "clean",
        "attempt": 1,
        "rows": 3,
        "exception": "Traceback: x",
    }
    assert list(line)[5:8] == ["request_id", "trace_id", "span_id"]


# Levels


def _heard(logged, target: str) -> list[str]:
    for level in (TRACE, 10, 20, 30, 40):
        logging.getLogger(target).log(level, "probe")
    return [line["level"] for line in logged.lines() if line["target"] == target] if logged.link.exists() else []


@pytest.mark.parametrize(
    ("directives", "options", "target", "least"),
    [
        (None, {}, "cloacina.x", "INFO"),
        (None, {"verbose": True}, "cloacina.x", "DEBUG"),
        ("warn", {"verbose": True}, "cloacina.x", "WARN"),
        ("cloacina=debug,cloacina_server=trace,axum=error", {}, "cloacina.x", "DEBUG"),
        ("cloacina=debug,cloacina_server=trace,axum=error", {}, "services.scheduler.x", "DEBUG"),
        ("cloacina=debug,cloacina_server=trace,axum=error", {}, "services.api.routes", "TRACE"),
        ("cloacina=debug,cloacina_server=trace,axum=error", {}, "aiohttp.server", "ERROR"),
        ("cloacina=debug,cloacina_server=trace,axum=error", {}, "elsewhere", "INFO"),
        ("off,cloacina=warn", {}, "cloacina.x", "WARN"),
        ("debug", {}, "asyncio", "WARN"),
        ("asyncio=debug", {}, "asyncio", "DEBUG"),
        ("tonic=debug", {}, "grpc._channel", "DEBUG"),
        ("warn,aiohttp::access=info", {}, "aiohttp.access", "INFO"),
    ],
)
def test_levels_follow_the_directives(
    configure, directives: str | None, options: dict[str, bool], target: str, least: str
) -> None:
    names = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]
    assert _heard(configure(directives, **options), target) == names[names.index(least) :]


def test_off_is_silence(configure) -> None:
    logged = configure("off")
    for target in ("cloacina.x", "grpc", "asyncio", "opentelemetry.sdk"):
        assert _heard(logged, target) == []
    assert logged.human.getvalue() == ""


def test_rust_log_counts_where_cloacina_log_is_not_set(configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUST_LOG", "error")
    assert _heard(configure(), "cloacina.x") == ["ERROR"]
    assert _heard(configure("warn"), "cloacina.y") == ["WARN", "ERROR"]


def test_a_bad_directive_is_reported_and_ignored(configure) -> None:
    logged = configure("cloacina=loud,cloacina.store=debug")
    warning = logged.last()
    assert (warning["level"], warning["message"]) == ("WARN", "a log directive is ignored")
    assert "'loud' is not one of trace, debug" in warning["error"]
    assert "DEBUG" in _heard(logged, "cloacina.store.sqlite")
