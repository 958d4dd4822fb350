"""The benchmark runs: in its smallest form, against a real system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_smallest_benchmark_prints_and_writes_its_figures(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    command = [sys.executable, ROOT / "bench" / "suite.py", "--tiny", "--database", "sqlite", "--json", written]
    ended = subprocess.run([*command, "--only", "W2,W5,W8"], capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = json.loads(written.read_text())["figures"]
    assert {figure["part"] for figure in figures} == {"W2", "W5", "W8"}
    for figure in figures:
        assert figure["name"] in ended.stdout
        if figure["unit"] != "%":
            assert 0 < figure["least"] <= figure["median"] <= figure["greatest"]


def test_an_unknown_part_is_refused_and_the_known_ones_are_named() -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / "bench" / "suite.py", "--only", "W1,W99"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "unknown part W99; there are W1, W2" in ended.stderr
