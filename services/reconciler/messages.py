"""Package versions as messages."""

from __future__ import annotations

from cloacina.rpc.v1 import common_pb2, reconciler_pb2
from cloacina.store.registry import PackageRow


def package_of(
    row: PackageRow,
    definition: common_pb2.WorkflowDefinition | None,
    signature: reconciler_pb2.PackageSignature,
) -> reconciler_pb2.Package:
    """A package version.

    Args:
        row: its row.
        definition: its workflow; ``None`` when it failed to load.
        signature: who signed it.
    """
    return reconciler_pb2.Package(
        package_id=row.package_id,
        tenant_id=row.tenant_id,
        package_name=row.package_name,
        version=row.version,
        digest=row.digest,
        size_bytes=row.size_bytes,
        build_status=row.build_status,
        build_error=row.build_error,
        created_at=row.created_at,
        description=row.description,
        workflows=[] if definition is None else [definition],
        workflow_name=row.workflow_name,
        signature=signature,
    )
