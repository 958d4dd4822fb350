"""What the engine and those who run its tasks tell each other, as messages."""

from __future__ import annotations

import orjson

from cloacina.catalog.bindings import references
from cloacina.domain.execution import FailureReason
from cloacina.domain.inputs import LARGEST_CONTEXT_BYTES
from cloacina.engine.model import Assignment, Failure, PollAnswer, PollOrder, Result, Success
from cloacina.rpc.v1 import common_pb2, scheduler_pb2

_LATEST = 1 << 62
"""Times are stored in 63 bits; what is not one is no time."""


def too_large(assignment: Assignment) -> Result:
    """What becomes of a task whose context no message can carry."""
    error = (
        f"the context of task {assignment.task!r} has {len(assignment.context)} bytes, merged from what it depends on; "
        f"no task can be given more than {LARGEST_CONTEXT_BYTES}"
    )
    failure = Failure(FailureReason.CONTEXT_LOAD_FAILED, error, transient=False, retry=False)
    return Result(assignment.claim_id, assignment.live.execution_id, assignment.task, None, failure)


def assignment_message(assignment: Assignment) -> scheduler_pb2.Assignment:
    """A task to run."""
    live = assignment.live
    timeout_s = live.definition.spec.task_of(assignment.task).timeout_s
    return scheduler_pb2.Assignment(
        claim_id=assignment.claim_id,
        execution_id=live.execution_id,
        tenant_id=live.tenant_id,
        workflow_name=live.workflow_name,
        task_name=assignment.task,
        attempt=assignment.attempt,
        timeout_ms=round(timeout_s * 1000) if timeout_s is not None else 0,
        context=assignment.context,
        package_id=live.definition.package_id,
        package_digest=live.definition.package_digest,
        origin=common_pb2.Origin(request_id=live.origin.request_id, traceparent=live.origin.traceparent),
        secrets=references(live.definition.secrets, live.state.input) if live.definition.secrets else (),
    )


def poll_message(order: PollOrder) -> scheduler_pb2.Poll:
    """A trigger to poll."""
    return scheduler_pb2.Poll(
        poll_id=order.poll_id,
        tenant_id=order.tenant_id,
        trigger_name=order.trigger,
        workflow_name=order.workflow_name,
        package_id=order.package_id,
        package_digest=order.package_digest,
        timeout_ms=round(order.timeout_s * 1000),
        origin=common_pb2.Origin(request_id=order.origin.request_id, traceparent=order.origin.traceparent),
    )


def result_from(message: scheduler_pb2.TaskResult) -> Result:
    """How an attempt ended; what cannot be read of it is a failure."""
    outcome: Success | Failure
    if message.HasField("success"):
        outcome = _success(message.success)
    else:
        failure = message.failure
        outcome = Failure(
            _reason(failure.reason),
            failure.error,
            failure.details,
            failure.transient,
            failure.retry if failure.HasField("retry") else None,
        )
    started_at = message.started_at if 0 < message.started_at < _LATEST else None
    run_us = message.run_us if message.HasField("run_us") else None
    return Result(message.claim_id, message.execution_id, message.task_name, started_at, outcome, run_us)


def _success(message: scheduler_pb2.TaskSuccess) -> Success | Failure:
    """What becomes state is looked at first: contexts are merged without a second look."""
    if message.unchanged:
        return Success(None)
    try:
        if isinstance(orjson.loads(message.context), dict):
            return Success(message.context)
    except orjson.JSONDecodeError:
        pass
    return Failure(FailureReason.VALIDATION_FAILED, "the executor sent a context that is no JSON object")


def poll_answer_from(message: scheduler_pb2.PollResult) -> PollAnswer:
    """What a trigger's function said."""
    if not message.HasField("answer"):
        failure = message.failure
        return PollAnswer(error=failure.error or "the executor said nothing", details=failure.details)
    answer = message.answer
    if not answer.fires or not answer.context:
        return PollAnswer(answer.fires)
    try:
        if isinstance(orjson.loads(answer.context), dict):
            return PollAnswer(True, answer.context)
    except orjson.JSONDecodeError:
        pass
    return PollAnswer(error="the executor sent a context that is no JSON object")


def _reason(text: str) -> FailureReason:
    try:
        return FailureReason(text)
    except ValueError:
        return FailureReason.UNKNOWN
