"""Logging and tracing are set up for a test and taken away after it."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from cloacina.telemetry import logs, tracing


class Logged:
    """What one process wrote to its two outputs.

    Args:
        home: where its ``logs`` folder is.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.human = StringIO()

    @property
    def link(self) -> Path:
        """The symlink to today's file."""
        return self.home / "logs" / "cloacina-server.log"

    def lines(self) -> list[dict[str, Any]]:
        """Every JSON line, read with a reader that is not the writer's."""
        return [json.loads(line) for line in self.link.read_text().split("\n")[:-1]]

    def last(self) -> dict[str, Any]:
        """The last JSON line."""
        return self.lines()[-1]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Logged]]:
    """Sets logging up as a service does; levels are restored after the test."""
    monkeypatch.delenv("CLOACINA_LOG", raising=False)
    monkeypatch.delenv("RUST_LOG", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    root_level = logging.getLogger().level

    def begin(directives: str | None = None, **options: Any) -> Logged:
        logged = Logged(tmp_path)
        if directives is not None:
            monkeypatch.setenv("CLOACINA_LOG", directives)
        logs.configure("api", home=tmp_path, stream=logged.human, **options)
        return logged

    yield begin
    logs.shutdown()
    logging.captureWarnings(False)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)
    logging.getLogger().setLevel(root_level)


@pytest.fixture(autouse=True)
def _no_tracing_left() -> Iterator[None]:
    yield
    tracing.shutdown()
