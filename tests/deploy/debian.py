"""Programs that tests need from Debian: found, or installed when root, or named with the command that installs them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def program(name: str, package: str) -> str:
    """Where a program is.

    Args:
        name: of the program.
        package: the Debian package that brings it.

    Raises:
        Failed: it is not there and cannot be installed; the message says what to do.
    """
    found = shutil.which(name)
    if found is None:
        install(package)
        found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not there though the package {package} is installed; is its folder in PATH?")
    return found


def install(*packages: str) -> None:
    """Installs Debian packages, with nothing they merely recommend; starts no service.

    Raises:
        Failed: not root, or no apt, or apt failed; the message says what to do.
    """
    remedy = f"install what this test needs: sudo apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.fail(remedy)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    wait = "DPkg::Lock::Timeout=300"
    with (Path(tempfile.gettempdir()) / "cloacina-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        subprocess.run(["apt-get", "-o", wait, "update", "-qq"], env=environment, check=False, capture_output=True)
        command = ["apt-get", "-o", wait, "install", "-y", "-qq", "--no-install-recommends", *packages]
        result = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.fail(f"{remedy}\nas root, it failed: {result.stderr[-2000:]}")
