"""procrastinate on PostgreSQL: jobs in a table, an asynchronous worker. Runs in procrastinate's environment.

``procrastinate_program.py postgresql://… ROUNDS SCALE`` prints its figures as JSON.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import statistics
import subprocess
import sys
import time

import procrastinate

_CONCURRENCY = 10
_WORKERS = 2


def _app(url):
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

    @app.task(name="only")
    async def only(**context):
        return None

    return app, only


async def _done(app, count, deadline_s=120):
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        found = await app.connector.execute_query_one_async(
            "SELECT count(*) AS n FROM procrastinate_jobs WHERE status = 'succeeded'"
        )
        if found["n"] >= count:
            return
        await asyncio.sleep(0.02)
    raise SystemExit("the jobs did not end in time")


async def _throughput(app, only, before, count):
    began = time.perf_counter()
    left = iter(range(count))

    async def defer():
        for number in left:
            await only.defer_async(number=number)

    await asyncio.gather(*(defer() for _ in range(8)))
    await _done(app, before + count)
    return count / (time.perf_counter() - began)


async def _latency(app, only, before, samples):
    taken = []
    for number in range(samples):
        began = time.perf_counter()
        await only.defer_async(number=number)
        while True:
            found = await app.connector.execute_query_one_async(
                "SELECT count(*) AS n FROM procrastinate_jobs WHERE status = 'succeeded'"
            )
            if found["n"] > before + number:
                break
            await asyncio.sleep(0.001)
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


async def _measure(url, rounds, scale):
    app, only = _app(url)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        workers = [subprocess.Popen([sys.executable, __file__, "worker", url]) for _ in range(_WORKERS)]
        try:
            done, one, idle = 0, [], []
            count, samples = int(1500 * scale) + 1, int(50 * scale) + 2
            await only.defer_async(number=0)
            await _done(app, 1)
            done += 1
            for _ in range(rounds):
                one.append(await _throughput(app, only, done, count))
                done += count
            for _ in range(rounds):
                idle.append(await _latency(app, only, done, samples))
                done += samples
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait(30)
    return {"one job": ("workflows/s", one), "idle one job p50": ("ms", idle)}


async def _work(url):
    app, _ = _app(url)
    async with app.open_async():
        await app.run_worker_async(concurrency=_CONCURRENCY)


def main() -> None:
    """Measures, or works."""
    logging.disable(logging.WARNING)
    if sys.argv[1] == "worker":
        asyncio.run(_work(sys.argv[2]))
        return
    figures = asyncio.run(_measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
    print(json.dumps({"version": importlib.metadata.version("procrastinate"), **figures}))


if __name__ == "__main__":
    main()
