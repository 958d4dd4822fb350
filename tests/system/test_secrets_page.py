"""The page on secrets does what it says: its commands run, its package reads what they stored."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloacina.cli.client import read_bootstrap_key
from tests.system.running import RunningSystem, write_package

_PAGE = (Path(__file__).resolve().parents[2] / "docs" / "concepts" / "secrets.md").read_text()


def _snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _PAGE, flags=re.DOTALL | re.MULTILINE)


READER, VARIABLES = _snippets("python")
FIRST, NEXT = _snippets("sh")


@pytest.fixture
def system(tmp_path: Path) -> Iterator[RunningSystem]:
    variables = {"CLOACINA_SECRET_KEK": "ab" * 32, "CLOACINA_VAR_REGION": "eu-north-1"}
    with RunningSystem(tmp_path / "home", variables) as running:
        yield running


def test_the_commands_of_the_page_run(system: RunningSystem, tmp_path: Path) -> None:
    write_package(tmp_path, "reports", READER)
    commands = tmp_path / "bin"
    commands.mkdir()
    script = commands / "cloacinactl"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m cloacina.cli "$@"\n')
    script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": os.getcwd(),
        "CLOACINA_SERVER": system.url,
        "CLOACINA_API_KEY": read_bootstrap_key(system.home),
    }

    def run(snippet: str) -> str:
        ended = subprocess.run(
            ["/bin/sh", "-e", "-c", snippet],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    for snippet, password in ((FIRST, "correct horse battery staple"), (NEXT, "another one altogether")):
        said = run(snippet)
        assert "Completed" in said
        assert password not in said
        newest = system.client.call("GET", "/v1/tenants/public/executions?limit=1")["items"][0]
        output = system.execution(newest["id"])["output"]
        assert output["connected"] is True
        assert output["fingerprint"] == hashlib.sha256(password.encode()).hexdigest()[:8]
        assert "connecting with [secret warehouse]" in {line["message"] for line in system.log()}
        assert password not in json.dumps(list(system.log()))

    system.upload(write_package(tmp_path, "regions", VARIABLES))
    ended = system.wait_for_end(system.execute("regions"))
    assert ended["output"] == {"region": "eu-north-1", "threshold": 0.5}
