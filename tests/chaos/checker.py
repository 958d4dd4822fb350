"""Judges a run by what clients were told, what the store says, and what the ledger of side effects says.

It reads the tables itself, with SQL of its own: nothing of the product is asked.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from tests.chaos.load import Told
from tests.chaos.workload import DEPENDENCIES, TICKING

_ENDED = {"Completed": "workflow_completed", "Failed": "workflow_failed", "Cancelled": "workflow_cancelled"}
_TASK_ENDS = ("task_completed", "task_failed", "task_skipped")
_QUERIES = {
    "executions": "SELECT execution_id, workflow_name, status, finished_at, idempotency_key, output, error "
    "FROM executions",
    "tasks": "SELECT execution_id, task_name, status, claim_id, reason FROM tasks",
    "events": "SELECT execution_id, sequence, event_type, task_name, data FROM events ORDER BY execution_id, sequence",
    "firings": "SELECT scheduled_at, execution_id, outcome FROM schedule_firings ORDER BY scheduled_at",
}

Tables = Mapping[str, list[tuple[Any, ...]]]


@dataclass(slots=True)
class Verdict:
    """What the checker found.

    Args:
        violations: what must not be, a line each.
        figures: what was counted.
    """

    violations: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)


def read_sqlite(file: Path) -> Tables:
    """The tables of the scheduler's store in a file."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as store:
        return {name: store.execute(query).fetchall() for name, query in _QUERIES.items()}


async def read_postgres(url: str) -> Tables:
    """The tables of the scheduler's store in PostgreSQL."""
    settings = {"search_path": "cloacina_scheduler", "cloacina.tenant_id": "*"}
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        return {name: [tuple(row) for row in await connection.fetch(query)] for name, query in _QUERIES.items()}
    finally:
        await connection.close()


def read_ledger(file: Path) -> list[dict[str, Any]]:
    """The lines of the ledger, oldest first."""
    with file.open() as lines:
        return sorted((json.loads(line) for line in lines), key=lambda line: int(line["at"]))


async def judge(told: Told, tables: Tables, ledger: list[dict[str, Any]]) -> Verdict:
    """The verdict on a run."""
    return await asyncio.to_thread(_Judge(told, tables, ledger).verdict)


