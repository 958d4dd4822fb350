"""A gRPC proxy before a scheduler that an executor dials: it sends results twice, and in another order.

It is a process of its own: gRPC and the forks by which the battery starts and stops servers do not agree.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from cloacina.rpc.v1 import common_pb2, scheduler_pb2, scheduler_pb2_grpc

_TWICE = 0.2
_LONGEST_S = 0.3
_OPTIONS = (("grpc.enable_retries", 0), ("grpc.max_reconnect_backoff_ms", 500))


class Disorder:
    """The process.

    Args:
        port: where it listens.
        target: port of the scheduler.
        seed: of what it draws.
    """

    def __init__(self, port: int, target: int, seed: int) -> None:
        self.port = port
        self.duplicated = 0
        self.reordered = 0
        self._arguments = [str(port), str(target), str(seed)]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Listens."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.disorder", *self._arguments, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"listening\n"

    async def stop(self) -> None:
        """Ends every stream; `duplicated` and `reordered` are known then."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            said, _ = await process.communicate()
            self.duplicated, self.reordered = map(int, said.split())


class _Proxy(scheduler_pb2_grpc.DispatchServiceServicer):
    """Passes the streams of executors on."""

    def __init__(self, target: int, seed: int) -> None:
        self.duplicated = 0
        self.reordered = 0
        self._target = f"127.0.0.1:{target}"
        self._random = random.Random(seed)

    async def Work(self, requests: Any, context: Any) -> AsyncIterator[scheduler_pb2.SchedulerMessage]:
        async with grpc.aio.insecure_channel(self._target, options=_OPTIONS) as channel:
            stub = scheduler_pb2_grpc.DispatchServiceStub(channel)
            call = stub.Work(self._disordered(requests), metadata=_metadata(context))
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details())

    async def _disordered(self, requests: Any) -> AsyncIterator[scheduler_pb2.ExecutorMessage]:
        queue: asyncio.Queue[scheduler_pb2.ExecutorMessage | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(requests, queue))
        try:
            while (message := await queue.get()) is not None:
                yield message
        finally:
            reader.cancel()

    async def _read(self, requests: Any, queue: asyncio.Queue[scheduler_pb2.ExecutorMessage | None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for message in requests:
                results = list(message.results)
                del message.results[:]
                queue.put_nowait(message)
                for result in results:
                    single = scheduler_pb2.ExecutorMessage(results=[result])
                    self.reordered += 1
                    loop.call_later(self._random.uniform(0, _LONGEST_S), queue.put_nowait, single)
                    if self._random.random() < _TWICE:
                        self.duplicated += 1
                        loop.call_later(self._random.uniform(0, 2 * _LONGEST_S), queue.put_nowait, single)
        finally:
            loop.call_later(2 * _LONGEST_S, queue.put_nowait, None)


class _Status(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Passes on who the scheduler is: an executor that has several asks before it connects."""

    def __init__(self, target: int) -> None:
        self._target = f"127.0.0.1:{target}"

    async def GetStatus(self, request: Any, context: Any) -> common_pb2.ServiceStatus:
        async with grpc.aio.insecure_channel(self._target, options=_OPTIONS) as channel:
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            try:
                status: common_pb2.ServiceStatus = await stub.GetStatus(
                    request, metadata=_metadata(context), timeout=context.time_remaining()
                )
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details())
            return status


def _metadata(context: Any) -> tuple[tuple[str, str], ...]:
    kept = ("authorization", "x-request-id", "traceparent")
    return tuple((key, value) for key, value in context.invocation_metadata() or () if key in kept)


async def _serve(port: int, target: int, seed: int) -> None:
    proxy, server, told = _Proxy(target, seed), grpc.aio.server(), asyncio.Event()
    scheduler_pb2_grpc.add_DispatchServiceServicer_to_server(proxy, server)
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(_Status(target), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    print("listening", flush=True)
    await told.wait()
    await server.stop(0)
    print(proxy.duplicated, proxy.reordered, flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(*map(int, sys.argv[1:])))
