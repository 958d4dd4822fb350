"""The workflow in a package, as a message: from what inspecting the package found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from cloacina.catalog.triggers import triggers_of
from cloacina.domain.graph import WorkflowSpec
from cloacina.packages.manifest import Manifest
from cloacina.rpc.v1 import common_pb2
from cloacina.store.registry import PackageRow


def loaded_row(manifest: Manifest, contents: Mapping[str, Any], *, tenant_id: str) -> PackageRow:
    """A package that was inspected, as it is kept: without id, digest, size and times, which are its owner's to give.

    Args:
        manifest: its manifest.
        contents: what `cloacina.packages.inspection.inspect` found.
        tenant_id: whose it is.
    """
    return PackageRow(
        package_id="",
        tenant_id=tenant_id,
        package_name=manifest.name,
        version=manifest.version,
        digest="",
        size_bytes=0,
        workflow_name=manifest.workflow_name,
        description=manifest.description,
        build_status="success",
        build_error="",
        contents=orjson.dumps(contents).decode(),
        created_at=0,
    )


def definition_of(row: PackageRow) -> common_pb2.WorkflowDefinition:
    """The workflow in a package.

    Args:
        row: the package; its contents are what `cloacina.packages.inspection.inspect` found.

    Raises:
        InvalidGraph: its tasks are no DAG.
        PackageRefused: a trigger of it can never start anything.
        ValueError, KeyError, TypeError: the contents are malformed.
    """
    contents = orjson.loads(row.contents)
    WorkflowSpec.from_wire({"name": row.workflow_name, "tasks": contents["tasks"]})
    return common_pb2.WorkflowDefinition(
        tenant_id=row.tenant_id,
        workflow_name=row.workflow_name,
        package_id=row.package_id,
        package_name=row.package_name,
        package_version=row.version,
        package_digest=row.digest,
        description=row.description,
        tasks=[_task(task) for task in contents["tasks"]],
        params=[_slot(param) for param in contents["params"]],
        secrets=contents["secrets"],
        triggers=triggers_of(contents["triggers"], row.workflow_name),
        max_executions=contents.get("max_executions", 0),
        max_tasks=contents.get("max_tasks", 0),
    )


def _task(task: Mapping[str, Any]) -> common_pb2.TaskDefinition:
    retry, timeout_s, rule = task["retry"], task["timeout_s"], task["trigger_rule"]
    return common_pb2.TaskDefinition(
        id=task["id"],
        dependencies=task["dependencies"],
        retry=common_pb2.RetryPolicy(
            max_attempts=retry["max_attempts"],
            backoff=retry["backoff"],
            delay_ms=retry["delay_ms"],
            max_delay_ms=retry["max_delay_ms"],
            multiplier=1.0 if retry["multiplier"] is None else retry["multiplier"],
            base=2.0 if retry["base"] is None else retry["base"],
            jitter=retry["jitter"],
            condition=retry["condition"],
            patterns=retry["patterns"],
        ),
        timeout_ms=0 if timeout_s is None else math.ceil(timeout_s * 1000),  # never 0, which is no limit
        trigger_rule="" if rule is None else orjson.dumps(rule).decode(),
        description=task["what"],
        doc_what=task["what"],
        doc_why=task["why"],
        workflow=task.get("workflow") or "",
        for_each=task.get("for_each") or "",
    )


def _slot(param: Mapping[str, Any]) -> common_pb2.InputSlot:
    return common_pb2.InputSlot(
        name=param["name"],
        schema=orjson.dumps(param["schema"]).decode(),
        required=param["required"],
        default_value="" if param["required"] else orjson.dumps(param["default"]).decode(),
        encrypted=bool(param.get("encrypted")),
    )
