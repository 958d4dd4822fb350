"""The pages on concepts do what they say: every snippet of theirs runs, and what it asserts holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from cloacina.authoring.workflow import registered_workflows

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("tasks", "trigger-rules", "context", "workflows", "executions")


def snippets() -> Iterator[ParameterSet]:
    for name in PAGES:
        text = (ROOT / "docs" / "concepts" / f"{name}.md").read_text(encoding="utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start(1))
            # empty lines before it, so that a failure names the line of the page
            yield pytest.param(name, "\n" * line + match[1], id=f"{name}:{line}")


@pytest.fixture(autouse=True)
def _own_workflows() -> Iterator[None]:
    before = dict(registered_workflows())
    yield
    registered_workflows().clear()
    registered_workflows().update(before)


@pytest.mark.parametrize(("page", "code"), list(snippets()))
def test_a_snippet_runs(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"docs/concepts/{page}.md", "exec"), {"__name__": "snippet"})


def test_every_page_has_a_snippet() -> None:
    assert {parameters.values[0] for parameters in snippets()} == set(PAGES)
