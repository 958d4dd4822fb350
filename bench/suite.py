"""The benchmark: speed of the whole system through its HTTP API, with what it is compared to beside it.

Everything an answer promises is durable before its 202, keys are asked for, metrics are on, tracing is off (but in the
part that is about tracing). The load generator shares the machine. Each figure is the median of some rounds, with the
least and the greatest.

    python bench/suite.py                                       all of it, on both databases (`make bench`)
    python bench/suite.py --only W1,W4 --database postgres      a part
    python bench/suite.py --only W1,celery --rounds 3           beside a peer

Parts: W1 one-task workflows, W2 chains of 10, W3 fans 1-50-1, W4 idle latency, W5 one fan of 1,000, W6 CPU of an idle
system, W7 memory, W8 W1 and W4 and reads over a million finished executions, tracing, celery, dbos, procrastinate.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import figures as of
from bench import history
from bench.figures import Figure, percentile
from bench.peers import PEERS, measure
from bench.system import SERVICES, Load, Measured, collector
from bench.workloads import CHAIN_TASKS, TASKS
from cloacina.runtime.cpu_latency import DEVICE, HOLD_S
from tests.postgres import PostgresServer, running_postgres

PARTS = ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "tracing", *PEERS)
DATABASES = ("sqlite", "postgres")
_Found = TypeVar("_Found")
BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"

_AFTER_PAUSE = 5
"""Executions after a pause, which has left everything cold, before latency is measured."""


@dataclass(frozen=True)
class Sizes:
    """How much of each is done in a round.

    Args:
        rounds: rounds of a figure.
        one, chains, fans: executions of a round's throughput.
        samples: executions of a round's latency.
        pause_s: seconds without an execution before a round's latency.
        idle_s: seconds of a round of doing nothing.
        many: executions after which memory is measured last; first at half of them.
        history: finished executions of W8.
        reads: reads of a round of W8.
        connections: connections of the load.
        peers: share of the peers' jobs.
    """

    rounds: int = 5
    one: int = 6000
    chains: int = 2000
    fans: int = 400
    samples: int = 100
    pause_s: float = 2 * HOLD_S
    idle_s: float = 5.0
    many: int = 100_000
    history: int = 1_000_000
    reads: int = 300
    connections: int = 64
    peers: float = 1.0


TINY = Sizes(
    rounds=1,
    one=60,
    chains=6,
    fans=2,
    samples=3,
    pause_s=0,
    idle_s=0.2,
    many=80,
    history=500,
    reads=10,
    connections=4,
    peers=0.01,
)
"""As little as shows that it works."""


class Bench:
    """Our system on one database, and what is measured of it.

    Args:
        database: "sqlite" or "postgres".
        sizes: how much.
        server: the PostgreSQL server; ``None`` on SQLite.
    """

    def __init__(self, database: str, sizes: Sizes, server: PostgresServer | None) -> None:
        self._database = database
        self._sizes = sizes
        self._server = server
        self._subject = f"cloacina on {database}"
        self._rate: float | None = None
        """Of W1, once it was measured."""

    @contextlib.contextmanager
    def _system(self, environment: dict[str, str] | None = None) -> Iterator[tuple[Measured, Load]]:
        """A new system with the packages of the benchmark, warm; its folder is thrown away."""
        with tempfile.TemporaryDirectory(prefix="cloacina-bench-") as folder:
            variables = dict(environment or {})
            if self._server is not None:
                variables["CLOACINA_DATABASE_URL"] = self._server.new_database()
            with Measured(Path(folder) / "home", variables) as system:
                system.upload_packages(Path(folder))
                yield system, self._warm(system)

    def _warm(self, system: Measured) -> Load:
        load = Load(system, self._sizes.connections)
        for workflow in TASKS:
            uvloop.run(load.throughput(workflow, 1))
        uvloop.run(load.throughput("bench_one", min(500, self._sizes.one)))
        return load

    def _figure(self, part: str, name: str, unit: str, rounds: Sequence[float]) -> Figure:
        return Figure(part, self._subject, name, unit, tuple(rounds))

    def _rounds(self, once: Callable[[], float]) -> list[float]:
        return [once() for _ in range(self._sizes.rounds)]

    # Parts that share a system

    def shared(self, parts: Sequence[str]) -> list[Figure]:
        """W1 to W6, those that are asked for, on one system. What is about an idle one comes first: what a load leaves
        behind, such as a checkpoint of PostgreSQL, goes on for minutes."""
        measures = {
            "W4": self.latency,
            "W6": self.idle,
            "W5": self.wide_fan,
            "W1": self.one_task,
            "W2": self.chains,
            "W3": self.fans,
        }
        wanted = [measures[part] for part in measures if part in parts]
        found: list[Figure] = []
        if wanted:
            with self._system() as (system, load):
                for each in wanted:
                    found += each(system, load)
        return sorted(found, key=lambda figure: figure.part)

    def one_task(self, system: Measured, load: Load, part: str = "W1") -> list[Figure]:
        """Workflows of one task, as many as go."""
        rates = self._rounds(lambda: uvloop.run(load.throughput("bench_one", self._sizes.one)))
        figure = self._figure(part, "one-task workflows", "workflows/s", rates)
        if part == "W1":
            self._rate = figure.median
            figure = of.at_least(figure, 1200 if self._database == "sqlite" else 1000)
        return [figure]

    def chains(self, system: Measured, load: Load) -> list[Figure]:
        """Chains of ten tasks, as many as go."""
        rates = self._rounds(lambda: CHAIN_TASKS * uvloop.run(load.throughput("bench_chain", self._sizes.chains)))
        return [of.at_least(self._figure("W2", "chains of 10 tasks", "tasks/s", rates), 5000)]

    def fans(self, system: Measured, load: Load) -> list[Figure]:
        """Fans of 1, 50 and 1 tasks, as many as go."""
        tasks = TASKS["bench_fan"]
        rates = self._rounds(lambda: tasks * uvloop.run(load.throughput("bench_fan", self._sizes.fans)))
        return [of.at_least(self._figure("W3", "fans of 1-50-1 tasks", "tasks/s", rates), 5000)]

    def latency(self, system: Measured, load: Load) -> list[Figure]:
        """From submit to done, one execution at a time: as the services are without a setting, and in turns with a
        system that keeps the machine's cores awake, where this process may."""
        with contextlib.ExitStack() as stack:
            loads = {"": load}
            if os.access(DEVICE, os.W_OK):
                _, loads[", cores awake"] = stack.enter_context(self._system({"CLOACINA_CPU_LATENCY_US": "0"}))
            else:
                print(f"  {DEVICE} cannot be written: W4 is measured without CLOACINA_CPU_LATENCY_US", flush=True)
            rounds = self._in_turns(list(loads.values()), self._latency_once)
        return [
            of.at_most(self._figure("W4", f"idle {what}{kind}", "ms", [each[at] for each in found]), limit)
            for kind, found in zip(loads, rounds, strict=True)
            for at, (what, limit) in enumerate(
                (
                    ("one task, submit to done p50", 4),
                    ("one task, submit to done p99", 10),
                    ("chain of 10, submit to done p50", 13),
                )
            )
        ]

    def _latency_once(self, load: Load) -> tuple[float, float, float]:
        time.sleep(self._sizes.pause_s)  # until the cores may sleep again
        uvloop.run(load.latencies_ms("bench_one", _AFTER_PAUSE))
        one = uvloop.run(load.latencies_ms("bench_one", self._sizes.samples))
        chain = uvloop.run(load.latencies_ms("bench_chain", self._sizes.samples))
        return percentile(one, 0.5), percentile(one, 0.99), percentile(chain, 0.5)

    def wide_fan(self, system: Measured, load: Load) -> list[Figure]:
        """One fan of a thousand tasks on an idle system."""
        taken = self._rounds(lambda: uvloop.run(load.latencies_ms("bench_wide", 1))[0] / 1000)
        return [of.at_most(self._figure("W5", "one fan of 1-1000-1 tasks, submit to done", "s", taken), 0.4)]

    def idle(self, system: Measured, load: Load) -> list[Figure]:
        """CPU of all processes while nothing happens."""
        time.sleep(self._sizes.idle_s)  # what the load before left to do is done

        def once() -> float:
            before = system.cpu_s()
            time.sleep(self._sizes.idle_s)
            return (system.cpu_s() - before) / self._sizes.idle_s * 100

        return [of.at_most(self._figure("W6", "CPU of all processes, idle", "% of a core", self._rounds(once)), 1)]

    # Parts with a system of their own

    def memory(self) -> list[Figure]:
        """Memory of the services after many executions."""
        with self._system() as (system, load):
            half = self._sizes.many // 2
            uvloop.run(self._run_many(load, half))
            middle = system.memory_mib()
            uvloop.run(self._run_many(load, self._sizes.many - half))
            last = system.memory_mib()
            each = ", ".join(f"{name} {system.process(name).memory_info().rss / 2**20:.0f}" for name in SERVICES)
            print(f"  MiB: {each}", flush=True)
        growth = (last - middle) / middle * 100
        return [
            of.at_most(self._figure("W7", f"RSS of services after {self._sizes.many:,}", "MiB", [last]), 400),
            of.at_most(self._figure("W7", f"RSS grown since {half:,}", "%", [growth]), 2),
        ]

    async def _run_many(self, load: Load, executions: int) -> None:
        while executions > 0:
            await load.throughput("bench_one", min(executions, 10_000))
            executions -= 10_000

    def long_history(self) -> list[Figure]:
        """W1 and W4 with a long history, in turns with a system that has none; and reads."""
        with tempfile.TemporaryDirectory(prefix="cloacina-bench-") as folder, self._system() as (_, short):
            home = Path(folder) / "home"
            variables = {}
            if self._server is not None:
                variables["CLOACINA_DATABASE_URL"] = self._server.new_database()
            with Measured(home, variables) as system:
                system.upload_packages(Path(folder))
                template = uvloop.run(self._warm(system).list_ids("limit=1&workflow=bench_one"))[0][0]
            url = variables.get("CLOACINA_DATABASE_URL") or f"sqlite://{home / 'scheduler.db'}"
            say: Callable[[str], None] = lambda text: print(f"  {text}", flush=True)  # noqa: E731
            uvloop.run(history.seed(url, template, self._sizes.history, say))
            if self._server is not None:  # as autovacuum would have done long ago
                self._server.query("VACUUM ANALYZE", url)
                self._server.query("CHECKPOINT", url)
            os.sync()  # nor is what was just written still on its way to the disk
            with Measured(home, variables) as system:
                long = self._warm(system)
                both = (short, long)
                rates = self._in_turns(both, lambda load: uvloop.run(load.throughput("bench_one", self._sizes.one)))
                taken = self._in_turns(
                    both, lambda load: percentile(uvloop.run(load.latencies_ms("bench_one", self._sizes.samples)), 0.5)
                )
                reads = self._reads(long)
        before, after = [
            [
                self._figure("W8", "one-task workflows", "workflows/s", rate),
                self._figure("W8", "idle one task, submit to done p50", "ms", latency),
            ]
            for rate, latency in zip(rates, taken, strict=True)
        ]
        return self._compared(before, after) + reads

    def _in_turns(self, loads: Sequence[Load], once: Callable[[Load], _Found]) -> list[list[_Found]]:
        """What is found of each of several systems, one after the other in each round: the machine's moods, which last
        for minutes, fall on all of them."""
        rounds: list[list[_Found]] = [[] for _ in loads]
        for _ in range(self._sizes.rounds):
            for load, found in zip(loads, rounds, strict=True):
                found.append(once(load))
        return rounds

    def _compared(self, before: list[Figure], after: list[Figure]) -> list[Figure]:
        count = f"{self._sizes.history:,} finished"
        found = []
        for old, new in zip(before, after, strict=True):
            worse = (old.median / new.median if new.unit == "workflows/s" else new.median / old.median) * 100 - 100
            found.append(replace(old, name=f"{old.name}, empty"))
            found.append(replace(new, name=f"{new.name}, {count}"))
            found.append(of.at_most(self._figure("W8", "  worse by", "%", [worse]), 10))
        return found

    def _reads(self, load: Load) -> list[Figure]:
        root = "/v1/tenants/public/executions"
        number = self._sizes.reads
        ids, cursor = uvloop.run(load.list_ids(f"limit={min(number, 100)}&offset={self._sizes.history // 2}"))
        kinds = {
            "get, p99": [f"{root}/{ids[index % len(ids)]}" for index in range(number)],
            "list newest 50, p99": [f"{root}?limit=50"] * number,
            "list by status and workflow, p99": [f"{root}?limit=50&status=Completed&workflow=bench_one"] * number,
            "list at a cursor half-way, p99": [f"{root}?limit=50&cursor={cursor}"] * number,
            "list what failed (none), p99": [f"{root}?limit=50&status=Failed"] * number,
        }
        found = []
        for name, paths in kinds.items():
            taken = self._rounds(lambda paths=paths: percentile(uvloop.run(load.reads_ms(paths)), 0.99))  # type: ignore[misc]
            found.append(of.at_most(self._figure("W8", name, "ms", taken), 20))
        return found

    def traced(self) -> list[Figure]:
        """W1 with every execution traced."""
        rate = self._rate
        if rate is None:
            with self._system() as (system, load):
                rate = self.one_task(system, load)[0].median
        with collector() as endpoint, self._system({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}) as (system, load):
            (figure,) = self.one_task(system, load, "tracing")
        share = self._figure("tracing", "share of W1", "%", [figure.median / rate * 100])
        return [figure, of.at_least(share, 60)]


