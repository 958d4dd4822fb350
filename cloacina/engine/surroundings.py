"""What bears on an execution but is not part of it, gathered for `cloacina.domain.explanation`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from cloacina.domain.execution import ExecutionStatus
from cloacina.domain.explanation import Holder, Surroundings
from cloacina.engine.executors import Executors
from cloacina.engine.families import Families
from cloacina.engine.limits import Limits
from cloacina.engine.model import Live

_NAMED = 5


def _holding(live: Live, others: Iterable[Live], limits: Limits) -> Iterator[str]:
    """The executions that hold what a limit of `live` grants."""
    pending = live.state.status is ExecutionStatus.PENDING
    of_tenant = not pending and not limits.of_workflow_tasks(live)
    for other in others:
        alike = other.tenant_id == live.tenant_id and (of_tenant or other.workflow_name == live.workflow_name)
        begun = other.state.status is not ExecutionStatus.PENDING and (pending or other.state.running)
        if alike and begun and other is not live:
            yield other.execution_id


def surroundings_of(
    live: Live,
    executors: Executors,
    limits: Limits,
    families: Families,
    *,
    others: Iterable[Live],
    ready_tasks: int,
    since: Mapping[tuple[str, str], int],
    lease_s: float,
    now: int,
    monotonic: float,
) -> Surroundings:
    """Gathers it.

    Args:
        live: the execution.
        executors, limits, families: of the engine.
        others: all unfinished executions.
        ready_tasks: tasks that wait for a slot.
        since: when events were recorded last, see `Surroundings`.
        lease_s: seconds a lease holds.
        now: microseconds since the epoch.
        monotonic: the same moment on the clock of the leases, in seconds.
    """
    holders = {}
    for executor in executors:
        lease_until = now + int((executor.lease_until - monotonic) * 1e6)
        holders[executor.executor_id] = Holder(
            slots=executor.slots,
            free=executor.free,
            connected=executor.session is not None,
            heard_at=lease_until - int(lease_s * 1e6),
            lease_until=lease_until,
            preparing=executor.preparing,
        )
    execution_limit, task_limit = limits.of_execution(live), limits.of_task(live)
    limited = bool(task_limit) or (bool(execution_limit) and live.state.status is ExecutionStatus.PENDING)
    return Surroundings(
        executors=holders,
        ready_tasks=ready_tasks,
        execution_limit=execution_limit,
        task_limit=task_limit,
        limited_by=tuple(islice(_holding(live, others, limits), _NAMED)) if limited else (),
        created_at=live.created_at,
        package_id=live.definition.package_id,
        children=families.children_by_task(live.execution_id, live.state.tasks),
        since=since,
    )
