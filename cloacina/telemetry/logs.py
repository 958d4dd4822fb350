"""The two log outputs: human-readable lines on stderr, JSON lines in ``<home>/logs`` (contract, section 2).

All processes of a host append whole lines to one file a day, ``<family>.YYYY-MM-DD.log``; ``<family>.log`` is a symlink
to today's. A line is one ``write`` to a file opened for appending, so lines of several processes never mix.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import orjson

from cloacina.telemetry import scope, tracing
from cloacina.telemetry.directives import OFF, TRACE, Directives, parse_directives

_LEVEL_NAMES = {TRACE: "TRACE", logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARN"}
_COLOURS = {"TRACE": "35", "DEBUG": "34", "INFO": "32", "WARN": "33", "ERROR": "31"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_RESERVED = frozenset(
    ("timestamp", "level", "target", "message", "service", "trace_id", "span_id", "exception", "_told")
)
_NOT_FOREIGN = _STANDARD | set(scope.SCOPE_FIELDS) | {"_told"}
_QUIET = {
    "aiohttp.access": OFF,
    "grpc": logging.WARNING,
    "asyncio": logging.WARNING,
    "opentelemetry": logging.ERROR,
    "watchfiles": logging.WARNING,
}
_LOOK_EVERY_S = 1.0
_RETRY_AFTER_S = 1.0
_log = logging.getLogger(__name__)
Keep = Callable[[Mapping[str, Any], bytes], None]
"""Takes a line that is about an execution: its fields, and the line as it is in the file."""
logging.addLevelName(TRACE, "TRACE")
logging.addLevelName(logging.WARNING, "WARN")


@functools.cache
def level_name(level: int) -> str:
    """The wire name of a stdlib level: TRACE, DEBUG, INFO, WARN or ERROR."""
    if level >= logging.ERROR:
        return "ERROR"
    return _LEVEL_NAMES[max((known for known in _LEVEL_NAMES if known <= level), default=TRACE)]


class Clock:
    """Formats times as RFC 3339 in UTC with microseconds; the part down to the second is kept."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def format(self, at: float) -> str:
        """A time in seconds since the epoch."""
        return self.format_micros(round(at * 1e6))

    def format_micros(self, micros: int) -> str:
        """A time in microseconds since the epoch."""
        second, micro = divmod(micros, 1_000_000)
        if second != self._second:
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._prefix}.{micro:06d}Z"


