"""The checker finds what the battery is there to find."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.chaos.checker import judge
from tests.chaos.load import Told

_SECOND = 1_000_000


class Story:
    """A run in which all is well: one execution of two tasks, and two firings. A test changes what it is about."""

    def __init__(self) -> None:
        self.told = Told(accepted={"k": "e"}, sent={"k": "chaos_flaky"})
        self.executions: list[list[Any]] = [
            ["e", "chaos_flaky", "Completed", 9, "k", b'{"ran_fails":"r1","ran_follows":"r2"}', None],
            ["t1", "chaos_ticking", "Completed", 9, None, b'{"ran_tick":"r3"}', None],
            ["t2", "chaos_ticking", "Completed", 9, None, b'{"ran_tick":"r4"}', None],
        ]
        self.tasks: list[list[Any]] = [
            ["e", "fails", "Completed", 1, None],
            ["e", "follows", "Completed", 2, None],
            ["t1", "tick", "Completed", 3, None],
            ["t2", "tick", "Completed", 4, None],
        ]
        self.events = [
            *self.lived("e", ("fails", 1), ("follows", 2)),
            *self.lived("t1", ("tick", 3)),
            *self.lived("t2", ("tick", 4)),
        ]
        self.firings: list[list[Any]] = [[7 * _SECOND, "t1", "fired"], [8 * _SECOND, "t2", "caught_up"]]
        self.ledger = [
            *self.ran("k", "fails", "r1", 1, at=10),
            *self.ran("k", "follows", "r2", 2, at=20),
            *self.ran("7", "tick", "r3", 3, at=30),
            *self.ran("8", "tick", "r4", 4, at=40),
        ]

    @staticmethod
    def lived(execution_id: str, *tasks: tuple[str, int]) -> list[list[Any]]:
        kinds: list[tuple[str, str | None, str | None]] = [("workflow_started", None, None)]
        for task, claim_id in tasks:
            kinds += [("task_claimed", task, json.dumps({"claim_id": claim_id})), ("task_completed", task, None)]
        kinds.append(("workflow_completed", None, None))
        return [[execution_id, number, *kind] for number, kind in enumerate(kinds, 1)]

    @staticmethod
    def ran(key: str, task: str, run: str, claim: int, at: int) -> list[dict[str, Any]]:
        line = {"key": key, "task": task, "run": run, "claim": claim}
        return [{**line, "phase": "start", "at": at}, {**line, "phase": "end", "at": at + 1}]

    async def violations(self) -> list[str]:
        tables = {
            name: [tuple(row) for row in getattr(self, name)] for name in ("executions", "tasks", "events", "firings")
        }
        return (await judge(self.told, tables, sorted(self.ledger, key=lambda line: line["at"]))).violations


async def test_where_all_is_well_it_finds_nothing() -> None:
    assert await Story().violations() == []


def _lost(story: Story) -> None:
    story.told.accepted["other"] = "gone"


def _doubled(story: Story) -> None:
    story.executions.append(["e2", *story.executions[0][1:]])
    story.events += story.lived("e2", ("fails", 1), ("follows", 2))


def _unfinished(story: Story) -> None:
    story.executions[0][2] = "Running"


def _two_ends(story: Story) -> None:
    story.events.insert(6, ["e", 7, "workflow_failed", None, None])


def _gap(story: Story) -> None:
    del story.events[1]


def _claimed_early(story: Story) -> None:
    story.events[2], story.events[3] = (
        ["e", 3, *story.events[3][2:]],
        ["e", 4, *story.events[2][2:]],
    )


def _smaller_claim(story: Story) -> None:
    story.events.insert(1, ["e", 2, "task_claimed", "fails", json.dumps({"claim_id": 9})])
    for number, event in enumerate(story.events[:7], 1):
        event[1] = number


def _stale_result(story: Story) -> None:
    story.ledger[2]["claim"] = story.ledger[3]["claim"] = 99


def _stale_claim(story: Story) -> None:
    story.tasks[1][3] = 99


def _no_such_run(story: Story) -> None:
    story.executions[0][5] = b'{"ran_fails":"r1","ran_follows":"invented"}'


def _started_early(story: Story) -> None:
    story.ledger[2]["at"] = 5


def _fired_twice(story: Story) -> None:
    story.firings[1][0] = story.firings[0][0]


def _never_fired(story: Story) -> None:
    story.firings[1][0] += _SECOND


def _skipped(story: Story) -> None:
    story.firings[1][2] = "skipped"


def _contradicted(story: Story) -> None:
    story.told.contradictions.append("key k named e, then e2")


@pytest.mark.parametrize(
    "spoil",
    [
        _lost,
        _doubled,
        _unfinished,
        _two_ends,
        _gap,
        _claimed_early,
        _smaller_claim,
        _stale_result,
        _stale_claim,
        _no_such_run,
        _started_early,
        _fired_twice,
        _never_fired,
        _skipped,
        _contradicted,
    ],
)
async def test_what_must_not_be_is_found(spoil: Any) -> None:
    story = Story()
    spoil(story)
    assert await story.violations() != []
