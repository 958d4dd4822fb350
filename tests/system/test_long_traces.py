"""One trace for an execution whatever happens to it: retries, deferrals, crashes, executions within it, changes from
outside. One system has lived through all of it before the first test looks at the spans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.otlp_collector import CollectedSpan, Collector
from tests.system.running import RunningSystem, wait_until, write_package

pytestmark = pytest.mark.xdist_group("long traces")

COURSE = """
from pathlib import Path

import cloaca
from opentelemetry import trace


def mark(context, name):
    Path(context["folder"], name).touch()


def waits_for(context, name):
    return lambda: Path(context["folder"], name).exists()


@cloaca.task(id="flaky", retry_attempts=2, retry_delay_ms=20, retry_jitter=False)
def flaky(context):
    with trace.get_tracer("author").start_as_current_span("author's own"):
        if not waits_for(context, "failed once")():
            mark(context, "failed once")
            raise ConnectionError("the first attempt")
    return context


@cloaca.task(id="deferred", dependencies=["flaky"])
async def deferred(context, handle):
    mark(context, "deferred")
    await handle.defer_until(waits_for(context, "scheduler is back"), poll_interval_ms=20)
    return context


@cloaca.task(id="long", dependencies=["deferred"], retry_attempts=1)
def long(context):
    import time
    mark(context, "long")
    while not waits_for(context, "executor is back")():
        time.sleep(0.02)
    return context


cloaca.subworkflow("inner", id="nested", dependencies=["long"])


@cloaca.task(id="cured", dependencies=["nested"], retry_attempts=1)
def cured(context):
    if not waits_for(context, "cure")():
        raise ValueError("not cured")
    return context
"""

INNER = """
import cloaca


@cloaca.task(id="deep")
def deep(context):
    return context
"""

HEAVY = """
import time

import cloaca

time.sleep(1)


@cloaca.task(id="light")
def light(context):
    return context
"""

PROCESSES = ("api", "scheduler", "reconciler", "executor", "worker")


@dataclass
class Told:
    """What the collector was told.

    Args:
        spans: all of them.
        execution: as the API has it.
        child: the id of the execution within it.
        loading: trace ids of executions whose package was not loaded yet, in their order.
        requests: trace ids of requests by what they asked for.
    """

    spans: list[CollectedSpan]
    execution: dict[str, Any]
    child: str
    loading: list[str] = field(default_factory=list)
    requests: dict[str, str] = field(default_factory=dict)

    @property
    def trace(self) -> list[CollectedSpan]:
        """The spans of the execution's trace."""
        return [span for span in self.spans if span.trace_id == self.execution["trace_id"]]

    def named(self, name: str) -> list[CollectedSpan]:
        """Those of a name."""
        return [span for span in self.trace if span.name == name]


def live_through(system: RunningSystem, collector: Collector, folder: Path) -> tuple[dict[str, Any], str]:
    """Has an execution live through all of it; returns it and the id of its child."""

    def waits(name: str) -> None:
        wait_until(lambda: (folder / name).exists(), name, 60)

    def collected(name: str) -> None:
        """What ended before a crash is not lost in it once it was exported, half a second later."""
        wait_until(lambda: [span for span in collector.spans if span.name == name], f"the span {name}")

    path = "/v1/tenants/public/workflows/course/execute"
    body, key = {"context": {"folder": str(folder)}}, {"Idempotency-Key": "once"}
    begun = system.client.call("POST", path, body, headers={"x-request-id": "the-one", **key})
    execution_id = begun["execution_id"]
    about = f"/v1/tenants/public/executions/{execution_id}"
    again = system.client.call("POST", path, body, headers={"x-request-id": "the-same-again", **key})
    assert again["execution_id"] == execution_id
    waits("deferred")
    collected("schedule course")
    system.wait_for_successor(system.kill("scheduler"), "scheduler")
    (folder / "scheduler is back").touch()
    waits("long")
    (folder / "long").unlink()
    collected("task course/deferred")
    system.wait_for_successor(system.kill("executor"), "executor")
    waits("long")
    for verb in ("pause", "resume"):
        system.client.call("POST", f"{about}/{verb}", {}, headers={"x-request-id": f"to-{verb}"})
    (folder / "executor is back").touch()
    assert system.wait_for_end(execution_id, 60)["status"] == "Failed"
    (folder / "cure").touch()
    system.client.call("POST", f"{about}/retry", {}, headers={"x-request-id": "to-retry"})
    ended = system.wait_for_end(execution_id, 60)
    assert ended["status"] == "Completed"
    listed = system.client.call("GET", "/v1/tenants/public/executions?workflow=inner")["items"]
    return ended, str(listed[0]["id"])


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("long-traces")
    with Collector() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "CLOACINA_LEASE_S": "3",
            "CLOACINA_HEARTBEAT_S": "0.5",
        }
        with RunningSystem(folder / "home", environment) as system:
            system.upload(write_package(folder, "inner", INNER))
            system.upload(write_package(folder, "course", COURSE))
            system.upload(write_package(folder, "heavy", HEAVY))
            loading = [system.wait_for_end(each)["trace_id"] for each in [system.execute("heavy") for _ in range(3)]]
            execution, child = live_through(system, collector, folder)
        spans = collector.spans
    requests = {
        str(span.attributes["request_id"]): span.trace_id for span in spans if span.name.startswith("request POST")
    }
    yield Told(spans, execution, child, loading, requests)


