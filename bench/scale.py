"""How throughput grows with executors: 1 to N of them on one scheduler, and tasks on a Dask cluster.

Two kinds of tasks: no-ops, where the cores of the machine are the limit, and tasks that wait for 0.2 s (for a database,
an API), where slots are.

    python bench/scale.py --executors 3 --rounds 3
    python bench/scale.py --dask 2          a Dask cluster of two workers beside one executor on this machine
    python bench/scale.py --schedulers 2    1 to 2 schedulers on one PostgreSQL
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.system import Load, Measured
from bench.workloads import ONE
from tests.ports import free_ports
from tests.postgres import running_postgres
from tests.system.running import wait_until, write_package

_WAIT = """
import time

import cloaca

@cloaca.task(id="only")
def only(context):
    time.sleep(0.2)
    return context
"""
_SLOTS = 16
_NO_OPS = 2000
_WAITS_A_SLOT = 12


@contextmanager
def further_executors(system: Measured, count: int) -> Iterator[None]:
    """Executors beside the one of the system."""
    with ExitStack() as stack:
        for _ in range(count):
            rpc_port, metrics_port = free_ports(2)
            process = subprocess.Popen(
                [sys.executable, "-m", "services.executor", "--home", str(system.home)],
                env={
                    **system.environment,
                    "CLOACINA_EXECUTOR_RPC_PORT": str(rpc_port),
                    "CLOACINA_EXECUTOR_METRICS_PORT": str(metrics_port),
                    "CLOACINA_SCHEDULER_TARGET": f"127.0.0.1:{system.ports['CLOACINA_SCHEDULER_RPC_PORT']}",
                    "CLOACINA_RECONCILER_TARGET": f"127.0.0.1:{system.ports['CLOACINA_RECONCILER_RPC_PORT']}",
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
        wait_until(lambda: _joined(system) == count + 1, "executors that have joined")
        yield


def _joined(system: Measured) -> int:
    return sum("executor joined" in line for line in system.console.read_text(errors="replace").splitlines())


@contextmanager
def dask_cluster(workers: int, threads: int, folder: Path) -> Iterator[str]:
    """A Dask cluster on this machine; gives its scheduler's address."""
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    quiet = ("--host", "127.0.0.1", "--no-dashboard")
    commands = [["dask_scheduler", "--port", str(port), *quiet]]
    for number in range(workers):
        own = ("--nthreads", str(threads), "--no-nanny", "--local-directory", str(folder / f"worker-{number}"))
        commands.append(["dask_worker", address, *own, *quiet])
    with ExitStack() as stack:
        for module, *arguments in commands:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
                env=os.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
        yield address


def measure(system: Measured, name: str, slots: int, rounds: int) -> None:
    """Prints the medians of both kinds of tasks."""
    load = Load(system, 64)
    for workflow, executions in (("bench_one", _NO_OPS), ("bench_wait", slots * _WAITS_A_SLOT)):
        uvloop.run(load.throughput(workflow, slots * 2))  # every worker is warm
        rates = [uvloop.run(load.throughput(workflow, executions)) for _ in range(rounds)]
        shown = f"{statistics.median(rates):7.0f}/s   ({min(rates):.0f} to {max(rates):.0f})"
        print(f"  {name:32} {workflow:12} {shown}", flush=True)


def _measure_schedulers(most: int, rounds: int) -> None:
    with running_postgres() as server:
        for count in range(1, most + 1):
            with tempfile.TemporaryDirectory(prefix="cloacina-scale-") as folder:
                variables = {"CLOACINA_SLOTS": str(_SLOTS), "CLOACINA_DATABASE_URL": server.new_database()}
                with Measured(Path(folder) / "home", variables, schedulers=count) as system:
                    _upload(system, Path(folder))
                    measure(system, f"{count} schedulers, {_SLOTS} slots", _SLOTS, rounds)


def _upload(system: Measured, folder: Path) -> None:
    for name, code in (("bench-one", ONE), ("bench-wait", _WAIT)):
        system.upload(write_package(folder, name, code))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", type=int, default=0, help="measure with 1 to this many executors")
    parser.add_argument("--dask", type=int, default=0, help="measure on a Dask cluster of this many workers")
    parser.add_argument("--schedulers", type=int, default=0, help="measure with 1 to this many schedulers")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each figure; the median is shown")
    given = parser.parse_args()
    if given.schedulers:
        _measure_schedulers(given.schedulers, given.rounds)
    if not (given.dask or given.executors):
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cloacina-scale-")))
        variables = {"CLOACINA_SLOTS": str(_SLOTS)}
        if given.dask:
            address = stack.enter_context(dask_cluster(given.dask, _SLOTS // given.dask, folder))
            variables |= {"CLOACINA_EXECUTOR_BACKEND": "dask", "CLOACINA_DASK_SCHEDULER": address}
        system = stack.enter_context(Measured(folder / "home", variables))
        wait_until(lambda: system.status() == "ok", "a system that is well")
        _upload(system, folder)
        if given.dask:
            measure(system, f"Dask, {given.dask} workers, {_SLOTS} slots", _SLOTS, given.rounds)
        for count in range(1, given.executors + 1):
            with further_executors(system, count - 1):
                measure(system, f"{count} executors, {count * _SLOTS} slots", count * _SLOTS, given.rounds)


if __name__ == "__main__":
    main()
