"""Pausing workflows, and showing the source of packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloacina.errors import NotFound
from cloacina.rpc.v1 import reconciler_pb2
from tests.packages.archives import TASKS

from .conftest import Stand, Start, archive, running


async def set_paused(stand: Stand, name: str, paused: bool, tenant_id: str = "public") -> Any:
    request = reconciler_pb2.SetWorkflowPausedRequest(tenant_id=tenant_id, name=name, paused=paused)
    return await stand.call("SetWorkflowPaused", request)


async def source_of(stand: Stand, name: str, tenant_id: str = "public") -> Any:
    return await stand.call("GetSource", reconciler_pb2.GetSourceRequest(tenant_id=tenant_id, name=name))


async def test_a_pause_is_seen_everywhere_and_told_to_those_who_watch(stand: Stand, tmp_path: Path) -> None:
    uploaded = await stand.upload(archive(tmp_path))
    watching = stand.watch()
    first = await watching.next()
    assert not first.upserted[0].paused
    done = await set_paused(stand, "demo", True)
    assert (done.package_id, done.workflow_name, done.changed) == (uploaded.package_id, "demo", True)
    told = await watching.next()
    assert [(each.workflow_name, each.paused) for each in told.upserted] == [("demo", True)]
    assert told.revision > first.revision
    assert (await stand.workflow()).paused
    assert (await stand.package("demo")).workflows[0].paused
    assert (await stand.packages())[0].workflows[0].paused
    assert stand.sample("cloacina_reconciler_paused_workflows") == 1

    assert (await set_paused(stand, "demo", False)).changed
    assert [each.paused for each in (await watching.next()).upserted] == [False]
    assert not (await stand.workflow()).paused
    assert stand.sample("cloacina_reconciler_paused_workflows") == 0
    watching.stop()


async def test_a_pause_answers_when_all_have_followed(start: Start, tmp_path: Path) -> None:
    stand = await start(acknowledge_s=0.2)
    silent = stand.watch(acknowledge=False)
    await silent.next()
    await stand.upload(archive(tmp_path))
    assert (await set_paused(stand, "demo", True)).changed, "it does not wait for ever"
    silent.stop()


@pytest.mark.parametrize("paused", [True, False])
async def test_to_ask_twice_is_no_error(stand: Stand, tmp_path: Path, paused: bool) -> None:
    await stand.upload(archive(tmp_path))
    if not paused:
        await set_paused(stand, "demo", True)
    assert (await set_paused(stand, "demo", paused)).changed
    assert not (await set_paused(stand, "demo", paused)).changed
    assert (await stand.workflow()).paused is paused


async def test_a_workflow_is_paused_by_its_packages_name_too(stand: Stand, tmp_path: Path) -> None:
    await stand.upload(archive(tmp_path, name="jobs", workflow="nightly"))
    assert (await set_paused(stand, "jobs", True)).workflow_name == "nightly"
    assert (await stand.workflow("nightly")).paused


async def test_a_pause_holds_for_new_versions_and_old_ones(stand: Stand, tmp_path: Path) -> None:
    await stand.upload(archive(tmp_path))
    await set_paused(stand, "demo", True)
    await stand.upload(archive(tmp_path, version="2.0"))
    assert [each.workflows[0].paused for each in await stand.packages()] == [True, True]
    assert (await stand.workflow()).package_version == "2.0"
    assert (await stand.workflow()).paused
    await stand.delete("demo", "2.0")
    assert (await stand.workflow()).paused
    await set_paused(stand, "demo", False)
    await stand.upload(archive(tmp_path, version="3.0"))
    assert not (await stand.workflow()).paused


async def test_a_pause_ends_by_a_resume_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with running(home) as stand:
        await stand.upload(archive(tmp_path))
        await set_paused(stand, "demo", True)
        await stand.delete("demo", "1.0")
        assert stand.sample("cloacina_reconciler_paused_workflows") == 0, "there is no such workflow at present"
    async with running(home) as stand:
        await stand.upload(archive(tmp_path, version="2.0"))
        assert (await stand.workflow()).paused
        await set_paused(stand, "demo", False)
    async with running(home) as stand:
        assert not (await stand.workflow()).paused


async def test_tenants_pause_their_own(stand: Stand, tmp_path: Path) -> None:
    for tenant_id in ("public", "other"):
        await stand.upload(archive(tmp_path), tenant_id)
    await set_paused(stand, "demo", True, "other")
    assert not (await stand.workflow()).paused
    assert (await stand.workflow(tenant_id="other")).paused
    with pytest.raises(NotFound):
        await set_paused(stand, "demo", True, "third")


async def test_what_is_not_there_cannot_be_paused_or_shown(stand: Stand) -> None:
    for ask in (set_paused(stand, "absent", True), source_of(stand, "absent")):
        with pytest.raises(NotFound) as refused:
            await ask
        assert refused.value.code == "workflow_not_found"


async def test_the_source_is_that_of_the_newest_version(stand: Stand, tmp_path: Path) -> None:
    first = await stand.upload(archive(tmp_path, name="jobs", workflow="nightly"))
    await stand.upload(archive(tmp_path, name="jobs", workflow="nightly", version="2.0", tasks=TASKS + b"\n# new\n"))
    for name in ("nightly", "jobs"):
        shown = await source_of(stand, name)
        assert (shown.package_name, shown.workflow_name, shown.version) == ("jobs", "nightly", "2.0")
        contents = {each.path: each.contents for each in shown.files}
        assert list(contents) == ["package.toml", "workflow/jobs/__init__.py", "workflow/jobs/tasks.py"]
        assert contents["workflow/jobs/tasks.py"].endswith("# new\n")
    old = await source_of(stand, first.package_id)
    assert (old.package_id, old.version) == (first.package_id, "1.0")
    with pytest.raises(NotFound):
        await source_of(stand, first.package_id, "other")
    assert stand.spooled() == []
