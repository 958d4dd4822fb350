"""One run of the battery: load and faults side by side, then the verdict."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cloacina.cli.client import read_bootstrap_key
from tests.chaos import checker, workload
from tests.chaos.checker import Verdict
from tests.chaos.faults import Fault, draw_round, faults_on
from tests.chaos.load import Load
from tests.chaos.stage import LEASE_S, Stage, set_up

RECOVERY_S = LEASE_S + 10.0
"""Seconds after the end of faults within which the system must do its work again."""
_ENDED = ("Completed", "Failed", "Cancelled")
_GIVEN_UP_S = 120.0
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    Args:
        executions: how many clients submit in all.
        faults: how many strike in all.
        seed: draws faults, load and disorder.
        database: "sqlite" or "postgres".
        names: only faults with these names; empty for all.
        keep: whether the folder with logs and stores stays.
    """

    executions: int
    faults: int
    seed: int
    database: str
    names: tuple[str, ...] = ()
    keep: bool = False


@dataclass(slots=True)
class Report:
    """What came of a run.

    Args:
        options: what was run.
        missing: faults that could not be had here, and why.
        faults: how often each struck.
        recoveries: seconds from the end of each round of faults until a new execution had completed.
        drained_s: seconds from the end of the last faults until nothing was unfinished.
        duplicated, reordered: results that were sent twice, and in an order of their own.
        refusals: answers other than 202, by status; 0 for none.
        stuck: what did not come to an end however long it was waited for, and why.
        load: the highest load average that was seen, for each core: far above 1 it is the machine that is late.
        took_s: seconds in all.
        verdict: the checker's.
        folder: where logs and stores are, if kept.
    """

    options: Options
    missing: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    drained_s: float = 0.0
    duplicated: int = 0
    reordered: int = 0
    refusals: dict[int, int] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)
    load: float = 0.0
    took_s: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    folder: Path = Path()

    @property
    def violations(self) -> list[str]:
        """What must not be: the checker's, and recoveries that took too long."""
        late = [f"{seconds:.1f} s to recover from round {n}" for n, seconds in enumerate(self.recoveries, 1)]
        late = [text for text, seconds in zip(late, self.recoveries, strict=True) if seconds > RECOVERY_S]
        if self.drained_s > RECOVERY_S:
            late.append(f"{self.drained_s:.1f} s until everything had ended")
        return [*self.stuck, *late, *self.verdict.violations]

    def note_load(self) -> None:
        """Looks at how busy the machine is."""
        self.load = max(self.load, os.getloadavg()[0] / (os.cpu_count() or 1))


class Stuck(Exception):
    """Something does not come to its end."""


async def run(options: Options, say: Callable[[str], None] = lambda text: None) -> Report:
    """Runs the battery.

    Args:
        options: what to run.
        say: told what happens, a line at a time.
    """
    folder = Path(tempfile.mkdtemp(prefix="cloacina-chaos-"))
    report = Report(options, folder=folder)
    began = time.monotonic()
    try:
        async with set_up(folder, options.database, options.seed) as stage:
            report.missing = stage.missing
            for missing in stage.missing:
                say(f"MISSING  {missing}")
            try:
                await _run_on(stage, report, say)
            finally:
                for disorder in stage.disorders:
                    await disorder.stop()
                report.duplicated = sum(disorder.duplicated for disorder in stage.disorders)
                report.reordered = sum(disorder.reordered for disorder in stage.disorders)
                if options.keep and stage.disk is not None:  # which is gone with the block
                    await asyncio.to_thread(shutil.copytree, stage.disk.folder, folder / "kept")
    finally:
        report.took_s = time.monotonic() - began
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return report


