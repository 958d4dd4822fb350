"""Packages that are uploaded, superseded, deleted, refused; and what survives a restart."""

from __future__ import annotations

import asyncio
import bz2
import hashlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloacina.errors import Conflict, InvalidRequest, NotFound, PayloadTooLarge, Unavailable
from cloacina.rpc.v1 import common_pb2, reconciler_pb2
from cloacina.telemetry import scope
from tests.packages.archives import TASKS, file, honest, tar_of

from .conftest import Stand, Start, archive, running


def rows(stand: Stand) -> tuple[int, int]:
    """Rows of packages and of archives in the store."""
    with sqlite3.connect(stand.home / "registry.db") as connection:
        return (
            connection.execute("SELECT count(*) FROM packages").fetchone()[0],
            connection.execute("SELECT count(*) FROM artifacts").fetchone()[0],
        )


async def test_an_uploaded_package_can_be_executed(stand: Stand, tmp_path: Path) -> None:
    tasks = TASKS.decode() + (
        "\n@cloaca.task(dependencies=[one], retry_attempts=5, trigger_rules=cloaca.always(), timeout_s=0.0001)\n"
        "def two(context):\n    pass\n\ncloaca.workflow_params(limit=(int, 3), place=str)\n"
    )
    data = archive(tmp_path, tasks=tasks)
    answer = await stand.upload(data)
    assert answer.created
    workflow = await stand.workflow()
    assert workflow.package_id == answer.package_id
    assert workflow.package_digest == hashlib.sha256(data).hexdigest()
    assert (workflow.package_name, workflow.package_version, workflow.tenant_id) == ("demo", "1.0", "public")
    one, two = workflow.tasks
    assert (one.id, one.doc_what, one.doc_why, one.trigger_rule, one.timeout_ms) == ("one", "counts", "to know", "", 0)
    assert (list(two.dependencies), two.retry.max_attempts, two.retry.backoff) == (["one"], 5, "exponential")
    assert (two.trigger_rule, two.timeout_ms) == ('{"type":"Always"}', 1)
    limit, place = workflow.params
    assert (limit.name, limit.required, limit.default_value, limit.schema) == (
        "limit",
        False,
        "3",
        '{"type":"integer"}',
    )
    assert (place.name, place.required, place.default_value) == ("place", True, "")
    [package] = await stand.packages()
    assert (package.package_id, package.build_status, package.size_bytes) == (answer.package_id, "success", len(data))
    assert package.workflows == [workflow]
    assert await stand.artifact(package.digest) == data
    assert stand.spooled() == []
    assert stand.sample("cloacina_reconciler_packages", state="loaded") == 1
    assert stand.sample("cloacina_reconciler_packages", state="loading") == 0
    assert stand.sample("cloacina_reconciler_runs_total", outcome="loaded") == 1
    assert stand.sample("cloacina_reconciler_run_duration_seconds_count", outcome="loaded") == 1


async def test_large_archives_are_kept_whole(stand: Stand, tmp_path: Path) -> None:
    noise = hashlib.shake_256(b"noise").digest(3_500_000)
    data = bz2.compress(tar_of(*honest(), file("demo-1.0/noise", noise)))
    assert len(data) > 3_000_000
    await stand.upload(data, chunk=1 << 20)
    assert await stand.artifact(hashlib.sha256(data).hexdigest()) == data


async def test_the_same_content_is_the_same_package(stand: Stand, tmp_path: Path) -> None:
    data = archive(tmp_path)
    first = await stand.upload(data)
    second = await stand.upload(data)
    assert (second.package_id, second.created) == (first.package_id, False)
    assert rows(stand)[0] == 1


async def test_the_same_content_at_the_same_time_is_stored_once(stand: Stand, tmp_path: Path) -> None:
    data = archive(tmp_path)
    answers = await asyncio.gather(*(stand.upload(data) for _ in range(4)))
    assert len({answer.package_id for answer in answers}) == 1
    assert sorted(answer.created for answer in answers) == [False, False, False, True]
    assert rows(stand)[0] == 1


