"""A Dask cluster: the only module that imports Dask, loaded when that backend is chosen (``cloacina[dask]``)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from distributed import Client

from cloacina.cluster import wire
from cloacina.cluster.host import host_worker
from cloacina.errors import Unavailable

log = logging.getLogger(__name__)

_CONNECT_DEADLINE_S = 10.0
_RETRY_S = 2.0
_LOOK_S = 1.0


class DaskCluster:
    """See `cloacina.cluster.forge.Cluster`.

    Args:
        address: of Dask's scheduler, such as ``tcp://10.0.0.5:8786`` or ``tls://…``; certificates come from Dask's own
            configuration.
        resources: what each task takes of a worker's resources; empty for a thread only.
    """

    def __init__(self, address: str, resources: dict[str, float]) -> None:
        self._address = address
        self._resources = resources
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self._reason = f"it has not yet reached Dask's scheduler at {address}"

    @property
    def reason(self) -> str:
        return self._reason

    async def start(self, on_change: Callable[[], object]) -> None:
        self._task = asyncio.create_task(self._keep_connected(on_change), name="connection to Dask")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._disconnect()

    def place(self, order: wire.HostOrder) -> DaskPlacement:
        if self._client is None or self._reason:
            raise Unavailable(self._reason or "it is not connected to Dask")
        future = self._client.submit(
            host_worker,
            order,
            key=f"cloacina {order['workflow_name']}-{uuid4()}",
            pure=False,
            retries=0,  # another attempt is the scheduler's to decide, ours
            resources=self._resources or None,
        )
        return DaskPlacement(future)

    async def _keep_connected(self, on_change: Callable[[], object]) -> None:
        while True:
            try:
                await self._connect()
            except (OSError, TimeoutError) as error:
                self._say(f"Dask's scheduler at {self._address} cannot be reached: {error or type(error).__name__}")
                on_change()
                await asyncio.sleep(_RETRY_S)
                continue
            self._say("")
            on_change()
            while self._client.status == "running":  # noqa: ASYNC110 - Dask's client tells nobody when that changes
                await asyncio.sleep(_LOOK_S)
            self._say(f"the connection to Dask's scheduler at {self._address} is lost")
            on_change()
            await self._disconnect()

    async def _connect(self) -> None:
        connect: Any = Client
        self._client = await connect(
            self._address,
            asynchronous=True,
            timeout=_CONNECT_DEADLINE_S,
            set_as_default=False,
            name="cloacina-executor",
        )

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                await client.close(_RETRY_S)

    def _say(self, reason: str) -> None:
        if reason != self._reason:
            self._reason = reason
            if reason:
                log.warning("no tasks can be given to the cluster", extra={"error": reason})
            else:
                log.info("tasks are given to the cluster", extra={"address": self._address})


class DaskPlacement:
    """See `cloacina.cluster.forge.Placement`.

    Args:
        future: of the task that hosts the worker.
    """

    def __init__(self, future: Any) -> None:
        self._future = future

    async def failed(self) -> str:
        try:
            return str(await self._future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return "the cluster cancelled it"
        except Exception as error:  # whatever the task raised there
            return f"{type(error).__name__}: {error}"

    def give_up(self) -> None:
        self._future.release()  # what waits is not begun any more; what runs ends with its connection
