"""Schedules of packages on a started system: cron and polled triggers, crashes, pauses, firing by hand."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloacina.cli.client import ApiFailure
from tests.otlp_collector import Collector
from tests.system.running import RunningSystem, wait_until, write_package

EVERY_SECOND = """
import cloaca


@cloaca.task(id="tick")
def tick(context):
    context.set("ticked", context["scheduled_time"])
    return context


@cloaca.trigger(on="ticking", cron="* * * * * *", timezone="Europe/Berlin")
def every_second():
    pass
"""

INBOX = """
from pathlib import Path

import cloaca

folder = Path({folder!r})


@cloaca.workflow_params(file=(str, "none"), size=(int, 7))
@cloaca.task(id="read")
def read(context):
    while (folder / "hold").exists():
        import time
        time.sleep(0.02)
    return context


@cloaca.trigger(poll_interval="100ms")
def inbox():
    print("polled")
    if (folder / "fail").exists():
        raise RuntimeError("the inbox is locked")
    found = sorted(folder.glob("*.csv"))
    if not found:
        return cloaca.TriggerResult.skip()
    return cloaca.TriggerResult.fire(cloaca.Context({{"file": found[0].name}}))
"""


def triggers(system: RunningSystem) -> dict[str, Any]:
    """The schedules of the tenant by name."""
    listed = system.client.call("GET", "/v1/tenants/public/triggers")
    return {item["trigger_name"]: item for item in listed["items"]}


def completed(system: RunningSystem, workflow: str) -> list[Any]:
    """The executions of a workflow that completed, newest first."""
    path = f"/v1/tenants/public/executions?workflow={workflow}&status=Completed&limit=1000"
    return list(system.client.call("GET", path)["items"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A system of this module's own: others would see its executions."""
    with RunningSystem(tmp_path_factory.mktemp("schedules") / "home") as system:
        yield system


@pytest.fixture
def inbox(running: RunningSystem, tmp_path: Path) -> Iterator[Path]:
    """The folder that the trigger ``inbox`` watches; its package is gone after the test."""
    watched = tmp_path / "watched"
    watched.mkdir()
    running.upload(write_package(tmp_path, "arrivals", INBOX.format(folder=str(watched))))
    yield watched
    (watched / "hold").unlink(missing_ok=True)
    running.client.call("DELETE", "/v1/tenants/public/workflows/arrivals/1.0.0")


