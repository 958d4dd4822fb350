"""The workflows of this process, as the engine runs them, and the code behind a stored execution."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from cloacina.authoring.context import Context
from cloacina.authoring.task import TaskDefinition
from cloacina.authoring.workflow import Workflow, registered_workflows
from cloacina.domain.graph import TaskSpec, WorkflowSpec
from cloacina.domain.inputs import without_reserved
from cloacina.embedded.inputs import accept_context
from cloacina.engine.model import Definition, Live
from cloacina.errors import InvalidRequest, Unavailable
from cloacina.store.executions import DefinitionRow

TENANT = "public"
"""Whose all workflows of a runner are: a runner has a database, or a schema, for itself."""


@dataclass(frozen=True, slots=True, eq=False)
class LocalDefinition(Definition):
    """A workflow together with its code.

    Args:
        workflow: what its author built; an execution keeps this very one while this process lives.
    """

    workflow: Workflow | None = None


class LocalWorkflows:
    """Definitions of the workflows registered in this process; may be asked from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Callable[[], Workflow], LocalDefinition]] = {}
        self._by_id: dict[str, LocalDefinition] = {}

    def find(self, name: str) -> LocalDefinition | None:
        """The workflow registered last under this name.

        Raises:
            ValueError: its constructor fails, or its tasks are no DAG.
        """
        constructor = registered_workflows().get(name)
        if constructor is None:
            return None
        with self._lock:
            known = self._known.get(name)
            if known is not None and known[0] is constructor:
                return known[1]
        try:
            definition = _define(name, constructor())
        except Exception as error:
            raise ValueError(f"workflow {name!r} cannot be used: {error}") from error
        with self._lock:
            self._known[name] = (constructor, definition)
            self._by_id[definition.definition_id] = definition
        return definition

    def prepare(
        self,
        tenant_id: str,
        workflow_name: str,
        values: Mapping[str, Any],
        bound: Mapping[str, Any],
        stamped: Mapping[str, Any],
    ) -> tuple[Definition, bytes]:
        """What a schedule starts (`cloacina.engine.firings.Workflows`).

        Raises:
            Unavailable: it is not registered in this process yet; a firing waits until it is.
            InvalidRequest: it cannot be used, or the values do not fit what it declares.
        """
        try:
            definition = self.find(workflow_name)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        if definition is None:
            raise Unavailable(f"workflow {workflow_name!r} is not registered in this process yet")
        assert definition.workflow is not None
        raw = accept_context(definition.workflow, Context(without_reserved(values)), bound)
        return definition, orjson.dumps({**orjson.loads(raw), **stamped})

    def load(self, row: DefinitionRow) -> Definition:
        """Makes a definition again from its row in the store: its graph as it was, with the code if it is the same."""
        with self._lock:
            known = self._by_id.get(row.definition_id)
        if known is not None and known.body == row.body:
            return known
        tasks = [TaskSpec.from_wire(task) for task in orjson.loads(row.body)["tasks"]]
        return Definition(
            definition_id=row.definition_id,
            tenant_id=row.tenant_id,
            spec=WorkflowSpec.create(row.workflow_name, tasks),
            body=row.body,
        )

    def code(self, live: Live) -> dict[str, TaskDefinition] | None:
        """The tasks of an execution's workflow by id: those it began with if this process knows them, else those
        registered under its name now; ``None`` while there are none."""
        definition = live.definition
        if not isinstance(definition, LocalDefinition):
            found = self.find(live.workflow_name)
            if found is None:
                return None
            definition = found
        return None if definition.workflow is None else definition.workflow.tasks


def _define(name: str, workflow: Workflow) -> LocalDefinition:
    wire = [task.to_wire() for task in workflow.tasks.values()]
    return LocalDefinition(
        definition_id=f"{name}/{workflow.version}",
        tenant_id=TENANT,
        spec=WorkflowSpec.create(name, [TaskSpec.from_wire(task) for task in wire]),
        body=orjson.dumps({"tasks": wire}),
        workflow=workflow,
    )
