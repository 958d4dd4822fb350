"""One firing of a schedule: the inputs of its executions, and their start inside a group commit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

import orjson

from cloacina.domain.schedules import FireOutcome, ScheduleKind
from cloacina.engine.model import Definition, Origin
from cloacina.engine.work import GroupWork
from cloacina.errors import CloacinaError, Unavailable
from cloacina.store.schedules import FiringRow, ScheduleRow

log = logging.getLogger(__name__)

NO_CONTEXT = "fire_no_context"
"""Stands for the hash of the context of a trigger that gave none."""


class Workflows(Protocol):
    """Where the workflows are that schedules start."""

    def prepare(
        self,
        tenant_id: str,
        workflow_name: str,
        values: Mapping[str, Any],
        bound: Mapping[str, Any],
        stamped: Mapping[str, Any],
    ) -> tuple[Definition, bytes]:
        """What to run, and its input: the values, with the defaults of what they leave out.

        Args:
            tenant_id, workflow_name: the workflow.
            values: what the author or a request gave.
            bound: what the schedule's instance binds; the values cannot be others.
            stamped: what the firing sets; it hides values of the same names.

        Raises:
            NotFound: there is no such workflow.
            Conflict: it takes no executions now.
            InvalidRequest: the values do not fit its declared params.
            Unavailable: it is not known yet; to be asked again.
        """


class Starter(Protocol):
    """What of the engine starts executions inside a group."""

    def begin(
        self, work: GroupWork, definition: Definition, context: bytes, origin: Origin, trigger_origin: str
    ) -> str:
        """See `cloacina.engine.engine.Engine.begin`."""


@dataclass(frozen=True, slots=True)
class Start:
    """What one workflow is to be started with, or why it cannot be.

    Args:
        workflow_name: the workflow.
        definition, context: what to run; ``None`` when it cannot be.
        error: why not.
    """

    workflow_name: str
    definition: Definition | None = None
    context: bytes = b""
    error: str = ""


def prepare(
    workflows: Workflows, row: ScheduleRow, values: Mapping[str, Any], stamped: Mapping[str, Any]
) -> list[Start]:
    """What each workflow is to be started with. Changes nothing.

    Args:
        workflows: where they are.
        row: the schedule.
        values: what its trigger, or a request, gave.
        stamped: what the firing sets.

    Raises:
        Unavailable: one is not known yet.
    """
    starts = []
    bound = _params_of(row)
    for name in workflows_of(row):
        try:
            definition, context = workflows.prepare(row.tenant_id, name, values, bound, stamped)
            starts.append(Start(name, definition, context))
        except Unavailable:
            raise
        except CloacinaError as error:
            starts.append(Start(name, error=error.message))
        except Exception:  # a defect in one workflow must not hold up the commits of all others
            log.exception("the input of a scheduled execution could not be made")
            starts.append(Start(name, error="internal error"))
    return starts


def start_all(
    work: GroupWork,
    starter: Starter,
    row: ScheduleRow,
    starts: Sequence[Start],
    *,
    key: str,
    origin: Origin,
    trigger_origin: str,
    outcome: FireOutcome,
    scheduled_at: int,
    context_hash: str | None = None,
) -> list[FiringRow]:
    """Starts what can be started, and records the firing.

    Args:
        work: the group.
        starter: the engine.
        row: the schedule.
        starts: see `prepare`.
        key: of the firing.
        origin: its request id and span.
        trigger_origin: "cron", "trigger" or "manual".
        outcome: what a start counts as.
        scheduled_at: the instant it is for.
        context_hash: of what a trigger gave.

    Returns:
        One record a workflow.
    """
    records = []
    for start in starts:
        execution_id = None
        if start.definition is not None:
            execution_id = starter.begin(work, start.definition, start.context, origin, trigger_origin)
        records.append(
            FiringRow(
                firing_key=f"{key}/{start.workflow_name}",
                firing_id=str(uuid4()),
                schedule_id=row.schedule_id,
                workflow_name=start.workflow_name,
                execution_id=execution_id,
                outcome=outcome if execution_id is not None else FireOutcome.FAILED,
                error=start.error or None,
                context_hash=context_hash,
                scheduled_at=scheduled_at,
                fired_at=work.now,
            )
        )
    work.firings.extend(records)
    return records


def cron_values(row: ScheduleRow, scheduled_at: int) -> dict[str, Any]:
    """What the input of an execution that a cron schedule starts has, as in the original."""
    return {
        "scheduled_time": rfc3339(scheduled_at),
        "schedule_id": row.schedule_id,
        "schedule_timezone": row.timezone or "UTC",
        "schedule_expression": row.cron or "",
    }


def trigger_values(row: ScheduleRow, now: int, *, manual: bool = False) -> dict[str, Any]:
    """What the input of an execution that a trigger starts has, as in the original."""
    values: dict[str, Any] = {"trigger_name": row.name, "triggered_at": rfc3339(now)}
    return {**values, "manual_fire": True} if manual else values


def _params_of(row: ScheduleRow) -> dict[str, Any]:
    return dict(orjson.loads(row.params)) if row.params else {}


def workflows_of(row: ScheduleRow) -> list[str]:
    """The workflows that it starts, the main one first."""
    return list(orjson.loads(row.workflows))


def hash_of(context: Mapping[str, Any] | None) -> str:
    """The same for contexts that are equal, whatever the order of their keys."""
    if context is None:
        return NO_CONTEXT
    return hashlib.sha256(orjson.dumps(context, option=orjson.OPT_SORT_KEYS)).hexdigest()


def rfc3339(at_us: int) -> str:
    """A time as the original writes it into contexts."""
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).replace(microsecond=at_us % 1_000_000).isoformat()


def kind_of(row: ScheduleRow) -> ScheduleKind:
    """Its kind."""
    return ScheduleKind(row.kind)
