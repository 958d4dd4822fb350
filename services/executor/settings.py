"""Settings of the executor."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from cloacina.domain.inputs import LARGEST_CONTEXT_BYTES, MAX_CONTEXT_BYTES
from cloacina.runtime.settings import ServiceSettings

_ADDRESS = re.compile(r"(?P<host>[^\s:\[\]]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})\Z")


class ExecutorSettings(ServiceSettings):
    """The executor's knobs, beside those of every service."""

    executor_rpc_port: int = Field(9203, ge=0, le=65535, description="port of its gRPC server")
    executor_metrics_port: int = Field(9103, ge=0, le=65535, description="port of GET /metrics")
    scheduler_target: str = Field(
        "127.0.0.1:9201",
        min_length=1,
        description="host:port of the scheduler's gRPC server; of several, separated by commas, and of a host name all "
        "addresses it has",
    )
    reconciler_target: str = Field(
        "127.0.0.1:9202", min_length=1, description="host:port of the reconciler's gRPC server, for packages"
    )
    slots: int = Field(128, ge=1, le=4096, description="tasks it runs at once")
    worker_tasks: int = Field(32, ge=1, le=1024, description="tasks that one worker process runs at once")
    worker_idle_s: float = Field(600.0, ge=1, description="seconds a worker without a task is kept warm")
    worker_memory_mb: int = Field(
        8192, ge=0, description="MiB of address space a worker process may have; 0 for no limit"
    )
    worker_start_s: float = Field(60.0, ge=1, description="seconds a worker may take to load its package")
    max_context_bytes: int = Field(
        MAX_CONTEXT_BYTES,
        ge=1024,
        le=LARGEST_CONTEXT_BYTES,
        description="bytes of the context a task may leave behind",
    )
    stop_grace_s: float = Field(
        2.0, ge=0, description="seconds a task that is to stop has, before its worker process is given up"
    )
    retire_grace_s: float = Field(
        10.0, ge=0, description="seconds the other tasks of a worker that is given up have, before it is killed"
    )
    executor_backend: Literal["local", "dask"] = Field(
        "local", description="where tasks run: worker processes of this machine, or those on a Dask cluster"
    )
    dask_scheduler: str = Field(
        "", description="address of Dask's scheduler, such as tcp://10.0.0.5:8786, for the backend dask"
    )
    dask_listen: str = Field(
        "127.0.0.1:0", description="host:port on which Dask's workers are listened for; port 0 for any free one"
    )
    dask_advertise: str = Field(
        "", description="host:port under which Dask's workers find dask_listen; empty for the same, port 0 too"
    )
    dask_resources: str = Field(
        "", description="resources of Dask that a task takes, such as cloacina=1,memory=2; empty for a thread only"
    )

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        if self.executor_backend == "dask" and not self.dask_scheduler:
            raise ValueError("CLOACINA_DASK_SCHEDULER must be set for CLOACINA_EXECUTOR_BACKEND=dask")
        for name in ("dask_listen", "dask_advertise"):
            text = getattr(self, name)
            if text and not _ADDRESS.match(text):
                raise ValueError(f"CLOACINA_{name.upper()} must be host:port, and is {text!r}")
        try:
            self.resources_of_dask  # noqa: B018
        except ValueError:
            raise ValueError(f"CLOACINA_DASK_RESOURCES must be name=number,…, and is {self.dask_resources!r}") from None
        return self

    @property
    def resources_of_dask(self) -> dict[str, float]:
        """`dask_resources`, parsed."""
        given = [part.partition("=") for part in self.dask_resources.split(",") if part.strip()]
        if any(not name.strip() for name, _, _ in given):
            raise ValueError(self.dask_resources)
        return {name.strip(): float(number) for name, _, number in given}


def address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``, which was checked."""
    found = _ADDRESS.match(text)
    assert found is not None
    return found["host"].strip("[]"), int(found["port"])
