"""What happened, asked of a running system: explanations, log lines and times, live and after crashes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloacina.cli.client import ApiFailure
from tests.system.running import RunningSystem, wait_until, write_package

STEPS = """
import logging
import time
from pathlib import Path

import cloaca

log = logging.getLogger("author")


@cloaca.task(id="quick")
def quick(context):
    log.info("quick has run")
    return context


@cloaca.task(id="slow", dependencies=["quick"], retry_attempts=2, retry_delay_ms=100)
def slow(context):
    until = Path(context.get("until"))
    log.info("slow begins")
    while not until.exists():
        time.sleep(0.02)
    log.info("slow ends")
    return context


@cloaca.task(id="last", dependencies=["slow"])
def last(context):
    return context
"""


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A system of its own: its scheduler and executor are killed."""
    folder = tmp_path_factory.mktemp("observation")
    with RunningSystem(
        folder / "home", {"CLOACINA_SLOTS": "1", "CLOACINA_LEASE_S": "3", "CLOACINA_HEARTBEAT_S": "1"}
    ) as system:
        system.upload(write_package(folder, "steps", STEPS))
        yield system


def ask(system: RunningSystem, execution_id: str, what: str) -> Any:
    return system.client.call("GET", f"/v1/tenants/public/executions/{execution_id}/{what}")


def causes(system: RunningSystem, execution_id: str) -> dict[str, Any]:
    return {cause["kind"]: cause for cause in ask(system, execution_id, "explain")["causes"]}


def messages(system: RunningSystem, execution_id: str) -> list[str]:
    return [line["message"] for line in ask(system, execution_id, "logs")["lines"]]


def test_from_the_queue_to_the_end(observed: RunningSystem, folder: Path) -> None:
    end = folder / "end"
    first, second = (observed.execute("steps", {"until": str(end)}) for _ in range(2))
    wait_until(lambda: "running" in causes(observed, first), "the slow task")
    wait_until(lambda: "no_free_slot" in causes(observed, second), "that the only slot is taken")
    running = causes(observed, first)["running"]
    assert running["task_name"] == "slow"
    assert running["ids"]["executor_id"]
    assert causes(observed, first)["dependency"]["ids"] == {"depends_on": "slow"}
    wait_until(lambda: "slow begins" in messages(observed, first), "its line while it runs")
    assert "slow begins" not in messages(observed, second)
    spans = {span["span_id"]: span for span in ask(observed, first, "trace")["spans"]}
    assert spans["execution/slow/1/run"]["end"] is None
    assert spans["execution/slow/1/run"]["duration_ms"] > 0
    end.touch()
    for execution_id in (first, second):
        assert observed.wait_for_end(execution_id)["status"] == "Completed"
    wait_until(lambda: "execution completed" in messages(observed, first), "its last line")
    assert ask(observed, first, "explain")["answer"].startswith("Completed")
    spans = {span["span_id"]: span for span in ask(observed, second, "trace")["spans"]}
    assert {span["status"] for span in spans.values()} == {"ok"}
    queue = spans["execution/quick/1/queue"]["duration_ms"] + spans["execution/slow/1/queue"]["duration_ms"]
    assert queue > 10, "the second execution waited for the slot of the first"


def test_an_execution_that_outlives_its_executor_and_its_scheduler(observed: RunningSystem, folder: Path) -> None:
    end = folder / "end"
    execution_id = observed.execute("steps", {"until": str(end)})
    wait_until(lambda: "running" in causes(observed, execution_id), "the slow task")
    before = observed.execution(execution_id)["started_at"]
    executor = observed.kill("executor")
    silent = wait_until(lambda: causes(observed, execution_id).get("executor_silent"), "the silence")
    assert silent["until"] > silent["since"]
    observed.wait_for_successor(executor, "executor")
    scheduler = observed.kill("scheduler")
    observed.wait_for_successor(scheduler, "scheduler")
    assert ask(observed, execution_id, "explain")["since"] == before
    end.touch()
    assert observed.wait_for_end(execution_id, 60)["status"] == "Completed"
    attempts = [span for span in ask(observed, execution_id, "trace")["spans"] if span["kind"] == "attempt"]
    slow = [span for span in attempts if span["ids"]["task_name"] == "slow"]
    assert slow[0]["status"] == "lost"
    assert slow[-1]["status"] == "ok"
    assert len({span["ids"]["executor_id"] for span in slow}) == 2
    wait_until(lambda: "execution completed" in messages(observed, execution_id), "its last line")
    request_id = observed.execution(execution_id)["request_id"]
    found = observed.client.call("GET", f"/v1/requests/{request_id}?limit=5000")
    assert [each["id"] for each in found["executions"]] == [execution_id]
    assert {line["request_id"] for line in found["lines"]} == {request_id}