async def _run_on(stage: Stage, report: Report, say: Callable[[str], None]) -> None:
    for package in workload.packages(stage.folder, stage.ledger):
        await asyncio.to_thread(stage.system.upload, package)
    load = Load(stage.system.url, read_bootstrap_key(stage.system.home), report.options.seed)
    healed_at = time.monotonic()
    try:
        try:
            await _probe(load)
            healed_at = await _strike_all(stage, load, report, say)
        except Stuck as stuck:
            report.stuck.append(str(stuck))
            say(f"STUCK  {stuck}")
        if stage.clock is not None:
            stage.clock.set(stage.clock.offset_s)
        await _drain(load)
        report.drained_s = time.monotonic() - healed_at
        report.refusals = load.told.refusals
    finally:
        await load.close()
    await stage.further.stop()
    await asyncio.to_thread(stage.system.stop)
    tables = (
        await checker.read_postgres(stage.postgres_url)
        if stage.postgres is not None
        else checker.read_sqlite(stage.system.home / "scheduler.db")
    )
    report.verdict = await checker.judge(load.told, tables, checker.read_ledger(stage.ledger))


async def _strike_all(stage: Stage, load: Load, report: Report, say: Callable[[str], None]) -> float:
    """Strikes round by round with executions all the while; returns when the last faults ended."""
    options, draw = report.options, random.Random(report.options.seed)
    faults = [fault for fault in faults_on(stage) if not options.names or fault.name in options.names]
    executions, left = options.executions, options.faults
    healed_at = time.monotonic()
    while left:
        chosen = draw_round(faults, draw, left)
        share = executions * len(chosen) // left
        submitted = asyncio.create_task(load.submit(share))
        try:
            said = await asyncio.gather(*(fault.strike(stage, draw) for fault in chosen))
            healed_at = time.monotonic()
            await _probe(load)
            report.recoveries.append(time.monotonic() - healed_at)
            await _in_time(submitted, "the acceptance of what clients submit")
        finally:
            submitted.cancel()
        report.note_load()
        executions, left = executions - share, left - len(chosen)
        report.faults.update(fault.name for fault in chosen)
        say(_line(options.faults - left, chosen, said, report.recoveries[-1], len(load.told.accepted)))
    await _in_time(load.submit(executions), "the acceptance of what clients submit")
    return healed_at


def _line(count: int, chosen: list[Fault], said: list[str], recovered_s: float, accepted: int) -> str:
    what = ", ".join(f"{fault.name} ({words})" for fault, words in zip(chosen, said, strict=True))
    return f"{count:>4}  {recovered_s:>5.1f} s  {accepted:>6}  {what}"


async def _in_time(awaited: Awaitable[_Result], what: str) -> _Result:
    try:
        return await asyncio.wait_for(awaited, _GIVEN_UP_S)
    except TimeoutError:
        raise Stuck(f"{what} took more than {_GIVEN_UP_S:g} s") from None


async def _probe(load: Load) -> None:
    """Returns once an execution that begins now has ended."""
    execution_id = await _in_time(load.accepted("chaos_diamond", {}), "the acceptance of an execution")
    deadline = time.monotonic() + _GIVEN_UP_S
    while True:
        found = await load.ask(f"/v1/tenants/public/executions/{execution_id}")
        if found is not None and found["status"] in _ENDED:
            return
        if time.monotonic() > deadline:
            why = await load.ask(f"/v1/tenants/public/executions/{execution_id}/explain")
            raise Stuck(f"execution {execution_id} did not end within {_GIVEN_UP_S:g} s: {why or found}")
        await asyncio.sleep(0.05)


async def _drain(load: Load) -> None:
    """Stops the schedule, and waits until nothing is unfinished."""
    deadline = time.monotonic() + _GIVEN_UP_S
    paused = None
    while time.monotonic() < deadline:
        paused = paused or await load.ask(f"/v1/tenants/public/triggers/{workload.TRIGGER}/pause", method="POST")
        pages = [
            await load.ask(f"/v1/tenants/public/executions?limit=1&status={status}")
            for status in ("Pending", "Running", "Paused")
        ]
        if paused and all(page is not None and page["total"] == 0 for page in pages):
            return
        await asyncio.sleep(0.1)
