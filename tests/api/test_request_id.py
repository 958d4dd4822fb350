"""The request id: on every answer, kept or replaced, and handed on with the token to whatever is asked."""

from __future__ import annotations

from uuid import UUID

import pytest

from .conftest import SHARED
from .stand import Stand
from .stand_ins import TOKEN

_EXECUTE = "/v1/tenants/acme/workflows/daily/execute"


@pytest.mark.parametrize("given", ["a", "A-z_0.9", "x" * 128])
@SHARED
async def test_a_valid_one_is_kept(shared_stand: Stand, given: str) -> None:
    for path in ("/health", "/metrics", "/nowhere", _EXECUTE):
        reply = await shared_stand.ask("GET", path, headers={"x-request-id": given})
        assert reply.headers.getall("x-request-id") == [given]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a/b", "é", 'a"b'])
@SHARED
async def test_any_other_is_replaced(shared_stand: Stand, given: str | None) -> None:
    ids = set()
    for path in ("/health", "/nowhere"):
        reply = await shared_stand.ask("GET", path, headers={} if given is None else {"x-request-id": given})
        minted = UUID(reply.headers["x-request-id"])
        assert minted.version == 4
        ids.add(minted)
    assert len(ids) == 2


async def test_it_goes_along_with_the_token(stand: Stand) -> None:
    await stand.ask("POST", _EXECUTE, headers={"x-request-id": "one-id"})
    await stand.ask("GET", "/v1/tenants/acme/workflows", headers={"x-request-id": "another-id"})
    (stream,) = stand.scheduler.calls("ExecuteMany")
    (executed,) = stand.scheduler.calls("Execute")
    (listed,) = stand.reconciler.calls("ListPackages")
    assert executed.metadata["x-request-id"] == "one-id"
    assert listed.metadata["x-request-id"] == "another-id"
    assert stream.metadata["authorization"] == listed.metadata["authorization"] == f"Bearer {TOKEN}"


async def test_every_answer_says_who_gave_it_and_that_it_is_not_to_be_kept(stand: Stand) -> None:
    for path in ("/health", "/nowhere", "/v1/tenants"):
        headers = (await stand.ask("GET", path)).headers
        assert headers["Server"] == "cloacina"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
