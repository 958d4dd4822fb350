"""The battery in short: a few faults under load on each database. ``make chaos`` runs the long one."""

from __future__ import annotations

import asyncio
import random
import warnings

import pytest

from tests.chaos.battery import Options, Report, run

_FAULTS = {
    "sqlite": ("kill -9 scheduler", "disk full", "clock jump", "swallow packets of the scheduler"),
    "postgres": (
        "SIGSTOP scheduler",
        "kill -9 scheduler-2",
        "PostgreSQL restarted",
        "drop connections of the postgres",
    ),
}
_RECOVERY_S = 60.0
"""Far above what the long run allows: other tests run beside this one."""


@pytest.mark.timeout(400)  # what does not end is given up, and explained, before that
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.xdist_group("chaos")
def test_whatever_breaks_nothing_is_lost_doubled_or_out_of_order(database: str) -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    lines: list[str] = []
    options = Options(executions=60, faults=2, seed=seed, database=database, names=_FAULTS[database])
    report = asyncio.run(run(options, lines.append))
    for missing in report.missing:
        warnings.warn(f"a fault was skipped: {missing}", stacklevel=1)
    said = "\n".join([f"seed {seed}", *lines, *report.verdict.violations])
    assert [*report.stuck, *report.verdict.violations] == [], said
    assert report.verdict.figures["accepted (202)"] >= 60, said
    assert _slowest(report) < _RECOVERY_S, said


def _slowest(report: Report) -> float:
    return max(*report.recoveries, report.drained_s)
