"""gRPC in our processes, and in those that ours start: there it does nothing before they are another program."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cloacina import grpc_environment

_THREADS_OF_A_CHILD = """
import {module}
import os, time, grpc

channel = grpc.insecure_channel("127.0.0.1:1")
channel.subscribe(lambda state: None, try_to_connect=True)
for _ in range(20):
    child = os.fork()
    if child == 0:
        time.sleep(0.005)
        os._exit(len(os.listdir("/proc/self/task")))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("module", ["services.api.service", "services.scheduler.service", "cloacina.daemon.daemon"])
def test_a_child_has_one_thread_and_prints_nothing(module: str) -> None:
    program = _THREADS_OF_A_CHILD.format(module=module)
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert set(ran.stdout.split()) == {"1"}
    assert "fork" not in ran.stderr


def test_what_is_switched_off_is_known_to_grpc() -> None:
    """It names on its error output what it does not know, and goes on."""
    program = "import services.scheduler.service, grpc; grpc.insecure_channel('127.0.0.1:1')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stderr == ""


def test_who_sets_a_variable_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_EXPERIMENTS", "mine")
    monkeypatch.delenv("GRPC_ENABLE_FORK_SUPPORT", raising=False)
    grpc_environment.prepare()
    assert (os.environ["GRPC_EXPERIMENTS"], os.environ["GRPC_ENABLE_FORK_SUPPORT"]) == ("mine", "0")
