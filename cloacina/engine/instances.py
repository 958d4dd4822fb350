"""Named instances made durable: the checks on the way in, what an execution of one starts with, and its schedule.

An instance that starts by itself has a schedule of its own id, which says when it is due. The schedule is added after
the instance and removed before it, so that a crash in between leaves at most an instance without its schedule: that is
made good at the next start.

Both shells use it, the scheduler service and the embedded runner.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson

from cloacina.domain.cron import CronExpression
from cloacina.domain.inputs import Slot, instance_faults, with_defaults
from cloacina.domain.schedules import ScheduleKind
from cloacina.engine.schedule_book import ScheduleBook, Wanted
from cloacina.errors import CloacinaError, Conflict, InvalidRequest, NotFound, Unavailable
from cloacina.store.database import StoreConflict
from cloacina.store.instances import InstanceRow, InstanceStore
from cloacina.telemetry import scope

log = logging.getLogger(__name__)

_LONGEST_NAME = 255


class Instances:
    """The instances of all workflows.

    Args:
        store: where they are kept.
        limit_bytes: most bytes of an instance's params, and of any input.
        schedules: where their schedules are.
    """

    def __init__(self, store: InstanceStore, limit_bytes: int, schedules: ScheduleBook) -> None:
        self._store = store
        self._schedules = schedules
        self.limit_bytes = limit_bytes

    async def start(self) -> None:
        """Gives a schedule to each instance that lacks its own; once the schedules are loaded.

        Raises:
            Unavailable: the store cannot be read or written.
        """
        for row in await self._store.scheduled():
            if self._schedules.get(row.instance_id) is None:
                try:
                    await self._schedule(row)
                except Unavailable:
                    raise
                except CloacinaError as error:
                    extra = {"instance_name": row.instance_name, "instance_id": row.instance_id, "error": error.message}
                    with scope.bind(tenant_id=row.tenant_id, workflow_name=row.workflow_name):
                        log.error("an instance cannot be scheduled", extra=extra)

    async def create(
        self,
        tenant_id: str,
        workflow_name: str,
        instance_name: str,
        slots: Sequence[Slot],
        params: bytes,
        *,
        cron_expression: str = "",
        timezone: str = "",
        enabled: bool = True,
    ) -> InstanceRow:
        """Binds params under a name; what is left out takes its default now.

        Args:
            tenant_id, workflow_name: the workflow; the caller knows that it exists.
            instance_name: 1 to 255 characters, unique for the workflow.
            slots: what the workflow declares.
            params: a JSON object; empty for none.
            cron_expression: empty for an instance that never starts by itself.
            timezone: IANA name; empty for UTC.
            enabled: whether its schedule is on.

        Raises:
            InvalidRequest: codes ``invalid_instance_name``, ``instance_params_invalid``, ``invalid_cron``.
            Conflict: the workflow has an instance of this name (code ``instance_exists``).
        """
        _check_name(instance_name)
        now = time.time_ns() // 1000
        row = InstanceRow(
            instance_id=str(uuid4()),
            tenant_id=tenant_id,
            workflow_name=workflow_name,
            instance_name=instance_name,
            params=self._bound(slots, params),
            cron_expression=cron_expression or None,
            timezone=timezone or "UTC",
            enabled=enabled,
            paused=False,
            next_run_at=_first_run(cron_expression, timezone or "UTC", now) if cron_expression else None,
            last_run_at=None,
            created_at=now,
        )
        try:
            await self._store.add(row)
        except StoreConflict:
            raise Conflict(
                f"workflow {workflow_name!r} has an instance {instance_name!r} already; delete that one first, or take "
                "another name",
                code="instance_exists",
            ) from None
        if cron_expression and enabled:
            try:
                await self._schedule(row)
            except CloacinaError:
                await self._store.delete(tenant_id, workflow_name, instance_name)
                raise
        return self._as_scheduled(row)

    async def get(self, tenant_id: str, workflow_name: str, instance_name: str) -> InstanceRow:
        """One instance.

        Raises:
            NotFound: there is none (code ``instance_not_found``).
        """
        found = await self._store.get(tenant_id, workflow_name, instance_name)
        if found is None:
            raise _no_instance(workflow_name, instance_name)
        return self._as_scheduled(found)

    async def find(self, instance_id: str) -> InstanceRow | None:
        """The instance of this id, which is its schedule's."""
        return await self._store.get_by_id(instance_id)

    async def list(
        self, tenant_id: str, workflow_name: str, *, limit: int, offset: int = 0
    ) -> tuple[list[InstanceRow], int]:
        """A page of a workflow's instances, oldest first, and how many it has in all."""
        rows, total = await self._store.list(tenant_id, workflow_name, limit=limit, offset=offset)
        return [self._as_scheduled(row) for row in rows], total

    async def delete(self, tenant_id: str, workflow_name: str, instance_name: str) -> None:
        """Deletes an instance and its schedule; executions that it began go on.

        Raises:
            NotFound: there is none (code ``instance_not_found``).
            Unavailable: the store cannot be written.
        """
        found = await self.get(tenant_id, workflow_name, instance_name)
        if self._schedules.get(found.instance_id) is not None:
            await self._schedules.remove(found.instance_id)
        try:
            await self._store.delete(tenant_id, workflow_name, instance_name)
        except StoreConflict:
            raise _no_instance(workflow_name, instance_name) from None

    async def delete_all(self, tenant_id: str) -> None:
        """Deletes a tenant's instances and their schedules.

        Raises:
            Unavailable: the store cannot be read or written.
        """
        for row in await self._store.of_tenant(tenant_id):
            try:
                await self.delete(row.tenant_id, row.workflow_name, row.instance_name)
            except NotFound:
                continue

    async def bound_by(self, tenant_id: str, workflow_name: str, instance_name: str) -> Mapping[str, Any]:
        """What an instance binds, for an execution of it.

        Raises:
            NotFound: there is none (code ``instance_not_found``).
        """
        found = await self.get(tenant_id, workflow_name, instance_name)
        params: dict[str, Any] = orjson.loads(found.params)
        return params

    async def _schedule(self, row: InstanceRow) -> None:
        wanted = Wanted(
            name=f"{row.workflow_name}/{row.instance_name}",
            kind=ScheduleKind.CRON,
            workflows=(row.workflow_name,),
            cron=row.cron_expression,
            timezone=row.timezone,
            params=row.params,
        )
        await self._schedules.register(row.tenant_id, wanted, schedule_id=row.instance_id)

    def _as_scheduled(self, row: InstanceRow) -> InstanceRow:
        """With what its schedule is now: when it is due, and whether it is paused."""
        schedule = self._schedules.get(row.instance_id)
        if schedule is None:
            return row
        return row._replace(
            cron_expression=schedule.cron,
            timezone=schedule.timezone or "UTC",
            paused=schedule.paused_at is not None,
            next_run_at=schedule.next_run_at,
            last_run_at=schedule.last_run_at,
        )

    def _bound(self, slots: Sequence[Slot], params: bytes) -> bytes:
        try:
            values = orjson.loads(params or b"{}")
        except orjson.JSONDecodeError as error:
            raise _invalid_params(f"'params' is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise _invalid_params('\'params\' must be a JSON object, such as {"key": "value"}')
        if faults := instance_faults(slots, values):
            raise _invalid_params("the params do not fit the workflow: " + "; ".join(faults))
        bound = orjson.dumps(with_defaults(slots, values))
        if len(bound) > self.limit_bytes:
            raise _invalid_params(f"the params have {len(bound)} bytes, the limit is {self.limit_bytes}")
        return bound


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidRequest(
            f"'instance_name' must be 1 to {_LONGEST_NAME} printable characters, not all blank",
            code="invalid_instance_name",
        )


def _first_run(cron_expression: str, timezone: str, now: int) -> int:
    try:
        first = CronExpression.parse(cron_expression, timezone).next_after(now)
    except ValueError as error:
        raise InvalidRequest(f"the schedule is not valid: {error}", code="invalid_cron") from None
    if first is None:
        raise InvalidRequest(f"the schedule {cron_expression!r} never comes due", code="invalid_cron")
    return first


def _invalid_params(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="instance_params_invalid")


def _no_instance(workflow_name: str, instance_name: str) -> NotFound:
    return NotFound(
        f"workflow {workflow_name[:128]!r} has no instance {instance_name[:128]!r}", code="instance_not_found"
    )
