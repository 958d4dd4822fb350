"""Tickets for WebSockets: each opens one, at any gateway, for a minute, for as long as its key is valid."""

from __future__ import annotations

import asyncio

import pytest

from cloacina.errors import Unauthorized
from cloacina.store.database import open_database
from cloacina.store.identity import IdentityStore
from services.api.account_schemas import WsTicketResponse
from services.api.auth import Authenticator, principal_of
from services.api.call import Principal
from services.api.keys import create_key, new_key
from services.api.tickets import TICKET_TTL_S, Tickets

from .conftest import StartStand
from .stand import Stand


class Clock:
    now = 1_000_000_000

    def __call__(self) -> int:
        return self.now


async def _ticket(stand: Stand, key: str) -> str:
    issued = (await stand.ask("POST", "/v1/auth/ws-ticket", key=key)).fits(200, WsTicketResponse)
    assert issued["expires_in_seconds"] == 60
    return str(issued["ticket"])


def _tickets(stand: Stand) -> Tickets:
    gateway = stand.gateway._gateway
    assert gateway is not None
    return gateway.tickets


async def test_a_ticket_stands_for_the_caller_once(stand: Stand) -> None:
    key = await stand.key("acme", "write")
    ticket = await _ticket(stand, key)
    caller = await _tickets(stand).redeem(ticket)
    assert (caller.tenant_id, caller.role, caller.is_admin) == ("acme", "write", False)
    with pytest.raises(Unauthorized):
        await _tickets(stand).redeem(ticket)


async def test_of_many_who_show_the_same_ticket_at_once_one_gets_in(stand: Stand) -> None:
    ticket = await _ticket(stand, await stand.key("acme", "read"))
    outcomes = await asyncio.gather(*(_tickets(stand).redeem(ticket) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, Principal) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Unauthorized) for outcome in outcomes) == 19


async def test_another_gateway_redeems_it(start_stand: StartStand) -> None:
    first, second = await start_stand(), await start_stand()
    await first.tenant("acme")
    ticket = await _ticket(first, await first.key("acme", "read"))
    assert (await _tickets(second).redeem(ticket)).tenant_id == "acme"
    with pytest.raises(Unauthorized):
        await _tickets(first).redeem(ticket)


async def test_it_ends_with_its_key(stand: Stand) -> None:
    made = (await stand.ask("POST", "/v1/tenants/acme/keys", json={"name": "soon gone"})).json
    ticket = await _ticket(stand, made["key"])
    assert (await stand.ask("DELETE", f"/v1/auth/keys/{made['id']}")).status == 200
    with pytest.raises(Unauthorized):
        await _tickets(stand).redeem(ticket)


@pytest.mark.parametrize(
    "ticket", ["", "wst_", "wst_" + "x" * 43, "clk_" + "x" * 43, "wst_" + "\u00e9" * 43, "x" * 10_000]
)
async def test_what_is_no_ticket(stand: Stand, ticket: str) -> None:
    with pytest.raises(Unauthorized, match="ticket"):
        await _tickets(stand).redeem(ticket)


async def test_it_expires() -> None:
    database = open_database("sqlite://", "identity")
    await database.open()
    identity, clock = IdentityStore(database), Clock()
    row = await create_key(identity, new_key(), name="a key", tenant_id="public", role="read")
    tickets = Tickets(identity, Authenticator(identity, 5.0), clock)
    first, second = [await tickets.issue(principal_of(row)) for _ in range(2)]
    clock.now += TICKET_TTL_S * 1_000_000 - 1
    assert (await tickets.redeem(first)).key_id == row.key_id
    clock.now += 1
    with pytest.raises(Unauthorized):
        await tickets.redeem(second)
    await database.close()
