"""The runner's methods for named instances: params bound to a workflow under a name, and perhaps a schedule."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from cloacina.authoring.context import Context
from cloacina.embedded.inputs import accept_context, slots_of
from cloacina.embedded.workflows import TENANT, LocalDefinition, LocalWorkflows
from cloacina.errors import CloacinaError
from cloacina.store.instances import InstanceRow

if TYPE_CHECKING:
    from cloacina.embedded.result import WorkflowResult
    from cloacina.embedded.service import EmbeddedService

_Answer = TypeVar("_Answer")
_PAGE = 1000


class InstanceMethods:
    """The part of `cloacina.embedded.DefaultRunner` that concerns named instances."""

    if TYPE_CHECKING:
        _workflows: LocalWorkflows

        def _ask(self, call: Callable[[EmbeddedService], Coroutine[Any, Any, _Answer]]) -> _Answer: ...

        def _definition(self, workflow_name: str) -> LocalDefinition: ...

        def _run(self, definition: LocalDefinition, raw: bytes) -> WorkflowResult: ...

    def register_workflow_instance(
        self,
        workflow_name: str,
        instance_name: str,
        cron_expression: str | None,
        timezone: str,
        params: Context,
    ) -> str:
        """Binds values to a workflow's params under a name, with the times at which it is to start.

        What the workflow declares and `params` leaves out takes its default now: later defaults do not change what is
        bound.

        Args:
            workflow_name: the workflow; the params are held against what it declares if it is registered already.
            instance_name: unique for the workflow.
            cron_expression: see `register_cron_workflow`; ``None`` for an instance that starts only when it is executed
                (ours).
            timezone: IANA name of the zone whose clock the expression means.
            params: what each execution's context has.

        Returns:
            The id of the instance, which is its schedule's.

        Raises:
            ValueError: the expression, the time zone, the name or the params are invalid, or the workflow has an
                instance of this name.
        """
        if not isinstance(params, Context):
            raise TypeError(f"params must be a Context, not {type(params).__name__}: wrap it in cloaca.Context(...)")
        failed = "Failed to register workflow instance"
        known = self._workflows.find(workflow_name)
        slots = [] if known is None or known.workflow is None else slots_of(known.workflow)
        raw = params.to_raw()
        return self._tell(
            failed,
            lambda service: service.instances.create(
                TENANT,
                workflow_name,
                instance_name,
                slots,
                raw,
                cron_expression=cron_expression or "",
                timezone=timezone,
            ),
        ).instance_id

    def list_workflow_instances(self, workflow_name: str) -> list[dict[str, Any]]:
        """The instances of a workflow, oldest first, at most 1000 (ours): each as `get_workflow_instance` has it."""
        rows, _ = self._tell(
            "Failed to list workflow instances",
            lambda service: service.instances.list(TENANT, workflow_name, limit=_PAGE),
        )
        return [_shown(row) for row in rows]

    def get_workflow_instance(self, workflow_name: str, instance_name: str) -> dict[str, Any]:
        """An instance: id, workflow_name, instance_name, params, cron_expression, timezone, enabled, paused,
        next_run_at, last_run_at, created_at.

        Raises:
            ValueError: there is none of this name.
        """
        return _shown(
            self._tell(
                "Failed to get workflow instance",
                lambda service: service.instances.get(TENANT, workflow_name, instance_name),
            )
        )

    def unregister_workflow_instance(self, workflow_name: str, instance_name: str) -> None:
        """Deletes an instance and its schedule; executions that it began go on.

        Raises:
            ValueError: there is none of this name.
        """
        self._tell(
            "Failed to unregister workflow instance",
            lambda service: service.instances.delete(TENANT, workflow_name, instance_name),
        )

    def execute_instance(
        self, workflow_name: str, instance_name: str, context: Context | None = None
    ) -> WorkflowResult:
        """Runs a workflow with the params of an instance to its end (ours).

        Args:
            workflow_name, instance_name: which.
            context: what is added to the params; it cannot give a bound one another value.

        Raises:
            ValueError: there is no such instance, or as `DefaultRunner.execute`.
        """
        failed = "Workflow execution failed"
        definition = self._definition(workflow_name)
        bound = self._tell(failed, lambda service: service.instances.bound_by(TENANT, workflow_name, instance_name))
        try:
            assert definition.workflow is not None
            raw = accept_context(definition.workflow, context or Context(), bound)
        except CloacinaError as error:
            raise ValueError(f"{failed}: {error}") from error
        return self._run(definition, raw)

    def _tell(self, failed: str, call: Callable[[EmbeddedService], Coroutine[Any, Any, _Answer]]) -> _Answer:
        try:
            return self._ask(call)
        except CloacinaError as error:
            raise ValueError(f"{failed}: {error}") from error


def _shown(row: InstanceRow) -> dict[str, Any]:
    return {
        "id": row.instance_id,
        "workflow_name": row.workflow_name,
        "instance_name": row.instance_name,
        "params": orjson.loads(row.params),
        "cron_expression": row.cron_expression,
        "timezone": row.timezone,
        "enabled": row.enabled,
        "paused": row.paused,
        "next_run_at": _time(row.next_run_at),
        "last_run_at": _time(row.last_run_at),
        "created_at": _time(row.created_at),
    }


def _time(micros: int | None) -> str | None:
    return None if micros is None else datetime.fromtimestamp(micros / 1e6, UTC).isoformat()