def run(parts: Sequence[str], databases: Sequence[str], sizes: Sizes, build: Path) -> Iterator[list[Figure]]:
    """Measures the parts, ours first; gives the figures of each as they are there."""
    ours = [part for part in parts if part not in PEERS]
    for database in databases if ours else ():
        print(f"cloacina on {database}: {', '.join(ours)}", flush=True)
        if database == "postgres":
            with running_postgres() as server:
                yield from _ours(ours, Bench(database, sizes, server))
        else:
            yield from _ours(ours, Bench(database, sizes, None))
    for name in parts:
        if name in PEERS:
            print(name, flush=True)
            yield measure(PEERS[name], build, sizes.rounds, sizes.peers)


def _ours(parts: Sequence[str], bench: Bench) -> Iterator[list[Figure]]:
    yield bench.shared(parts)
    alone = {"tracing": bench.traced, "W7": bench.memory, "W8": bench.long_history}
    for part, measured in alone.items():
        if part in parts:
            yield measured()


def _against_celery(found: Sequence[Figure]) -> list[Figure]:
    celery = next((each for each in found if each.part == "celery" and each.unit == "workflows/s"), None)
    if celery is None:
        return []
    return [
        of.at_least(Figure("W1", each.subject, "times Celery", "times", (each.median / celery.median,)), 2)
        for each in found
        if each.part == "W1"
    ]


