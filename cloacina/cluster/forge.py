"""The executor's side: asks the cluster to host workers, and talks to those that connect.

A worker here is one task's: it ends with it, so that the cluster sees, places and counts tasks, not processes. The
process stays warm over there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import ssl
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cloacina import __version__
from cloacina.cluster import wire
from cloacina.cluster.host import Connection
from cloacina.errors import Unavailable
from cloacina.packages import archive
from cloacina.telemetry import tracing
from cloacina.worker import frames
from cloacina.worker.confinement import variables_of_spans
from cloacina.worker.hosting import Listener, LoadOrder

log = logging.getLogger(__name__)

_FAREWELL_S = 5.0
"""Seconds a host has to say that a process ended; past that it is taken for lost."""
_MAX_STRANGERS = 256
"""Connections that have not yet said whose they are."""


class Placement(Protocol):
    """A place asked for on the cluster."""

    async def failed(self) -> str:
        """Returns when the cluster will never start it, or has ended it: why."""

    def give_up(self) -> None:
        """It is no longer wanted."""


class Cluster(Protocol):
    """The cluster."""

    @property
    def reason(self) -> str:
        """Why nothing can be placed now; empty when it can."""

    async def start(self, on_change: Callable[[], object]) -> None:
        """Connects, and stays connected. `on_change` is called whenever `reason` may have changed."""

    def place(self, order: wire.HostOrder) -> Placement:
        """Asks for a place for `cloacina.cluster.host.host_worker`.

        Raises:
            Unavailable: the cluster cannot be reached.
        """

    async def stop(self) -> None:
        """Disconnects."""


class ClusterForge:
    """Makes workers on a cluster (also `cloacina.worker.hosting.Forge`).

    Args:
        cluster: which one.
        listen: host and port on which hosts are listened for; port 0 for any.
        advertise: host, and perhaps another port, under which they find it; ``None`` for `listen`.
        idle_s: seconds a process is kept warm on the cluster.
        on_change: called whenever `reason` may have changed.
    """

    def __init__(
        self,
        cluster: Cluster,
        listen: tuple[str, int],
        advertise: tuple[str, int] | None,
        idle_s: float,
        on_change: Callable[[], object],
    ) -> None:
        self._cluster = cluster
        self._listen = listen
        self._advertise = advertise
        self._idle_s = idle_s
        self._on_change = on_change
        self._certificate = ""
        self._server: asyncio.Server | None = None
        self._waiting: dict[str, RemoteWorker] = {}
        self._workers: set[RemoteWorker] = set()
        self._strangers = 0
        self._stopping = False

    @property
    def reason(self) -> str:
        """Why it makes no workers now; empty when it does."""
        return self._cluster.reason

    async def start(self) -> None:
        """Listens for hosts, and connects to the cluster; does not wait until that answers.

        Raises:
            Unavailable: the address cannot be listened on.
        """
        certificate, key = wire.make_certificate()
        self._certificate = certificate.decode()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with tempfile.NamedTemporaryFile(prefix="cloacina-", suffix=".pem") as file:  # the ssl module reads files only
            file.write(certificate + key)
            file.flush()
            context.load_cert_chain(file.name)
        host, port = self._listen
        try:
            self._server = await asyncio.start_server(self._on_connection, host, port, ssl=context)
        except OSError as error:
            raise Unavailable(
                f"{host}:{port} cannot be listened on for workers of the cluster: {error.strerror or error}; set "
                "CLOACINA_DASK_LISTEN to a free address of this machine"
            ) from error
        port = self._server.sockets[0].getsockname()[1]
        self._advertise = (self._advertise[0], self._advertise[1] or port) if self._advertise else (host, port)
        await self._cluster.start(self._on_change)
        log.info("workers of the cluster are listened for", extra={"address": f"{host}:{port}"})

    async def spawn(self, order: LoadOrder, listener: Listener) -> RemoteWorker:
        """See `cloacina.worker.hosting.Forge`. The worker is there once the cluster has a place for it."""
        assert self._advertise is not None
        token = secrets.token_urlsafe(32)
        worker = RemoteWorker(order, listener, self._forget)
        placement = self._cluster.place(
            wire.HostOrder(
                address=self._advertise,
                certificate=self._certificate,
                token=token,
                tenant_id=order.tenant_id,
                digest=order.digest,
                workflow_name=order.workflow_name,
                load={
                    "entry_module": order.entry_module,
                    "memory_bytes": order.memory_bytes,
                    "log_level": order.log_level,
                    "max_context_bytes": order.max_context_bytes,
                    "traced": tracing.enabled(),
                },
                variables=_variables(),
                idle_s=self._idle_s,
            )
        )
        self._waiting[token] = worker
        self._workers.add(worker)
        worker.placed_by(placement, token)
        return worker

    async def stop(self) -> None:
        """Ends every worker; returns when their hosts have said so, or did not for a while."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        workers = list(self._workers)
        for worker in workers:
            worker.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S + 1):
                await asyncio.gather(*(worker.until_gone() for worker in workers))
        await self._cluster.stop()

    def _forget(self, worker: RemoteWorker) -> None:
        self._workers.discard(worker)
        self._waiting.pop(worker.token, None)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._strangers >= _MAX_STRANGERS or self._stopping:
            writer.close()
            return
        connection = Connection(reader, writer)
        self._strangers += 1
        try:
            async with asyncio.timeout(wire.CONNECT_DEADLINE_S):
                hello, _ = await anext(connection)
            worker = self._whose(hello)
        except (TimeoutError, StopAsyncIteration, frames.FrameError, LookupError, TypeError, ValueError):
            worker = None
        finally:
            self._strangers -= 1
        try:
            if worker is not None:
                await worker.serve(connection, hello)
            else:
                log.warning(
                    "a connection to the place for workers of the cluster was refused",
                    extra={"peer": str(writer.get_extra_info("peername"))},
                )
        finally:
            writer.close()

    def _whose(self, hello: Mapping[str, Any]) -> RemoteWorker | None:
        """The worker that waits for this connection. A token is good for one: a host that the cluster starts again
        elsewhere finds it used."""
        if hello["kind"] != wire.HELLO:
            return None
        given = str(hello["token"])
        for token in self._waiting:
            if hmac.compare_digest(token.encode(), given.encode()):
                return self._waiting.pop(token)
        return None


