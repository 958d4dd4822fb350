"""What deleting old executions costs: W1 while retention works through a long history, and while it is off.

Each round starts the system anew on the same store: first without retention, then with a rule that makes nearly all of
the history superfluous, so that the loop deletes from the first moment to the last.

    python bench/retention.py                          both databases, a history of 200,000
    python bench/retention.py --database postgres --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import history
from bench.system import Load, Measured
from tests.postgres import running_postgres

_OFF = {"CLOACINA_RETENTION_DAYS": "0", "CLOACINA_RETENTION_EXECUTIONS": "0"}
_ON = {"CLOACINA_RETENTION_EXECUTIONS": "100", "CLOACINA_RETENTION_PERIOD_S": "0.1"}
_DELETED = 'cloacina_retention_deleted_total{kind="executions"}'


def measure(database: str, options: argparse.Namespace) -> None:
    """The rounds on one database."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cloacina-bench-")))
        variables: dict[str, str] = {}
        if database == "postgres":
            variables["CLOACINA_DATABASE_URL"] = stack.enter_context(running_postgres()).new_database()
        home = folder / "home"
        with Measured(home, variables | _OFF) as system:
            system.upload_packages(folder)
            load = Load(system, options.connections)
            uvloop.run(load.throughput("bench_one", 1))
            template = uvloop.run(load.list_ids("limit=1&workflow=bench_one"))[0][0]
        url = variables.get("CLOACINA_DATABASE_URL") or f"sqlite://{home / 'scheduler.db'}"
        uvloop.run(history.seed(url, template, options.history, print))
        rates: dict[str, list[float]] = {"off": [], "on": []}
        deleted = 0.0
        for _ in range(options.rounds):
            for name, rules in (("off", _OFF), ("on", _ON)):
                with Measured(home, variables | rules) as system:
                    load = Load(system, options.connections)
                    uvloop.run(load.throughput("bench_one", 500))
                    before = system.metric("scheduler", _DELETED)
                    rates[name].append(uvloop.run(load.throughput("bench_one", options.executions)))
                    deleted += system.metric("scheduler", _DELETED) - before
    for name, found in rates.items():
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        print(f"{database:<9} retention {name:<4} W1 {statistics.median(found):>7,.0f} workflows/s ({spread})")
    ratio = statistics.median(rates["on"]) / statistics.median(rates["off"])
    print(f"{database:<9} with retention {ratio:.1%} of W1 without; {deleted:,.0f} executions deleted meanwhile\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="W1 with retention at work, and without.")
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--history", type=int, default=200_000, help="finished executions in the store")
    parser.add_argument("--executions", type=int, default=5_000, help="executions of a round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for database in ("sqlite", "postgres") if options.database == "both" else (options.database,):
        measure(database, options)


if __name__ == "__main__":
    main()
