"""What runs on the cluster's workers: starts a worker process of ours there, or takes a warm one, and passes frames on.

User code is confined there as on an executor's machine: it never runs in a process of the cluster itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from cloacina import __version__
from cloacina.cluster import wire
from cloacina.packages import archive
from cloacina.worker import frames
from cloacina.worker.client import WorkerForge, WorkerProcess
from cloacina.worker.hosting import LoadOrder

_READ_BYTES = 1 << 18
_HIGH_BYTES = 8 << 20
"""Bytes that wait for the executor, past which a worker must wait with what it says."""
_EXIT_DEADLINE_S = 10.0
_ORDER_DEADLINE_S = 120.0

_hosts: WeakKeyDictionary[asyncio.AbstractEventLoop, Host] = WeakKeyDictionary()


async def host_worker(order: wire.HostOrder) -> str:
    """Hosts one worker for an executor until that hangs up. This is the task that the cluster is given.

    Args:
        order: for whom and what.

    Returns:
        What became of the process, for the cluster's own log.
    """
    loop = asyncio.get_running_loop()
    host = _hosts.get(loop)
    if host is None:
        from distributed import get_worker

        folder = get_worker().local_directory  # the cluster removes it, at the latest when it starts again there
        host = _hosts[loop] = Host(Path(tempfile.mkdtemp(prefix="cloacina-", dir=folder)))
    return await host.serve(order)


class Host:
    """The warm processes of one process of the cluster.

    Args:
        folder: for packages and working directories.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._forge = WorkerForge(folder / "run")
        self._starting: asyncio.Task[None] | None = None
        self._spare: defaultdict[bytes, list[Hosted]] = defaultdict(list)
        self._fetching: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def serve(self, order: wire.HostOrder) -> str:
        """See `host_worker`."""
        async with asyncio.timeout(wire.CONNECT_DEADLINE_S):
            reader, writer = await asyncio.open_connection(
                *order["address"], ssl=wire.client_context(order["certificate"]), server_hostname=wire.SERVER_NAME
            )
        connection = Connection(reader, writer)
        try:
            return await self._serve(order, connection)
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_EXIT_DEADLINE_S):
                    await writer.wait_closed()

    async def _serve(self, order: wire.HostOrder, connection: Connection) -> str:
        root = self._folder / order["digest"]
        async with self._fetching[order["digest"]], asyncio.timeout(_ORDER_DEADLINE_S):
            has_archive = await asyncio.to_thread(root.is_dir)
            hello = {"token": order["token"], "version": __version__, "has_archive": has_archive}
            connection.say(wire.HELLO, hello)
            if not await self._receive_order(connection, root):
                return "the executor no longer wants it"
        key = orjson.dumps([order["tenant_id"], order["digest"], order["load"], order["variables"]])
        hosted = await self._take(key, order, root)
        connection.say(frames.PLACED, {"pid": hosted.pid, "machine": socket.gethostname()})
        reusable = await hosted.pass_frames(connection)
        if reusable:
            self._keep(key, hosted, order["idle_s"])
            return f"process {hosted.pid} did its work and is kept warm"
        await hosted.end()
        connection.say(wire.EXITED, {"description": hosted.ended})
        return f"process {hosted.pid} {hosted.ended}"

    async def _receive_order(self, connection: Connection, root: Path) -> bool:
        """Whether the order stands; the package is here then."""
        file = self._folder / f"{root.name}.part"
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
        async for header, body in connection:
            if header["kind"] == wire.GO:
                return True
            if header["kind"] == wire.ARCHIVE:
                await asyncio.to_thread(_append, file, body)
                if header["last"]:
                    await asyncio.to_thread(archive.extract, file, root)
                    file.unlink()
        return False

    async def _take(self, key: bytes, order: wire.HostOrder, root: Path) -> Hosted:
        """A warm process, or a new one."""
        while self._spare[key]:
            hosted = self._spare[key].pop()
            hosted.take_from_shelf()
            if not hosted.ended:
                return hosted
        await self._ready()
        # what user code may read of the environment is the executor's; where programs are, this machine's
        own = {name: value for name, value in os.environ.items() if not name.startswith(("CLOACINA_", "OTEL_"))}
        load = LoadOrder(
            root=root,
            workflow_name=order["workflow_name"],
            tenant_id=order["tenant_id"],
            digest=order["digest"],
            variables={**own, **order["variables"]},
            **order["load"],
        )
        hosted = Hosted()
        hosted.process = await self._forge.spawn(load, hosted)
        return hosted

    async def _ready(self) -> None:
        if self._starting is None or (self._starting.done() and self._starting.exception() is not None):
            self._starting = asyncio.create_task(self._forge.start())
        await asyncio.shield(self._starting)

    def _keep(self, key: bytes, hosted: Hosted, idle_s: float) -> None:
        def forget() -> None:
            if hosted in self._spare[key]:
                self._spare[key].remove(hosted)
                hosted.let_go()

        self._spare[key].append(hosted)
        hosted.put_on_shelf(asyncio.get_running_loop().call_later(idle_s, forget))


