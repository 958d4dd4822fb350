"""The process that imports a package to see what it declares. Started by `cloacina.packages.inspection` only.

It limits and isolates itself, writes one line of JSON into a pipe that says how (a list of walls), imports the package,
writes another (``{"contents": …}`` or ``{"error": …}``), and ends without running anything more of the package.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from pathlib import Path
from types import TracebackType

_SPARE_BYTES = 64 * 1024 * 1024
"""Memory kept back, so that a package that used up all it may can still be reported."""

_ALARM_S = 5
"""Seconds past its time that the process ends by itself, should the service that started it be gone."""

_OPEN_FILES = 256
_FILE_BYTES = 64 * 1024 * 1024
_MAX_TEXT = 400
_MAX_CONTEXTS = 10


def main(root: str, workflow_name: str, entry_module: str, *numbers: str) -> None:
    """Imports and answers; see the module.

    Args:
        root: the package root.
        workflow_name, entry_module: see `cloacina.packages.loader.load`.
        numbers: file descriptor of the pipe, bytes of address space it may have, seconds of CPU it may use.
    """
    answer_fd, memory_bytes, cpu_s = map(int, numbers)
    _limit(memory_bytes, cpu_s)
    signal.alarm(cpu_s + _ALARM_S)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import orjson

    from cloacina.packages.isolation import isolate
    from cloacina.packages.loader import load

    _write(answer_fd, orjson.dumps(isolate(readable=[root], writable=[os.getcwd()])) + b"\n")
    try:
        answer = orjson.dumps({"contents": load(Path(root), workflow_name, entry_module).manifest()})
    except BaseException as error:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        answer = orjson.dumps({"error": describe(error, root, memory_bytes)})
    _write(answer_fd, answer + b"\n")
    os._exit(0)  # threads, exit handlers and destructors of the package have no say in it


def describe(error: BaseException, root: str, memory_bytes: int) -> str:
    """The error, and the line of the package that it came from: ``workflow/x/tasks.py, line 3: KeyError: 'a'``."""
    from cloacina.packages.errors import PackageRefused

    if isinstance(error, PackageRefused):
        return error.message
    said = f"{type(error).__name__}: {_text_of(error)}".rstrip(": ")
    if isinstance(error, MemoryError):
        said += f" (the import may use {memory_bytes // 2**20} MiB)"
    else:
        said += _walled_off(error)
    place = _place(error, root)
    return f"{place}: {said}" if place else said


def _walled_off(error: BaseException | None) -> str:
    """Why something that works when tasks run does not work now; empty where that is not the reason."""
    for _ in range(_MAX_CONTEXTS):
        if isinstance(error, PermissionError) and error.filename is not None:
            return (
                "; while it is imported, a package may read its own files, Python's and the system's, and write to its "
                "working directory: do the rest in tasks"
            )
        if isinstance(error, PermissionError | socket.gaierror):
            return "; while it is imported, a package has no network and no other processes: do this in tasks"
        error = None if error is None else error.__context__
    return ""


def _text_of(error: BaseException) -> str:
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # the package's own class may do anything
        text = "(its text cannot be shown)"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def _place(error: BaseException, root: str) -> str:
    """The innermost line of the package's own files on the way to the error; empty when there is none."""
    inside = os.path.join(root, "")
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(inside):
        return f"{error.filename.removeprefix(inside)}, line {error.lineno or 1}"
    place = ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(inside):
            place = f"{file.removeprefix(inside)}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _limit(memory_bytes: int, cpu_s: int) -> None:
    wanted: list[tuple[int, int, int]] = [
        (resource.RLIMIT_AS, memory_bytes, memory_bytes + _SPARE_BYTES),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, _FILE_BYTES, _FILE_BYTES),
        (resource.RLIMIT_CORE, 0, 0),
    ]
    for what, soft, hard in wanted:
        allowed = resource.getrlimit(what)[1]  # what the service itself may have
        most = hard if allowed == resource.RLIM_INFINITY else min(hard, allowed)
        resource.setrlimit(what, (min(soft, most), most))


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
