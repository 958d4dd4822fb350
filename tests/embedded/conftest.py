"""Runners on a SQLite file, and a clean registry of workflows for each test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cloaca
from cloacina.authoring.triggers import registered_triggers
from cloacina.authoring.workflow import registered_workflows

StartRunner = Callable[..., cloaca.DefaultRunner]


@pytest.fixture(autouse=True)
def own_workflows() -> Iterator[None]:
    """What a test registers is gone after it."""
    registries = (registered_workflows(), registered_triggers())
    before = [dict(registry) for registry in registries]
    for registry in registries:
        registry.clear()
    yield
    for registry, kept in zip(registries, before, strict=True):
        registry.clear()
        registry.update(kept)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a SQLite file."""
    return f"sqlite://{tmp_path / 'runner.db'}"


@pytest.fixture
def start(url: str) -> Iterator[StartRunner]:
    """Starts runners on the file, with settings of a config."""
    runners: list[cloaca.DefaultRunner] = []

    def begin(database_url: str = url, **settings: int | bool) -> cloaca.DefaultRunner:
        runner = cloaca.DefaultRunner.with_config(database_url, cloaca.DefaultRunnerConfig(**settings))
        runners.append(runner)
        return runner

    yield begin
    for runner in runners:
        runner.shutdown(grace_s=0.2)


@pytest.fixture
def runner(start: StartRunner) -> cloaca.DefaultRunner:
    """A runner on the file, with default settings."""
    return start()


def wait_for(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Returns once the condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold in time"
        time.sleep(0.005)
