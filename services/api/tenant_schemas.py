"""The shapes of requests and answers about the removal of tenants, and their quotas."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict


class TenantRemovedResponse(TypedDict):
    """The tenant and all it had is gone."""

    status: Literal["removed"]
    schema_name: Annotated[str, Field(description="Its name.")]
    revoked_keys: Annotated[int, Field(ge=0, description="API keys that were valid until then.")]
    runner_evicted: Annotated[bool, Field(description="Its executions have ended; always true.")]
    db_cache_evicted: Annotated[bool, Field(description="Nothing of it is kept in memory; always true.")]


class SetQuotasRequest(BaseModel):
    """Quotas of a tenant: null for the default of the gateway's settings, 0 for no limit."""

    model_config = ConfigDict(extra="forbid")

    requests_per_s: float | None = Field(None, ge=0, le=1_000_000, allow_inf_nan=False)
    executions: int | None = Field(None, ge=0, le=2**31)
    package_bytes: int | None = Field(None, ge=0, le=2**62)


class TenantQuotas(TypedDict):
    """What a tenant may use; 0 for no limit."""

    requests_per_s: Annotated[float, Field(description="Requests a second, at all gateways together.")]
    executions: Annotated[int, Field(description="Executions that are unfinished.")]
    package_bytes: Annotated[int, Field(description="Bytes of the archives of its packages.")]