def main() -> None:
    """Reads the options, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, divided by commas; all by default")
    parser.add_argument("--database", default=",".join(DATABASES), help="sqlite, postgres, or both (default)")
    parser.add_argument("--rounds", type=int, help="rounds of each figure (5)")
    parser.add_argument("--history", type=int, help="finished executions of W8 (1,000,000)")
    parser.add_argument("--tiny", action="store_true", help="as little as shows that it works")
    parser.add_argument("--build", type=Path, default=BUILD, help="where peers are installed")
    parser.add_argument("--json", type=Path, help="where the figures are written (<build>/figures.json)")
    options = parser.parse_args()
    parts, databases = options.only.split(","), options.database.split(",")
    for given, known, what in ((parts, PARTS, "part"), (databases, DATABASES, "database")):
        if unknown := [each for each in given if each not in known]:
            parser.error(f"unknown {what} {', '.join(unknown)}; there are {', '.join(known)}")
    sizes = TINY if options.tiny else Sizes()
    changes = {"rounds": options.rounds, "history": options.history}
    sizes = replace(sizes, **{name: value for name, value in changes.items() if value is not None})
    about = of.machine()
    found: list[Figure] = []
    try:
        for figures in run([part for part in PARTS if part in parts], databases, sizes, options.build):
            found += figures
    finally:  # what was measured before something failed is not lost
        found += _against_celery(found)
        of.show(found)
        of.write(options.json or options.build / "figures.json", found, about)


if __name__ == "__main__":
    main()
