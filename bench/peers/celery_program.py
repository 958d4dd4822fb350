"""Celery on Redis: tasks and results in Redis, a prefork worker with a process a core. Runs in Celery's environment.

``celery_program.py redis://… ROUNDS SCALE`` prints its figures as JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import celery

app = celery.Celery("celery_program", broker=os.environ.get("BENCH_URL", ""), backend=os.environ.get("BENCH_URL", ""))


@app.task
def only(context):
    return {**context, "done": True}


@app.task
def step(context):
    return {**context, "step": 1}


def _wait(results):
    for result in results:
        result.get(timeout=60)


def _tasks(count):
    began = time.perf_counter()
    _wait([only.delay({}) for _ in range(count)])
    return count / (time.perf_counter() - began)


def _chains(count):
    began = time.perf_counter()
    _wait([celery.chain(step.s({}), *(step.s() for _ in range(9))).delay() for _ in range(count)])
    return 10 * count / (time.perf_counter() - began)


def _latency(samples):
    taken = []
    for _ in range(samples):
        began = time.perf_counter()
        only.delay({}).get(timeout=60, interval=0.001)
        taken.append((time.perf_counter() - began) * 1000)
        time.sleep(0.01)
    return statistics.median(taken)


def main() -> None:
    """Starts a worker and measures."""
    url, rounds, scale = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    here = Path(__file__).resolve()
    environment = {**os.environ, "BENCH_URL": url, "PYTHONPATH": str(here.parent)}
    app.conf.update(broker_url=url, result_backend=url)
    command = [sys.executable, "-m", "celery", "-A", here.stem, "worker", "--loglevel=warning"]
    command += [f"--concurrency={os.cpu_count()}", "--without-gossip", "--without-mingle"]
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        only.delay({}).get(timeout=60)
        _tasks(int(200 * scale) + 1)
        figures = {
            "one task": ("workflows/s", [_tasks(int(2500 * scale) + 1) for _ in range(rounds)]),
            "chain of 10": ("tasks/s", [_chains(int(200 * scale) + 1) for _ in range(rounds)]),
            "idle one task p50": ("ms", [_latency(int(100 * scale) + 2) for _ in range(rounds)]),
        }
    finally:
        worker.terminate()
        worker.wait(30)
    print(json.dumps({"version": celery.__version__, **figures}))


if __name__ == "__main__":
    app.main = here_name = Path(__file__).stem
    for name in ("only", "step"):  # this module is __main__ here, and has its own name in the worker
        task = globals()[name]
        task.name = f"{here_name}.{name}"
    main()