async def test_other_content_of_the_same_version_is_a_conflict(stand: Stand, tmp_path: Path) -> None:
    await stand.upload(archive(tmp_path))
    with pytest.raises(Conflict) as refused:
        await stand.upload(archive(tmp_path, tasks=TASKS + b"\n"))
    assert refused.value.code == "package_conflict"
    assert "other content" in refused.value.message
    assert rows(stand)[0] == 1
    assert stand.spooled() == []


async def test_tenants_do_not_see_each_other(stand: Stand, tmp_path: Path) -> None:
    await stand.upload(archive(tmp_path))
    await stand.upload(archive(tmp_path, tasks=TASKS + b"\n"), tenant_id="other")
    assert len(await stand.packages()) == len(await stand.packages("other")) == 1
    assert (await stand.workflow()).package_id != (await stand.workflow(tenant_id="other")).package_id
    with pytest.raises(NotFound):
        await stand.workflow(tenant_id="third")


async def test_the_newest_version_is_current_until_it_is_deleted(stand: Stand, tmp_path: Path) -> None:
    first = await stand.upload(archive(tmp_path))
    second = await stand.upload(archive(tmp_path, version="2.0"))
    assert (await stand.workflow()).package_version == "2.0"
    assert [package.version for package in await stand.packages()] == ["2.0", "1.0"]
    assert (await stand.package("demo")).package_id == second.package_id
    deleted = await stand.delete("demo", "2.0")
    assert deleted.package_id == second.package_id
    assert (await stand.workflow()).package_id == first.package_id
    await stand.delete("demo", "1.0")
    with pytest.raises(NotFound) as missing:
        await stand.workflow()
    assert missing.value.code == "workflow_not_found"
    with pytest.raises(NotFound):
        await stand.delete("demo", "1.0")
    assert await stand.packages() == []
    assert stand.sample("cloacina_reconciler_runs_total", outcome="unloaded") == 2


async def test_a_deleted_packages_archive_stays_for_what_runs(stand: Stand, tmp_path: Path) -> None:
    data = archive(tmp_path)
    await stand.upload(data)
    await stand.delete("demo", "1.0")
    assert await stand.artifact(hashlib.sha256(data).hexdigest()) == data
    again = await stand.upload(data)
    assert again.created


async def test_a_version_that_renames_its_workflow_takes_the_old_name_out(stand: Stand, tmp_path: Path) -> None:
    await stand.upload(archive(tmp_path, workflow="old"))
    await stand.upload(archive(tmp_path, version="2.0", workflow="new"))
    assert (await stand.workflow("new")).package_version == "2.0"
    with pytest.raises(NotFound):
        await stand.workflow("old")
    assert (await stand.package("old")).version == "1.0"
    assert (await stand.package("demo")).version == "2.0"
    await stand.delete("demo", "2.0")
    assert (await stand.workflow("old")).package_version == "1.0"


async def test_a_workflow_name_belongs_to_one_package(stand: Stand, tmp_path: Path) -> None:
    await stand.upload(archive(tmp_path, name="first", workflow="shared"))
    with pytest.raises(Conflict) as refused:
        await stand.upload(archive(tmp_path, name="second", workflow="shared"))
    assert refused.value.code == "package_conflict"
    assert "'shared' is in the package 'first' already" in refused.value.message
    assert rows(stand)[0] == 1
    await stand.upload(archive(tmp_path, name="first", version="2.0", workflow="shared"))


