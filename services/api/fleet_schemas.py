"""The shapes of answers about executors and the loading of packages; see `services.api.schemas`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from services.api.schemas import Timestamp

Count = Annotated[int, Field(ge=0)]


class AgentInfo(TypedDict):
    """An executor."""

    agent_id: Annotated[str, Field(description="Id of its process.")]
    target_triple: Annotated[str, Field(description="What it runs: python, on any machine.")]
    max_concurrency: Annotated[int, Field(ge=0, description="Tasks it takes at once; 0 while it drains.")]
    in_flight: Annotated[int, Field(ge=0, description="Tasks it holds.")]
    available_capacity: Count
    seconds_since_heartbeat: Count
    capabilities: list[str]
    tenant_id: Annotated[str | None, Field(description="null: it runs tasks of every tenant.")]
    connected: Annotated[bool, Field(description="Whether it has a stream to the scheduler now.")]
    version: str


class AgentList(TypedDict):
    """Executors."""

    items: list[AgentInfo]
    total: Count


class CompilerStatus(TypedDict):
    """How packages are being loaded."""

    status: Annotated[
        Literal["idle", "building", "backlogged"], Field(description="backlogged: some wait and none is being loaded.")
    ]
    building: Annotated[int, Field(ge=0, description="Packages being verified and inspected.")]
    pending: Annotated[int, Field(ge=0, description="Packages that wait for it.")]
    last_success_at: Timestamp | None
    last_failure_at: Annotated[Timestamp | None, Field(description="Since the reconciler started.")]
    seconds_since_heartbeat: Annotated[int | None, Field(ge=0, description="0 while something is being loaded.")]
