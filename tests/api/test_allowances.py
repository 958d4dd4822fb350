"""Requests a second of a tenant, over all gateways of one store."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from cloacina.store.database import open_database
from cloacina.store.identity import IdentityStore
from services.api.allowances import RequestAllowances
from tests.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'identity.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database()


async def test_gateways_together_let_through_what_one_may(url: str) -> None:
    """Three gateways that are asked as fast as it goes: a second's worth at once, and then the rate."""
    rate, gateways, written = 400.0, [], 0

    class Counted(IdentityStore):
        async def spend_request_allowance(self, tenant_id: str, due: int, then: int) -> None:
            nonlocal written
            await super().spend_request_allowance(tenant_id, due, then)
            written += 1

    databases = [open_database(url, "identity") for _ in range(3)]
    for database in databases:
        await database.open()
        gateways.append(RequestAllowances(Counted(database)))
    began, admitted, refused = time.monotonic(), 0, 0
    while time.monotonic() - began < 1.5:
        waits = await asyncio.gather(*(gateway.take("acme", rate) for gateway in gateways for _ in range(20)))
        admitted += sum(wait == 0 for wait in waits)
        refused += sum(wait > 0 for wait in waits)
        await asyncio.sleep(0.005)
    most = rate + rate * (time.monotonic() - began)
    for database in databases:
        await database.close()
    assert rate / 2 <= admitted <= most + 1
    assert refused > 0
    assert written <= most / (rate / 10) + 1


async def test_a_second_is_for_one_tenant_and_not_for_another(url: str) -> None:
    database = open_database(url, "identity")
    await database.open()
    allowances = RequestAllowances(IdentityStore(database))
    assert await allowances.take("acme", 0.5) == 0
    assert 0 < await allowances.take("acme", 0.5) <= 2
    assert await allowances.take("other", 0.5) == 0
    restarted = RequestAllowances(IdentityStore(database))
    assert await restarted.take("acme", 0.5) > 0
    await database.close()
