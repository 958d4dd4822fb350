"""The shapes of requests and answers about computation graphs; see `services.api.schemas`.

No computation graph runs here: lists are empty and names are unknown, in the shapes that clients of the original know.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from services.api.schemas import Json, Timestamp

Count = Annotated[int, Field(ge=0)]


class AccumulatorStatus(TypedDict):
    """Gathers events for a reactor."""

    name: str
    status: Json
    state: str | None
    error: str | None
    reactor: str | None
    tenant_id: str | None
    events_total: Count | None
    buffer_depth: Count | None
    buffer_capacity: Count | None
    last_event_at: Timestamp | None
    operator_injects: Count
    last_operator_inject_at: Timestamp | None


class AccumulatorList(TypedDict):
    """Accumulators."""

    items: list[AccumulatorStatus]
    total: Count


class GraphTopologyNode(TypedDict):
    """A step of a graph."""

    id: str
    inputs: Annotated[list[str], Field(description="Accumulators it reads.")]


GraphTopologyEdge = TypedDict("GraphTopologyEdge", {"from": str, "to": str, "label": str | None})
"""A way from one step to another, on a condition if it has a label."""


class GraphTopology(TypedDict):
    """Steps and ways."""

    nodes: list[GraphTopologyNode]
    edges: list[GraphTopologyEdge]


class GraphStatus(TypedDict):
    """A computation graph."""

    name: str
    health: Json
    accumulators: list[str]
    paused: bool
    reactor: str | None
    reaction_mode: Annotated[str | None, Field(description="when_any or when_all")]
    input_strategy: Annotated[str | None, Field(description="latest or sequential")]
    fires: Count
    last_fired_at: Timestamp | None
    source_package: str | None
    topology: GraphTopology | None


class GraphList(TypedDict):
    """Computation graphs."""

    items: list[GraphStatus]
    total: Count


class ReactorStatus(TypedDict):
    """Fires the graphs that are bound to it."""

    name: str
    health: Json
    accumulators: list[str]
    paused: bool
    bound_graphs: list[str]
    reaction_mode: Annotated[str | None, Field(description="when_any or when_all")]
    input_strategy: Annotated[str | None, Field(description="latest or sequential")]
    fires: Count
    last_fired_at: Timestamp | None


class ReactorList(TypedDict):
    """Reactors."""

    items: list[ReactorStatus]
    total: Count


class ReactorFire(TypedDict):
    """One firing of a reactor."""

    fired_at: Timestamp
    ok: bool
    duration_ms: Count
    error: str | None
    manual: bool
    inputs: dict[str, Any]
    outputs: list[Any]


class ReactorFireList(TypedDict):
    """Firings, newest first."""

    items: list[ReactorFire]
    total: Count


class ReactorFireTimeseries(TypedDict):
    """Firings a minute, for the last hour, oldest first."""

    buckets: list[Count]


class FireMode(StrEnum):
    """With what a reactor fires."""

    FORCE_FIRE = "force_fire"
    FIRE_WITH = "fire_with"


class FireReactorRequest(BaseModel):
    """With what it is to fire: what it has, or these inputs."""

    model_config = ConfigDict(extra="forbid")

    mode: FireMode = Field(FireMode.FORCE_FIRE, description="force_fire: with what it has; fire_with: with `inputs`.")
    inputs: dict[str, Any] = Field(default_factory=dict, description="Values by accumulator; needed with fire_with.")


class FireReactorResponse(TypedDict):
    """It fired."""

    reactor: str
    mode: FireMode
    sources_injected: list[str]


class InjectAccumulatorRequest(BaseModel):
    """An event."""

    model_config = ConfigDict(extra="forbid")

    event: Json


class InjectAccumulatorResponse(TypedDict):
    """It was taken."""

    accumulator: str
    delivered: Count