class Connection:
    """Frames from and to an executor.

    Args:
        reader, writer: the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._decoder = frames.Decoder()
        self._received: list[tuple[dict[str, Any], bytes]] = []
        keep_alive(writer)

    def say(self, kind: str, fields: dict[str, Any] | None = None, body: bytes = b"") -> None:
        """Sends a frame."""
        if not self.writer.is_closing():
            self.writer.write(frames.encode(kind, fields, body))

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> tuple[dict[str, Any], bytes]:
        """The next frame; the end when the other side hung up."""
        while not self._received:
            try:
                data = await self._reader.read(_READ_BYTES)
            except OSError:
                data = b""
            if not data:
                raise StopAsyncIteration
            self._received = self._decoder.feed(data)[::-1]
        return self._received.pop()


class Hosted:
    """A process, and the executor it now works for (also `cloacina.worker.hosting.Listener`)."""

    def __init__(self) -> None:
        self.process: WorkerProcess | None = None
        self.ended = ""
        self._loaded: dict[str, Any] | None = None
        self._connection: Connection | None = None
        self._open: set[int] = set()
        self._gone = asyncio.Event()
        self._clock: asyncio.TimerHandle | None = None
        self._draining: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 while it is not known."""
        return self.process.pid if self.process is not None else 0

    async def pass_frames(self, connection: Connection) -> bool:
        """Passes frames on until the executor hangs up or the process ends; returns whether it can be used again."""
        self._connection = connection
        if self._loaded is not None:
            connection.say(frames.READY, self._loaded)
        reading = asyncio.create_task(self._pass_orders(connection))
        gone = asyncio.create_task(self._gone.wait())
        try:
            await asyncio.wait((reading, gone), return_when=asyncio.FIRST_COMPLETED)
            untouched = reading.done() and not reading.cancelled() and reading.exception() is None and reading.result()
        finally:  # the cluster may cancel its task: then the process must not stay
            reading.cancel()
            gone.cancel()
            self._connection = None
            if self._open:
                self._kill()
        return bool(untouched) and not self._open and not self.ended and self._loaded is not None

    async def _pass_orders(self, connection: Connection) -> bool:
        """Whether it may serve others afterwards: what knows secrets, and what is to end, does not."""
        may_serve_others = True
        assert self.process is not None
        async for header, body in connection:
            kind = header["kind"]
            if kind == wire.KILL:
                self._kill()
                return False
            if kind == frames.SECRETS:
                may_serve_others = False
            elif kind in (frames.RUN, frames.POLL):
                self._open.add(header["claim"])
            self.process.send(kind, header, body)
        return may_serve_others

    async def end(self) -> None:
        """Ends the process, and returns when it is gone."""
        self._kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_DEADLINE_S):
                await self._gone.wait()

    def _kill(self) -> None:
        if self.process is not None and not self.ended:
            self.process.kill()

    # On the shelf: warm, and nobody's

    def put_on_shelf(self, clock: asyncio.TimerHandle) -> None:
        """Nobody needs it until the clock rings."""
        self._clock = clock

    def take_from_shelf(self) -> None:
        """Somebody needs it."""
        if self._clock is not None:
            self._clock.cancel()

    def let_go(self) -> None:
        """It may end."""
        if self.process is not None:
            self.process.hang_up()

    # What the process says

    def on_frame(self, worker: WorkerProcess, header: dict[str, Any], body: bytes) -> None:
        kind = header["kind"]
        if kind == frames.READY:
            self._loaded = {name: value for name, value in header.items() if name != "kind"}
        elif kind in (frames.DONE, frames.FAILED):
            self._open.discard(header["claim"])
        if self._connection is None:
            return
        self._connection.say(kind, header, body)
        writer = self._connection.writer
        if self._draining is None and writer.transport.get_write_buffer_size() > _HIGH_BYTES:
            worker.pause(True)
            self._draining = asyncio.create_task(self._drain(worker, writer))

    async def _drain(self, worker: WorkerProcess, writer: asyncio.StreamWriter) -> None:
        try:
            await writer.drain()
        except OSError:
            pass  # the end of the connection is seen by whoever reads it
        finally:
            self._draining = None
            worker.pause(False)

    def on_exit(self, worker: WorkerProcess, description: str) -> None:
        self.ended = description
        self._gone.set()


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """Has the kernel notice within half a minute that the other machine is gone."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _append(file: Path, piece: bytes) -> None:
    with file.open("ab") as output:
        output.write(piece)
