"""Workflows: uploading the packages that hold them, seeing them, taking them away."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator

import orjson
from aiohttp import web

from cloacina.errors import NotFound
from cloacina.rpc.v1 import common_pb2, reconciler_pb2
from services.api.call import Call
from services.api.errors import not_found_as
from services.api.replies import reply, timestamp
from services.api.routing import Route
from services.api.schemas import (
    InputSlot,
    WorkflowDeletedResponse,
    WorkflowDetail,
    WorkflowList,
    WorkflowSummary,
    WorkflowTaskNode,
    WorkflowUploadedResponse,
)
from services.api.uploads import Archive, relay


async def _upload(call: Call) -> web.Response:
    settings, reconciler = call.gateway.settings, call.gateway.reconciler
    archive = Archive(call.http, idle_s=settings.api_body_timeout_s)
    await archive.open()

    async def send(pieces: AsyncIterator[bytes]) -> reconciler_pb2.UploadPackageResponse:
        answer: reconciler_pb2.UploadPackageResponse = await reconciler.client.call(
            reconciler.stub.UploadPackage,
            _messages(call.tenant_id, call.quotas.package_bytes, pieces),
            deadline_s=settings.api_upload_timeout_s + settings.api_rpc_deadline_s,
        )
        return answer

    uploaded = await relay(archive.chunks(), send, timeout_s=settings.api_upload_timeout_s)
    call.bind(package_id=uploaded.package_id)
    answer: WorkflowUploadedResponse = {"package_id": uploaded.package_id, "tenant_id": call.tenant_id}
    return reply(answer, 201)


async def _messages(
    tenant_id: str, max_tenant_bytes: int, pieces: AsyncIterator[bytes]
) -> AsyncIterator[reconciler_pb2.UploadPackageRequest]:
    header = reconciler_pb2.UploadHeader(tenant_id=tenant_id, max_tenant_bytes=max_tenant_bytes)
    yield reconciler_pb2.UploadPackageRequest(header=header)
    hashed, size = hashlib.sha256(), 0
    async for piece in pieces:
        hashed.update(piece)
        size += len(piece)
        yield reconciler_pb2.UploadPackageRequest(chunk=piece)
    end = reconciler_pb2.UploadEnd(size_bytes=size, digest=hashed.hexdigest())
    yield reconciler_pb2.UploadPackageRequest(end=end)


async def _list(call: Call) -> web.Response:
    reconciler = call.gateway.reconciler
    request = reconciler_pb2.ListPackagesRequest(tenant_id=call.tenant_id)
    found = await call.ask(reconciler, reconciler.stub.ListPackages, request)
    items = [summary for package in found.packages for summary in _summaries(package)]
    answer: WorkflowList = {"tenant_id": call.tenant_id, "items": items, "total": len(items)}
    return reply(answer)


async def _get(call: Call) -> web.Response:
    reconciler, name = call.gateway.reconciler, call.path["name"]
    request = reconciler_pb2.GetPackageRequest(tenant_id=call.tenant_id, name=name)
    try:
        package: reconciler_pb2.Package = await call.ask(reconciler, reconciler.stub.GetPackage, request)
    except NotFound as error:
        raise not_found_as(error, "workflow_not_found") from None
    detail = _detail(package, name)
    call.bind(package_id=package.package_id, workflow_name=detail["workflow_name"])
    return reply(detail)


async def _delete(call: Call) -> web.Response:
    reconciler, name, version = call.gateway.reconciler, call.path["name"], call.path["version"]
    request = reconciler_pb2.DeletePackageRequest(tenant_id=call.tenant_id, package_name=name, version=version)
    try:
        deleted = await call.ask(reconciler, reconciler.stub.DeletePackage, request)
        call.bind(package_id=deleted.package_id)
    except NotFound:
        pass  # what the caller wants is so: deleting twice is no error
    answer: WorkflowDeletedResponse = {"status": "deleted", "package_name": name, "version": version}
    return reply(answer)


def _summaries(package: reconciler_pb2.Package) -> Iterator[WorkflowSummary]:
    """One for each workflow; one for the package itself if it holds none, as when it failed to load."""
    for workflow in package.workflows:
        yield _summary(package, workflow)
    if not package.workflows:
        yield _summary(package, common_pb2.WorkflowDefinition())


def _summary(package: reconciler_pb2.Package, workflow: common_pb2.WorkflowDefinition) -> WorkflowSummary:
    return {
        "id": package.package_id,
        "package_name": package.package_name,
        "workflow_name": workflow.workflow_name or package.workflow_name or package.package_name,
        "version": package.version,
        "description": workflow.description or package.description or None,
        "tasks": [task.id for task in workflow.tasks],
        "paused": workflow.paused,
        "created_at": timestamp(package.created_at),
        "build_status": package.build_status,
    }


def _detail(package: reconciler_pb2.Package, name: str) -> WorkflowDetail:
    """The workflow of this name, or the first one if the package is named so."""
    named = (workflow for workflow in package.workflows if workflow.workflow_name == name)
    workflow = next(named, None) or next(iter(package.workflows), common_pb2.WorkflowDefinition())
    return {
        **_summary(package, workflow),
        "tenant_id": package.tenant_id,
        "build_error": package.build_error or None,
        "declared_params": [*map(slot_of, workflow.params), *map(_secret_slot, workflow.secrets)],
        "secrets": list(workflow.secrets),
        "task_graph": [_node(task) for task in workflow.tasks],
        "package_digest": package.digest,
        "package_size_bytes": package.size_bytes,
        "signature": {
            "status": package.signature.status or "unsigned",
            "key_id": package.signature.key_id or None,
            "key_name": package.signature.key_name or None,
        },
    }


def slot_of(slot: common_pb2.InputSlot) -> InputSlot:
    """A declared input."""
    return {
        "name": slot.name,
        "schema": orjson.loads(slot.schema) if slot.schema else {},
        "required": slot.required,
        "default": orjson.loads(slot.default_value) if slot.default_value else None,
        "encrypted": slot.encrypted,
    }


def _secret_slot(name: str) -> InputSlot:
    """A declared secret, for clients that make a form of the inputs: it is bound by a reference, or left out."""
    return {"name": name, "schema": {}, "required": False, "default": None, "encrypted": True}


def _node(task: common_pb2.TaskDefinition) -> WorkflowTaskNode:
    return {
        "id": task.id,
        "dependencies": list(task.dependencies),
        "description": task.description or None,
        "doc_what": task.doc_what or None,
        "doc_why": task.doc_why or None,
    }


ROUTES = (
    Route(
        method="POST",
        path="/v1/tenants/{tenant_id}/workflows",
        handler=_upload,
        operation="upload_workflow",
        tag="workflows",
        summary="Upload a package",
        description=(
            "Answers when the package is verified, stored and loaded. The same content again is the same package; "
            "the same name and version with other content is refused. At most 100 MB."
        ),
        answers={201: WorkflowUploadedResponse},
        upload=True,
        errors=(409,),
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/workflows",
        handler=_list,
        operation="list_workflows",
        tag="workflows",
        summary="Workflows of a tenant",
        answers={200: WorkflowList},
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/workflows/{name}",
        handler=_get,
        operation="get_workflow",
        tag="workflows",
        summary="A workflow, with its build state, inputs and graph",
        description="The newest package version that holds a workflow of this name, or that is named so.",
        answers={200: WorkflowDetail},
    ),
    Route(
        method="DELETE",
        path="/v1/tenants/{tenant_id}/workflows/{name}/{version}",
        handler=_delete,
        operation="delete_workflow",
        tag="workflows",
        summary="Take a package version out of use",
        description="`name` is the package's name. Deleting what is not there is no error.",
        answers={200: WorkflowDeletedResponse},
    ),
)
