"""What schedules start: the workflows of the packages that are loaded (`cloacina.engine.firings.Workflows`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from cloacina.catalog.inputs import accept_input
from cloacina.daemon.packages import Packages
from cloacina.engine.model import Definition
from cloacina.errors import NotFound, Unavailable


class LoadedWorkflows:
    """The workflows of the loaded packages.

    Args:
        packages: what is loaded.
        limit_bytes: most bytes of an execution's input.
    """

    def __init__(self, packages: Packages, limit_bytes: int) -> None:
        self._packages = packages
        self._limit_bytes = limit_bytes

    def find(self, tenant_id: str, workflow_name: str) -> Definition | None:
        """The definition that a task which executes the workflow uses now."""
        found = self._packages.known(workflow_name)
        return None if found is None or found.definition.tenant_id != tenant_id else found.definition

    def prepare(
        self,
        tenant_id: str,
        workflow_name: str,
        values: Mapping[str, Any],
        bound: Mapping[str, Any],
        stamped: Mapping[str, Any],
    ) -> tuple[Definition, bytes]:
        """See `cloacina.engine.firings.Workflows`. While a folder cannot be listed, what is not known may come yet."""
        workflow = self._packages.known(workflow_name)
        if workflow is None:
            if not self._packages.complete:
                raise Unavailable(f"workflow {workflow_name!r} is not loaded, and a watched folder cannot be listed")
            raise NotFound(f"there is no workflow {workflow_name!r}", code="workflow_not_found")
        context = accept_input(
            orjson.dumps(values),
            workflow.message.params,
            workflow.message.secrets,
            limit_bytes=self._limit_bytes,
            bound=bound,
            stamped=stamped,
        )
        return workflow.definition, context
