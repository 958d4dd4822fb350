"""The runner's methods for cron schedules, triggers and reactors.

Schedules are stored beside the executions and outlive the process: a runner that starts on the database again goes on
with them. A firing whose workflow is not registered in the process yet waits until it is.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from cloacina.domain.cron import CronExpression
from cloacina.domain.schedules import ScheduleKind
from cloacina.embedded.config import DefaultRunnerConfig
from cloacina.embedded.service import EmbeddedService
from cloacina.embedded.workflows import TENANT
from cloacina.engine.firings import rfc3339, workflows_of
from cloacina.engine.schedule_book import Wanted
from cloacina.errors import CloacinaError
from cloacina.store.schedules import FiringRecord, ScheduleRow

_Answer = TypeVar("_Answer")
_PAGE = 100

_NO_REACTORS = "reactors belong to computation graphs, which are not supported by this engine"


class ScheduleMethods:
    """The part of `cloacina.embedded.DefaultRunner` that concerns schedules."""

    _config: DefaultRunnerConfig

    def _ask(
        self, call: Callable[[EmbeddedService], Coroutine[Any, Any, _Answer]], timeout_s: float | None = None
    ) -> _Answer:
        """Asks the runner's service, from any thread."""
        raise NotImplementedError

    # Cron

    def register_cron_workflow(self, workflow_name: str, cron_expression: str, timezone: str) -> str:
        """Starts a workflow at the times of a cron expression.

        Args:
            workflow_name: the workflow.
            cron_expression: five fields (minute, hour, day of month, month, day of week), or six with the second first.
            timezone: IANA name of the zone whose clock they mean.

        Returns:
            The schedule's id.

        Raises:
            ValueError: the expression or the time zone is invalid.
        """
        _check_cron(cron_expression, timezone, "Failed to register cron workflow")
        name = f"cron:{uuid4()}"
        return self._register(name, workflow_name, cron_expression, timezone, "Failed to register cron workflow")

    def list_cron_schedules(
        self, enabled_only: bool | None = None, limit: int | None = None, offset: int | None = None
    ) -> list[dict[str, Any]]:
        """Cron schedules: id, workflow_name, cron_expression, timezone, enabled, catchup_policy, next_run_at,
        last_run_at, created_at, updated_at.

        Args:
            enabled_only: only those that are enabled (default all).
            limit: how many at most (100).
            offset: how many to leave out first (0).
        """
        return [_cron_dict(row) for row in self._list(ScheduleKind.CRON, enabled_only, limit, offset)]

    def get_cron_schedule(self, schedule_id: str) -> dict[str, Any]:
        """One cron schedule.

        Raises:
            ValueError: there is none of this id.
        """
        _check_id(schedule_id, "Failed to get cron schedule")
        return _cron_dict(self._cron(schedule_id, "Failed to get cron schedule"))

    def update_cron_schedule(self, schedule_id: str, cron_expression: str, timezone: str) -> None:
        """Gives a schedule another expression and time zone.

        Raises:
            ValueError: there is no such schedule, or the expression or the time zone is invalid.
        """
        _check_id(schedule_id, "Failed to update cron schedule")
        _check_cron(cron_expression, timezone, "Failed to update cron schedule")
        failed = "Failed to update cron schedule"
        row = self._cron(schedule_id, failed)
        self._try(lambda service: service.schedules.set_cadence(row.schedule_id, cron_expression, timezone), failed)

    def set_cron_schedule_enabled(self, schedule_id: str, enabled: bool) -> None:
        """Enables or disables a schedule. What came due while it was disabled is not made up.

        Raises:
            ValueError: there is no such schedule.
        """
        _check_id(schedule_id, "Failed to update cron schedule")
        failed = "Failed to update cron schedule"
        row = self._cron(schedule_id, failed)
        self._try(lambda service: service.schedules.set_paused(row.schedule_id, not enabled), failed)

    def delete_cron_schedule(self, schedule_id: str) -> None:
        """Deletes a schedule; if it is an instance's, the instance too.

        Raises:
            ValueError: there is no such schedule.
        """
        _check_id(schedule_id, "Failed to delete cron schedule")
        failed = "Failed to delete cron schedule"
        row = self._cron(schedule_id, failed)
        self._try(lambda service: service.remove_schedule(row.schedule_id), failed)

    def get_cron_execution_history(
        self, schedule_id: str, limit: int | None = None, offset: int | None = None
    ) -> list[dict[str, Any]]:
        """Firings of a schedule, newest first: id, schedule_id, scheduled_time, claimed_at, workflow_execution_id,
        created_at, updated_at.

        Raises:
            ValueError: the id is none.
        """
        _check_id(schedule_id, "Failed to get cron execution history")
        records = self._history(str(UUID(schedule_id)), limit, offset, "Failed to get cron execution history")
        return [_cron_firing_dict(record) for record in records]

    def get_cron_execution_stats(self, since: str) -> dict[str, Any]:
        """Figures of all firings: total_executions, successful_executions, lost_executions, success_rate.

        Args:
            since: from when on, RFC 3339 with a time zone.

        Raises:
            ValueError: `since` is no such time.
        """
        try:
            parsed = datetime.fromisoformat(since)
        except ValueError as error:
            raise ValueError(f"Invalid datetime format: {error}") from None
        if parsed.tzinfo is None:
            raise ValueError(f"Invalid datetime format: {since!r} has no time zone; append 'Z' or '+00:00'")
        failed = "Failed to get cron execution stats"
        since_us = int(parsed.timestamp() * 1e6)
        total, started = self._try(
            lambda service: service.schedule_store.count_firings(ScheduleKind.CRON, since_us), failed
        )
        return {
            "total_executions": total,
            "successful_executions": started,
            "lost_executions": 0,  # a firing and its execution are one transaction
            "success_rate": started / total * 100 if total else 0.0,
        }

    # Triggers

    def list_trigger_schedules(
        self, enabled_only: bool | None = None, limit: int | None = None, offset: int | None = None
    ) -> list[dict[str, Any]]:
        """Triggers: id, trigger_name, workflow_name, poll_interval_ms, allow_concurrent, enabled, last_poll_at,
        created_at, updated_at.

        Args:
            enabled_only, limit, offset: see `list_cron_schedules`.
        """
        return [_trigger_dict(row) for row in self._list(ScheduleKind.TRIGGER, enabled_only, limit, offset)]

    def get_trigger_schedule(self, trigger_name: str) -> dict[str, Any] | None:
        """One trigger; ``None`` if there is none of this name."""
        row = self._trigger(trigger_name)
        return None if row is None else _trigger_dict(row)

    def set_trigger_enabled(self, trigger_name: str, enabled: bool) -> None:
        """Enables or disables a trigger."""
        row = self._trigger(trigger_name)
        if row is not None:
            failed = "Failed to update trigger schedule"
            self._try(lambda service: service.schedules.set_paused(row.schedule_id, not enabled), failed)

    def get_trigger_execution_history(
        self, trigger_name: str, limit: int | None = None, offset: int | None = None
    ) -> list[dict[str, Any]]:
        """Firings of a trigger, newest first: id, schedule_id, context_hash, workflow_execution_id, started_at,
        completed_at, created_at."""
        row = self._trigger(trigger_name)
        if row is None:
            return []
        failed = "Failed to get trigger execution history"
        return [_trigger_firing_dict(record) for record in self._history(row.schedule_id, limit, offset, failed)]

    # What they share

    def _register(self, name: str, workflow_name: str, cron: str, timezone: str, failed: str) -> str:
        if not self._config.enable_cron_scheduling:
            raise ValueError(
                f"{failed}: Cron scheduling not enabled: set enable_cron_scheduling=True in the runner's config"
            )
        wanted = Wanted(
            name=name,
            kind=ScheduleKind.CRON,
            workflows=(workflow_name,),
            cron=cron,
            timezone=timezone,
            catch_up_cap=self._config.cron_max_catchup_executions or 1,
        )
        return self._try(lambda service: service.schedules.register(TENANT, wanted), failed).schedule_id

    def _list(
        self, kind: ScheduleKind, enabled_only: bool | None, limit: int | None, offset: int | None
    ) -> list[ScheduleRow]:
        async def rows(service: EmbeddedService) -> list[ScheduleRow]:
            return service.schedules.of_tenant(TENANT, kind)

        found = sorted(self._ask(rows), key=lambda row: (row.created_at, row.schedule_id))
        if enabled_only:
            found = [row for row in found if row.paused_at is None]
        begin = offset or 0
        return found[begin : begin + (_PAGE if limit is None else limit)]

    def _cron(self, schedule_id: str, failed: str) -> ScheduleRow:
        async def row(service: EmbeddedService) -> ScheduleRow | None:
            return service.schedules.get(str(UUID(schedule_id)))

        found = self._ask(row)
        if found is None or found.kind != ScheduleKind.CRON:
            raise ValueError(f"{failed}: there is no cron schedule {schedule_id}")
        return found

    def _trigger(self, trigger_name: str) -> ScheduleRow | None:
        triggers = self._list(ScheduleKind.TRIGGER, None, 2**31, None)
        return next((row for row in triggers if row.name == trigger_name), None)

    def _history(self, schedule_id: str, limit: int | None, offset: int | None, failed: str) -> list[FiringRecord]:
        return self._try(
            lambda service: service.schedule_store.list_firings(
                TENANT, schedule_id, limit=_PAGE if limit is None else limit, offset=offset or 0
            ),
            failed,
        )

    def _try(self, call: Callable[[EmbeddedService], Coroutine[Any, Any, _Answer]], failed: str) -> _Answer:
        try:
            return self._ask(call)
        except CloacinaError as error:
            raise ValueError(f"{failed}: {error}") from error

    # Reactors

    def subscribe_workflow_to_reactor(
        self, reactor: str, workflow: str, tenant: str | None = None, *, when: str | None = None
    ) -> str:
        """Reactors do not exist here.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"Failed to subscribe workflow to reactor: {_NO_REACTORS}")

    def unsubscribe_workflow_from_reactor(self, reactor: str, workflow: str, tenant: str | None = None) -> bool:
        """Reactors do not exist here.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"Failed to unsubscribe workflow from reactor: {_NO_REACTORS}")

    def list_reactor_subscriptions(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """Reactors do not exist here.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"Failed to list reactor subscriptions: {_NO_REACTORS}")


def _check_cron(cron_expression: str, timezone: str, failed: str) -> None:
    try:
        CronExpression.parse(cron_expression, timezone)
    except ValueError as error:
        raise ValueError(f"{failed}: Invalid cron expression or timezone: {error}") from None


def _check_id(schedule_id: str, failed: str) -> None:
    try:
        UUID(schedule_id)
    except ValueError:
        raise ValueError(f"{failed}: Invalid schedule ID: {schedule_id!r} is not a UUID") from None


def _cron_dict(row: ScheduleRow) -> dict[str, Any]:
    return {
        "id": row.schedule_id,
        "workflow_name": workflows_of(row)[0],
        "cron_expression": row.cron or "",
        "timezone": row.timezone or "UTC",
        "enabled": row.paused_at is None,
        "catchup_policy": row.catch_up,
        "next_run_at": _time(row.next_run_at),
        "last_run_at": _time(row.last_run_at),
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
    }


def _trigger_dict(row: ScheduleRow) -> dict[str, Any]:
    return {
        "id": row.schedule_id,
        "trigger_name": row.name,
        "workflow_name": workflows_of(row)[0],
        "poll_interval_ms": row.poll_interval_ms or 0,
        "allow_concurrent": row.allow_concurrent,
        "enabled": row.paused_at is None,
        "last_poll_at": _time(row.last_poll_at),
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
    }


def _cron_firing_dict(record: FiringRecord) -> dict[str, Any]:
    firing = record.firing
    return {
        "id": firing.firing_id,
        "schedule_id": firing.schedule_id,
        "scheduled_time": _time(firing.scheduled_at),
        "claimed_at": _time(firing.fired_at),
        "workflow_execution_id": firing.execution_id,
        "created_at": _time(firing.fired_at),
        "updated_at": _time(record.finished_at or firing.fired_at),
    }


def _trigger_firing_dict(record: FiringRecord) -> dict[str, Any]:
    firing = record.firing
    return {
        "id": firing.firing_id,
        "schedule_id": firing.schedule_id,
        "context_hash": firing.context_hash,
        "workflow_execution_id": firing.execution_id,
        "started_at": _time(firing.fired_at),
        "completed_at": _time(record.finished_at),
        "created_at": _time(firing.fired_at),
    }


def _time(at_us: int | None) -> str | None:
    """RFC 3339, as the original writes it."""
    return None if at_us is None else rfc3339(at_us)
