"""cloacinactl against a running system, from an empty folder to a result."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_commands import Done, cloacinactl
from tests.system.running import RunningSystem, wait_until, write_package

pytestmark = pytest.mark.xdist_group("cli")

FAILING = """
import cloaca

@cloaca.task(id="load", retry_attempts=1)
def load(context):
    raise ValueError("the table is locked")
"""

WAITING = """
import pathlib
import time

import cloaca

@cloaca.task(id="hold", retry_attempts=1)
def hold(context):
    while not pathlib.Path(context["release"]).exists():
        time.sleep(0.02)
    return context
"""


class Operator:
    """Someone at a shell.

    Args:
        system: what they operate.
        folder: where they work.
    """

    def __init__(self, system: RunningSystem, folder: Path) -> None:
        self.system = system
        self.folder = folder

    def run(self, *arguments: str, code: int = 0) -> Done:
        """Runs a command, which must end with `code`."""
        done = cloacinactl("--home", str(self.system.home), "--server", self.system.url, *arguments)
        assert done.code == code, (arguments, done)
        return done


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """A system, and packages on it that fail and that wait."""
    folder = tmp_path_factory.mktemp("cli")
    with RunningSystem(folder / "home", {"CLOACINA_VAR_POLLED_READY": str(folder / "ready")}) as system:
        operator = Operator(system, folder)
        for name, code in (("failing", FAILING), ("waiting", WAITING)):
            operator.run("package", "upload", str(write_package(folder, name, code)))
        yield operator


def test_a_new_package_runs_with_no_edit(operator: Operator) -> None:
    operator.run("package", "new", "hello", "--path", str(operator.folder / "hello"))
    operator.run("package", "publish", str(operator.folder / "hello"))
    done = operator.run("workflow", "run", "hello", "--wait", "--json", "--context", '{"numbers": [1, 2]}')
    assert done.json["status"] == "Completed"
    assert done.json["output"]["total"] == 5
    assert [line.split()[:2] for line in done.err.splitlines()[1:]] == [
        [task, "Completed"] for task in ("extract", "transform", "load")
    ]


def test_a_new_package_with_a_schedule_fires(operator: Operator) -> None:
    operator.run("package", "new", "timed", "--kind", "cron", "--path", str(operator.folder / "timed"))
    operator.run("package", "pack", str(operator.folder / "timed"), "-O", str(operator.folder / "timed.cloacina"))
    operator.run("package", "upload", str(operator.folder / "timed.cloacina"))
    found = operator.run("trigger", "inspect", "timed_schedule", "-o", "json").json
    assert "*/5 * * * *" in json.dumps(found)
    (execution_id,) = operator.run("trigger", "fire", "timed_schedule", "-o", "id").out.split()
    assert json.loads(operator.run("execution", "wait", execution_id, "--json").out)["output"]["total"] == 14


def test_a_new_package_with_a_trigger_fires(operator: Operator) -> None:
    (operator.folder / "ready").touch()
    operator.run("package", "new", "polled", "--kind", "trigger", "--path", str(operator.folder / "polled"))
    operator.run("package", "publish", str(operator.folder / "polled"))
    ids = wait_until(
        lambda: operator.run("execution", "list", "--workflow", "polled", "-o", "id").out.split(), "a firing", 60
    )
    assert json.loads(operator.run("execution", "wait", ids[0], "--json").out)["output"]["total"] == 77
    assert not (operator.folder / "ready").exists()


def test_the_exit_codes(operator: Operator) -> None:
    assert "[workflow_not_found] (x-request-id " in operator.run("workflow", "run", "nothing", code=3).err
    assert operator.run("workflow", "run", "failing", "--context", "{", code=1).err
    assert "Failed" in operator.run("workflow", "run", "failing", "--wait", code=1).out
    operator.run("--api-key", "clk_wrong", "workflow", "list", code=4)
    refused = operator.run("--api-key", "clk_wrong", "workflow", "list", "--json", code=4)
    assert json.loads(refused.err).keys() == {"error", "code", "status", "request_id"}
    operator.run("--server", "http://127.0.0.1:1", "workflow", "list", code=2)
    assert operator.run("nonsense", code=1).err
    ended = operator.run("execution", "list", "--status", "failed", "-o", "id").out.split()[0]
    assert "illegal_transition" in operator.run("execution", "resume", ended, code=5).err


def test_what_failed_is_found_and_tried_again(operator: Operator) -> None:
    started = operator.run("workflow", "run", "failing", "--json").json
    operator.run("execution", "wait", started["execution_id"], code=1)
    explained = operator.run("explain", started["request_id"])
    assert "ValueError: the table is locked" in explained.out
    assert operator.run("explain", started["execution_id"], "-o", "yaml").out.startswith("- ")
    operator.run("execution", "retry", started["execution_id"])
    assert operator.run("execution", "wait", started["execution_id"], "-o", "id", code=1).out.split() == [
        started["execution_id"]
    ]
    tasks = operator.run("execution", "tasks", started["execution_id"]).out.splitlines()
    assert tasks[0].split() == ["TASK_NAME", "STATUS", "ATTEMPT", "STARTED_AT", "COMPLETED_AT", "LAST_ERROR"]


def test_events_are_followed_to_the_end_and_top_shows_what_runs(operator: Operator) -> None:
    release = operator.folder / "release"
    context = json.dumps({"release": str(release)})
    execution_id = operator.run("workflow", "run", "waiting", "-o", "id", "--context", context).out.strip()
    following = subprocess.Popen(
        [
            *(sys.executable, "-m", "cloacina.cli", "--home", str(operator.system.home)),
            *("--server", operator.system.url, "--json", "execution", "events", execution_id, "--follow"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: operator.system.tasks(execution_id)["hold"]["started_at"], "the start of the task", 60)
        seen = operator.run("top", "--once").out
        assert re.search(rf"^{execution_id} +waiting +Running +\S+ +0/1 +hold ", seen, re.MULTILINE), seen
        assert operator.run("top", "--json").json["unfinished"] >= 1
        shown = on_a_terminal(operator, "top", "--interval", "0.2", until=execution_id)
        assert "\x1b[?1049h" in shown  # the screen of its own
    finally:
        release.touch()
        out, _ = following.communicate(timeout=60)
    types = [json.loads(line)["event_type"] for line in out.splitlines()]
    assert types[0] == "workflow_started" or "workflow_started" in types
    assert types[-1] == "workflow_completed"
    since = operator.run("execution", "events", execution_id, "--since", "1h", "-o", "json").json
    assert [event["event_type"] for event in since] == types
    assert operator.run("execution", "events", execution_id, "--since", "soon", code=1).err


def on_a_terminal(operator: Operator, *arguments: str, until: str) -> str:
    """Runs a command on a terminal until it shows a text, then presses Ctrl-C; returns what it wrote."""
    command = [
        sys.executable,
        "-m",
        "cloacina.cli",
        "--home",
        str(operator.system.home),
        "--server",
        operator.system.url,
    ]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS="160", LINES="40", TERM="xterm")
        os.execv(command[0], [*command, *arguments])
    written, deadline = "", time.monotonic() + 60
    try:
        while until not in written and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                written += os.read(terminal, 1 << 16).decode(errors="replace")
        os.write(terminal, b"\x03")
        while select.select([terminal], [], [], 5)[0]:
            try:
                part = os.read(terminal, 1 << 16)
            except OSError:  # it ended
                break
            if not part:
                break
            written += part.decode(errors="replace")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert until in written, written
    assert os.waitstatus_to_exitcode(status) in (130, -signal.SIGINT)
    return written


def test_keys_and_tenants(operator: Operator) -> None:
    operator.run("tenant", "create", "acme", "--description", "a tenant")
    assert "acme" in operator.run("tenant", "list", "-o", "id").out.split()
    made = operator.run("--tenant", "acme", "key", "create", "ci", "--role", "write", "--json").json
    me = operator.run("--api-key", made["key"], "key", "whoami", "--json").json
    assert (me["tenant_id"], me["role"]) == ("acme", "write")
    operator.run("--api-key", made["key"], "--tenant", "acme", "workflow", "list")
    operator.run("--api-key", made["key"], "--tenant", "public", "workflow", "list", code=4)
    operator.run("--tenant", "acme", "key", "revoke", made["id"], "--force")
    operator.run("--api-key", made["key"], "--tenant", "acme", "workflow", "list", code=4)
    listed = operator.run("--tenant", "acme", "key", "list", "--json").json
    assert [each["revoked"] for each in listed if each["id"] == made["id"]] == [True]


def test_accounts_quotas_and_the_end_of_a_tenant(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.run("tenant", "create", "short")
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse battery staple\n"))
    made = operator.run("--tenant", "short", "account", "create", "ada", "--role", "write", "--json").json
    assert (made["username"], made["role"], made["status"]) == ("ada", "write", "active")
    monkeypatch.setattr(sys, "stdin", io.StringIO("another battery staple horse\n"))
    operator.run("--tenant", "short", "account", "password", made["id"])
    operator.run("--tenant", "short", "account", "disable", made["id"], "--force")
    listed = operator.run("--tenant", "short", "account", "list", "--json").json
    assert [each["status"] for each in listed] == ["disabled"]
    assert operator.run("tenant", "quotas", "short", "--executions", "7", "--json").json["executions"] == 7
    assert operator.run("tenant", "quotas", "short", "--json").json["executions"] == 7
    operator.run("tenant", "delete", "short", "--force")
    assert "short" not in operator.run("tenant", "list", "-o", "id").out.split()


def test_a_package_is_listed_inspected_and_deleted(operator: Operator) -> None:
    operator.run("package", "new", "gone", "--path", str(operator.folder / "gone"))
    package_id = json.loads(operator.run("package", "publish", str(operator.folder / "gone"), "--json").out)[
        "package_id"
    ]
    assert operator.run("package", "list", "--filter", "gone", "-o", "id").out.split() == [package_id]
    for name in ("gone", package_id):
        assert operator.run("package", "inspect", name, "--json").json["version"] == "0.1.0"
    assert operator.run("workflow", "inspect", "gone", "--json").json["task_graph"]
    operator.run("package", "delete", "gone", "--force")
    operator.run("package", "inspect", "gone", code=3)


def test_both_kinds_of_state(operator: Operator) -> None:
    shown = operator.run("status").out
    assert "the daemon is not running" in shown
    assert re.search(r"^scheduler +ok ", shown, re.MULTILINE)
    assert operator.run("server", "health").out == "up\n"
    assert {each["status"] for each in operator.run("server", "status", "--json").json["services"]} == {"ok"}
    assert operator.run("--server", "http://127.0.0.1:1", "server", "health", code=2).err == "down\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell: str, operator: Operator) -> None:
    script = operator.run("completions", shell).out
    assert "_CLOACINACTL_COMPLETE" in script


def test_server_stop_drains(tmp_path: Path) -> None:
    system = RunningSystem(tmp_path / "home")
    with system:
        supervisor = system.supervisor
        assert supervisor is not None
        stopped = cloacinactl("--home", str(tmp_path / "home"), "server", "stop")
        assert stopped.out == f"server stopped (pid {supervisor.pid})\n", stopped
        assert supervisor.wait(10) == 0
    again = cloacinactl("--home", str(tmp_path / "home"), "server", "stop")
    assert (again.code, "no server runs on" in again.err) == (2, True)
