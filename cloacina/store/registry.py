"""The reconciler's store: packages, what each contains, and their archives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from cloacina.store.database import Database, Statement

PART_BYTES = 1 << 20
"""An archive is kept in parts of this many bytes."""


class PackageRow(NamedTuple):
    """One version of a package. `contents` is JSON: what inspecting it found. Times are microseconds.

    `signed_by` is the id of the key that its signature names, empty where it has none; `signature_verified` is 1 where
    the tenant trusted that key when the package came, and the key did make the signature.
    """

    package_id: str
    tenant_id: str
    package_name: str
    version: str
    digest: str
    size_bytes: int
    workflow_name: str
    description: str
    build_status: str
    build_error: str
    contents: str
    created_at: int
    deleted_at: int | None = None
    signed_by: str = ""
    signature_verified: int = 0


class RegistryStore:
    """The only caller of the queries in ``sql/registry``.

    Args:
        database: an opened database of the store "registry".
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_package(self, package: PackageRow, parts: Iterable[bytes]) -> None:
        """Stores a package and its archive in one transaction.

        Args:
            package: the row.
            parts: the archive in parts of `PART_BYTES`.

        Raises:
            StoreConflict: the tenant has this name and version already.
        """
        rows = [(package.digest, index, part) for index, part in enumerate(parts)]
        await self._database.write(
            [Statement("insert_artifact_part", rows), Statement("insert_package", [package], expect=1)]
        )

    async def set_build(self, package_id: str, status: str, error: str, contents: str) -> None:
        """Notes how loading a package went."""
        await self._database.write([Statement("set_build", [(status, error, contents, package_id)], expect=1)])

    async def mark_deleted(self, package_id: str, at: int) -> None:
        """Takes a package out of every list; its archive stays for executions that run."""
        await self._database.write([Statement("mark_deleted", [(at, package_id)], expect=1)])

    async def packages(self) -> list[PackageRow]:
        """Every package that is not deleted, oldest first."""
        return [PackageRow(*row) for row in await self._database.fetch("packages")]

    async def package_contents(self, tenant_id: str, package_id: str) -> tuple[str, str] | None:
        """Workflow and contents of a tenant's package, also when it was deleted; ``None`` when there never was one."""
        rows = await self._database.fetch("package_contents", package_id, tenant_id, tenant=tenant_id)
        return (rows[0][0], rows[0][1]) if rows else None

    async def set_paused(self, tenant_id: str, workflow_name: str, at: int | None) -> None:
        """Notes that a workflow is paused, since `at` (microseconds), or with ``None`` that it is not."""
        if at is None:
            await self._database.write([Statement("resume_workflow", [(tenant_id, workflow_name)])])
        else:
            await self._database.write([Statement("pause_workflow", [(tenant_id, workflow_name, at)])])

    async def paused(self) -> list[tuple[str, str]]:
        """Tenant and name of every workflow that is paused."""
        return [(str(tenant_id), str(name)) for tenant_id, name in await self._database.fetch("paused_workflows")]

    async def read_artifact(self, digest: str) -> AsyncIterator[bytes]:
        """The parts of an archive; none when there is no such archive."""
        part = 0
        while rows := await self._database.fetch("artifact_part", digest, part):
            yield bytes(rows[0][0])
            part += 1