def test_what_it_waits_for_before_it_begins(observed: RunningSystem, folder: Path) -> None:
    hold = folder / "hold"
    code = f"""
import time
from pathlib import Path

import cloaca

while Path({str(hold)!r}).exists():
    time.sleep(0.02)


@cloaca.task(id="only")
def only(context):
    return context
"""
    observed.upload(write_package(folder, "heavy", code))
    observed.upload(write_package(folder, "light", code))
    observed.wait_for_end(observed.execute("light"))  # from here on there is a connection that can stand still
    hold.touch()
    reconciler = observed.process("reconciler")
    reconciler.send_signal(signal.SIGSTOP)
    try:
        execution_id = observed.execute("heavy")
        fetching = wait_until(lambda: causes(observed, execution_id).get("fetching_package"), "the fetch")
        assert fetching["ids"]["package_id"] in fetching["text"]
        assert f"executor {fetching['ids']['executor_id']} fetches package" in fetching["text"]
    finally:
        reconciler.send_signal(signal.SIGCONT)
    starting = wait_until(lambda: causes(observed, execution_id).get("starting_worker"), "the start of a worker")
    assert starting["since"] > fetching["since"]
    scheduler = observed.kill("scheduler")
    observed.wait_for_successor(scheduler, "scheduler")
    again = wait_until(lambda: causes(observed, execution_id).get("starting_worker"), "what it said, said again")
    assert again["since"] == starting["since"]
    hold.unlink()
    assert observed.wait_for_end(execution_id)["status"] == "Completed"


def test_follow_shows_lines_as_they_come_and_ends_with_the_execution(observed: RunningSystem, folder: Path) -> None:
    end = folder / "end"
    execution_id = observed.execute("steps", {"until": str(end)})
    command = [sys.executable, "-m", "cloacina.cli", "--home", str(observed.home), "--server", observed.url, "--json"]
    with subprocess.Popen([*command, "logs", "-f", execution_id], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        seen: list[str] = []
        for line in follower.stdout:
            seen.append(json.loads(line)["message"])
            if seen[-1] == "slow begins":
                end.touch()
        assert follower.wait(30) == 0
    assert seen.index("slow begins") < seen.index("slow ends")
    assert seen.count("slow begins") == seen.count("slow ends") == 1


def test_a_quarter_of_a_gigabyte_of_other_lines_delays_no_other_request(observed: RunningSystem, folder: Path) -> None:
    end = folder / "end"
    end.touch()
    execution_id = observed.execute("steps", {"until": str(end)})
    observed.wait_for_end(execution_id)
    wait_until(lambda: "execution completed" in messages(observed, execution_id), "its last line")
    log = (observed.home / "logs" / "cloacina-server.log").resolve()
    request_id = observed.execution(execution_id)["request_id"]
    own = next(line for line in log.read_bytes().splitlines() if request_id.encode() in line)
    other = own.replace(request_id.encode(), b"0" * 36) + b"\n"
    block = other * (1_000_000 // len(other))
    with log.open("ab") as file:
        for _ in range(256):
            file.write(block)
    try:
        began = time.monotonic()
        assert observed.client.call("GET", f"/v1/requests/{request_id}")["lines"]
        assert time.monotonic() - began < 5
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cloacina.cli",
                "--home",
                str(observed.home),
                "--server",
                observed.url,
                "logs",
                request_id,
            ],
            stdout=subprocess.PIPE,
            text=True,
        ) as reader:
            slowest = 0.0
            while reader.poll() is None:
                began = time.monotonic()
                assert observed.answers("/health")
                slowest = max(slowest, time.monotonic() - began)
            assert reader.stdout is not None
            assert "execution completed" in reader.stdout.read()
        assert slowest < 0.5
    finally:
        log.write_bytes(own + b"\n")


def test_what_is_not_there(observed: RunningSystem) -> None:
    for path in (
        "/v1/requests/never-sent",
        "/v1/tenants/public/executions/01a20bd5-157c-7aa7-8592-07368bc394e2/explain",
    ):
        with pytest.raises(ApiFailure) as refused:
            observed.client.call("GET", path)
        assert refused.value.status == 404
