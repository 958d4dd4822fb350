"""Handing log lines to a scheduler, which keeps them with their executions."""

from __future__ import annotations

from collections.abc import Collection

from cloacina.rpc.balanced import BalancedClient
from cloacina.rpc.client import RpcClient
from cloacina.rpc.v1 import scheduler_pb2, scheduler_pb2_grpc
from cloacina.telemetry.execution_lines import HandOn, Lines


def to_scheduler(client: RpcClient | BalancedClient) -> HandOn:
    """Hands batches to whichever scheduler can be reached.

    Args:
        client: of the scheduler, or of all of them.
    """
    stub = scheduler_pb2_grpc.SchedulerServiceStub(client.channel)

    async def hand_on(name: str, batch: list[Lines]) -> Collection[str]:
        request = scheduler_pb2.KeepLogLinesRequest(
            batch=name,
            executions=[
                scheduler_pb2.ExecutionLines(
                    execution_id=each.execution_id, tenant_id=each.tenant_id, lines=each.lines.decode()
                )
                for each in batch
            ],
        )
        answer: scheduler_pb2.KeepLogLinesResponse = await client.call(stub.KeepLogLines, request)
        return answer.full

    return hand_on