def test_no_firing_is_lost_or_doubled_when_the_scheduler_is_killed(folder: Path) -> None:
    down: list[tuple[float, float]] = []
    with RunningSystem(folder / "home") as system:
        system.upload(write_package(folder, "ticking", EVERY_SECOND))
        wait_until(lambda: len(completed(system, "ticking")) >= 2, "the first ticks")
        for _ in range(2):
            before = time.time()
            system.wait_for_successor(system.kill("scheduler"), "scheduler")
            down.append((before - 1, time.time() + 1))
            wait_until(lambda: completed(system, "ticking")[0]["created_at"] > _rfc3339(down[-1][1]), "further ticks")
        system.client.call("POST", "/v1/tenants/public/triggers/every_second/pause")
        wait_until(lambda: system.metric("scheduler", "cloacina_active_workflows") == 0, "the end of all")
        origins = {execution["trigger_origin"] for execution in completed(system, "ticking")}
        assert origins == {"cron"}
    with sqlite3.connect(folder / "home" / "scheduler.db") as store:
        fired = store.execute(
            "SELECT scheduled_at, execution_id FROM schedule_firings ORDER BY scheduled_at"
        ).fetchall()
        executions = {row[0] for row in store.execute("SELECT execution_id FROM executions WHERE status='Completed'")}
    instants = [at // 1_000_000 for at, _ in fired]
    assert len(instants) == len(set(instants)), "an instant was fired twice"
    assert {execution_id for _, execution_id in fired} == executions
    missing = set(range(instants[0], instants[-1])) - set(instants)
    assert all(any(begin <= at <= end for begin, end in down) for at in missing), (missing, down)


def _rfc3339(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


def test_a_cron_firing_is_found_by_its_request_id_everywhere(running: RunningSystem, tmp_path: Path) -> None:
    running.upload(write_package(tmp_path, "ticking", EVERY_SECOND))
    try:
        found = wait_until(lambda: completed(running, "ticking"), "a tick")[0]
        output = running.execution(found["id"])["output"]
        assert output["ticked"] == output["scheduled_time"]
        assert (output["schedule_timezone"], output["schedule_expression"]) == ("Europe/Berlin", "* * * * * *")
        lines = [line for line in running.log() if line.get("request_id") == found["request_id"]]
        assert {"scheduler", "executor"} <= {line["service"] for line in lines}
        (fired,) = [line for line in lines if line["message"] == "a schedule fired"]
        assert (fired["schedule"], fired["outcome"], fired["execution_id"]) == ("every_second", "fired", found["id"])
        assert running.metric("scheduler", 'cloacina_schedule_fires_total{kind="cron",outcome="fired"}') >= 1
        assert running.metric("scheduler", "cloacina_schedule_lag_seconds_count") >= 1
    finally:
        running.client.call("DELETE", "/v1/tenants/public/workflows/ticking/1.0.0")
    assert "every_second" not in triggers(running)


def test_a_trigger_starts_its_workflow_and_the_same_context_only_once_at_a_time(
    running: RunningSystem, inbox: Path
) -> None:
    (inbox / "hold").touch()
    (inbox / "a.csv").touch()
    path = "/v1/tenants/public/executions?workflow=arrivals"
    wait_until(lambda: running.client.call("GET", path)["items"], "the start")
    wait_until(lambda: triggers(running)["inbox"]["last_outcome"] == "skipped", "a poll of the same context")
    begun = running.client.call("GET", path)["items"]
    assert [each["trigger_origin"] for each in begun] == ["trigger"]
    assert begun[0]["id"] in triggers(running)["inbox"]["last_error"]
    (inbox / "b.csv").touch()  # of no consequence yet: the trigger names the first one
    (inbox / "a.csv").unlink()
    wait_until(lambda: len(running.client.call("GET", path)["items"]) == 2, "another context")
    (inbox / "b.csv").unlink()
    (inbox / "hold").unlink()
    ended = running.wait_for_end(begun[0]["id"])
    assert {name: ended["output"][name] for name in ("file", "size", "trigger_name")} == {
        "file": "a.csv",
        "size": 7,
        "trigger_name": "inbox",
    }
    printed = [line for line in running.log() if line["target"] == "trigger.arrivals.inbox"]
    assert printed[0]["message"] == "polled"
    assert printed[0]["request_id"]


def test_a_trigger_that_fails_is_visible_and_goes_on(running: RunningSystem, inbox: Path) -> None:
    (inbox / "fail").touch()
    wait_until(lambda: triggers(running)["inbox"]["last_outcome"] == "failed", "the failure")
    assert triggers(running)["inbox"]["last_error"] == "RuntimeError: the inbox is locked"
    line = next(line for line in running.log() if line["message"] == "a trigger could not be polled")
    assert (line["level"], line["schedule"], line["workflow_name"]) == ("WARN", "inbox", "arrivals")
    assert "tasks.py" in line["exception"]
    assert running.metric("scheduler", 'cloacina_schedule_fires_total{kind="trigger",outcome="failed"}') >= 1
    (inbox / "fail").unlink()
    before = len(completed(running, "arrivals"))
    (inbox / "c.csv").touch()
    wait_until(lambda: len(completed(running, "arrivals")) > before, "the next firing")


def test_a_paused_trigger_rests_and_one_fired_by_hand_does_not(running: RunningSystem, inbox: Path) -> None:
    paused = running.client.call("POST", "/v1/tenants/public/triggers/inbox/pause")
    assert (paused["status"], paused["paused"]) == ("paused", True)
    assert triggers(running)["inbox"]["paused_at"] is not None
    surface = running.client.call("GET", "/v1/tenants/public/triggers/inbox/interface")
    assert [slot["name"] for slot in surface["slots"]] == ["file", "size"]
    client = running.client
    fired = client.call("POST", "/v1/tenants/public/triggers/arrivals/fire", {"event": {"file": "by-hand"}})
    assert (fired["trigger"], fired["fired"]) == ("inbox", 1)
    ended = running.wait_for_end(fired["executions"][0]["execution_id"])
    assert (ended["trigger_origin"], ended["request_id"]) == ("manual", client.request_id)
    assert (ended["output"]["file"], ended["output"]["manual_fire"]) == ("by-hand", True)
    with pytest.raises(ApiFailure, match="trigger_event_invalid"):
        client.call("POST", "/v1/tenants/public/triggers/inbox/fire", {"event": {"size": "large"}})
    detail = client.call("GET", "/v1/tenants/public/triggers/inbox")
    assert detail["recent_executions"][0]["execution_id"] == ended["execution_id"]
    client.call("POST", "/v1/tenants/public/triggers/inbox/resume")
    (inbox / "d.csv").touch()
    wait_until(lambda: triggers(running)["inbox"]["last_outcome"] == "fired", "a firing after the pause")


def test_the_command_line_lists_pauses_resumes_and_fires(running: RunningSystem, inbox: Path) -> None:
    def ctl(*arguments: str) -> str:
        command = [sys.executable, "-m", "cloacina.cli", "--home", str(running.home), "--server", running.url]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "every 0.1 s" in ctl("trigger", "list")
    assert json.loads(ctl("--json", "trigger", "pause", "inbox"))["paused"] is True
    execution_id = ctl("-o", "id", "trigger", "fire", "inbox", "--event", '{"file": "ctl"}').strip()
    assert running.wait_for_end(execution_id)["output"]["file"] == "ctl"
    assert json.loads(ctl("--json", "trigger", "resume", "inbox"))["paused"] is False


def test_an_instance_starts_at_its_times_with_what_it_binds(running: RunningSystem, inbox: Path) -> None:
    path = "/v1/tenants/public/workflows/arrivals/instances"
    body = {"instance_name": "bound", "params": {"file": "bound.csv"}, "cron": "* * * * * *"}
    made = running.client.call("POST", path, body)
    bound = wait_until(lambda: [e for e in completed(running, "arrivals") if e["trigger_origin"] == "cron"], "a firing")
    output = running.execution(bound[0]["id"])["output"]
    assert (output["file"], output["size"]) == ("bound.csv", 7)
    assert output["schedule_expression"] == "* * * * * *"
    schedule = triggers(running)["arrivals/bound"]
    assert output["schedule_id"] == schedule["id"]
    shown = running.client.call("GET", f"{path}/bound")
    assert shown["next_run_at"] > made["next_run_at"]
    with pytest.raises(ApiFailure) as refused:
        running.client.call(
            "POST", "/v1/tenants/public/triggers/arrivals%2Fbound/fire", {"event": {"file": "another.csv"}}
        )
    assert (refused.value.status, "bound by the instance" in refused.value.message) == (400, True)
    running.client.call("DELETE", f"{path}/bound")
    assert "arrivals/bound" not in triggers(running)


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ('@cloaca.trigger(on="refused", cron="61 * * * *")', "invalid minute '61'"),
        ('@cloaca.trigger(on="refused", cron="0 3 * * *", timezone="Mars/Base")', "Mars/Base"),
        ('@cloaca.trigger(on="refused", cron="0 0 30 2 *")', "never fires"),
        ('@cloaca.trigger(on="elsewhere", cron="0 3 * * *")', "on='elsewhere' is no workflow of this tenant"),
        ('@cloaca.trigger(poll_interval="0s")', "poll_interval must be from 1 ms"),
        ('@cloaca.trigger(name="inbox", poll_interval="1s")', "the package 'arrivals' has a trigger of this name"),
    ],
)
def test_a_trigger_that_could_start_nothing_is_refused(
    running: RunningSystem, inbox: Path, tmp_path: Path, declaration: str, said: str
) -> None:
    code = (
        f"import cloaca\n\n\n@cloaca.task()\ndef work(context):\n    pass\n\n\n{declaration}\ndef start():\n    pass\n"
    )
    with pytest.raises(ApiFailure) as refused:
        running.upload(write_package(tmp_path, "refused", code))
    assert refused.value.status == 400
    assert "upload_failed" in refused.value.message
    assert said in refused.value.message


