"""Settings of the scheduler."""

from __future__ import annotations

import socket

from pydantic import Field

from cloacina.domain.inputs import LARGEST_CONTEXT_BYTES, MAX_CONTEXT_BYTES
from cloacina.engine.retention import DAY_US, RetentionRules
from cloacina.runtime.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """The scheduler's knobs, beside those of every service."""

    scheduler_rpc_port: int = Field(9201, ge=0, le=65535, description="port of its gRPC server")
    scheduler_advertise: str = Field(
        "",
        description="host:port where other schedulers reach this one's gRPC server; empty for the address it listens "
        "on, or for its host's name where that is every address",
    )
    scheduler_metrics_port: int = Field(9101, ge=0, le=65535, description="port of GET /metrics")
    reconciler_target: str = Field("127.0.0.1:9202", description="host:port of the reconciler's gRPC server")
    lease_s: float = Field(
        15.0, ge=1, le=3600, description="seconds an executor may be silent before its tasks are given to others"
    )
    heartbeat_s: float = Field(5.0, gt=0, le=1200, description="seconds between an executor's heartbeats")
    max_waiting: int = Field(20_000, ge=1, description="requests that may wait for a commit; more are refused with 503")
    max_waiting_mb: int = Field(256, ge=1, description="MiB of contexts that requests waiting for a commit may hold")
    max_live_mb: int = Field(1024, ge=1, description="MiB that unfinished executions may hold, with their contexts")
    tenant_share: float = Field(
        0.75,
        gt=0,
        le=1,
        description="share of each limit on what may be in flight, wait or live that one tenant may take",
    )
    tenant_tasks: int = Field(0, ge=0, description="tasks of one tenant that may run at once; 0 for no limit")
    shared_claims: int = Field(
        10,
        ge=0,
        description="tasks that take no time that may be under way at once while some tenants have a queue and another "
        "has none; 0 for as many as there are slots",
    )
    max_live: int = Field(200_000, ge=1, description="executions that may be unfinished; more are refused with 503")
    poll_timeout_s: float = Field(30.0, gt=0, le=3600, description="seconds a trigger's function may take")
    max_context_bytes: int = Field(
        MAX_CONTEXT_BYTES,
        ge=1024,
        le=LARGEST_CONTEXT_BYTES,
        description="bytes of an execution's input, and of an instance's params; more is refused",
    )
    retention_days: float = Field(
        30.0,
        ge=0,
        description="days after its end that an execution is kept, with tasks, events and log lines; 0 for ever",
    )
    execution_log_kb: int = Field(
        1024, ge=0, le=1 << 20, description="KiB of log lines that are kept with an execution; 0 for none"
    )
    event_retention_days: float = Field(
        0.0, ge=0, description="days after an execution's end that its events are kept; 0 for as long as the execution"
    )
    retention_executions: int = Field(
        10_000_000, ge=0, description="newest executions of a tenant that are kept, whatever their age; 0 for all"
    )
    retention_period_s: float = Field(60.0, gt=0, le=86400, description="seconds between passes of the retention")
    idempotency_days: float = Field(
        30.0, gt=0, description="days that an Idempotency-Key names its execution, also when that was deleted earlier"
    )

    @property
    def advertised(self) -> str:
        """Where other schedulers reach this one; empty when its port is not known yet."""
        if self.scheduler_advertise or not self.scheduler_rpc_port:
            return self.scheduler_advertise
        everywhere = self.host in ("0.0.0.0", "::")  # noqa: S104 - a comparison
        host = socket.gethostname() if everywhere else self.host
        return f"[{host}]:{self.scheduler_rpc_port}" if ":" in host else f"{host}:{self.scheduler_rpc_port}"

    @property
    def retention(self) -> RetentionRules:
        """How long what is kept."""
        return RetentionRules(
            executions_us=int(self.retention_days * DAY_US),
            events_us=int(self.event_retention_days * DAY_US),
            per_tenant=self.retention_executions,
            keys_us=int(self.idempotency_days * DAY_US),
            period_s=self.retention_period_s,
        )
