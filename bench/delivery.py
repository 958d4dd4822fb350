"""How soon an event that was committed is at a client that follows its execution over a WebSocket.

Executions of ten tasks are followed one after the other; then many that begin at once, whose tasks wait for 0.1 to
0.3 s as if they worked; then many at once whose tasks do nothing, so that the processors are the limit. Of each push:
the time from when its group began to be committed (``created_at`` of the event) to when the client had it. The commit
is in the figure. Left out is ``task_started``, whose time is the worker's, and which is reported after 0.1 s.

Usage: python bench/delivery.py [--database sqlite|postgres] [--schedulers N] [--executions N] [--followers N]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp
import orjson
import uvloop

from bench.figures import percentile
from bench.system import Measured
from bench.workloads import CHAIN_TASKS
from cloacina.cli.client import read_bootstrap_key
from tests.postgres import running_postgres
from tests.system.running import write_package

_CHAIN = "bench_chain"
_PACED = "bench_paced"
_PACED_CODE = f"""
import asyncio
import random

import cloaca

def step(number):
    @cloaca.task(id=f"step_{{number}}", dependencies=[f"step_{{number - 1}}"] if number else [])
    async def run(context):
        await asyncio.sleep(random.uniform(0.1, 0.3))
        return None

for number in range({CHAIN_TASKS}):
    step(number)
"""


async def _follow(session: aiohttp.ClientSession, execution_id: str) -> list[float]:
    """Milliseconds that each event took, from one execution."""
    late = []
    async with session.ws_connect(f"/v1/ws/delivery/exec_events:{execution_id}") as ws:
        began = time.time()
        await ws.send_json({"type": "hello", "protocol_version": 1, "since_id": None})
        async for message in ws:
            now = time.time()
            frame = orjson.loads(message.data)
            if frame["type"] != "push":
                continue
            await ws.send_json({"type": "ack", "protocol_version": 1, "id": frame["id"]})
            event = orjson.loads(base64.b64decode(frame["payload_b64"]))
            at = datetime.fromisoformat(event["created_at"]).timestamp()
            if (
                at > began and event["event_type"] != "task_started"
            ):  # what was there before it was followed is no live event
                late.append((now - at) * 1000)
    return late


async def _one(session: aiohttp.ClientSession, workflow: str) -> list[float]:
    async with session.post(f"/v1/tenants/public/workflows/{workflow}/execute", json={}) as answer:
        execution_id = (await answer.json())["execution_id"]
    return await _follow(session, execution_id)


async def _many(session: aiohttp.ClientSession, workflow: str, followers: int) -> list[float]:
    together = await asyncio.gather(*(_one(session, workflow) for _ in range(followers)))
    return [late for each in together for late in each]


async def _measure(url: str, key: str, options: argparse.Namespace) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    connector: Any = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as session:
        await _many(session, _CHAIN, 2)
        await _many(session, _PACED, 2)
        alone = [late for _ in range(options.executions) for late in await _one(session, _CHAIN)]
        _show("one follower", alone)
        at_once = f"{options.followers} followers at once"
        _show(f"{at_once}, paced", await _many(session, _PACED, options.followers))
        _show(f"{at_once}, as fast as it goes", await _many(session, _CHAIN, options.followers))


def _show(what: str, late: list[float]) -> None:
    p50, p99 = statistics.median(late), percentile(late, 0.99)
    print(f"{what:<44} {len(late):>6} live events   p50 {p50:.1f} ms   p99 {p99:.1f} ms   longest {max(late):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description="How soon committed events are at those who follow.")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--schedulers", type=int, default=1, help="on one PostgreSQL")
    parser.add_argument("--executions", type=int, default=50, help="followed one after the other")
    parser.add_argument("--followers", type=int, default=50, help="executions followed at once")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cloacina-bench-")))
        variables = {}
        if options.database == "postgres":
            variables["CLOACINA_DATABASE_URL"] = stack.enter_context(running_postgres()).new_database()
        system = stack.enter_context(Measured(folder / "home", variables, schedulers=options.schedulers))
        system.upload_packages(folder)
        system.upload(write_package(folder, _PACED.replace("_", "-"), _PACED_CODE))
        uvloop.run(_measure(system.url, read_bootstrap_key(system.home), options))


if __name__ == "__main__":
    main()
