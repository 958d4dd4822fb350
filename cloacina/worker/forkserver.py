"""The fork server: a small process that has imported what workers need, and forks one whenever it is told to.

A fork of a process that has one thread and no connection is safe and takes milliseconds; a fresh interpreter takes a
tenth of a second and more. It is started as ``python -P -m cloacina.worker.forkserver FD`` before the executor opens
any socket, and talks over FD (SOCK_SEQPACKET): one JSON object a message.

To it: ``{"spawn": number, …}`` with the worker's socket attached, ``{"kill": number}``. From it: ``{"spawned": number,
"pid": pid}``, ``{"exited": number, "signal": n, "code": n}``. When the executor dies, however it dies, FD reaches its
end: then all workers are killed, with whatever they started.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any

import orjson

from cloacina.worker import confinement, process

_MAX_MESSAGE = 1 << 16
_PRELOADED = (
    "asyncio",
    "base64",
    "collections",
    "csv",
    "datetime",
    "decimal",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "math",
    "pathlib",
    "random",
    "re",
    "statistics",
    "subprocess",
    "tempfile",
    "time",
    "urllib.request",
    "uuid",
    "cloaca",
)
_TRACING = ("opentelemetry.sdk.trace.export", "opentelemetry.exporter.otlp.proto.common.trace_encoder")


class ForkServer:
    """The loop.

    Args:
        control: the way to the executor.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._workers: dict[int, int] = {}  # number by pid
        self._woken, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # the executor decides when to end: a Ctrl-C in the terminal must not come before its drain
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def serve(self) -> None:
        """Runs until the executor is gone."""
        sources: list[Any] = [self._control, self._woken]
        while True:
            readable, _, _ = select.select(sources, [], [])
            if self._woken in readable:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self._woken, 512):
                        pass
                self._reap()
            if self._control in readable and not self._receive():
                break
        for pid in self._workers:
            _kill(pid)

    def _receive(self) -> bool:
        try:
            message, files = _receive(self._control)
        except OSError:
            return False
        if not message:
            return False
        order = orjson.loads(message)
        if "spawn" in order:
            self._spawn(order, files)
        elif "kill" in order:
            for pid, number in self._workers.items():
                if number == order["kill"]:
                    _kill(pid)
        return True

    def _spawn(self, order: dict[str, Any], files: list[int]) -> None:
        server_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes: the worker's socket closes, which says it
            for number in files:
                os.close(number)
            self._say({"exited": order["spawn"], "error": str(error)})
            return
        if pid == 0:
            try:
                confinement.die_with_parent(server_pid)
                os.setsid()
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGCHLD, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                confinement.close_others({0, 1, 2, *files})
                process.run(socket.socket(fileno=files[0]), order)
            finally:
                os._exit(70)  # run() ends the process itself; nothing of the server's stack must be unwound
        for number in files:
            os.close(number)
        self._workers[pid] = order["spawn"]
        self._say({"spawned": order["spawn"], "pid": pid})

    def _reap(self) -> None:
        while self._workers:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            _kill(ended.si_pid)  # what it started; its group id cannot be another's before it is waited for
            os.waitpid(ended.si_pid, 0)
            number = self._workers.pop(ended.si_pid, None)
            if number is None:
                continue
            killed = ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
            self._say({"exited": number, "signal" if killed else "code": ended.si_status})

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._control.send(orjson.dumps(message))


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    files = array.array("i")
    message, ancillary, _, _ = control.recvmsg(_MAX_MESSAGE, socket.CMSG_SPACE(4))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    for number in files:
        os.set_inheritable(number, False)
    return message, list(files)


def main(arguments: list[str]) -> int:
    """Starts the server on the given file descriptor; ``--tracing`` imports what spans need, too."""
    for name in _PRELOADED + (_TRACING if "--tracing" in arguments else ()):
        importlib.import_module(name)
    control = socket.socket(fileno=int(arguments[0]))
    server = ForkServer(control)
    gc.collect()
    gc.freeze()  # workers share these pages for as long as nobody writes to them
    control.send(orjson.dumps({"serving": os.getpid()}))
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
