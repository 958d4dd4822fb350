"""Measures the embedded runner on a SQLite file (WAL, synchronous FULL): idle submit to done, chains, many at once.

``python bench/embedded.py [--folder FOLDER] [--runs N]``. Prints medians and 99th percentiles in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cloaca

_CHAIN = 10
_FLOOD = 1000

with cloaca.WorkflowBuilder("one") as _one:

    @cloaca.task(id="only")
    def _plain(context):
        context.set("done", True)
        return context


with cloaca.WorkflowBuilder("one_async") as _one_async:

    @cloaca.task(id="only")
    async def _awaited(context):
        context.set("done", True)
        return context


with cloaca.WorkflowBuilder("chain") as _chain:
    for _number in range(_CHAIN):

        @cloaca.task(id=f"step_{_number}", dependencies=[f"step_{_number - 1}"] if _number else [])
        def _step(context):
            return context


def _latency(runner: cloaca.DefaultRunner, workflow: str, runs: int) -> None:
    for _ in range(10):
        runner.execute(workflow, cloaca.Context())
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        runner.execute(workflow, cloaca.Context())
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    print(
        f"{workflow:10s} submit to done: p50 {statistics.median(taken):6.2f} ms, p99 {taken[int(runs * 0.99)]:6.2f} ms"
    )


def _throughput(runner: cloaca.DefaultRunner) -> None:
    began = time.perf_counter()
    ids = [runner.submit("one", cloaca.Context()) for _ in range(_FLOOD)]
    for execution_id in ids:
        runner.result(execution_id)
    taken = time.perf_counter() - began
    print(f"{_FLOOD} executions of one task, submitted one after another: {_FLOOD / taken:.0f} a second")


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the database is made (default: the system's temporary folder)")
    parser.add_argument("--runs", type=int, default=500, help="executions measured for each latency")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        cloaca.DefaultRunner(f"sqlite://{Path(folder) / 'bench.db'}") as runner,
    ):
        _latency(runner, "one", options.runs)
        _latency(runner, "one_async", options.runs)
        _latency(runner, "chain", max(1, options.runs // 5))
        _throughput(runner)


if __name__ == "__main__":
    main()
