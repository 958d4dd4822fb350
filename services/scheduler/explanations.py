"""An explanation of the core as a message."""

from __future__ import annotations

from cloacina.domain.explanation import Explanation
from cloacina.rpc.v1 import scheduler_pb2


def explained(
    execution: scheduler_pb2.Execution, explanation: Explanation, at: int
) -> scheduler_pb2.ExecutionExplanation:
    """The message.

    Args:
        execution: what it is about.
        explanation: what is said of it.
        at: microseconds since the epoch.
    """
    return scheduler_pb2.ExecutionExplanation(
        execution=execution,
        answer=explanation.answer,
        since=explanation.since or 0,
        at=at,
        causes=[
            scheduler_pb2.ExecutionCause(
                kind=cause.kind,
                text=cause.text,
                task_name=cause.task,
                since=cause.since or 0,
                until=cause.until or 0,
                ids=dict(cause.ids),
            )
            for cause in explanation.causes
        ],
    )
