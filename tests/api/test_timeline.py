"""The time of an execution as spans, made of its events."""

from __future__ import annotations

from typing import Any

import orjson

from cloacina.rpc.v1 import scheduler_pb2
from services.api.timeline import TimedSpan, timeline


def spans_of(
    *events: tuple[int, str, str] | tuple[int, str, str, dict[str, Any]], status: str = "Running", end: int = 0
):
    """The spans of an execution that began at 1000, by id."""
    messages = [
        scheduler_pb2.ExecutionEvent(
            sequence=number,
            at=event[0],
            event_type=event[1],
            task_name=event[2],
            data=orjson.dumps(event[3]).decode() if len(event) > 3 else "",
        )
        for number, event in enumerate(events, 1)
    ]
    execution = scheduler_pb2.Execution(workflow_name="flow", created_at=1000, status=status, finished_at=end)
    found = timeline(execution, messages)
    return {span.span_id: span for span in found}


def times(span: TimedSpan) -> tuple[int, int | None, str]:
    return span.start, span.end, span.status


CLAIM = {"executor_id": "x1", "claim_id": 7}


def test_an_attempt_has_its_time_in_the_queue_on_the_way_and_running() -> None:
    spans = spans_of(
        (1000, "workflow_started", ""),
        (1000, "task_marked_ready", "a"),
        (1100, "task_claimed", "a", CLAIM),
        (1300, "task_started", "a"),
        (1900, "task_completed", "a"),
        (1900, "workflow_completed", ""),
        status="Completed",
        end=1900,
    )
    assert times(spans["execution"]) == (1000, 1900, "ok")
    assert times(spans["execution/a"]) == (1000, 1900, "ok")
    assert times(spans["execution/a/1"]) == (1000, 1900, "ok")
    assert times(spans["execution/a/1/queue"]) == (1000, 1100, "ok")
    assert times(spans["execution/a/1/dispatch"]) == (1100, 1300, "ok")
    assert times(spans["execution/a/1/run"]) == (1300, 1900, "ok")
    assert spans["execution/a/1"].ids == {"task_name": "a", "attempt": 1, "executor_id": "x1", "claim_id": "7"}


def test_a_retry_is_a_second_attempt_behind_a_wait() -> None:
    failed = {"reason": "task_error", "error": "boom"}
    spans = spans_of(
        (1000, "task_marked_ready", "a"),
        (1100, "task_claimed", "a", CLAIM),
        (1200, "task_started", "a"),
        (1300, "task_retry_scheduled", "a", {**failed, "due": 1500}),
        (1500, "task_marked_ready", "a"),
        (1600, "task_claimed", "a", CLAIM),
        (1700, "task_started", "a"),
        (1800, "task_failed", "a", failed),
        status="Failed",
        end=1800,
    )
    assert times(spans["execution/a/1"]) == (1000, 1300, "error")
    assert times(spans["execution/a/backoff-1"]) == (1300, 1500, "ok")
    assert times(spans["execution/a/2"]) == (1500, 1800, "error")
    assert times(spans["execution/a"]) == (1000, 1800, "error")
    assert spans["execution/a/1"].ids["error"] == "boom"
    assert spans["execution/a/2"].ids["attempt"] == 2


def test_a_lost_claim_is_an_attempt_of_its_own_with_the_same_number() -> None:
    spans = spans_of(
        (1000, "task_marked_ready", "a"),
        (1100, "task_claimed", "a", CLAIM),
        (1200, "task_started", "a"),
        (9000, "task_reset", "a", {"lost": True}),
        (9100, "task_claimed", "a", {"executor_id": "x2", "claim_id": 8}),
    )
    assert times(spans["execution/a/1"]) == (1000, 9000, "lost")
    assert times(spans["execution/a/2"]) == (9000, None, "unfinished")
    assert (spans["execution/a/2"].ids["attempt"], spans["execution/a/2"].ids["executor_id"]) == (1, "x2")
    assert times(spans["execution/a/2/dispatch"]) == (9100, None, "unfinished")


def test_deferral_pause_and_skip() -> None:
    spans = spans_of(
        (1000, "task_marked_ready", "a"),
        (1000, "task_claimed", "a", CLAIM),
        (1000, "task_started", "a"),
        (1100, "task_deferred", "a"),
        (1200, "workflow_paused", ""),
        (1300, "workflow_resumed", ""),
        (1400, "task_resumed", "a"),
        (1500, "task_completed", "a"),
        (1500, "task_skipped", "b", {"reason": "trigger_rule"}),
        status="Completed",
        end=1500,
    )
    assert times(spans["execution/a/1/run/deferred-1"]) == (1100, 1400, "ok")
    assert times(spans["execution/paused-5"]) == (1200, 1300, "ok")
    assert times(spans["execution/b"]) == (1500, 1500, "skipped")
    assert spans["execution/b"].ids["reason"] == "trigger_rule"


def test_a_task_that_is_run_again_has_spans_of_both_times() -> None:
    once = [("task_marked_ready", "a"), ("task_claimed", "a"), ("task_started", "a"), ("task_failed", "a")]
    events = [
        (1000 + 10 * n, kind, task, CLAIM if kind == "task_claimed" else {}) for n, (kind, task) in enumerate(once)
    ]
    again = [(at + 5000, kind, task, data) for at, kind, task, data in events]
    spans = spans_of(*events, (3000, "workflow_resumed", "", {"retry": True}), (3000, "task_reset", "a"), *again)
    assert times(spans["execution/a"]) == (1000, 1030, "error")
    assert times(spans["execution/a~2"]) == (6000, 6030, "error")


def test_what_was_cut_short_ended_with_the_execution() -> None:
    spans = spans_of((1000, "task_marked_ready", "a"), status="Cancelled", end=2000)
    assert times(spans["execution/a/1/queue"]) == (1000, 2000, "cancelled")
    assert times(spans["execution"]) == (1000, 2000, "cancelled")


def test_every_span_comes_behind_the_one_it_is_a_part_of() -> None:
    spans = spans_of((1000, "task_marked_ready", "a"), (1000, "task_claimed", "a", CLAIM), (1001, "task_started", "a"))
    seen = {""}
    for span_id, span in spans.items():
        assert span.parent_id in seen
        seen.add(span_id)
