"""What authors declare in one test is unknown to the next."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(autouse=True)
def _fresh_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    # by their names: the package shows the decorator `task` where its module of that name would be
    tasks = importlib.import_module("cloacina.authoring.task")
    workflows = importlib.import_module("cloacina.authoring.workflow")
    declared: dict[str, object] = {}
    monkeypatch.setattr(tasks, "_ids", {})
    monkeypatch.setattr(tasks, "declared_tasks", declared)
    monkeypatch.setattr(workflows, "declared_tasks", declared)
    monkeypatch.setattr(workflows, "_workflows", {})
