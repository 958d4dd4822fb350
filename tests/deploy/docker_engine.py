"""A Docker Engine of a test's own: its data, its socket and its networks are its own, and end with it.

An engine changes the firewall of the network namespace that it is in. So deploy/prove.sh puts the whole test into one
of its own, where there is nothing but loopback and what the engine makes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.deploy.debian import program
from tests.system.running import wait_until

_START_DEADLINE_S = 60.0
_COMMAND_DEADLINE_S = 600.0
CANNOT_START = 77
"""Exit status of pytest when there can be no engine on this machine: not a failure of what it was to prove."""


class DockerEngine:
    """Use it as a context manager.

    Args:
        folder: where it keeps everything; on a file system that overlayfs can lie on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "docker.sock"
        self._console = folder / "dockerd.console"
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{self._socket}", "DOCKER_BUILDKIT": "0"}

    def __enter__(self) -> DockerEngine:
        if os.geteuid() != 0:
            pytest.fail("a Docker Engine must be started as root: sudo sh deploy/prove.sh")
        command = [
            program("dockerd", "docker.io"),
            f"--data-root={self._folder / 'data'}",
            f"--exec-root={self._folder / 'exec'}",
            f"--pidfile={self._folder / 'pid'}",
            f"--host=unix://{self._socket}",
        ]
        with self._console.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
        wait_until(self._answers_or_ended, "the start of the Docker Engine", _START_DEADLINE_S)
        if self._process.poll() is not None:
            pytest.exit(f"the Docker Engine does not start here: {self._console.read_text()[-3000:]}", CANNOT_START)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for container in self.run("ps", "--all", "--quiet").split():
            self.run("rm", "--force", "--volumes", container)
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers_or_ended(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            return True
        command = [program("docker", "docker.io"), "version"]
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def run(self, *arguments: str, check: bool = True) -> str:
        """A docker command; returns what it printed.

        Raises:
            AssertionError: it failed, and `check` is set.
        """
        result = subprocess.run(
            [program("docker", "docker.io"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_DEADLINE_S,
        )
        assert result.returncode == 0 or not check, (
            f"docker {arguments}: {result.stdout[-2000:]}{result.stderr[-4000:]}"
        )
        return result.stdout

    def inspect(self, name: str) -> Any:
        """What the engine knows of a container, an image or a volume."""
        return json.loads(self.run("inspect", name))[0]

    def import_tree(self, archive: Path, tag: str) -> None:
        """Makes an image of a file system in a tar file."""
        self.run("import", str(archive), tag)
