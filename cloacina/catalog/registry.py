"""The registry in memory: every package version, and the workflows that can be executed now. No IO.

The newest version of a package that loaded is its current one, and only current versions' workflows can be executed. A
workflow's name belongs to the package that holds it in any of its versions. A pause belongs to the name as well: it
holds for every version, those to come included, until the workflow is resumed.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloacina.errors import Conflict
from cloacina.rpc.v1 import common_pb2
from cloacina.store.registry import PackageRow

Key = tuple[str, str]
"""Tenant and name of a workflow."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A package version: its row, and its workflow unless it failed to load."""

    row: PackageRow
    definition: common_pb2.WorkflowDefinition | None


class Registry:
    """Every package version that is not deleted; `revision` grows with every change, `loading` are the ids to come."""

    def __init__(self) -> None:
        self.revision = 1
        self.loading: set[str] = set()
        self._tenants: dict[str, list[Loaded]] = {}  # oldest first
        self._current: dict[Key, common_pb2.WorkflowDefinition] = {}
        self._paused: set[Key] = set()

    def set_paused(self, key: Key, paused: bool) -> set[Key]:
        """Pauses a workflow, or resumes it.

        Returns:
            The workflows that changed: this one, or none.
        """
        if (key in self._paused) is paused:
            return set()
        (self._paused.add if paused else self._paused.discard)(key)
        for each in self._tenants.get(key[0], ()):
            if each.row.workflow_name == key[1] and each.definition is not None:
                each.definition.paused = paused
        self.revision += 1
        return {key}

    def paused(self, key: Key) -> bool:
        """Whether a workflow is paused."""
        return key in self._paused

    def paused_of(self, tenant_id: str) -> list[Key]:
        """The workflows of a tenant that are paused, whether they are there or not."""
        return [key for key in self._paused if key[0] == tenant_id]

    @property
    def count_paused(self) -> int:
        """How many of the workflows that can be executed are paused."""
        return sum(definition.paused for definition in self._current.values())

    def add(self, package: Loaded) -> set[Key]:
        """Adds the newest package version.

        Returns:
            The workflows that changed.
        """
        before = self._held_by(package.row)
        if package.definition is not None:
            package.definition.paused = (package.row.tenant_id, package.row.workflow_name) in self._paused
        self._tenants.setdefault(package.row.tenant_id, []).append(package)
        return self._follow(package.row, before)

    def remove(self, package: Loaded) -> set[Key]:
        """Takes a package version out; the one before it is current again.

        Returns:
            The workflows that changed.
        """
        before = self._held_by(package.row)
        self._tenants[package.row.tenant_id].remove(package)
        return self._follow(package.row, before)

    def definitions(self) -> list[common_pb2.WorkflowDefinition]:
        """Every workflow that can be executed."""
        return list(self._current.values())

    def definition(self, key: Key) -> common_pb2.WorkflowDefinition | None:
        """The workflow that a new execution uses now."""
        return self._current.get(key)

    def packages(self, tenant_id: str) -> list[Loaded]:
        """A tenant's package versions, newest first."""
        return self._tenants.get(tenant_id, [])[::-1]

    def find(self, tenant_id: str, name: str) -> Loaded | None:
        """The newest package version that holds a workflow of this name, or else is named so."""
        versions = self.packages(tenant_id)
        holding = (each for each in versions if each.row.workflow_name == name)
        named = (each for each in versions if each.row.package_name == name)
        return next(holding, None) or next(named, None)

    def with_id(self, tenant_id: str, package_id: str) -> Loaded | None:
        """The package version of this id."""
        return next((each for each in self._tenants.get(tenant_id, ()) if each.row.package_id == package_id), None)

    def version(self, tenant_id: str, package_name: str, version: str) -> Loaded | None:
        """One version of a package."""
        for each in self._tenants.get(tenant_id, ()):
            if (each.row.package_name, each.row.version) == (package_name, version):
                return each
        return None

    def check_workflow_name(self, tenant_id: str, package_name: str, workflow_name: str) -> None:
        """Checks that no other package of the tenant holds a workflow of this name.

        Raises:
            Conflict: one does.
        """
        for each in self._tenants.get(tenant_id, ()):
            if each.row.workflow_name == workflow_name and each.row.package_name != package_name:
                raise Conflict(
                    f"the workflow {workflow_name!r} is in the package {each.row.package_name!r} already; give this "
                    "one another name, or delete that package first",
                    code="package_conflict",
                )

    def count(self, *, loaded: bool) -> int:
        """Package versions that loaded, or that failed to."""
        return sum((each.definition is not None) is loaded for versions in self._tenants.values() for each in versions)

    @property
    def newest_at(self) -> int:
        """When the newest package version was made, microseconds; 0 without any."""
        return max((versions[-1].row.created_at for versions in self._tenants.values() if versions), default=0)

    def _held_by(self, row: PackageRow) -> dict[Key, common_pb2.WorkflowDefinition]:
        """The workflow of the package's current version."""
        for each in self.packages(row.tenant_id):
            if each.row.package_name == row.package_name and each.definition is not None:
                return {(row.tenant_id, each.row.workflow_name): each.definition}
        return {}

    def _follow(self, row: PackageRow, before: dict[Key, common_pb2.WorkflowDefinition]) -> set[Key]:
        """Makes the current workflows those of the package's current version."""
        after = self._held_by(row)
        changed = {key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)}
        for key in before:
            self._current.pop(key, None)
        self._current.update(after)
        self.revision += 1
        return changed