REFUSED = {
    "raises": (lambda folder: archive(folder, tasks="import nowhere\n"), "tasks.py, line 1: ModuleNotFoundError"),
    "hangs": (lambda folder: archive(folder, tasks="while True: pass\n"), "did not finish importing"),
    "leads out": (lambda folder: bz2.compress(tar_of(*honest(), file("demo-1.0/../../x"))), "leads out"),
    "cut off": (lambda folder: archive(folder)[:-20], "cut off"),
    "no archive": (lambda folder: b"hello", "not bzip2"),
    "nothing": (lambda folder: b"", "empty"),
    "Rust": (lambda folder: bz2.compress(tar_of(*honest(), file("demo-1.0/Cargo.toml"))), "Rust"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
async def test_refused_packages_leave_nothing(start: Start, tmp_path: Path, make: Any, message: str) -> None:
    stand = await start(inspect_timeout_s=1.5)
    with pytest.raises(InvalidRequest) as refused:
        await stand.upload(make(tmp_path))
    assert refused.value.code == "upload_failed"
    assert message in refused.value.message
    assert rows(stand) == (0, 0)
    assert stand.spooled() == []
    assert await stand.packages() == []
    assert stand.sample("cloacina_reconciler_runs_total", outcome="refused") == 1


async def test_archives_over_the_limit_are_refused_while_they_come(start: Start, tmp_path: Path) -> None:
    stand = await start(max_upload_bytes=1000)
    with pytest.raises(PayloadTooLarge, match="larger than 1000 bytes"):
        await stand.upload(bytes(5000), chunk=500)
    assert (rows(stand), stand.spooled()) == ((0, 0), [])


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [reconciler_pb2.UploadPackageRequest(chunk=b"x")],
        [reconciler_pb2.UploadPackageRequest(header=reconciler_pb2.UploadHeader(tenant_id="../x"))],
        [reconciler_pb2.UploadPackageRequest(header=reconciler_pb2.UploadHeader(tenant_id="public"))] * 2,
    ],
    ids=["nothing", "no header", "bad tenant", "two headers"],
)
async def test_uploads_that_break_the_protocol_are_refused(stand: Stand, messages: list[Any]) -> None:
    async def said() -> AsyncIterator[Any]:
        for message in messages:
            yield message

    with pytest.raises(InvalidRequest):
        await stand.call("UploadPackage", said())
    assert stand.spooled() == []


@pytest.mark.parametrize("end", [None, reconciler_pb2.UploadEnd(size_bytes=1, digest="0" * 64)], ids=["none", "wrong"])
async def test_a_whole_archive_without_its_true_end_is_refused(
    stand: Stand, tmp_path: Path, end: reconciler_pb2.UploadEnd | None
) -> None:
    async def said() -> AsyncIterator[Any]:
        yield reconciler_pb2.UploadPackageRequest(header=reconciler_pb2.UploadHeader(tenant_id="public"))
        yield reconciler_pb2.UploadPackageRequest(chunk=archive(tmp_path))
        if end is not None:
            yield reconciler_pb2.UploadPackageRequest(end=end)

    with pytest.raises(InvalidRequest) as refused:
        await stand.call("UploadPackage", said())
    assert refused.value.code == "upload_failed"
    assert (rows(stand), stand.spooled()) == ((0, 0), [])


async def test_uploads_that_stop_are_given_up_and_too_many_refused(start: Start, tmp_path: Path) -> None:
    stand = await start(max_uploads=1, upload_idle_s=0.5)
    stuck = asyncio.Event()

    async def stops() -> AsyncIterator[Any]:
        yield reconciler_pb2.UploadPackageRequest(header=reconciler_pb2.UploadHeader(tenant_id="public"))
        stuck.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(stand.call("UploadPackage", stops()))
    await stuck.wait()
    async with asyncio.timeout(5):
        while not stand.spooled():
            await asyncio.sleep(0.01)
    with pytest.raises(Unavailable, match="under way already"):
        await stand.upload(archive(tmp_path))
    with pytest.raises(Unavailable, match=r"sent nothing for 0.5 seconds"):
        await first
    assert stand.spooled() == []
    assert (await stand.upload(archive(tmp_path))).created


