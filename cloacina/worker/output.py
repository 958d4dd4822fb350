"""What user code logs and prints becomes log frames with the ids of the task that did it."""

from __future__ import annotations

import array
import fcntl
import io
import logging
import os
import select
import termios
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from cloacina.telemetry import tracing

MAX_MESSAGE = 16_384
"""Characters of a log message that are kept."""
MAX_EXCEPTION = 65_536
"""Characters of a traceback that are kept, from its end."""
_MAX_FIELDS = 32
_SETTLE_S = 0.1
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

current_claim: ContextVar[int] = ContextVar("cloacina_claim", default=0)
"""The claim under which the running code works; 0 outside of tasks."""

Emit = Callable[[dict[str, Any]], None]


class FrameHandler(logging.Handler):
    """Hands each record to `emit_fields`.

    Args:
        emit_fields: takes the fields of a log frame.
        claim: the claim that a record belongs to.
    """

    def __init__(self, emit_fields: Emit, claim: Callable[[], int]) -> None:
        super().__init__()
        self._emit_fields = emit_fields
        self._claim = claim

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception as error:
            message = f"{record.msg!r} (a log call with wrong arguments: {error})"
        fields: dict[str, Any] = {
            "claim": self._claim(),
            "created": record.created,
            "level": record.levelno,
            "logger": record.name,
            "message": cut(message),
        }
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = cut_front("".join(traceback.format_exception(record.exc_info[1])))
        extra = {
            str(key)[:128]: value if isinstance(value, bool | int | float) else cut(str(value))
            for key, value in list(record.__dict__.items())[: len(_STANDARD) + _MAX_FIELDS]
            if key not in _STANDARD
        }
        if extra:
            fields["fields"] = extra
        ids = tracing.current_ids()
        if ids is not None:
            fields["trace"] = ids
        self._emit_fields(fields)


class LineWriter(io.TextIOBase):
    """Stands for ``sys.stdout`` or ``sys.stderr``: each whole line is a log record.

    Args:
        emit_fields: takes the fields of a log frame.
        claim: the claim that a line belongs to.
        level: of the records.
        logger: their logger, "stdout" or "stderr".
        number: the file descriptor it stands for.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, emit_fields: Emit, claim: Callable[[], int], level: int, logger: str, number: int) -> None:
        self._emit_fields = emit_fields
        self._claim = claim
        self._level = level
        self._logger = logger
        self._number = number
        self._parts: dict[tuple[int, int], str] = {}  # by claim and thread
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._number

    def write(self, text: str) -> int:
        claim = self._claim()
        whose = claim, threading.get_ident()
        with self._lock:
            *lines, rest = (self._parts.pop(whose, "") + text).split("\n")
            if len(rest) > MAX_MESSAGE:
                lines.append(rest)
                rest = ""
            if rest:
                self._parts[whose] = rest
        for line in lines:
            self._say(claim, line)
        return len(text)

    def flush_claim(self, claim: int) -> None:
        """Says what a task wrote after its last line break."""
        if not self._parts:
            return
        with self._lock:
            rests = [self._parts.pop(whose) for whose in list(self._parts) if whose[0] == claim]
        for rest in rests:
            self._say(claim, rest)

    def _say(self, claim: int, line: str) -> None:
        if line.strip():
            self._emit_fields(
                {
                    "claim": claim,
                    "created": time.time(),
                    "level": self._level,
                    "logger": self._logger,
                    "message": cut(line.rstrip("\r")),
                    "trace": tracing.current_ids(),
                }
            )


class CapturedDescriptor:
    """A file descriptor whose output, written past Python (by a library, a child process), goes to a `LineWriter`.

    Args:
        number: 1 or 2.
        writer: takes the text.
    """

    def __init__(self, number: int, writer: LineWriter) -> None:
        self._writer = writer
        self._read_end, write_end = os.pipe()
        os.dup2(write_end, number)
        os.close(write_end)
        os.set_inheritable(number, True)
        self._passing_on = threading.Lock()
        threading.Thread(target=self._copy, name=f"capture {number}", daemon=True).start()

    def _copy(self) -> None:
        poll = select.poll()
        poll.register(self._read_end, select.POLLIN)
        while True:
            poll.poll()
            with self._passing_on:
                self._writer.write(os.read(self._read_end, 65_536).decode(errors="backslashreplace"))

    def settle(self) -> None:
        """Waits until what is in the pipe was passed on, for a short while: a task's last words belong to the task."""
        deadline = time.monotonic() + _SETTLE_S
        while self._is_behind() and time.monotonic() < deadline:
            time.sleep(0.001)

    def _is_behind(self) -> bool:
        waiting = array.array("i", [0])
        fcntl.ioctl(self._read_end, termios.FIONREAD, waiting)
        return waiting[0] > 0 or self._passing_on.locked()


def cut(text: str) -> str:
    """The beginning of a text that is too long."""
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}… ({len(text)} characters)"


def cut_front(text: str) -> str:
    """The end of a text that is too long: of a traceback it is the end that matters."""
    return text if len(text) <= MAX_EXCEPTION else f"({len(text)} characters) …{text[-MAX_EXCEPTION:]}"
