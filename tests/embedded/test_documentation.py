"""The example and the page on the embedded runner do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cloaca

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = (_ROOT / "docs" / "concepts" / "embedded.md").read_text()
_SNIPPETS = re.findall(r"^```python\n(.*?)^```", _PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_example_runs_with_nothing_else_running() -> None:
    ended = subprocess.run(
        [sys.executable, "examples/embedded.py"],
        cwd=_ROOT,
        env={"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "Completed, total 27.5, for 42" in ended.stdout
    assert "20 of 20 completed" in ended.stdout


@pytest.mark.parametrize("snippet", _SNIPPETS, ids=range(len(_SNIPPETS)))
def test_the_snippets_of_the_page_run(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "docs/concepts/embedded.md", "exec"), {"__name__": "snippet"})


def test_the_page_has_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", _PAGE, flags=re.MULTILINE)
    shown: dict[str, str] = {}
    for names, defaults in rows:
        shown.update(zip(re.findall(r"`(\w+)`", names), defaults.split(", "), strict=True))
    assert shown == {name: str(value) for name, value in cloaca.DefaultRunnerConfig().to_dict().items()}
