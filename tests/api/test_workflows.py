"""Packages through the gateway: uploads that stream, and uploads that are refused half-way."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from cloacina.errors import InvalidRequest
from services.api.schemas import WorkflowDeletedResponse, WorkflowDetail, WorkflowList, WorkflowUploadedResponse

from .conftest import StartStand
from .stand import ADMIN_KEY, Stand, eventually
from .stand_ins import broken_package

_WORKFLOWS = "/v1/tenants/acme/workflows"
_LIMIT = 100_000_000
_FORM = {"Content-Type": "multipart/form-data; boundary=+++"}
_PART = b'--+++\r\nContent-Disposition: form-data; name="file"; filename="p.cloacina"\r\n'


def _form(content: bytes, name: str = "file") -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field(name, content, filename="package.cloacina", content_type="application/octet-stream")
    return form


async def _endless(megabytes: int) -> AsyncIterator[bytes]:
    yield _PART + b"\r\n"
    for _ in range(megabytes):
        yield b"x" * 1_000_000
    yield b"\r\n--+++--\r\n"


async def _cancelled(stand: Stand) -> None:
    """Asserts that what began was taken back. Needs a reconciler that accepts nothing."""
    assert not stand.reconciler.accept.is_set()
    await eventually(lambda: all(upload.cancelled for upload in stand.reconciler.uploads), "the upload is cancelled")
    assert not any(upload.finished for upload in stand.reconciler.uploads)


@pytest.mark.parametrize("size", [1, 2**20 - 1, 2**20, 2**20 + 1, 5_000_000])
async def test_an_upload_arrives_whole_and_in_pieces(stand: Stand, size: int) -> None:
    content = (b"\r\n--+++" + bytes(range(256)) * 400)[: min(size, 1000)] * (size // 1000 + 1)
    content = content[:size]
    reply = await stand.ask("POST", _WORKFLOWS, data=_form(content, "anything"))
    uploaded = reply.fits(201, WorkflowUploadedResponse)
    assert (UUID(uploaded["package_id"]).version, uploaded["tenant_id"]) == (4, "acme")
    (upload,) = stand.reconciler.uploads
    assert (upload.tenant_id, upload.size, upload.finished) == ("acme", size, True)
    assert upload.digest.digest() == hashlib.sha256(content).digest()
    assert upload.largest <= 2**20


async def test_fields_before_the_file_are_passed_over(stand: Stand) -> None:
    form = aiohttp.FormData({"comment": "for april"})
    form.add_field("package", b"archive", filename="p.cloacina")
    assert (await stand.ask("POST", _WORKFLOWS, data=form)).status == 201
    assert stand.reconciler.uploads[0].size == 7


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({}, b"archive", "multipart/form-data"),
        ({"Content-Type": "application/json"}, b"{}", "multipart/form-data"),
        ({"Content-Type": "multipart/mixed; boundary=+++"}, b"--+++--\r\n", "multipart/form-data"),
        ({"Content-Type": "multipart/form-data"}, b"--+++--\r\n", "malformed"),
        (_FORM, b"", "malformed"),
        (_FORM, b"no boundary", "malformed"),
        (_FORM, b"--+++--\r\n", "no file"),
        (_FORM, b'--+++\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--+++--\r\n', "no file"),
        (_FORM, b"--+++\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n--a--\r\n--+++--\r\n", "another form"),
        (_FORM, _PART + b"Content-Transfer-Encoding: base64\r\n\r\nYWJj\r\n--+++--\r\n", "encoded"),
        (_FORM, _PART + b"Content-Encoding: gzip\r\n\r\nabc\r\n--+++--\r\n", "encoded"),
        (_FORM, _PART + b"\r\n\r\n--+++--\r\n", "empty"),
        (_FORM, _PART + b"\r\nthe archive, and no boundary after it", "broke off"),
        (_FORM, _PART + b"\r\n" + b"x" * 3_000_000, "broke off"),
    ],
)
async def test_forms_that_hold_no_archive(stand: Stand, headers: dict[str, str], body: bytes, message: str) -> None:
    stand.reconciler.accept.clear()
    (await stand.ask("POST", _WORKFLOWS, data=body, headers=headers)).refused(400, "upload_failed", message)
    await _cancelled(stand)


async def test_101_megabytes_are_refused_by_their_length(stand: Stand) -> None:
    head = f"POST {_WORKFLOWS} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADMIN_KEY}\r\nExpect: 100-continue\r\n"
    lines = f"{head}Content-Type: {_FORM['Content-Type']}\r\nContent-Length: 101000000\r\n\r\n"
    (await stand.raw(lines.encode())).refused(413, "payload_too_large", "100 MB")
    assert not stand.reconciler.uploads


async def test_101_megabytes_without_a_length_are_never_a_finished_upload(stand: Stand) -> None:
    stand.reconciler.accept.clear()
    reply = await stand.ask("POST", _WORKFLOWS, data=_endless(101), headers=_FORM)
    reply.refused(413, "payload_too_large", "100 MB")
    await _cancelled(stand)
    assert stand.reconciler.uploads[0].size <= _LIMIT


async def test_100_megabytes_are_taken(stand: Stand) -> None:
    assert (await stand.ask("POST", _WORKFLOWS, data=_endless(100), headers=_FORM)).status == 201
    assert stand.reconciler.uploads[0].size == _LIMIT


async def test_fields_without_end_are_refused(stand: Stand) -> None:
    async def fields() -> AsyncIterator[bytes]:
        yield b'--+++\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
        for _ in range(20):
            yield b"x" * 10_000

    (await stand.ask("POST", _WORKFLOWS, data=fields(), headers=_FORM)).refused(413, "payload_too_large")
    assert not stand.reconciler.uploads


async def test_what_the_reconciler_refuses_is_passed_on_at_once(stand: Stand) -> None:
    stand.reconciler.refuse_at_once = InvalidRequest("the archive has a link in it", code="upload_failed")
    reply = await stand.ask("POST", _WORKFLOWS, data=_endless(30), headers=_FORM)
    reply.refused(400, "upload_failed", "a link in it")
    assert (await stand.ask("GET", "/health")).status == 200


async def test_an_upload_that_stands_still(start_stand: StartStand) -> None:
    stand = await start_stand(api_body_timeout_s=0.3)
    await stand.tenant("acme")
    stand.reconciler.accept.clear()
    head = f"POST {_WORKFLOWS} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    lines = f"{head}Content-Type: {_FORM['Content-Type']}\r\nContent-Length: 5000000\r\n\r\n"
    reply = await stand.raw(lines.encode() + _PART + b"\r\n" + b"x" * 2_000_000)
    reply.refused(408, "request_timeout", "stood still")
    await _cancelled(stand)


async def test_an_upload_that_takes_too_long_in_all(start_stand: StartStand) -> None:
    stand = await start_stand(api_upload_timeout_s=0.3)
    await stand.tenant("acme")
    stand.reconciler.accept.clear()
    over = asyncio.Event()

    async def drops() -> AsyncIterator[bytes]:
        yield _PART + b"\r\n"
        while not over.is_set():
            yield b"x" * 1000
            await asyncio.sleep(0.02)  # the client's own pace
        yield b"\r\n--+++--\r\n"

    try:
        reply = await stand.ask("POST", _WORKFLOWS, data=drops(), headers=_FORM)
    finally:
        over.set()
    reply.refused(408, "request_timeout", "did not arrive")
    await _cancelled(stand)


async def test_a_client_that_goes_half_way(stand: Stand) -> None:
    stand.reconciler.accept.clear()
    _, writer = await asyncio.open_connection("127.0.0.1", stand.port)
    head = f"POST {_WORKFLOWS} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    lines = f"{head}Content-Type: {_FORM['Content-Type']}\r\nContent-Length: 5000000\r\n\r\n"
    writer.write(lines.encode() + _PART + b"\r\n" + b"x" * 2_000_000)
    await eventually(lambda: bool(stand.reconciler.uploads and stand.reconciler.uploads[0].size), "a piece arrives")
    writer.close()
    await _cancelled(stand)


async def test_an_upload_when_the_reconciler_is_gone(stand: Stand) -> None:
    await stand.reconciler.stop()
    began = time.monotonic()
    reply = await stand.ask("POST", _WORKFLOWS, data=_form(b"x" * 3_000_000))
    reply.refused(503, "unavailable", "reconciler")
    assert reply.headers["Retry-After"] == "1"
    assert time.monotonic() - began < stand.settings.api_rpc_deadline_s


async def test_workflows_in_a_list_and_by_name(stand: Stand) -> None:
    package = broken_package()
    stand.reconciler.packages["broken"] = package
    listed = (await stand.ask("GET", _WORKFLOWS)).fits(200, WorkflowList)
    assert listed["total"] == 2
    good, broken = listed["items"]
    assert (good["workflow_name"], good["tasks"], good["build_status"]) == ("daily", ["load", "save"], "success")
    assert good["description"] == "Jobs of a day"
    assert (broken["workflow_name"], broken["tasks"], broken["build_status"]) == ("broken_flow", [], "failed")

    detail = await _detail(stand, "daily")
    assert detail["created_at"] == "2026-09-21T14:13:20.000001Z"
    assert [(node["id"], node["dependencies"]) for node in detail["task_graph"]] == [("load", []), ("save", ["load"])]
    assert detail["task_graph"][0]["doc_why"] == "For the report"
    assert [(slot["name"], slot["default"]) for slot in detail["declared_params"]] == [
        ("day", None),
        ("limits", {"rows": 10}),
        ("mail", None),
    ]
    assert [slot["name"] for slot in detail["declared_params"] if slot["encrypted"]] == ["mail"]
    assert detail["secrets"] == ["mail"]
    assert await _detail(stand, "daily-jobs") == detail
    assert (await _detail(stand, "broken"))["build_error"] == package.build_error

    assert (await stand.ask("GET", "/v1/tenants/other/workflows")).json["items"] == []
    (await stand.ask("GET", "/v1/tenants/other/workflows/daily")).refused(404, "workflow_not_found")


async def _detail(stand: Stand, name: str) -> Any:
    return (await stand.ask("GET", f"{_WORKFLOWS}/{name}")).fits(200, WorkflowDetail)


async def test_deleting_a_version_twice_is_no_error(stand: Stand) -> None:
    for _ in range(2):
        deleted = await stand.ask("DELETE", f"{_WORKFLOWS}/daily-jobs/1.2.0")
        assert deleted.fits(200, WorkflowDeletedResponse) == {
            "status": "deleted",
            "package_name": "daily-jobs",
            "version": "1.2.0",
        }
    (await stand.ask("GET", f"{_WORKFLOWS}/daily")).refused(404, "workflow_not_found")