def test_all_that_was_done_for_it_is_in_its_trace(told: Told) -> None:
    mine = [span for span in told.spans if span.attributes.get("request_id") == "the-one"]
    assert {span.trace_id for span in mine} == {told.execution["trace_id"]}
    assert {span.service.removeprefix("cloacina-") for span in mine} == set(PROCESSES)
    about = [span for span in told.trace if "cloacina.execution_id" in span.attributes]
    ids = {told.execution["execution_id"], told.child}
    assert {span.attributes["cloacina.execution_id"] for span in about} == ids


def test_every_span_has_its_parent_in_the_trace(told: Told) -> None:
    ids = {span.span_id for span in told.trace}
    (root,) = [span for span in told.trace if not span.parent_id]
    assert root.name == "request POST /v1/tenants/{tenant_id}/workflows/{name}/execute"
    assert [span.name for span in told.trace if span.parent_id and span.parent_id not in ids] == []


def test_each_attempt_of_a_retry_is_a_span(told: Told) -> None:
    attempts = sorted((span.attributes["cloacina.attempt"], span.failed) for span in told.named("task course/flaky"))
    assert attempts == [(1, True), (2, False)]
    runs = {span.span_id for span in told.named("run flaky")}
    assert {span.parent_id for span in told.named("author's own")} == runs


def test_a_deferred_task_that_outlived_the_scheduler_is_one_span(told: Told) -> None:
    (task,) = told.named("task course/deferred")
    (run,) = told.named("run deferred")
    assert (run.parent_id, run.failed, task.attributes["cloacina.attempt"]) == (task.span_id, False, 1)


def test_a_task_that_was_recovered_goes_on_in_the_trace(told: Told) -> None:
    (run,) = told.named("run long")
    (task,) = told.named("task course/long")
    assert (run.parent_id, run.failed) == (task.span_id, False)


def test_commits_before_and_after_the_crash_are_in_it(told: Told) -> None:
    (schedule,) = told.named("schedule course")
    commits = told.named("store commit")
    assert {span.parent_id for span in commits} >= {schedule.span_id}
    assert len(commits) > 5
    assert {span.attributes["db.system.name"] for span in commits} == {"sqlite"}


def test_an_execution_within_it_is_in_the_same_trace_below_its_own_span(told: Told) -> None:
    (outer,) = told.named("schedule course")
    (inner,) = told.named("schedule inner")
    (deep,) = told.named("task inner/deep")
    assert (inner.parent_id, deep.parent_id) == (outer.span_id, inner.span_id)
    assert inner.attributes["cloacina.execution_id"] == told.child


@pytest.mark.parametrize("verb", ["pause", "resume", "retry"])
def test_a_request_that_changes_it_is_another_trace_and_linked_both_ways(told: Told, verb: str) -> None:
    asked = told.requests[f"to-{verb}"]
    assert asked != told.execution["trace_id"]
    (change,) = told.named(f"{verb} course")
    assert change.links == (asked,)
    (request,) = [span for span in told.spans if span.trace_id == asked and span.name.startswith("request POST")]
    assert request.links == (told.execution["trace_id"],)


def test_the_same_key_again_leads_to_the_trace_of_the_first_request(told: Told) -> None:
    again = told.requests["the-same-again"]
    (schedule,) = [span for span in told.spans if span.trace_id == again and span.name == "schedule course"]
    assert schedule.links == (told.execution["trace_id"],)
    assert [span for span in told.spans if span.trace_id == again and span.name.startswith(("task", "run"))] == []


def test_what_was_run_again_from_outside_stays_in_the_trace(told: Told) -> None:
    assert sorted(span.failed for span in told.named("task course/cured")) == [False, True]


def test_what_waits_for_the_same_package_links_to_the_trace_that_fetches_it(told: Told) -> None:
    first, *others = told.loading
    fetches = [span for span in told.spans if span.trace_id in told.loading and span.name == "fetch package"]
    assert [span.trace_id for span in fetches] == [first]
    tasks = {span.trace_id: span for span in told.spans if span.name == "task heavy/light"}
    starts = [span for span in told.spans if span.name == "start worker" and span.trace_id == first]
    assert [span.parent_id for span in starts] == [tasks[first].span_id]
    assert [tasks[each].links for each in told.loading] == [(), *[(first,)] * len(others)]


def test_every_span_of_every_trace_has_a_request_id(told: Told) -> None:
    assert sorted({span.name for span in told.spans if not span.attributes.get("request_id")}) == []
