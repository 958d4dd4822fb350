"""Lines on their way to the store: gathered, bounded, tried again, and handed on when the process stops."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from cloacina.errors import Unavailable
from cloacina.telemetry import execution_lines, logs, scope
from cloacina.telemetry.execution_lines import ExecutionLines, Lines

log = logging.getLogger("cloacina.engine.engine")


class Receiver:
    """Takes batches; fails as often as it is told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[Lines]]] = []
        self.failures = 0
        self.full: list[str] = []

    async def __call__(self, name: str, batch: list[Lines]) -> list[str]:
        self.batches.append((name, batch))
        if self.failures:
            self.failures -= 1
            raise Unavailable("the scheduler cannot be reached")
        return self.full

    def messages(self, execution_id: str) -> list[str]:
        lines = b"".join(each.lines for _, batch in self.batches for each in batch if each.execution_id == execution_id)
        return [json.loads(line)["message"] for line in lines.splitlines()]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def _dropped(registry: CollectorRegistry, reason: str) -> float | None:
    return registry.get_sample_value("cloacina_log_lines_dropped_total", {"reason": reason})


async def test_what_is_logged_of_an_execution_comes_with_all_its_fields(configure, registry) -> None:
    logged = configure()
    receiver = Receiver()
    lines = ExecutionLines("executor", receiver, registry)
    lines.start()
    with scope.bind(execution_id="e1", tenant_id="acme"):
        log.info("one", extra={"flavour": "plum"})
        log.info("in the events already", extra={"_told": True})
        threading.Thread(target=log.info, args=("of no execution: a thread has a scope of its own",)).start()
    log.info("of no execution")
    with scope.bind(execution_id="e2"):
        log.warning("without a tenant")
    await _until(lambda: receiver.messages("e2") == ["without a tenant"])
    await lines.stop()
    ((_, batch),) = receiver.batches
    assert batch[0].lines.decode().splitlines() == [
        line for line in logged.link.read_text().splitlines() if '"one"' in line
    ]
    assert [(each.execution_id, each.tenant_id) for each in batch] == [("e1", "acme"), ("e2", "")]
    assert "_told" not in logged.link.read_text()
    assert registry.get_sample_value("cloacina_log_lines_kept_total") == 2


async def test_the_gateway_keeps_nothing_that_names_no_tenant(configure, registry) -> None:
    configure()
    receiver = Receiver()
    lines = ExecutionLines("api", receiver, registry, lambda line: line.get("method") == "POST")
    lines.start()
    with scope.bind(execution_id="e1"):
        log.info("no tenant", extra={"method": "POST"})
    with scope.bind(execution_id="e1", tenant_id="acme"):
        log.info("looked", extra={"method": "GET"})
        log.info("cancelled", extra={"method": "POST"})
    await lines.stop()
    assert receiver.messages("e1") == ["cancelled"]


async def test_a_batch_that_was_not_taken_is_handed_on_again_under_its_name(configure, registry, monkeypatch) -> None:
    monkeypatch.setattr(execution_lines, "_RETRY_S", 0.01)
    configure()
    receiver = Receiver()
    receiver.failures = 2
    lines = ExecutionLines("executor", receiver, registry)
    lines.start()
    with scope.bind(execution_id="e1"):
        log.info("one")
    await _until(lambda: len(receiver.batches) == 3)
    await lines.stop()
    assert len({name for name, _ in receiver.batches}) == 1
    assert len({tuple(batch) for _, batch in receiver.batches}) == 1


async def test_stopping_hands_on_what_is_there_and_waits_for_nobody_for_long(configure, registry, monkeypatch) -> None:
    configure()
    receiver = Receiver()
    lines = ExecutionLines("executor", receiver, registry)
    lines.start()
    with scope.bind(execution_id="e1"):
        log.info("last words")
    await lines.stop()
    assert receiver.messages("e1") == ["last words"]
    monkeypatch.setattr(execution_lines, "_LAST_S", 0.05)
    receiver.failures = 1_000
    lines = ExecutionLines("executor", receiver, CollectorRegistry())
    lines.start()
    with scope.bind(execution_id="e1"):
        log.info("unheard")
    async with asyncio.timeout(5):
        await lines.stop()


async def test_one_that_says_too_much_at_once_loses_lines_which_is_said_and_counted(
    configure, registry, monkeypatch
) -> None:
    monkeypatch.setattr(execution_lines, "_MOST_OF_ONE_BYTES", 2_000)
    monkeypatch.setattr(execution_lines, "_CHUNK_BYTES", 600)
    configure()
    receiver = Receiver()
    lines = ExecutionLines("executor", receiver, registry)
    lines.start()
    with scope.bind(execution_id="e1", tenant_id="acme"):
        for number in range(100):
            log.info(str(number))
    with scope.bind(execution_id="e2", tenant_id="acme"):
        log.info("quiet")
    await lines.stop()
    messages = receiver.messages("e1")
    assert messages[:-1] == [str(number) for number in range(len(messages) - 1)]
    assert messages[-1].startswith("lines are missing here")
    assert _dropped(registry, "queue") == 100 - (len(messages) - 1) > 0
    assert receiver.messages("e2") == ["quiet"]
    assert len(receiver.batches) > 1, "in pieces"
    assert receiver.batches[0][1][1].execution_id == "e2", "it waits for none of the other's pieces"


async def test_of_a_full_execution_no_more_is_sent(configure, registry) -> None:
    configure()
    receiver = Receiver()
    receiver.full = ["e1"]
    lines = ExecutionLines("executor", receiver, registry)
    lines.start()
    with scope.bind(execution_id="e1"):
        log.info("one")
    await _until(lambda: bool(receiver.batches))
    await asyncio.sleep(0)
    with scope.bind(execution_id="e1"):
        log.info("two")
    await lines.stop()
    assert receiver.messages("e1") == ["one"]
    assert _dropped(registry, "full") == 1


async def test_after_it_was_stopped_nothing_is_taken(configure, registry) -> None:
    configure()
    receiver = Receiver()
    lines = ExecutionLines("executor", receiver, registry)
    lines.start()
    await lines.stop()
    with scope.bind(execution_id="e1"):
        log.info("late")
    logs.shutdown()
    assert receiver.batches == []
