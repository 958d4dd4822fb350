"""One running system for all tests that only use it; those that break it start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import postgres_server
from tests.system.running import RunningSystem, write_package

__all__ = ["postgres_server"]

MIXED = """
import asyncio
import logging
import os
import time

import cloaca

log = logging.getLogger("author")
attempts = {}


@cloaca.task(id="greet")
def greet(context):
    print("printed by", context.get("name"))
    log.info("logged", extra={"flavour": "plum"})
    os.write(1, b"written past Python\\n")
    context.set("greeting", f"hello {context.get('name')}")
    return context


@cloaca.task(id="wait", dependencies=["greet"])
async def wait(context):
    await asyncio.sleep(0.01)
    context.set("waited", True)
    return context


@cloaca.task(id="flaky", dependencies=["greet"], retry_attempts=3, retry_delay_ms=20, retry_jitter=False)
def flaky(context):
    key = context.get("name")
    attempts[key] = attempts.get(key, 0) + 1
    if attempts[key] < 3:
        raise ConnectionError(f"attempt {attempts[key]} of {key}")
    context.set("attempts", attempts[key])
    return context


@cloaca.task(id="join", dependencies=["wait", "flaky"])
def join(context):
    context.set("joined", sorted(context.to_dict()))
    return context
"""


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A system with the package ``mixed`` (workflow ``mixed``)."""
    folder = tmp_path_factory.mktemp("system")
    with RunningSystem(folder / "home") as running:
        running.upload(write_package(folder, "mixed", MIXED))
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place for packages and homes."""
    return tmp_path
