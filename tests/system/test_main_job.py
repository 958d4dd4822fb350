"""`make run`, as far as it is ours: the script behind it, and the server command."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.running import RunningSystem, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(folder: Path) -> RunningSystem:
    """A home and free ports; not started."""
    return RunningSystem(folder / "home")


def main_job(system: RunningSystem, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "main_job.py"), "--home", str(system.home), *arguments]


def test_it_completes_twice_on_the_same_data(settings: RunningSystem) -> None:
    for _ in range(2):
        began = time.monotonic()
        run = subprocess.run(
            main_job(settings, "--once"), env=settings.environment, capture_output=True, text=True, timeout=90
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert time.monotonic() - began < 60
        assert "Completed after" in run.stdout
        for task in ("fetch", "clean_pm25", "clean_no2", "clean_o3", "aggregate", "publish"):
            assert re.search(rf"{task} +Completed", run.stdout + run.stderr)
        assert re.search(r"x-request-id +[0-9a-f-]{36}", run.stdout)
    report = settings.home / "output" / "air_quality.csv"
    assert report.read_text().splitlines()[0] == "station,day,pm25,no2,o3"
    assert len(report.read_text().splitlines()) == 91


def test_it_stays_up_until_ctrl_c_which_drains(settings: RunningSystem) -> None:
    run = subprocess.Popen(
        main_job(settings), env=settings.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert run.stdout is not None
        for line in run.stdout:
            if "stays up" in line:
                break
        assert settings.answers("/ready")
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 0
    finally:
        run.kill()
    assert not settings.answers("/health")
    log = (settings.home / "logs" / "cloacina-server.log").read_text()
    for service in ("api", "scheduler", "reconciler", "executor"):
        assert f"{service} stopped" in log


@pytest.mark.parametrize(
    "variable", ["CLOACINA_API_PORT", "CLOACINA_SCHEDULER_RPC_PORT", "CLOACINA_EXECUTOR_METRICS_PORT"]
)
def test_a_busy_port_is_named_with_its_remedy(settings: RunningSystem, variable: str) -> None:
    port = settings.ports[variable]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        run = subprocess.run(
            main_job(settings, "--once"), env=settings.environment, capture_output=True, text=True, timeout=60
        )
    assert run.returncode == 1
    assert f"port {port} " in run.stderr
    assert variable in run.stderr
    assert "Traceback" not in run.stderr


def test_a_second_server_on_the_same_home_is_refused(folder: Path) -> None:
    """On other ports, too: two schedulers must not share a SQLite store."""
    with RunningSystem(folder / "home") as first:
        second = RunningSystem(folder / "home")
        run = subprocess.run(second.command, env=second.environment, capture_output=True, text=True, timeout=60)
        assert run.returncode == 1
        assert "a SQLite store serves one process" in run.stderr
        assert first.status() == "ok"


def test_children_do_not_outlive_their_supervisor(folder: Path) -> None:
    system = RunningSystem(folder / "home")
    system.start()
    children = [system.process(name) for name in ("api", "scheduler", "reconciler", "executor")]
    assert system.supervisor is not None
    system.supervisor.kill()
    system.supervisor.wait()
    wait_until(lambda: not any(child.is_running() for child in children), "the end of the services")
