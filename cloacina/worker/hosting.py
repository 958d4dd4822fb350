"""What whoever hosts worker processes takes and gives: on this machine (`client`), or on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cloacina.domain.inputs import MAX_CONTEXT_BYTES


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """What a worker is to load.

    Args:
        root: the extracted package.
        workflow_name: the workflow its bare tasks belong to.
        entry_module: the module that declares them.
        memory_bytes: address space it may have; 0 for no limit.
        log_level: lowest stdlib level of its log records.
        max_context_bytes: bytes of the context that a task may leave behind.
        tenant_id: whose package it is; no process serves two tenants.
        digest: of the package's archive.
        variables: where the environment of user code is taken from; ``None`` for this process's environment.
        traced: whether it makes spans; ``None`` for whether this process does.
    """

    root: Path
    workflow_name: str
    entry_module: str
    memory_bytes: int
    log_level: int
    max_context_bytes: int = MAX_CONTEXT_BYTES
    tenant_id: str = ""
    digest: str = ""
    variables: Mapping[str, str] | None = None
    traced: bool | None = None


class WorkerHandle(Protocol):
    """A worker process, as the executor holds it."""

    @property
    def pid(self) -> int:
        """Its process id, on whatever machine; 0 while it is not known."""

    @property
    def machine(self) -> str:
        """The name of the machine it is on; empty for this one, and while it is not known."""

    @property
    def gone(self) -> bool:
        """Whether it has ended and its `Listener` was told."""

    @property
    def placed(self) -> bool:
        """Whether its process is there. On a cluster it waits for a place first, and says `frames.PLACED` then."""

    def send(self, kind: str, fields: Mapping[str, Any] | None = None, body: bytes = b"") -> None:
        """Sends a frame; one to a worker that has gone is dropped, its `Listener.on_exit` says the rest."""

    def kill(self) -> None:
        """Ends the process and whatever it started, at once."""

    def hang_up(self) -> None:
        """Lets the process end by itself; it is idle."""


class Listener(Protocol):
    """Whoever hears what a worker says."""

    def on_frame(self, worker: Any, header: dict[str, Any], body: bytes) -> None:
        """A frame came."""

    def on_exit(self, worker: Any, description: str) -> None:
        """The process is gone; nothing further comes from it."""


class Forge(Protocol):
    """Makes worker processes."""

    async def start(self) -> None:
        """Makes itself ready.

        Raises:
            Unavailable: it cannot.
        """

    async def spawn(self, order: LoadOrder, listener: Listener) -> WorkerHandle:
        """Starts a worker. Frames may be sent to it at once; it reads them when it has loaded its package.

        Args:
            order: what it loads.
            listener: hears what it says.

        Raises:
            Unavailable: none can be started now.
        """

    async def stop(self) -> None:
        """Ends every worker."""