def _entry(record: logging.LogRecord, service: str, clock: Clock) -> dict[str, Any]:
    """The fields of a record in the order of the contract, section 2."""
    extra = {key: value for key, value in record.__dict__.items() if key not in _STANDARD and key not in _RESERVED}
    entry: dict[str, Any] = {
        "timestamp": clock.format(record.created),
        "level": level_name(record.levelno),
        "target": record.name,
        "message": record.getMessage(),
        "service": service,
    }
    now: scope.Scope = extra.pop("_scope", None) or scope.current()
    request_id = extra.pop("request_id", None)
    if now.request_id is not None:
        request_id = now.request_id
    if request_id is not None:
        entry["request_id"] = request_id
    trace = extra.pop("_trace", None) or tracing.current_ids()
    exception = extra.pop("_exception", None) or record.exc_text
    if trace is not None:
        entry["trace_id"], entry["span_id"] = trace
    for name in scope.SCOPE_FIELDS[1:]:
        value = getattr(now, name)
        given = extra.pop(name, None)
        if value is None:
            value = given
        if value is not None:
            entry[name] = value
    if "error" in extra:
        entry["error"] = str(extra.pop("error"))
    for key, value in extra.items():
        entry.setdefault(key, _flat(value) if isinstance(value, dict | list | tuple | set | frozenset) else value)
    if record.exc_info and record.exc_info[1] is not None:
        entry["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
    elif exception:
        entry["exception"] = exception
    return entry


def _flat(value: object) -> object:
    """Keys are flat: a list of plain values stays one, anything deeper becomes its JSON as text."""
    if isinstance(value, list | tuple) and all(isinstance(each, str | int | float | None) for each in value):
        return value
    try:
        return orjson.dumps(value, default=_text, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:
        return str(value)


def _text(value: object) -> str:
    return str(value)


def _json_line(entry: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(entry, default=_text, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # lone surrogates, integers over 64 bits, nesting too deep
        safe = {key: str(value).encode(errors="replace").decode() for key, value in entry.items()}
        return orjson.dumps(safe, option=orjson.OPT_APPEND_NEWLINE)


def _visible(text: str) -> str:
    """Control characters as escapes, so that text from outside can neither break a line nor drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _DailyFile:
    """Today's file of a family, opened for appending; a new one after midnight UTC.

    When it cannot be written (no room, no permission), lines go nowhere but to stderr, said once; the next line that
    can be written ends that. A file that was removed under its writers is made again.
    """

    def __init__(self, folder: Path, family: str, retention_days: int) -> None:
        self._folder = folder
        self._family = family
        self._retention_days = retention_days
        self._day = -1
        self._file = -1
        self._broken = False
        self._retry_at = 0.0
        self._looked_at = 0.0
        self._lock = threading.Lock()

    def write(self, line: bytes, at: float) -> OSError | None:
        """Appends a line. Returns the error the first time it cannot."""
        with self._lock:
            try:
                day = int(at // 86400)
                if day != self._day and (self._file < 0 or day > self._day):
                    if self._broken and time.monotonic() < self._retry_at:
                        return None
                    self._open(day)
                elif time.monotonic() - self._looked_at > _LOOK_EVERY_S:
                    self._look()
                self._append(line)
            except OSError as error:
                return self._break(error)
            self._broken = False
            return None

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file, self._day = -1, -1

    def _append(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written < len(line):
            self._blank(written)
            raise OSError("no space left for the whole line")

    def _blank(self, written: int) -> None:
        """The disk filled up in mid-line: makes what is there of the line an empty one, so that no reader meets half a
        line, nor another process' line behind it. This needs no room.
        """
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        begin = os.lseek(self._file, 0, os.SEEK_CUR) - written
        fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~os.O_APPEND)
        try:
            os.pwrite(self._file, b" " * (written - 1) + b"\n", begin)
        finally:
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags)

    def _look(self) -> None:
        """Whether the file still has its name, and the symlink leads to it."""
        self._looked_at = time.monotonic()
        if os.fstat(self._file).st_nlink == 0:
            self._open(self._day)
        else:
            self._point_link_at(self._name_of(self._day))

    def _name_of(self, day: int) -> str:
        return f"{self._family}.{datetime.fromtimestamp(day * 86400, UTC).date().isoformat()}.log"

    def _break(self, error: OSError) -> OSError | None:
        first, self._broken = not self._broken, True
        if self._file >= 0:
            os.close(self._file)
        self._file, self._day, self._retry_at = -1, -1, time.monotonic() + _RETRY_AFTER_S
        return error if first else None

    def _open(self, day: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = self._name_of(day)
        opened = os.open(self._folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._day, self._looked_at = opened, day, time.monotonic()
        self._point_link_at(name)
        self._remove_old(day)

    def _point_link_at(self, name: str) -> None:
        """Leads the symlink to the file, never back to an older one. Where there is no room for that, the next look
        does it: lines are not lost for it.
        """
        link = self._folder / f"{self._family}.log"
        with contextlib.suppress(OSError):
            if os.readlink(link) >= name:
                return
        fresh = self._folder / f".{self._family}.{os.getpid()}.link"
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(name)
            fresh.replace(link)

    def _remove_old(self, day: int) -> None:
        if self._retention_days == 0:
            return
        oldest = self._name_of(day - self._retention_days)
        for file in self._folder.glob(f"{self._family}.????-??-??.log"):
            if file.name < oldest:
                with contextlib.suppress(OSError):
                    file.unlink()


class _Output(logging.Handler):
    """Writes each record to stderr and to the daily file. Never raises."""

    def __init__(self, service: str, file: _DailyFile, stream: TextIO) -> None:
        super().__init__()
        self._service = service
        self._file = file
        self._stream = stream
        self._colour = stream.isatty() and "NO_COLOR" not in os.environ
        self._clock = Clock()
        self.keep: Keep | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = _entry(record, self._service, self._clock)
            line = _json_line(entry)
            failed = self._file.write(line, record.created)
            self._say(entry)
            if self.keep is not None and "execution_id" in entry and "_told" not in record.__dict__:
                self.keep(entry, line)
            if failed is not None:
                self._say(
                    {
                        "timestamp": self._clock.format(time.time()),
                        "level": "WARN",
                        "target": __name__,
                        "message": f"the log file cannot be written ({failed}); lines go to stderr only until it can",
                        "service": self._service,
                    }
                )
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _say(self, entry: Mapping[str, Any]) -> None:
        level = entry["level"]
        shown = f"\x1b[{_COLOURS[level]}m{level:>5}\x1b[0m" if self._colour else f"{level:>5}"
        fields = " ".join(f"{_visible(key)}={_shown(value)}" for key, value in entry.items() if key not in _IN_PLACE)
        line = f"{entry['timestamp']} {shown} {_visible(entry['target'])}: {_visible(entry['message'])}"
        if fields:
            line += f" {fields}"
        if "exception" in entry:
            line += "\n" + "\n".join(_visible(part) for part in entry["exception"].splitlines())
        with contextlib.suppress(OSError, ValueError):  # stderr was closed
            self._stream.write(line + "\n")
            self._stream.flush()


_IN_PLACE = frozenset(("timestamp", "level", "target", "message", "exception"))


def _shown(value: object) -> str:
    text = _visible(str(value))
    return f'"{text}"' if " " in text or not text else text


def configure(
    service: str,
    *,
    home: Path,
    family: str = "cloacina-server",
    verbose: bool = False,
    retention_days: int = 14,
    level: int = logging.INFO,
    stream: TextIO | None = None,
) -> None:
    """Installs both outputs on the root logger, and the levels.

    Levels come from ``CLOACINA_LOG``, else ``RUST_LOG``, else `level`; `verbose` raises the level of whatever no
    directive names to debug.

    Args:
        service: value of the field ``service``.
        home: the JSON lines go to ``<home>/logs``.
        family: "cloacina-server", or "cloacina" for the daemon.
        verbose: see above.
        retention_days: days of files that are kept; 0 keeps all.
        level: of whatever no directive names.
        stream: where the human lines go; stderr by default.
    """
    text = os.environ.get("CLOACINA_LOG") or os.environ.get("RUST_LOG") or ""
    directives = parse_directives(text, logging.DEBUG if verbose else level)
    shutdown()
    root = logging.getLogger()
    root.addHandler(_Output(service, _DailyFile(home / "logs", family, retention_days), stream or sys.stderr))
    _set_levels(root, directives)
    for rejected in directives.rejected:
        _log.warning("a log directive is ignored", extra={"error": rejected})
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _set_levels(root: logging.Logger, directives: Directives) -> None:
    for name in [
        name for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    ]:
        logging.getLogger(name).setLevel(logging.NOTSET)
    root.setLevel(directives.root)
    quiet = {target: max(level, directives.root) for target, level in _QUIET.items()}
    for target, level in {**quiet, **directives.targets}.items():
        logging.getLogger(target).setLevel(level)


def shutdown() -> None:
    """Takes the outputs away again and closes the file."""
    for handler in _outputs():
        logging.getLogger().removeHandler(handler)
        handler.close()


def keep_with(keep: Keep | None) -> None:
    """Has every line that is about an execution given to `keep` as well, from whichever thread logs it; except those
    whose record has a field ``_told``: what they say is among the execution's events. ``None`` ends that.
    """
    for handler in _outputs():
        handler.keep = keep


def _outputs() -> list[_Output]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Output)]


def emit_foreign(
    *,
    created: float,
    level: int,
    target: str,
    message: str,
    about: scope.Scope,
    exception: str | None = None,
    fields: Mapping[str, object] | None = None,
    trace: tuple[str, str] | None = None,
) -> None:
    """Writes a record that another process made.

    Args:
        created: its time, seconds since the epoch.
        level: stdlib level.
        target: its logger.
        message: its text.
        about: the ids it carries.
        exception: traceback, if any.
        fields: further fields; the ids are those of `about` whatever these say.
        trace: trace id and span id, hex.
    """
    logger = logging.getLogger(target.split(".", 1)[0])  # a logger per task name would never be freed
    if not logger.isEnabledFor(level):
        return
    record = logging.LogRecord(target, level, "", 0, message, None, None)
    record.created = created
    record.exc_text = exception
    record.__dict__.update({key: value for key, value in (fields or {}).items() if key not in _NOT_FOREIGN})
    record.__dict__["_scope"] = about
    if trace is not None:
        record.__dict__["_trace"] = trace
    logger.handle(record)


def handle_loop_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Logs what the event loop would print: exceptions that nobody awaited."""

    def report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        _log.error(str(context.get("message")), exc_info=context.get("exception"))

    loop.set_exception_handler(report)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _log.error("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(details: threading.ExceptHookArgs) -> None:
    if details.exc_value is not None:
        _log_uncaught(details.exc_type, details.exc_value, details.exc_traceback)
