"""Limits and periods of the engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Limits and periods of the engine.

    Args:
        lease_s: seconds an executor may stay silent before its claims are given to others.
        heartbeat_s: seconds between its heartbeats.
        max_group: requests that one commit takes at most.
        max_waiting: requests that may wait for a commit; more are refused as unavailable.
        max_waiting_bytes: bytes that those may hold.
        max_live: executions that may be unfinished at once; more are refused as unavailable.
        max_live_bytes: bytes that those may hold.
        tenant_share: share of each of these limits that one tenant may take.
        tenant_tasks: tasks of one tenant that may run at once; 0 for no limit.
        shared_claims: tasks that may be under way while some tenants have a queue and another has none, of tasks that
            take no time; 0 for as many as there are slots.
    """

    lease_s: float = 15.0
    heartbeat_s: float = 5.0
    max_group: int = 2000
    max_waiting: int = 20_000
    max_waiting_bytes: int = 256 << 20
    max_live: int = 200_000
    max_live_bytes: int = 1 << 30
    tenant_share: float = 0.75
    tenant_tasks: int = 0
    shared_claims: int = 10
