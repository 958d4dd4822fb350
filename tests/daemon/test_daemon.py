"""The daemon as its users have it: packages in folders, cron and triggers, signals, the socket."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloacina.daemon.health import SOCKET_NAME
from cloacina.packages.signature import make_key
from tests.daemon.running import RunningDaemon
from tests.otlp_collector import Collector
from tests.system.running import wait_until

pytestmark = [pytest.mark.xdist_group("daemon"), pytest.mark.system]

POLLED = """
import cloaca

MARK = {mark!r}

@cloaca.trigger(on={name!r}, poll_interval="200ms")
def {name}_poll():
    return cloaca.TriggerResult.fire(cloaca.Context({{"mark": MARK}}))

@cloaca.task(id="note")
def note(context):
    print("noted", context.get("mark"))
    return context
"""

SLOW = """
import pathlib
import time

import cloaca

@cloaca.trigger(on="slow", poll_interval="100ms")
def slow_poll():
    return cloaca.TriggerResult.fire(cloaca.Context({{}}))

@cloaca.task(id="hold", retry_attempts=1)
def hold(context):
    pathlib.Path({begun!r}).touch()
    while not pathlib.Path({release!r}).exists():
        time.sleep(0.02)
    print("held to the end")
    return context
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One daemon with a further folder."""
    folder = tmp_path_factory.mktemp("daemon")
    (folder / "further").mkdir()
    with RunningDaemon(folder / "home", "--watch", str(folder / "further")) as running:
        yield running


def test_a_file_in_a_folder_is_loaded_and_its_trigger_runs_it_under_one_request_id(daemon: RunningDaemon) -> None:
    daemon.put("polled", POLLED.format(name="polled", mark="first"))
    loaded = daemon.line("package loaded", package="polled")
    assert loaded["service"] == "daemon"
    assert loaded["tenant_id"] == "public"
    assert loaded["request_id"]
    noted = daemon.line("noted first", workflow_name="polled", task_name="note")
    assert noted["target"] == "task.polled.note"
    daemon.line("execution completed", request_id=noted["request_id"])
    said = {line["message"] for line in daemon.lines() if line.get("request_id") == noted["request_id"]}
    assert said >= {"a schedule fired", "task succeeded", "execution completed"}


def test_a_file_that_is_replaced_supersedes_and_one_that_is_taken_away_unloads(daemon: RunningDaemon) -> None:
    further = daemon.home.parent / "further"
    file = daemon.put("changing", POLLED.format(name="changing", mark="old"), folder=further)
    daemon.line("noted old")
    daemon.put("changing", POLLED.format(name="changing", mark="new"), folder=further)
    superseding = daemon.line("package loaded", package="changing", version="1.0.0", supersedes=_any_supersedes(daemon))
    assert "changing 1.0.0" in superseding["supersedes"]
    daemon.line("noted new")
    file.unlink()
    daemon.line("package unloaded; executions that run keep it", package="changing")
    unloaded = daemon.line("the packages are reconciled", unloaded=1)  # by now the schedules have followed
    after = [line for line in daemon.lines() if line["timestamp"] > unloaded["timestamp"]]
    assert not [
        line for line in after if line["message"] == "a schedule fired" and line.get("schedule") == "changing_poll"
    ]
    assert daemon.health().schedules == len({"polled_poll"} & {line.get("schedule") for line in daemon.lines()})


def _any_supersedes(daemon: RunningDaemon) -> str:
    def found() -> str:
        return next((line["supersedes"] for line in daemon.lines() if "supersedes" in line), "")

    return wait_until(found, "a package that supersedes another", 60)


def test_a_file_that_is_refused_says_why_and_what_it_held_stays(daemon: RunningDaemon) -> None:
    file = daemon.put("torn", POLLED.format(name="torn", mark="whole"))
    daemon.line("noted whole")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused = daemon.line("a package file is not loaded; what it held before stays loaded", file=str(file))
    assert refused["error"]
    status = daemon.cloacinactl("daemon", "status")
    assert f"Health: DEGRADED ({file}: {refused['error']}" in status.stdout
    assert daemon.health().problems[str(file)] == refused["error"]
    file.write_bytes(whole)
    wait_until(lambda: not daemon.health().problems, "the end of the problem", 60)
    file.unlink()
    daemon.line("package unloaded; executions that run keep it", package="torn")


def test_status_prints_the_block_of_the_guide(daemon: RunningDaemon) -> None:
    daemon.put("polled", POLLED.format(name="polled", mark="first"))
    wait_until(lambda: "Loaded packages: 1" in daemon.cloacinactl("daemon", "status").stdout, "the load")
    wait_until(lambda: "Workflows ready: 1" in daemon.cloacinactl("daemon", "status").stdout, "its workflow")
    shown = daemon.cloacinactl("daemon", "status")
    assert shown.returncode == 0
    assert re.fullmatch(
        r"Daemon\n"
        r"Health: OK\n"
        r"Uptime: (\d+m )?\d+s\n"
        r"Watch directories: 2\n"
        r"Loaded packages: 1\n"
        r"Last reconciliation: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d \((\d+m)?\d+s ago\)\n"
        r"Workflows ready: 1\n"
        r"Workflows running: \d+\n"
        r"Tasks running: \d+\n",
        shown.stdout,
    ), shown.stdout
    assert daemon.cloacinactl("daemon", "health").stdout == "up\n"


def test_the_socket_is_for_its_user_only(daemon: RunningDaemon) -> None:
    assert stat.S_IMODE((daemon.home / SOCKET_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(daemon.home.stat().st_mode) == 0o700


def test_a_second_daemon_on_the_home_is_refused(daemon: RunningDaemon) -> None:
    second = daemon.cloacinactl("daemon", "start")
    assert second.returncode == 1
    assert "the daemon cannot start" in second.stderr
    assert daemon.health() is not None


def test_sighup_reads_the_configuration_again(daemon: RunningDaemon, tmp_path: Path) -> None:
    (daemon.home / "config.toml").write_text(
        f'[daemon]\nslots = 3\nworker_taks = 2\nworker_tasks = 4\n\n[watch]\ndirectories = ["{tmp_path}"]\n'
    )
    assert daemon.cloacinactl("daemon", "reload").returncode == 0
    reloaded = daemon.line("the configuration is reloaded")
    assert set(reloaded["changed"].split(", ")) == {"watch_directories", "slots", "worker_tasks"}
    daemon.line("settings that take effect at the next start", settings="worker_tasks")
    told = daemon.line("an entry of the configuration file is ignored")
    assert told["error"].endswith("unknown key 'daemon.worker_taks'; did you mean 'daemon.worker_tasks'?")
    daemon.put("lately", POLLED.format(name="lately", mark="lately"), folder=tmp_path)
    daemon.line("noted lately")
    (daemon.home / "config.toml").write_text("[daemon]\nslots = 0\n")
    daemon.tell(signal.SIGHUP)
    kept = daemon.line("the configuration cannot be reloaded; the old one stays")
    assert "config.toml: daemon.slots: 0 is not valid" in kept["error"]
    (daemon.home / "config.toml").unlink()


def test_sigterm_drains_and_the_next_start_goes_on(tmp_path: Path) -> None:
    begun, release = tmp_path / "begun", tmp_path / "release"
    code = SLOW.format(begun=str(begun), release=str(release))
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "config.toml").write_text("[daemon]\nshutdown_timeout_s = 0.3\n")
    (tmp_path / "home" / "packages").mkdir()
    # what was there before the start, and a socket that a daemon left which was killed
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.path.relpath(tmp_path / "home" / SOCKET_NAME))
    daemon = RunningDaemon(tmp_path / "home")
    file = daemon.put("slow", code)
    with daemon:
        daemon.line("a daemon that ran before left its socket; it is replaced")
        wait_until(begun.exists, "the task")
        running = wait_until(lambda: [e for e in [daemon.health()] if e and e.tasks_running], "a task that runs")[0]
        assert running.active_workflows >= 1
        assert daemon.stop() == 0
        assert "daemon stopped" in daemon.messages()
        assert "tasks that did not end in time run again at the next start" in daemon.messages()
        assert not (daemon.home / SOCKET_NAME).exists()
        down = daemon.cloacinactl("daemon", "status")
        assert (down.returncode, down.stdout) == (2, "")
        assert "the daemon is not running" in down.stderr
        assert daemon.cloacinactl("daemon", "stop").returncode == 2
        file.unlink()  # the execution keeps its code
        release.touch()
        daemon.start()
        ended = daemon.line("held to the end")
        assert ended["execution_id"]
        daemon.line("execution completed", execution_id=ended["execution_id"])
        stopped = daemon.cloacinactl("daemon", "stop")
        assert re.fullmatch(r"daemon stopped \(pid \d+\)\n", stopped.stdout), stopped.stderr
        assert daemon.stop() == 0


def test_a_second_sigint_exits_at_once_and_a_crash_loses_nothing(tmp_path: Path) -> None:
    """One trace from the firing of the cron schedule to the task that ran again after the crash."""
    begun, release = tmp_path / "begun", tmp_path / "release"
    code = SLOW.format(begun=str(begun), release=str(release)).replace(
        '@cloaca.trigger(on="slow", poll_interval="100ms")', '@cloaca.trigger(on="slow", cron="* * * * * *")'
    )
    with Collector() as collector:
        daemon = RunningDaemon(tmp_path / "home")
        daemon.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint
        with daemon:
            file = daemon.put("slow", code)
            fired = daemon.line("a schedule fired", workflow_name="slow")
            wait_until(begun.exists, "the task", 60)
            wait_until(lambda: "cron fire" in {span.name for span in collector.spans}, "the firing's span", 60)
            daemon.tell(signal.SIGINT)
            daemon.line("daemon drains; a second signal ends it at once")
            assert daemon.stop(signal.SIGINT) == 128 + signal.SIGINT
            file.unlink()
            release.touch()
            daemon.start()
            ended = daemon.line("execution completed", execution_id=fired["execution_id"])
            assert ended["request_id"] == fired["request_id"]
            assert daemon.stop() == 0

        def spans() -> set[tuple[str, str]]:
            mine = [span for span in collector.spans if span.trace_id == fired["trace_id"]]
            found = {(span.service, span.name) for span in mine}
            wanted = {("cloacina-daemon", "cron fire"), ("cloacina-daemon", "task slow/hold")}
            return found if found >= {*wanted, ("cloacina-worker", "run hold")} else set()

        assert wait_until(spans, "the spans of the execution", 60)
        names = {span.name for span in collector.spans if span.service == "cloacina-daemon"}
        assert {"reconcile load slow.cloacina", "extract", "inspect", "store commit"} <= names


def test_signed_packages_only_and_metrics_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    metrics = tmp_path / "collected" / "cloacina.prom"
    metrics.parent.mkdir()
    make_key(tmp_path / "key")
    (tmp_path / "home" / "config.toml").write_text(
        f'[daemon]\nrequire_signatures = true\ntrusted_keys = ["{tmp_path / "key.pub"}"]\n'
        f'metrics_file = "{metrics}"\nmetrics_interval_s = 1\n'
    )
    with RunningDaemon(tmp_path / "home") as daemon:
        unsigned = daemon.put("polled", POLLED.format(name="polled", mark="unsigned"))
        refused = daemon.line("a package file is not loaded", file=str(unsigned))
        assert "takes signed packages only" in refused["error"]
        daemon.put("polled", POLLED.format(name="polled", mark="signed"), key=tmp_path / "key")
        daemon.line("noted signed")
        assert not any(line["message"] == "noted unsigned" for line in daemon.lines())

        def samples() -> dict[str, float]:
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            parts = (line.rpartition(" ") for line in lines if not line.startswith("#"))
            return {name: float(value) for name, _, value in parts}

        wanted = 'cloacina_workflows_total{reason="ok",status="completed"}'
        wait_until(lambda: samples().get(wanted, 0.0) > 0, "the metrics of what ran", 60)
        assert samples()['cloacina_reconciler_packages{state="loaded"}'] == 1
        assert samples()["cloacina_up"] == 1
        wait_until(lambda: list(metrics.parent.iterdir()) == [metrics], "nothing half-written beside it")


SECRETIVE = """
import hashlib

