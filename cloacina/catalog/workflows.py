"""A workflow as the registry's message says it, and as the engine runs it."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from cloacina.domain.graph import TaskSpec, WorkflowSpec
from cloacina.domain.retry import RetryPolicy
from cloacina.domain.rules import rule_from_wire
from cloacina.domain.schedules import CatchUp, ScheduleKind
from cloacina.engine.model import Definition
from cloacina.engine.schedule_book import Wanted
from cloacina.rpc.v1 import common_pb2
from cloacina.store.executions import DefinitionRow


@dataclass(frozen=True, slots=True, eq=False)
class Workflow:
    """A workflow that can be executed: what the registry says of it, and what the engine runs."""

    message: common_pb2.WorkflowDefinition
    definition: Definition


def workflow_from(message: common_pb2.WorkflowDefinition) -> Workflow:
    """Makes the engine's definition from the registry's message.

    Raises:
        InvalidGraph: its tasks are no DAG.
    """
    spec = WorkflowSpec.create(message.workflow_name, [_task_spec(task) for task in message.tasks])
    definition = Definition(
        definition_id=f"{message.package_id}/{message.workflow_name}",
        tenant_id=message.tenant_id,
        spec=spec,
        package_id=message.package_id,
        package_version=message.package_version,
        package_digest=message.package_digest,
        max_executions=message.max_executions,
        max_tasks=message.max_tasks,
        body=_immutable(message).SerializeToString(deterministic=True),
        secrets=tuple(message.secrets),
    )
    return Workflow(message, definition)


def _immutable(message: common_pb2.WorkflowDefinition) -> common_pb2.WorkflowDefinition:
    """What is stored with executions: without the pause, which is the workflow's and comes and goes."""
    if not message.paused:
        return message
    kept = common_pb2.WorkflowDefinition()
    kept.CopyFrom(message)
    kept.ClearField("paused")
    return kept


def load_definition(row: DefinitionRow) -> Definition:
    """Makes a definition again from its row in the store."""
    return workflow_from(common_pb2.WorkflowDefinition.FromString(row.body)).definition


def _task_spec(task: common_pb2.TaskDefinition) -> TaskSpec:
    retry = task.retry
    policy = RetryPolicy.from_wire(
        {
            "max_attempts": max(1, retry.max_attempts),
            "backoff": retry.backoff or None,
            "delay_ms": retry.delay_ms,
            "max_delay_ms": retry.max_delay_ms,
            "base": retry.base,
            "multiplier": retry.multiplier,
            "jitter": retry.jitter,
            "condition": retry.condition or None,
            "patterns": list(retry.patterns),
        }
    )
    return TaskSpec(
        id=task.id,
        dependencies=tuple(task.dependencies),
        retry=policy,
        timeout_s=task.timeout_ms / 1000 if task.timeout_ms else None,
        rule=rule_from_wire(orjson.loads(task.trigger_rule)) if task.trigger_rule else None,
        workflow=task.workflow or None,
        for_each=task.for_each or None,
    )


def wanted_schedules(workflow: common_pb2.WorkflowDefinition) -> list[Wanted]:
    """The schedules that a workflow's package declares."""
    return [_wanted(trigger, workflow) for trigger in workflow.triggers]


def _wanted(trigger: common_pb2.TriggerDefinition, of: common_pb2.WorkflowDefinition) -> Wanted:
    return Wanted(
        name=trigger.name,
        kind=ScheduleKind.CRON if trigger.cron else ScheduleKind.TRIGGER,
        workflows=tuple(trigger.workflow_names),
        cron=trigger.cron or None,
        timezone=trigger.timezone or None,
        poll_interval_ms=trigger.poll_interval_ms or None,
        allow_concurrent=trigger.allow_concurrent,
        source=of.workflow_name,
        package_id=of.package_id,
        package_digest=of.package_digest,
        catch_up=CatchUp(trigger.catch_up or CatchUp.SKIP),
        catch_up_cap=trigger.catch_up_cap or 100,
    )