def test_the_examples_run(running: RunningSystem, tmp_path: Path) -> None:
    examples = Path(__file__).resolve().parents[2] / "examples"
    running.upload(examples / "river_levels")
    judged = wait_until(lambda: completed(running, "river_levels"), "the first reading")[0]
    tasks = running.tasks(judged["id"])
    output = running.execution(judged["id"])["output"]
    assert tasks["alarm"]["status"] == ("Completed" if output["flood"] else "Skipped")
    running.upload(examples / "order_inbox")
    inbox = Path("/tmp/cloacina-orders")
    inbox.mkdir(exist_ok=True)
    order = inbox / f"{tmp_path.name}-{time.time_ns()}.json"
    written = order.with_suffix(".new")
    written.write_text('{"order": 17, "items": [{"price": 4.5, "count": 2}]}')
    written.rename(order)
    try:
        wait_until(lambda: order.with_suffix(".done").exists(), "the order to be filed")
    finally:
        order.unlink(missing_ok=True)
        order.with_suffix(".done").unlink(missing_ok=True)
    handled = wait_until(lambda: completed(running, "order_inbox"), "the end of the order")
    assert running.execution(handled[0]["id"])["output"]["total"] == 9.0


def test_a_firing_is_the_root_of_a_trace(folder: Path) -> None:
    watched = folder / "watched"
    watched.mkdir()
    (watched / "a.csv").touch()
    with Collector() as collector:
        with RunningSystem(folder / "home", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}) as system:
            system.upload(write_package(folder, "ticking", EVERY_SECOND))
            system.upload(write_package(folder, "arrivals", INBOX.format(folder=str(watched))))
            ticked = wait_until(lambda: completed(system, "ticking"), "a tick")[0]
            arrived = wait_until(lambda: completed(system, "arrivals"), "an arrival")[0]
        spans = collector.spans
    for execution, root, expected in (
        (ticked, "cron fire", {"store commit", "task ticking/tick", "run tick"}),
        (arrived, "trigger poll", {"store commit", "poll inbox", "run inbox", "task arrivals/read", "run read"}),
    ):
        mine = [span for span in spans if span.attributes.get("request_id") == execution["request_id"]]
        by_name = {span.name: span for span in mine}
        assert expected <= set(by_name), set(by_name)
        assert len({span.trace_id for span in mine}) == 1
        assert [span.name for span in mine if not span.parent_id] == [root]
        assert by_name[root].service == "cloacina-scheduler"
        assert by_name[root].attributes["cloacina.tenant_id"] == "public"
    assert "cloacina.execution_id" not in by_name["poll inbox"].attributes