import cloaca

@cloaca.trigger(on="secretive", poll_interval="200ms")
def secretive_poll():
    return cloaca.TriggerResult.fire(cloaca.Context({}))

@cloaca.workflow_secrets("warehouse")
@cloaca.task(id="read", retry_attempts=1)
def read(context):
    password = context.secret_field("warehouse", "password")
    print("password", password, "fingerprint", hashlib.sha256(password.encode()).hexdigest()[:8])
    return context
"""


def test_secrets_are_sealed_given_to_tasks_and_taken_out_of_what_they_print(tmp_path: Path) -> None:
    first, second = "correct horse battery staple", "another one altogether"
    kek = tmp_path / "kek"
    kek.write_text(bytes(range(32)).hex())
    (tmp_path / "home").mkdir(mode=0o700)
    daemon = RunningDaemon(tmp_path / "home")
    refused = daemon.cloacinactl("daemon", "secret", "create", "warehouse", "--literal", f"password={first}")
    assert refused.returncode != 0
    assert "secrets are not configured" in refused.stderr

    (daemon.home / "config.toml").write_text(f'[daemon]\nsecret_kek_file = "{kek}"\n')
    made = daemon.cloacinactl("daemon", "secret", "create", "warehouse", "--literal", f"password={first}")
    assert made.returncode == 0, made.stderr
    with daemon:
        daemon.put("secretive", SECRETIVE)
        daemon.line(f"password [secret warehouse] fingerprint {_fingerprint(first)}")
        rotated = daemon.cloacinactl("daemon", "secret", "rotate", "warehouse", "--literal", f"password={second}")
        assert rotated.returncode == 0, rotated.stderr
        daemon.line(f"password [secret warehouse] fingerprint {_fingerprint(second)}")
        listed = daemon.cloacinactl("--json", "daemon", "secret", "list")
        assert [(each["name"], each["version"]) for each in json.loads(listed.stdout)] == [("warehouse", 2)]
        assert daemon.cloacinactl("daemon", "secret", "delete", "warehouse", "--force").returncode == 0
        missing = daemon.line("task attempt failed", workflow_name="secretive")
        assert "secret not found" in missing["error"]
        kept = [file for file in daemon.home.rglob("*") if file.is_file()]
        assert not [file for file in kept if _holds(file, first, second)], "a value in the clear"


def _fingerprint(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:8]


def _holds(file: Path, *values: str) -> bool:
    try:
        content = file.read_bytes()
    except FileNotFoundError:  # it was one of a moment
        return False
    return any(value.encode() in content for value in values)
