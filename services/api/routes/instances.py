"""Named instances of workflows: binding params under a name, seeing, executing and deleting them."""

from __future__ import annotations

import orjson
from aiohttp import web

from cloacina.errors import InvalidRequest, NotFound
from cloacina.rpc.v1 import instances_pb2
from services.api.bodies import read_model, read_query
from services.api.call import Call
from services.api.errors import not_found_as
from services.api.replies import reply, timestamp, timestamp_or_none
from services.api.routes.executions import IDEMPOTENCY_KEY, begin_execution
from services.api.routing import Route
from services.api.schemas import PAGE_FIELDS, ExecuteRequest, ExecuteResponse
from services.api.workflow_schemas import (
    CreateInstanceRequest,
    DeleteInstanceResponse,
    InstanceList,
    ListInstancesQuery,
    WorkflowInstanceSummary,
)


async def _create(call: Call) -> web.Response:
    gateway, name = call.gateway, call.path["name"]
    call.bind(workflow_name=name)
    body = await read_model(
        call.http,
        CreateInstanceRequest,
        timeout_s=gateway.settings.api_body_timeout_s,
        codes={
            "params": "instance_params_invalid",
            "instance_name": "invalid_instance_name",
            "cron": "invalid_cron",
            "timezone": "invalid_cron",
        },
    )
    if body.cron is not None and not body.cron.strip():
        raise InvalidRequest("cron: leave it out for an instance without a schedule", code="invalid_cron")
    request = instances_pb2.CreateInstanceRequest(
        tenant_id=call.tenant_id,
        workflow_name=name,
        instance_name=body.instance_name,
        params=_params(body),
        cron_expression=body.cron or "",
        timezone=body.timezone or "",
        enabled=body.enabled is not False,
    )
    try:
        created = await gateway.finisher.finish(
            call.ask(gateway.instances, gateway.instances.stub.CreateInstance, request)
        )
    except NotFound as error:
        raise not_found_as(error, "workflow_not_found") from None
    return reply(_summary(created))


def _params(body: CreateInstanceRequest) -> bytes:
    try:
        return orjson.dumps(body.params or {})
    except orjson.JSONEncodeError:  # it is read deeper than it is written
        raise InvalidRequest("params: nested too deep", code="instance_params_invalid") from None


async def _list(call: Call) -> web.Response:
    instances = call.gateway.instances
    query = read_query(call.http, ListInstancesQuery, pagination=PAGE_FIELDS)
    request = instances_pb2.ListInstancesRequest(
        tenant_id=call.tenant_id, workflow_name=call.path["name"], limit=query.limit, offset=query.offset
    )
    found: instances_pb2.ListInstancesResponse = await call.ask(instances, instances.stub.ListInstances, request)
    answer: InstanceList = {
        "tenant_id": call.tenant_id,
        "items": [_summary(instance) for instance in found.instances],
        "total": found.total,
    }
    return reply(answer)


async def _get(call: Call) -> web.Response:
    instances = call.gateway.instances
    return reply(_summary(await call.ask(instances, instances.stub.GetInstance, _key(call))))


async def _delete(call: Call) -> web.Response:
    instances = call.gateway.instances
    await call.ask(instances, instances.stub.DeleteInstance, _key(call))
    answer: DeleteInstanceResponse = {
        "tenant_id": call.tenant_id,
        "workflow_name": call.path["name"],
        "instance_name": call.path["instance"],
        "deleted": True,
    }
    return reply(answer)


async def _execute(call: Call) -> web.Response:
    return await begin_execution(call, instance_name=call.path["instance"])


def _key(call: Call) -> instances_pb2.InstanceKey:
    call.bind(workflow_name=call.path["name"])
    return instances_pb2.InstanceKey(
        tenant_id=call.tenant_id, workflow_name=call.path["name"], instance_name=call.path["instance"]
    )


def _summary(instance: instances_pb2.WorkflowInstance) -> WorkflowInstanceSummary:
    return {
        "id": instance.instance_id,
        "workflow_name": instance.workflow_name,
        "instance_name": instance.instance_name,
        "params": orjson.loads(instance.params),
        "cron_expression": instance.cron_expression or None,
        "timezone": instance.timezone or None,
        "enabled": instance.enabled,
        "paused": instance.paused,
        "next_run_at": timestamp_or_none(instance.next_run_at),
        "last_run_at": timestamp_or_none(instance.last_run_at),
        "created_at": timestamp(instance.created_at),
    }


_PATH = "/v1/tenants/{tenant_id}/workflows/{name}/instances"

ROUTES = (
    Route(
        method="POST",
        path=_PATH,
        handler=_create,
        operation="create_instance",
        tag="instances",
        summary="Bind params to a workflow under a name",
        description=(
            "The params are held against what the workflow declares, and the defaults of what is left out are bound "
            "with them. With `cron` it has a schedule."
        ),
        answers={200: WorkflowInstanceSummary},
        body=CreateInstanceRequest,
        errors=(409,),
    ),
    Route(
        method="GET",
        path=_PATH,
        handler=_list,
        operation="list_instances",
        tag="instances",
        summary="Instances of a workflow",
        answers={200: InstanceList},
        query=ListInstancesQuery,
    ),
    Route(
        method="GET",
        path=_PATH + "/{instance}",
        handler=_get,
        operation="get_instance",
        tag="instances",
        summary="An instance",
        answers={200: WorkflowInstanceSummary},
    ),
    Route(
        method="DELETE",
        path=_PATH + "/{instance}",
        handler=_delete,
        operation="delete_instance",
        tag="instances",
        summary="Delete an instance and its schedule",
        description="Executions that it began go on.",
        answers={200: DeleteInstanceResponse},
    ),
    Route(
        method="POST",
        path=_PATH + "/{instance}/execute",
        handler=_execute,
        operation="execute_instance",
        tag="instances",
        summary="Execute a workflow with an instance's params",
        description=(
            "The input is the context of the request with the bound params added; giving a bound param another value "
            "is refused."
        ),
        answers={202: ExecuteResponse},
        body=ExecuteRequest,
        body_required=False,
        errors=(409,),
        headers={IDEMPOTENCY_KEY: "The same tenant, workflow and key: the same execution."},
    ),
)
