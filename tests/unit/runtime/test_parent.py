"""A service ends with its supervisor, which runs nothing between fork and exec."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

import cloacina
from cloacina.runtime.parent import PARENT_PID
from tests.system.running import wait_until

_SERVICE = "import time; from cloacina.runtime.parent import end_with_parent as f; f(); print('up'); time.sleep(60)"
_SUPERVISOR = f"""
import os, subprocess, sys
environment = {{**os.environ, {PARENT_PID!r}: str(os.getpid())}}
child = subprocess.Popen([sys.executable, "-u", "-c", {_SERVICE!r}], env=environment)
print(child.pid, flush=True)
child.wait()
"""


def test_a_service_ends_when_its_supervisor_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _SUPERVISOR], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        said = [supervisor.stdout.readline().strip() for _ in range(2)]
        child = psutil.Process(next(int(word) for word in said if word.isdigit()))
        assert "up" in said
        supervisor.kill()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the end of the service")


def test_a_service_whose_supervisor_is_gone_does_not_begin() -> None:
    environment = {**os.environ, PARENT_PID: "1" if os.getppid() != 1 else "2"}
    ended = subprocess.run(
        [sys.executable, "-c", _SERVICE], env=environment, capture_output=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, b"")


def test_without_a_supervisor_nothing_is_asked_for() -> None:
    environment = {name: value for name, value in os.environ.items() if name != PARENT_PID}
    with subprocess.Popen([sys.executable, "-u", "-c", _SERVICE], env=environment, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"up\n"
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == -signal.SIGTERM


def test_no_process_of_ours_runs_python_between_fork_and_exec() -> None:
    """`preexec_fn` waits for ever where a thread held a lock at the fork."""
    roots = [Path(cloacina.__file__).parent, Path(cloacina.__file__).parent.parent / "services"]
    users = [
        f"{file}:{call.lineno}"
        for root in roots
        for file in root.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and any(keyword.arg == "preexec_fn" for keyword in call.keywords)
    ]
    assert users == []
