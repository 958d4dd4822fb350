"""The snippets of the concept pages run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

_PAGES = Path(__file__).resolve().parents[2] / "docs" / "concepts"
_SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("snippet", _SNIPPET.findall((_PAGES / "composition.md").read_text()))
def test_snippets_of_composition_run(snippet: str, tmp_path: Path) -> None:
    """Each in a process of its own, as a reader would run it."""
    run = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
