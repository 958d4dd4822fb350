"""Those who follow the registry: a snapshot, then every change, acknowledged."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from services.reconciler import watchers

from .conftest import Stand, Start, archive


async def test_a_watcher_gets_all_and_then_every_change(stand: Stand, tmp_path: Path) -> None:
    await stand.upload(archive(tmp_path, name="early"))
    watching = stand.watch()
    first = await watching.next()
    assert first.snapshot
    assert [each.workflow_name for each in first.upserted] == ["early"]
    uploading = asyncio.create_task(stand.upload(archive(tmp_path)))
    added = await watching.next()
    assert not added.snapshot
    assert added.revision > first.revision
    assert [each.workflow_name for each in added.upserted] == ["demo"]
    await uploading
    deleting = asyncio.create_task(stand.delete("demo", "1.0"))
    removed = await watching.next()
    assert [(key.tenant_id, key.workflow_name) for key in removed.removed] == [("public", "demo")]
    assert removed.revision > added.revision
    await deleting
    watching.stop()


async def test_an_upload_answers_when_all_have_followed(start: Start, tmp_path: Path) -> None:
    stand = await start(acknowledge_s=30)
    quick, slow = stand.watch(), stand.watch(acknowledge=False)
    revision = (await quick.next()).revision
    await slow.next()
    slow.applied.put_nowait(revision)
    uploading = asyncio.create_task(stand.upload(archive(tmp_path)))
    await quick.next()
    changes = await slow.next()
    assert not uploading.done()
    slow.applied.put_nowait(changes.revision)
    async with asyncio.timeout(10):
        assert (await uploading).created


async def test_a_silent_watcher_delays_an_upload_only_so_long(start: Start, tmp_path: Path) -> None:
    stand = await start(acknowledge_s=0.2)
    silent = stand.watch(acknowledge=False)
    await silent.next()
    began = time.monotonic()
    for number in range(3):
        await stand.upload(archive(tmp_path, name=f"p{number}"))
    assert time.monotonic() - began < 10
    names: set[str] = set()
    while len(names) < 3:
        names |= {each.workflow_name for each in (await silent.next()).upserted}
    assert names == {"p0", "p1", "p2"}


async def test_a_watcher_that_goes_delays_nobody(start: Start, tmp_path: Path) -> None:
    stand = await start(acknowledge_s=30)
    going = stand.watch(acknowledge=False)
    await going.next()
    uploading = asyncio.create_task(stand.upload(archive(tmp_path)))
    await going.next()
    going.stop()
    async with asyncio.timeout(10):
        await uploading
    back = stand.watch()
    snapshot = await back.next()
    assert snapshot.snapshot
    assert [each.workflow_name for each in snapshot.upserted] == ["demo"]


async def test_a_new_version_changes_the_same_workflow(stand: Stand, tmp_path: Path) -> None:
    await stand.upload(archive(tmp_path))
    watching = stand.watch()
    await watching.next()
    uploading = asyncio.create_task(stand.upload(archive(tmp_path, version="2.0", workflow="demo")))
    changes = await watching.next()
    assert [(each.workflow_name, each.package_version) for each in changes.upserted] == [("demo", "2.0")]
    assert not changes.removed
    await uploading


async def test_streams_end_when_the_service_stops(stand: Stand) -> None:
    watching = stand.watch()
    await watching.next()
    await stand.service.drain()
    assert await watching.next() is None


async def test_many_definitions_come_in_parts(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        await stand.upload(archive(tmp_path, name=f"p{number}"))
    definitions = [each.workflows[0] for each in await stand.packages()]
    parts = list(watchers._in_parts(definitions, [], 7, snapshot=True))
    assert [(part.snapshot, part.revision) for part in parts] == [(True, 7)]
    monkeypatch.setattr(watchers, "_MESSAGE_BYTES", definitions[0].ByteSize() + 1)
    parts = list(watchers._in_parts(definitions, [], 7, snapshot=True))
    assert [(part.snapshot, part.revision, len(part.upserted)) for part in parts] == [
        (True, 6, 1),
        (False, 6, 1),
        (False, 7, 1),
    ]
