"""Settings of the scheduler."""

from __future__ import annotations

from pydantic import Field

from cloacina.runtime.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """The scheduler's knobs, beside those of every service."""

    scheduler_rpc_port: int = Field(9201, ge=0, le=65535, description="port of its gRPC server")
    scheduler_metrics_port: int = Field(9101, ge=0, le=65535, description="port of GET /metrics")
    reconciler_target: str = Field("127.0.0.1:9202", description="host:port of the reconciler's gRPC server")
    lease_s: float = Field(
        15.0, ge=1, le=3600, description="seconds an executor may be silent before its tasks are given to others"
    )
    heartbeat_s: float = Field(5.0, gt=0, le=1200, description="seconds between an executor's heartbeats")
    max_waiting: int = Field(20_000, ge=1, description="requests that may wait for a commit; more are refused with 503")
    max_live: int = Field(200_000, ge=1, description="executions that may be unfinished; more are refused with 503")
