"""docker-compose.yml is run by the whole suite, too: deploy/prove.sh in a process of its own, beside the other tests.

What a machine lacks for it (root, apt-get, network namespaces, a Docker Engine that starts) is said loudly: as a skip
with its reason, and as a warning.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from typing import NoReturn

import pytest

from tests.deploy.docker_engine import CANNOT_START
from tests.deploy.monitoring import ROOT

_DEADLINE_S = 1500


@pytest.mark.longest
@pytest.mark.timeout(_DEADLINE_S + 60)
@pytest.mark.xdist_group("proof")
def test_what_docker_compose_starts_is_proven() -> None:
    if lacking := _lacking():
        _skip_loudly(lacking)
    done = subprocess.run(
        ["sh", str(ROOT / "deploy" / "prove.sh")],
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=_DEADLINE_S,
    )
    if done.returncode == CANNOT_START:
        _skip_loudly(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-20_000:]
    print(done.stdout.strip().splitlines()[-1])


def _lacking() -> str | None:
    """What this machine lacks, in words."""
    if os.geteuid() != 0:
        return "it starts a Docker Engine and must be root"
    if shutil.which("apt-get") is None:
        return "it makes its images of Debian packages, and there is no apt-get"
    command = ["unshare", "--net", "true"]
    if shutil.which("unshare") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        return "this machine makes no network namespaces"
    return None


def _skip_loudly(reason: str) -> NoReturn:
    said = f"docker-compose.yml was NOT run: {reason}. On a machine that can: sudo sh deploy/prove.sh"
    warnings.warn(said, stacklevel=2)
    pytest.skip(said)
