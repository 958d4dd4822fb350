"""Where the time of one execution goes: idle one-task executions, stamped at each stage in each process.

    python bench/latency_stages.py [--database sqlite|postgres] [--samples N]

Prints the median microseconds between one stage and the next, from the request until the end of the execution is
durable. The stamps cost a few microseconds each. What it patches is in bench/stages/sitecustomize.py.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.system import Load, Measured
from tests.postgres import running_postgres

_WAY = (
    "client: request sent",
    "api: request read",
    "api: call sent",
    "scheduler: call received",
    "scheduler: group begun",
    "scheduler: group decided",
    "scheduler: group durable",
    "scheduler: published",
    "scheduler: assignment sent",
    "executor: assignment received",
    "executor: task sent",
    "executor: outcome received",
    "executor: result sent",
    "scheduler: results received",
    "scheduler: group begun",
    "scheduler: group decided",
    "scheduler: group durable",
)
"""Of a one-task execution, in order."""
_ANSWER = ("scheduler: group durable", "api: call answered", "api: answer made", "client: answer received")
"""Beside it: the answer of the request."""


async def _run(load: Load, samples: int) -> list[tuple[int, str]]:
    """Executes one at a time; the client's stamps."""
    stamps = []
    request = load.execute_request("bench_one")
    async with load.connection() as connection:
        for _ in range(samples):
            stamps.append((time.monotonic_ns(), _WAY[0]))
            status, _body = await connection.send(request)
            stamps.append((time.monotonic_ns(), _ANSWER[-1]))
            if status != 202:
                raise SystemExit(f"an execution was refused: {status}")
            await asyncio.sleep(0.05)  # it has ended by then, and nothing else runs
    return stamps


def _follow(stamps: list[tuple[int, str]], way: tuple[str, ...], start: int) -> list[int] | None:
    """The time of each stage of a way, each the first after the one before, from the stamp of index `start` on."""
    found, index = [], start
    for stage in way:
        while index < len(stamps) and stamps[index][1] != stage:
            index += 1
        if index == len(stamps):
            return None
        found.append(stamps[index][0])
        index += 1
    return found


def _show(stamps: list[tuple[int, str]]) -> None:
    stamps.sort()
    steps: dict[tuple[int, str], list[float]] = defaultdict(list)
    totals = []
    for start, (_, stage) in enumerate(stamps):
        if stage != _WAY[0]:
            continue
        times = _follow(stamps, _WAY, start)
        answers = _follow(stamps, _ANSWER, start)
        if times is None or answers is None:
            continue
        totals.append((times[-1] - times[0]) / 1000)
        for place in range(1, len(_WAY)):
            steps[place, f"{_WAY[place - 1]} -> {_WAY[place].split(': ')[1]}"].append(
                (times[place] - times[place - 1]) / 1000
            )
        for place in range(1, len(_ANSWER)):
            name = f"   beside: {_ANSWER[place - 1]} -> {_ANSWER[place].split(': ')[1]}"
            steps[100 + place, name].append((answers[place] - answers[place - 1]) / 1000)
    print(f"{'from -> to':<72}{'median us':>10}{'p90 us':>10}")
    for (_, name), values in sorted(steps.items()):
        print(f"{name:<72}{statistics.median(values):>10.0f}{sorted(values)[int(len(values) * 0.9)]:>10.0f}")
    print(f"{'request sent -> end durable':<72}{statistics.median(totals):>10.0f}  ({len(totals)} executions)")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--samples", type=int, default=200)
    options = parser.parse_args()
    server_or_none = running_postgres() if options.database == "postgres" else nullcontext()
    with server_or_none as server, tempfile.TemporaryDirectory(prefix="cloacina-bench-") as folder:
        stamped = Path(folder) / "stages"
        stamped.mkdir()
        environment = {
            "PYTHONPATH": str(Path(__file__).with_name("stages")),
            "BENCH_STAGES_FOLDER": str(stamped),
        }
        if server is not None:
            environment["CLOACINA_DATABASE_URL"] = server.new_database()
        with Measured(Path(folder) / "home", environment) as system:
            system.upload_packages(Path(folder))
            load = Load(system, 4)
            uvloop.run(load.throughput("bench_one", 200))
            stamps = uvloop.run(_run(load, options.samples))
        for file in stamped.iterdir():
            for line in file.read_text().splitlines():
                at, _, stage = line.partition(" ")
                stamps.append((int(at), stage))
    _show(stamps)


if __name__ == "__main__":
    main()
