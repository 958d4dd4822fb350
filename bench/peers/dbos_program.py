"""DBOS on PostgreSQL: durable workflows of steps, in one process with threads. Runs in DBOS's environment.

``dbos_program.py postgresql://… ROUNDS SCALE`` prints its figures as JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS


@DBOS.step()
def step(context):
    return {**context, "done": True}


@DBOS.workflow()
def one(context):
    return step(context)


@DBOS.workflow()
def chain(context):
    for _ in range(10):
        context = step(context)
    return context


def _throughput(workflow, count):
    began = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        handles = list(pool.map(lambda _: DBOS.start_workflow(workflow, {}), range(count)))
        list(pool.map(lambda handle: handle.get_result(), handles))
    return count / (time.perf_counter() - began)


def _latency(samples):
    taken = []
    for _ in range(samples):
        began = time.perf_counter()
        one({})
        taken.append((time.perf_counter() - began) * 1000)
        time.sleep(0.01)
    return statistics.median(taken)


def main() -> None:
    """Measures."""
    url, rounds, scale = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    DBOS(config={"name": "bench", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR"})
    DBOS.launch()
    logging.disable(logging.WARNING)
    _throughput(one, int(50 * scale) + 1)
    figures = {
        "one task": ("workflows/s", [_throughput(one, int(800 * scale) + 1) for _ in range(rounds)]),
        "chain of 10": ("tasks/s", [10 * _throughput(chain, int(150 * scale) + 1) for _ in range(rounds)]),
        "idle one task p50": ("ms", [_latency(int(100 * scale) + 2) for _ in range(rounds)]),
    }
    DBOS.destroy()
    print(json.dumps({"version": importlib.metadata.version("dbos"), **figures}))


if __name__ == "__main__":
    main()