class RemoteWorker:
    """A worker on the cluster (also `cloacina.worker.hosting.WorkerHandle`).

    Args:
        order: what it loads.
        listener: hears what it says.
        forget: called when it is gone.
    """

    def __init__(self, order: LoadOrder, listener: Listener, forget: Callable[[RemoteWorker], None]) -> None:
        self.pid = 0
        self.machine = ""
        self.gone = False
        self.placed = False
        self.token = ""
        self._order = order
        self._listener = listener
        self._forget = forget
        self._connection: Connection | None = None
        self._unsent: list[tuple[str, Mapping[str, Any] | None, bytes]] = []
        self._placement: Placement | None = None
        self._watching: asyncio.Task[None] | None = None
        self._leaving = False
        self._farewell: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()

    def placed_by(self, placement: Placement, token: str) -> None:
        """The cluster has been asked."""
        self._placement = placement
        self.token = token
        self._watching = asyncio.create_task(self._watch(placement))

    def send(self, kind: str, fields: Mapping[str, Any] | None = None, body: bytes = b"") -> None:
        if self._connection is None:
            self._unsent.append((kind, fields, body))
        elif not self._leaving:
            self._connection.say(kind, dict(fields or {}), body)

    def kill(self) -> None:
        self._leave(kill=True)

    def hang_up(self) -> None:
        self._leave(kill=False)

    def _leave(self, *, kill: bool) -> None:
        if self.gone or self._leaving:
            return
        if self._connection is None:  # it never had a place
            self._end("was ended before the cluster had a place for it")
            return
        self._leaving = True
        if kill:
            self._connection.say(wire.KILL)
            self._farewell = asyncio.get_running_loop().call_later(_FAREWELL_S, self._lost)
        else:
            self._connection.writer.close()

    def _lost(self) -> None:
        if self._connection is not None:
            self._connection.writer.transport.abort()

    async def until_gone(self) -> None:
        """Returns when it is gone."""
        await self._over.wait()

    async def serve(self, connection: Connection, hello: Mapping[str, Any]) -> None:
        """Talks to its host until either hangs up."""
        ended = "was lost with its host on the cluster"
        try:
            if str(hello["version"]) != __version__:
                ended = (
                    f"could not be started: the cluster's worker has cloacina {hello['version']}, the executor "
                    f"{__version__}; install the same"
                )
                return
            if not hello["has_archive"]:
                await self._send_archive(connection)
            connection.say(wire.GO)
            self._connection = connection
            unsent, self._unsent = self._unsent, []
            for kind, fields, body in unsent:
                self.send(kind, fields, body)
            async for header, body in connection:
                if header["kind"] == wire.EXITED:
                    ended = str(header["description"])
                    return
                self._hear(header, body)
            if self._leaving:
                ended = "ended"
        except (OSError, frames.FrameError, LookupError, TypeError, ValueError) as error:
            log.error(
                "a worker of the cluster broke the protocol", extra={"machine": self.machine, "error": str(error)}
            )
        finally:
            self._end(ended)

    def _hear(self, header: dict[str, Any], body: bytes) -> None:
        if header["kind"] == frames.PLACED:
            self.pid = int(header["pid"])
            self.machine = str(header["machine"])
            self.placed = True
        self._listener.on_frame(self, header, body)

    async def _send_archive(self, connection: Connection) -> None:
        packed = await asyncio.to_thread(archive.pack, self._order.root)
        for begin in range(0, len(packed), wire.PIECE_BYTES):
            piece = packed[begin : begin + wire.PIECE_BYTES]
            connection.say(wire.ARCHIVE, {"last": begin + len(piece) == len(packed)}, piece)
            await connection.writer.drain()

    async def _watch(self, placement: Placement) -> None:
        """Until it is connected, what the cluster says is all that is known; afterwards the connection tells."""
        why = await placement.failed()
        if self._connection is None:
            self._end(f"could not be started on the cluster: {why}")

    def _end(self, description: str) -> None:
        if self.gone:
            return
        self.gone = True
        if self._farewell is not None:
            self._farewell.cancel()
        if self._watching is not None:
            self._watching.cancel()
        if self._placement is not None:
            self._placement.give_up()
        self._forget(self)
        self._over.set()
        self._listener.on_exit(self, description)


def _variables() -> dict[str, str]:
    """What user code may read of this process's environment, wherever it runs."""
    own = {name: value for name, value in os.environ.items() if name.startswith("CLOACINA_VAR_")}
    return own | variables_of_spans(os.environ) if tracing.enabled() else own