async def test_a_caller_that_goes_away_leaves_a_whole_package(stand: Stand, tmp_path: Path) -> None:
    upload = asyncio.create_task(stand.upload(archive(tmp_path)))
    async with asyncio.timeout(10):
        while stand.sample("cloacina_reconciler_packages", state="loading") != 1:
            await asyncio.sleep(0.001)
    upload.cancel()
    async with asyncio.timeout(10):
        while stand.spooled() or stand.sample("cloacina_reconciler_packages", state="loading"):
            await asyncio.sleep(0.01)
    assert (await stand.workflow()).package_version == "1.0"


async def test_a_service_that_stops_finishes_what_it_loads_and_takes_no_more(stand: Stand, tmp_path: Path) -> None:
    data = archive(tmp_path)
    upload = asyncio.create_task(stand.upload(data))
    async with asyncio.timeout(10):
        while stand.sample("cloacina_reconciler_packages", state="loading") != 1:
            await asyncio.sleep(0.001)
    await stand.service.drain()
    assert (await upload).created
    with pytest.raises(Unavailable, match="stopping"):
        await stand.upload(data)


async def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    data = archive(tmp_path)
    home = tmp_path / "home"
    async with running(home) as stand:
        await stand.upload(data)
        await stand.upload(archive(tmp_path, version="2.0"))
        await stand.upload(archive(tmp_path, version="3.0"))
        await stand.delete("demo", "3.0")
        before = [await stand.packages(), await stand.workflow()]
        (home / "spool" / "left").mkdir()
        (home / "spool" / "left" / "archive").touch()
    async with running(home) as stand:
        assert [await stand.packages(), await stand.workflow()] == before
        assert await stand.artifact(hashlib.sha256(data).hexdigest()) == data
        assert stand.spooled() == []
        assert not (await stand.upload(data)).created
        status = await stand.call("GetStatus", common_pb2.GetStatusRequest())
        assert (status.service, status.ready, status.figures["packages_loaded"]) == ("reconciler", True, 2)


async def test_a_stored_package_that_cannot_be_used_shows_why_and_harms_nobody(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with running(home) as stand:
        await stand.upload(archive(tmp_path))
        await stand.upload(archive(tmp_path, name="other"))
    with sqlite3.connect(home / "registry.db") as connection:
        connection.execute("UPDATE packages SET contents = '{}' WHERE package_name = 'demo'")
    async with running(home) as stand:
        assert (await stand.workflow("other")).package_name == "other"
        with pytest.raises(NotFound):
            await stand.workflow("demo")
        package = await stand.package("demo")
        assert (package.build_status, list(package.workflows)) == ("failed", [])
        assert "cannot be used" in package.build_error
        assert stand.sample("cloacina_reconciler_packages", state="failed") == 1


async def test_an_unknown_digest_has_no_archive(stand: Stand) -> None:
    for digest in ("0" * 64, "nonsense", ""):
        with pytest.raises(Exception, match="no package archive"):
            await stand.artifact(digest)


async def test_log_lines_carry_the_request_and_the_package(
    stand: Stand, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    seen: list[tuple[str, scope.Scope]] = []
    caplog.handler.addFilter(lambda record: seen.append((record.getMessage(), scope.current())) or True)
    with scope.bind(request_id="the-request"):
        answer = await stand.upload(archive(tmp_path))
        await stand.delete("demo", "1.0")
    steps = {message: now for message, now in seen if message.startswith("package")}
    assert {f"package step {step} done" for step in ("verify", "extract", "inspect", "store", "announce")} <= set(steps)
    assert {now.request_id for now in steps.values()} == {"the-request"}
    assert {now.tenant_id for now in steps.values()} == {"public"}
    store = steps["package step store done"]
    assert (store.package_id, store.workflow_name) == (answer.package_id, "demo")
    assert {"package load done", "package unload done"} <= set(steps)
    assert steps["package load done"].package_id == steps["package unload done"].package_id == answer.package_id