class _Judge:
    def __init__(self, told: Told, tables: Tables, ledger: list[dict[str, Any]]) -> None:
        self._told = told
        self._ledger = ledger
        self._executions = {row[0]: row for row in tables["executions"]}
        self._tasks: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)
        for row in tables["tasks"]:
            self._tasks[row[0]][row[1]] = row
        self._events: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for row in tables["events"]:
            self._events[row[0]].append(row)
        self._firings = tables["firings"]
        self._runs = {line["run"]: line for line in ledger if line["phase"] == "end"}
        self._found = Verdict(violations=list(told.contradictions))

    def verdict(self) -> Verdict:
        self._check_promises()
        for execution_id in self._executions:
            self._check_end(execution_id)
            self._check_order(execution_id)
            self._check_claims(execution_id)
        self._check_side_effects()
        self._check_firings()
        self._count()
        return self._found

    def _violated(self, text: str) -> None:
        self._found.violations.append(text)

    def _check_promises(self) -> None:
        """What was accepted is there, under its key and no other; no key has two executions."""
        by_key: dict[str, list[str]] = defaultdict(list)
        for execution_id, row in self._executions.items():
            if row[4] is not None:
                by_key[row[4]].append(execution_id)
        for key, execution_id in self._told.accepted.items():
            if by_key.get(key) != [execution_id]:
                self._violated(f"{key} was accepted as {execution_id}; the store has {by_key.get(key)}")
        for key, execution_ids in by_key.items():
            if len(execution_ids) > 1 or key not in self._told.sent:
                self._violated(f"{key}, which was sent once, has the executions {execution_ids}")

    def _check_end(self, execution_id: str) -> None:
        """Exactly one terminal state, told by exactly one event, the last; events are numbered without a gap."""
        row, events = self._executions[execution_id], self._events[execution_id]
        status = row[2]
        if status not in _ENDED or row[3] is None:
            self._violated(f"{execution_id} ({row[1]}) is {status}")
            return
        ends = [event[2] for event in events if event[2] in _ENDED.values()]
        if ends != [_ENDED[status]] or events[-1][2] != ends[0]:
            self._violated(f"{execution_id} is {status}, and its events say {ends}, at last {events[-1][2]}")
        if [event[1] for event in events] != list(range(1, len(events) + 1)):
            self._violated(f"{execution_id} has events {[event[1] for event in events]}")
        unfinished = [row[1] for row in self._tasks[execution_id].values() if row[2] not in _TERMINAL]
        if unfinished:
            self._violated(f"{execution_id} is {status}, its tasks {unfinished} are not")

    def _check_order(self, execution_id: str) -> None:
        """In the events no task is claimed before its dependencies ended, and none ends twice."""
        ended: set[str] = set()
        waits_for = DEPENDENCIES[self._executions[execution_id][1]]
        for _, sequence, kind, task, _ in self._events[execution_id]:
            if kind == "task_claimed" and not ended.issuperset(waits_for[task]):
                self._violated(f"{execution_id}: {task} was claimed (event {sequence}) before {waits_for[task]} ended")
            if kind in _TASK_ENDS:
                if task in ended:
                    self._violated(f"{execution_id}: {task} ended twice (event {sequence})")
                ended.add(task)

    def _check_claims(self, execution_id: str) -> None:
        """What was committed of a task is from the run under its last claim, and each claim is larger than the one
        before, whichever scheduler gave it."""
        claims: dict[str, int] = {}
        for _, _, kind, task, data in self._events[execution_id]:
            if kind == "task_claimed":
                before, claims[task] = claims.get(task, 0), json.loads(data)["claim_id"]
                if claims[task] <= before:
                    self._violated(f"{execution_id}: {task} was claimed under {before}, then under {claims[task]}")
        output = json.loads(self._executions[execution_id][5] or b"{}")
        for task, row in self._tasks[execution_id].items():
            if row[2] == "Completed" and row[3] != claims.get(task):
                self._violated(
                    f"{execution_id}: {task} completed under {row[3]}, claimed last under {claims.get(task)}"
                )
            run = self._runs.get(output.get(f"ran_{task}"))
            if self._executions[execution_id][2] != "Completed":
                continue
            if run is None:
                self._violated(f"{execution_id}: {task} completed, and the ledger has no such run")
            elif run["claim"] != row[3]:
                self._violated(f"{execution_id}: {task} has the result of claim {run['claim']}, not of {row[3]}")

    def _check_side_effects(self) -> None:
        """In the ledger no task starts before a run of each of its dependencies ended."""
        ended: dict[str, set[str]] = defaultdict(set)
        for line in self._ledger:
            key, task = line["key"], line["task"]
            if line["phase"] == "end":
                ended[key].add(task)
                continue
            workflow = self._told.sent.get(key, TICKING)
            if not ended[key].issuperset(DEPENDENCIES[workflow][task]):
                self._violated(f"{key}: {task} started before {DEPENDENCIES[workflow][task]} had ended")

    def _check_firings(self) -> None:
        """Each second from the first firing to the last fired once, into an execution of its own."""
        seconds = [at // 1_000_000 for at, _, _ in self._firings]
        twice = [second for second, count in Counter(seconds).items() if count > 1]
        if twice:
            self._violated(f"fired more than once: {twice[:5]}")
        missing = sorted(set(range(seconds[0], seconds[-1])) - set(seconds)) if seconds else []
        if missing:
            self._violated(f"never fired: {len(missing)} of {len(seconds)}, the first {missing[:5]}")
        others = [outcome for _, _, outcome in self._firings if outcome not in ("fired", "caught_up")]
        if others:
            self._violated(f"firings that started nothing: {Counter(others)}")
        fired = Counter(execution_id for _, execution_id, _ in self._firings)
        ticks = {execution_id for execution_id, row in self._executions.items() if row[1] == TICKING}
        if set(fired) != ticks or (fired and max(fired.values()) > 1):
            self._violated(f"{len(fired)} executions of firings, {len(ticks)} executions of the schedule")

    def _count(self) -> None:
        kinds = Counter(event[2] for events in self._events.values() for event in events)
        statuses = Counter(row[2] for row in self._executions.values())
        starts = Counter((line["key"], line["task"]) for line in self._ledger if line["phase"] == "start")
        self._found.figures = {
            "executions": len(self._executions),
            **{status.lower(): count for status, count in sorted(statuses.items())},
            "accepted (202)": len(self._told.accepted),
            "cron firings": len(self._firings),
            "tasks run": sum(starts.values()),
            "run more than once": sum(count - 1 for count in starts.values()),
            "claims given up": kinds["task_reset"] + kinds["task_abandoned"],
            "retries": kinds["task_retry_scheduled"],
        }
        for row in self._executions.values():
            if row[2] == "Failed":
                reasons = sorted({str(task[4]) for task in self._tasks[row[0]].values() if task[2] == "Failed"})
                name = f"failed by {', '.join(reasons)}"
                self._found.figures[name] = self._found.figures.get(name, 0) + 1


_TERMINAL = ("Completed", "Failed", "Skipped")
