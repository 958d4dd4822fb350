"""What workflow authors write with: tasks, contexts, rules, retries, triggers, workflows. No IO.

The names, signatures, defaults and exceptions are those of PyPI's ``cloaca`` 0.12, so that a package written for it
runs here unchanged; what is ours alone says so.
"""

from cloacina.authoring.context import Context
from cloacina.authoring.namespace import TaskNamespace, WorkflowContext
from cloacina.authoring.retry import BackoffStrategy, RetryCondition, RetryPolicy, RetryPolicyBuilder
from cloacina.authoring.rules import (
    all_of,
    always,
    any_of,
    context_value,
    none_of,
    task_failed,
    task_skipped,
    task_success,
)
from cloacina.authoring.task import TaskHandle, subworkflow, task
from cloacina.authoring.triggers import TriggerResult, trigger
from cloacina.authoring.workflow import (
    Workflow,
    WorkflowBuilder,
    register_workflow_constructor,
    var,
    var_or,
    workflow_limits,
    workflow_params,
    workflow_secrets,
)

__all__ = [
    "BackoffStrategy",
    "Context",
    "RetryCondition",
    "RetryPolicy",
    "RetryPolicyBuilder",
    "TaskHandle",
    "TaskNamespace",
    "TriggerResult",
    "Workflow",
    "WorkflowBuilder",
    "WorkflowContext",
    "all_of",
    "always",
    "any_of",
    "context_value",
    "none_of",
    "register_workflow_constructor",
    "subworkflow",
    "task",
    "task_failed",
    "task_skipped",
    "task_success",
    "trigger",
    "var",
    "var_or",
    "workflow_limits",
    "workflow_params",
    "workflow_secrets",
]
