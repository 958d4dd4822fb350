"""Workflows: pausing and resuming them, and showing their source."""

from __future__ import annotations

from pathlib import PurePosixPath

from aiohttp import web

from cloacina.errors import NotFound
from cloacina.rpc.v1 import reconciler_pb2
from services.api.call import Call
from services.api.errors import not_found_as
from services.api.replies import reply
from services.api.routing import Route
from services.api.workflow_schemas import WorkflowPauseResponse, WorkflowSourceResponse

SOURCE_DEADLINE_S = 30.0
"""Seconds that reading an archive may take; the largest has 512 MiB to go through."""

_LANGUAGES = {
    ".py": "python",
    ".pyi": "python",
    ".toml": "toml",
    ".json": "json",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".md": "markdown",
    ".sql": "sql",
    ".sh": "shell",
    ".rs": "rust",
}


async def _pause(call: Call) -> web.Response:
    return await _set_paused(call, True)


async def _resume(call: Call) -> web.Response:
    return await _set_paused(call, False)


async def _set_paused(call: Call, paused: bool) -> web.Response:
    gateway, name = call.gateway, call.path["name"]
    request = reconciler_pb2.SetWorkflowPausedRequest(tenant_id=call.tenant_id, name=name, paused=paused)
    try:
        done: reconciler_pb2.SetWorkflowPausedResponse = await gateway.finisher.finish(
            call.ask(gateway.reconciler, gateway.reconciler.stub.SetWorkflowPaused, request)
        )
    except NotFound as error:
        raise not_found_as(error, "workflow_not_found") from None
    call.bind(package_id=done.package_id, workflow_name=done.workflow_name)
    answer: WorkflowPauseResponse = {
        "tenant_id": call.tenant_id,
        "id": done.package_id,
        "name": name,
        "status": "paused" if paused else "resumed",
        "paused": paused,
    }
    return reply(answer)


async def _source(call: Call) -> web.Response:
    reconciler = call.gateway.reconciler
    request = reconciler_pb2.GetSourceRequest(tenant_id=call.tenant_id, name=call.path["name"])
    try:
        found: reconciler_pb2.GetSourceResponse = await reconciler.client.call(
            reconciler.stub.GetSource, request, deadline_s=SOURCE_DEADLINE_S
        )
    except NotFound as error:
        raise not_found_as(error, "workflow_not_found") from None
    call.bind(package_id=found.package_id, workflow_name=found.workflow_name)
    answer: WorkflowSourceResponse = {
        "tenant_id": call.tenant_id,
        "id": found.package_id,
        "package_name": found.package_name,
        "workflow_name": found.workflow_name,
        "version": found.version,
        "files": [
            {
                "path": file.path,
                "contents": file.contents,
                "language": _LANGUAGES.get(PurePosixPath(file.path).suffix.lower()),
            }
            for file in found.files
        ],
        "omitted": found.omitted,
    }
    return reply(answer)


ROUTES = (
    Route(
        method="POST",
        path="/v1/tenants/{tenant_id}/workflows/{name}/pause",
        handler=_pause,
        operation="pause_workflow",
        tag="workflows",
        summary="Refuse new executions of a workflow",
        description=(
            "`name` is the workflow's, or its package's. What runs goes on. The pause holds over restarts and new "
            "versions until the workflow is resumed; executing it meanwhile is answered 409 `workflow_paused`."
        ),
        answers={200: WorkflowPauseResponse},
    ),
    Route(
        method="POST",
        path="/v1/tenants/{tenant_id}/workflows/{name}/resume",
        handler=_resume,
        operation="resume_workflow",
        tag="workflows",
        summary="Take new executions of a workflow again",
        answers={200: WorkflowPauseResponse},
    ),
    Route(
        method="GET",
        path="/v1/tenants/{tenant_id}/workflows/{name}/source",
        handler=_source,
        operation="get_workflow_source",
        tag="workflows",
        summary="The text files of a workflow's package",
        description=(
            "`name` is the workflow's, its package's, or the package's id. Files over 1 MiB, files that are no UTF-8 "
            "text, `vendor/`, and what is beyond 8 MiB in all are left out."
        ),
        answers={200: WorkflowSourceResponse},
    ),
)
