"""The shapes of requests and answers about pauses, sources and named instances; see `services.api.schemas`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict

from services.api.schemas import Timestamp, Uuid


class WorkflowPauseResponse(TypedDict):
    """The workflow is paused, or resumed; also when it was so before."""

    tenant_id: str
    id: Annotated[str, Field(description="UUID of its newest package version.")]
    name: Annotated[str, Field(description="The name it was addressed by.")]
    status: Literal["paused", "resumed"]
    paused: bool


class WorkflowSourceFile(TypedDict):
    """One text file of a package."""

    path: Annotated[str, Field(description="Relative to the package's root, with forward slashes.")]
    contents: str
    language: Annotated[str | None, Field(description="By the file's ending, for highlighting; null when unknown.")]


class WorkflowSourceResponse(TypedDict):
    """The text files of a package, as they were uploaded."""

    tenant_id: str
    id: Annotated[str, Field(description="Package UUID.")]
    package_name: str
    workflow_name: str
    version: str
    files: Annotated[list[WorkflowSourceFile], Field(description="Sorted by path.")]
    omitted: Annotated[int, Field(description="Files left out: too large, no text, vendored, or too many.")]


def _object(value: Any) -> Any:
    if value is not None and not isinstance(value, dict):
        raise ValueError('must be a JSON object, such as {"key": "value"}')
    return value


class CreateInstanceRequest(BaseModel):
    """A new instance."""

    model_config = ConfigDict(extra="forbid")

    instance_name: str = Field(description="Unique for the workflow; 1 to 255 printable characters.")
    params: Annotated[dict[str, Any] | None, BeforeValidator(_object)] = Field(
        None, description="Values for the workflow's declared params, and others."
    )
    cron: str | None = Field(
        None, max_length=1000, description="Cron expression; without one it starts only when it is executed."
    )
    timezone: str | None = Field(None, max_length=255, description="IANA time zone of `cron`; UTC by default.")
    enabled: bool | None = Field(None, description="Whether its schedule is on; true by default.")


class ListInstancesQuery(BaseModel):
    """The page."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000, description="Instances on the page.")
    offset: int = Field(0, ge=0, le=2**32 - 1, description="Instances to skip.")


class WorkflowInstanceSummary(TypedDict):
    """A named instance of a workflow."""

    id: Annotated[Uuid, Field(description="UUID of the instance and of its schedule.")]
    workflow_name: str
    instance_name: str
    params: Annotated[dict[str, Any], Field(description="What is bound, defaults included.")]
    cron_expression: str | None
    timezone: str | None
    enabled: bool
    paused: Annotated[bool, Field(description="Whether its schedule is paused.")]
    next_run_at: Timestamp | None
    last_run_at: Timestamp | None
    created_at: Timestamp


class InstanceList(TypedDict):
    """A page of a workflow's instances, oldest first."""

    tenant_id: str
    items: list[WorkflowInstanceSummary]
    total: Annotated[int, Field(description="How many the workflow has in all.")]


class DeleteInstanceResponse(TypedDict):
    """The instance is gone; executions that it began go on."""

    tenant_id: str
    workflow_name: str
    instance_name: str
    deleted: Literal[True]
