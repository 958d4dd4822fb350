"""The spans of loading and unloading a package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloacina.errors import InvalidRequest
from cloacina.telemetry import scope, tracing
from tests.otlp_collector import relayed

from .conftest import Stand, archive


@pytest.fixture
def spans() -> Iterator[list[Any]]:
    """Every span that ends."""
    ended: list[Any] = []

    def keep(encoded: bytes, about: int) -> None:
        for resource in relayed(encoded, about).resource_spans:
            for group in resource.scope_spans:
                ended.extend(group.spans)

    tracing.configure_relay("reconciler", keep)
    yield ended
    tracing.shutdown()


def attributes(span: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


async def test_every_step_is_a_child_of_its_load(spans: list[Any], stand: Stand, tmp_path: Path) -> None:
    with scope.bind(request_id="r1"):
        answer = await stand.upload(archive(tmp_path))
        await stand.delete("demo", "1.0")
    [load] = [span for span in spans if span.name == "reconcile load demo"]
    steps = [span.name for span in spans if span.parent_span_id == load.span_id]
    assert steps == ["verify", "extract", "inspect", "store", "announce"]
    assert attributes(load)["request_id"] == "r1"
    assert attributes(load)["cloacina.tenant_id"] == "public"
    assert attributes(load)["cloacina.package_id"] == answer.package_id
    assert attributes(load)["cloacina.workflow_name"] == "demo"
    [unload] = [span for span in spans if span.name == "reconcile unload demo"]
    assert [span.name for span in spans if span.parent_span_id == unload.span_id] == ["store", "announce"]
    assert {attributes(span)["request_id"] for span in spans if span.name in ("inspect", "store commit")} == {"r1"}


async def test_a_refused_load_ends_its_span_with_the_error(spans: list[Any], stand: Stand, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        await stand.upload(archive(tmp_path, tasks="import nowhere\n"))
    [load] = [span for span in spans if span.name == "reconcile load demo"]
    assert load.status.code == load.status.STATUS_CODE_ERROR
    assert "ModuleNotFoundError" in load.status.message
    with pytest.raises(InvalidRequest):
        await stand.upload(b"no archive")
    assert [span.name for span in spans if span.name.startswith("reconcile")][1:] == ["reconcile load unreadable"]
