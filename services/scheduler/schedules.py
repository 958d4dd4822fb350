"""Schedules go along with the mirror of the registry: they come, change and go with the packages that declare them.

Nothing fires before the mirror was filled for the first time after a start: until then it is not known what there is to
start. While the registry is away later, the mirror as it was last serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from cloacina.catalog.inputs import accept_input
from cloacina.catalog.workflows import wanted_schedules
from cloacina.engine.model import Definition
from cloacina.engine.schedule_book import Wanted
from cloacina.engine.schedules import Schedules
from cloacina.errors import Conflict, NotFound, Unavailable
from services.scheduler.definitions import Definitions

log = logging.getLogger(__name__)

_RETRY_S = 0.5


class MirroredWorkflows:
    """The workflows of the mirror (`cloacina.engine.firings.Workflows`).

    Args:
        definitions: the mirror.
        limit_bytes: most bytes of an execution's input.
    """

    def __init__(self, definitions: Definitions, limit_bytes: int) -> None:
        self._definitions = definitions
        self._limit_bytes = limit_bytes

    def prepare(
        self,
        tenant_id: str,
        workflow_name: str,
        values: Mapping[str, Any],
        bound: Mapping[str, Any],
        stamped: Mapping[str, Any],
    ) -> tuple[Definition, bytes]:
        self._definitions.check_open(tenant_id)
        workflow = self._definitions.known(tenant_id, workflow_name)
        if workflow is None:
            if not self._definitions.following:
                raise Unavailable("the registry cannot be reached")
            raise NotFound(f"there is no workflow {workflow_name!r}", code="workflow_not_found")
        if workflow.message.paused:
            raise Conflict(f"workflow {workflow_name!r} is paused", code="workflow_paused")
        context = accept_input(
            orjson.dumps(values),
            workflow.message.params,
            workflow.message.secrets,
            limit_bytes=self._limit_bytes,
            bound=bound,
            stamped=stamped,
        )
        return workflow.definition, context


class MirroredSchedules:
    """Keeps the schedules of packages as their packages are (`services.scheduler.definitions.Follower`).

    Args:
        definitions: the mirror.
        schedules: what follows it.
    """

    def __init__(self, definitions: Definitions, schedules: Schedules) -> None:
        self._definitions = definitions
        self._schedules = schedules

    async def follow(self, changed: Collection[tuple[str, str]], *, complete: bool) -> None:
        """See `Follower`. Returns once it is durable, however long the store is away. Of several schedulers one keeps
        the schedules."""
        if not self._schedules.kept_here:
            return
        if not complete and not any(self._concerned(key) for key in changed):
            return
        while self._schedules.kept_here:
            wanted = {key: self._wanted(key) for key in changed}
            try:
                await self._schedules.follow(wanted, complete=complete)
                self._schedules.start()
                return
            except Unavailable as error:
                log.debug("the schedules cannot follow the registry yet", extra={"error": error.message})
                await asyncio.sleep(_RETRY_S)

    async def take_over(self) -> None:
        """From now on the schedules are kept here: they become what the mirror says, once it was filled."""
        if self._definitions.seen:
            await self.follow(self._definitions.names(), complete=True)

    def _concerned(self, key: tuple[str, str]) -> bool:
        tenant_id, source = key
        return bool(self._wanted(key)) or any(row.source == source for row in self._schedules.of_tenant(tenant_id))

    def _wanted(self, key: tuple[str, str]) -> list[Wanted]:
        workflow = self._definitions.known(*key)
        return [] if workflow is None else wanted_schedules(workflow.message)
