"""Runs the fault battery: ``make chaos``, or ``python -m tests.chaos --help``."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import statistics
import sys

from tests.chaos.battery import RECOVERY_S, Options, Report, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults under load, and a verdict.")
    parser.add_argument("--executions", type=int, default=10_000, help="executions that clients submit")
    parser.add_argument("--faults", type=int, default=200, help="faults that strike")
    parser.add_argument("--seed", type=int, help="draws faults and load; without it one is drawn, and printed")
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="only the faults of this name")
    parser.add_argument("--keep", action="store_true", help="keep logs and stores, and say where they are")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 31)
    databases = ("sqlite", "postgres") if given.database == "both" else (given.database,)
    violated = False
    for database in databases:
        options = Options(given.executions, given.faults, seed, database, tuple(given.only), given.keep)
        print(f"{database}, seed {seed}: {given.faults} faults over {given.executions} executions", flush=True)
        report = asyncio.run(run(options, lambda text: print(text, flush=True)))
        show(report)
        violated = violated or bool(report.violations)
    return 1 if violated else 0


def show(report: Report) -> None:
    """Prints a report."""
    options = report.options
    print(f"\n{options.database}, seed {options.seed}: {report.faults.total()} faults in {report.took_s:.0f} s")
    for name, count in sorted(report.faults.items()):
        print(f"  {count:>4}  {name}")
    print(f"  {report.duplicated:>4}  results sent twice; {report.reordered} sent in an order of their own")
    for missing in report.missing:
        print(f"  SKIPPED  {missing}")
    for name, figure in report.verdict.figures.items():
        print(f"  {figure:>6}  {name}")
    refusals = ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(report.refusals.items()))
    print(f"  answers other than 202: {refusals or 'none'}")
    recoveries = sorted(report.recoveries) or [0.0]
    print(
        f"  recovered after {statistics.median(recoveries):.1f} s (median), {recoveries[-1]:.1f} s (longest), allowed "
        f"are {RECOVERY_S:g} s; all had ended {report.drained_s:.1f} s after the last fault; "
        f"the load average was up to {report.load:.1f} a core"
    )
    print(f"  violations: {len(report.violations)}")
    for violation in report.violations[:20]:
        print(f"    {violation}")
    if options.keep:
        print(f"  logs and stores: {report.folder}")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # in the background, too: what was started is ended
    sys.exit(main())
