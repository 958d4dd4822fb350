"""The executor's side: starts the fork server, has it fork workers, and talks to them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import orjson

from cloacina.errors import Unavailable
from cloacina.telemetry import tracing
from cloacina.worker import confinement, frames
from cloacina.worker.hosting import Listener, LoadOrder

log = logging.getLogger(__name__)

_START_DEADLINE_S = 30.0
_FAREWELL_S = 2.0
"""Seconds between a worker's hanging up and its end; past that it is killed."""


class WorkerProcess(asyncio.Protocol):
    """One worker process on this machine (also `cloacina.worker.hosting.WorkerHandle`).

    Args:
        number: its number in this executor.
        listener: hears what it says.
        forge: what can kill it.
        folder: its working directory, removed when it has ended.
    """

    def __init__(self, number: int, listener: Listener, forge: WorkerForge, folder: Path) -> None:
        self.number = number
        self.pid = 0
        self._listener = listener
        self._forge = forge
        self._folder = folder
        self._decoder = frames.Decoder()
        self._transport: asyncio.WriteTransport | None = None
        self._unsent: list[bytes] = []
        self._hung_up = False
        self._ended: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.machine = ""
        self.gone = False
        self.placed = True

    def pause(self, paused: bool) -> None:
        """Whether what it says waits, because nobody can take it on now."""
        transport = cast("asyncio.ReadTransport | None", self._transport)
        if transport is not None and not self._hung_up:
            if paused:
                transport.pause_reading()
            else:
                transport.resume_reading()

    def send(self, kind: str, fields: Mapping[str, Any] | None = None, body: bytes = b"") -> None:
        """Sends a frame; one to a worker that has gone is dropped, its `Listener.on_exit` says the rest."""
        if self._transport is None or self._hung_up:
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(frames.encode(kind, fields, body))

    def _flush(self) -> None:
        """One write for all that was said in a turn of the event loop: each write costs a system call, and has the
        worker wake up and take the processor."""
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None and not self._hung_up:
            self._transport.writelines(unsent)

    def kill(self) -> None:
        """Ends the process and whatever it started, at once."""
        self._forge.kill(self.number)

    def hang_up(self) -> None:
        """Lets the process end by itself; it is idle."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for header, body in self._decoder.feed(data):
                self._listener.on_frame(self, header, body)
        except (frames.FrameError, LookupError, TypeError, ValueError) as error:
            log.error("a worker broke the protocol and is killed", extra={"worker_pid": self.pid, "error": str(error)})
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        self._hung_up = True
        self._settle()

    # the fork server's word

    def ended(self, description: str) -> None:
        """The process was waited for."""
        self._ended = description
        self._settle()

    def _settle(self) -> None:
        """It is gone once the process has ended and all it said was read; neither may take long after the other."""
        if self.gone:
            return
        if self._hung_up and self._ended is not None:
            self.gone = True
            if self._timer is not None:
                self._timer.cancel()
            self._forge.forget(self)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._listener.on_exit(self, self._ended)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FAREWELL_S, self._press)

    def _press(self) -> None:
        self._timer = None
        if self._ended is None:
            self.kill()
        if not self._hung_up and self._transport is not None:
            self._transport.abort()
        self._settle()


class WorkerForge:
    """Makes workers on this machine (also `cloacina.worker.hosting.Forge`). There is one in an executor.

    Args:
        folder: where workers get their working directories; emptied at the start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._workers: dict[int, WorkerProcess] = {}
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._stopping = False
        self._serving: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Starts the fork server.

        Raises:
            Unavailable: it does not come up.
        """
        await asyncio.to_thread(self._empty_folder)
        await self._start_server()

    async def stop(self) -> None:
        """Ends the fork server and with it every worker."""
        self._stopping = True
        self._drop_control()
        if self._server is not None:
            try:
                await asyncio.to_thread(self._server.wait, 5.0)
            except subprocess.TimeoutExpired:
                self._server.kill()
                await asyncio.to_thread(self._server.wait)
        for worker in list(self._workers.values()):
            worker.ended("ended with the executor")
        await asyncio.to_thread(self._empty_folder)

    async def spawn(self, order: LoadOrder, listener: Listener) -> WorkerProcess:
        """Starts a worker. Frames may be sent to it at once; it reads them when it has loaded its package.

        Args:
            order: what it loads.
            listener: hears what it says.

        Raises:
            Unavailable: the fork server is not there.
        """
        if self._control is None:
            await self._start_server()
        number = next(self._numbers)
        folder = self._folder / f"worker-{number}"
        folder.mkdir(parents=True, mode=0o700)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        worker = WorkerProcess(number, listener, self, folder)
        message = {
            "spawn": number,
            "root": str(order.root),
            "workflow_name": order.workflow_name,
            "entry_module": order.entry_module,
            "folder": str(folder),
            "environment": _environment(order.variables, str(folder)),
            "memory_bytes": order.memory_bytes,
            "max_context_bytes": order.max_context_bytes,
            "log_level": order.log_level,
            "tracing": tracing.enabled() if order.traced is None else order.traced,
        }
        self._workers[number] = worker
        try:
            assert self._control is not None
            socket.send_fds(self._control, [orjson.dumps(message)], [theirs.fileno()])
            ours.setblocking(False)
            await asyncio.get_running_loop().create_unix_connection(lambda: worker, sock=ours)
        except OSError as error:
            self.forget(worker)
            ours.close()
            raise Unavailable(f"no worker process can be started: {error}") from error
        finally:
            theirs.close()
        return worker

    def kill(self, number: int) -> None:
        """Kills a worker and what it started."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(orjson.dumps({"kill": number}))

    def forget(self, worker: WorkerProcess) -> None:
        """The worker is gone."""
        self._workers.pop(worker.number, None)

    async def _start_server(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        arguments = [sys.executable, "-P", "-m", "cloacina.worker.forkserver", str(theirs.fileno())]
        if tracing.enabled():
            arguments.append("--tracing")
        # the server outlives no executor: it ends when its socket does
        self._server = subprocess.Popen(  # noqa: ASYNC220, S603 - a fork and an exec of ourselves
            arguments,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=confinement.environment(os.environ, str(self._folder)),
            start_new_session=True,
        )
        theirs.close()
        self._control = ours
        loop = asyncio.get_running_loop()
        self._serving = loop.create_future()
        loop.add_reader(ours.fileno(), self._read)
        try:
            await asyncio.wait_for(asyncio.shield(self._serving), _START_DEADLINE_S)
        except (TimeoutError, Unavailable):
            self._drop_control()
            self._server.kill()
            raise Unavailable("the fork server of the workers did not start; its error is on stderr") from None

    def _read(self) -> None:
        while self._control is not None:
            try:
                message = self._control.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._lost()
                return
            self._heed(orjson.loads(message))

    def _heed(self, message: dict[str, Any]) -> None:
        if "serving" in message:
            if self._serving is not None and not self._serving.done():
                self._serving.set_result(None)
        elif "spawned" in message:
            worker = self._workers.get(message["spawned"])
            if worker is not None:
                worker.pid = message["pid"]
        elif "exited" in message:
            worker = self._workers.get(message["exited"])
            if worker is not None:
                worker.ended(_describe(message))

    def _lost(self) -> None:
        """The fork server ended; the kernel has ended its workers. The next spawn starts another."""
        self._drop_control()
        if self._serving is not None and not self._serving.done():
            self._serving.set_exception(Unavailable("the fork server ended"))
        if not self._stopping:
            log.error("the fork server of the workers ended; another is started when it is needed")
        for worker in list(self._workers.values()):
            worker.ended("ended with the fork server")

    def _drop_control(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None

    def _empty_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if not self._stopping:
            self._folder.mkdir(parents=True, mode=0o700)


def _environment(variables: Mapping[str, str] | None, folder: str) -> dict[str, str]:
    if variables is not None:
        return {**confinement.environment(variables, folder), **confinement.variables_of_spans(variables)}
    given = confinement.environment(os.environ, folder)
    return given | confinement.variables_of_spans(os.environ) if tracing.enabled() else given


def _describe(message: Mapping[str, Any]) -> str:
    if "error" in message:
        return f"could not be forked: {message['error']}"
    number = message.get("signal")
    if number is None:
        return f"exited with status {message.get('code')}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"was killed by {name}"
