"""The gateway's store of accounts, sessions and attempts to log in, and the revision of what is valid."""

from __future__ import annotations

import asyncio

import pytest
from stored_rows import key

from cloacina.store.accounts import AccountRow, AccountStore, SessionRow
from cloacina.store.database import StoreConflict, open_database
from cloacina.store.identity import IdentityStore, TenantRow

ADA = AccountRow("a1", "acme", "ada", "hash", "write", None, 100)


@pytest.fixture
async def stores(database) -> tuple[AccountStore, IdentityStore]:
    opened = await database("identity")
    await IdentityStore(opened).create_tenant(TenantRow("acme", None, 1))
    return AccountStore(opened), IdentityStore(opened)


def _key(number: int, session: str = "s1", expires_at: int = 900):
    return key(number, session_id=session, expires_at=expires_at)


async def test_accounts_belong_to_a_tenant(stores) -> None:
    accounts, _ = stores
    await accounts.add(ADA)
    await accounts.add(ADA._replace(account_id="a2", tenant_id="other"))
    with pytest.raises(StoreConflict):
        await accounts.add(ADA._replace(account_id="a3"))
    assert await accounts.get("acme", "a1") == ADA
    assert await accounts.get("acme", "a2") is None
    assert await accounts.find("acme", "ada") == ADA
    assert await accounts.find("nowhere", "ada") is None
    assert await accounts.of_tenant("acme") == [ADA]
    with pytest.raises(StoreConflict):
        await accounts.disable("acme", "a2", 500)
    with pytest.raises(StoreConflict):
        await accounts.set_password("acme", "a2", "x")


@pytest.mark.parametrize("end", ["disable", "password", "session"])
async def test_what_ends_sessions_ends_their_keys_and_raises_the_revision(stores, end: str) -> None:
    accounts, identity = stores
    await accounts.add(ADA)
    await accounts.begin_session(SessionRow("s1", "a1", 100, 1000), _key(1))
    await accounts.begin_session(SessionRow("s2", "a9", 100, 1000), _key(2, "s2"))
    before = await identity.access_revision()
    match end:
        case "disable":
            await accounts.disable("acme", "a1", 500)
            assert (await accounts.get("acme", "a1")).disabled_at == 500
        case "password":
            await accounts.set_password("acme", "a1", "new")
            assert (await accounts.get("acme", "a1")).password_hash == "new"
        case "session":
            await accounts.end_session("s1")
            await accounts.end_session("s1")
    assert await accounts.session("s1") is None
    assert await identity.get_key("k1") is None
    assert await identity.get_key("k2") == _key(2, "s2")
    assert await identity.access_revision() > before


async def test_a_key_of_a_session_is_replaced_once(stores) -> None:
    accounts, identity = stores
    await accounts.add(ADA)
    session = SessionRow("s1", "a1", 100, 1000)
    await accounts.begin_session(session, _key(1))
    before = await identity.access_revision()
    await accounts.rotate_key("k1", _key(2))
    assert await identity.access_revision() == before + 1
    with pytest.raises(StoreConflict):
        await accounts.rotate_key("k1", _key(3))
    assert await identity.get_key("k3") is None
    assert await accounts.of_session(session) == ADA
    await identity.add_key(key(4))
    with pytest.raises(StoreConflict):
        await accounts.rotate_key("k4", _key(5))
    assert await identity.get_key("k4") == key(4), "an API key is no session's"


async def test_a_login_removes_what_has_expired(stores) -> None:
    accounts, identity = stores
    await identity.add_key(key(9))
    await accounts.begin_session(SessionRow("s1", "a1", 100, 1000), _key(1, expires_at=900))
    await accounts.begin_session(SessionRow("s2", "a1", 900, 2000), _key(2, "s2", 1900))
    assert await identity.get_key("k1") is None
    assert await accounts.session("s1") is not None
    await accounts.begin_session(SessionRow("s3", "a1", 1000, 2000), _key(3, "s3", 1900))
    assert await accounts.session("s1") is None
    assert await identity.get_key("k9") == key(9)


async def test_attempts_are_counted_in_a_window(stores) -> None:
    accounts, _ = stores
    await asyncio.gather(*(accounts.count_attempt([b"one", b"two"], 100, 200 + n) for n in range(5)))
    attempts, ends_at = await accounts.attempts(b"one", 199)
    assert attempts == 5
    assert 200 <= ends_at <= 204
    assert await accounts.attempts(b"one", 204) == (0, 0)
    await accounts.forget_attempts(b"one", b"two")
    assert await accounts.attempts(b"one", 100) == (0, 0)
    assert (await accounts.attempts(b"two", 100))[0] == 4
    await accounts.count_attempt([b"two"], 300, 400)
    assert await accounts.attempts(b"two", 300) == (1, 400)


async def test_revoking_a_key_raises_the_revision_and_making_one_does_not(stores) -> None:
    _, identity = stores
    before = await identity.access_revision()
    await identity.add_key(key(1))
    assert await identity.access_revision() == before
    await identity.revoke_key("k1", 900)
    assert await identity.access_revision() == before + 1
    with pytest.raises(StoreConflict):
        await identity.revoke_key("k1", 901)
    assert await identity.access_revision() == before + 1


async def test_on_sqlite_every_commit_is_noticed_whoever_made_it(sqlite_url: str) -> None:
    ours, theirs = open_database(sqlite_url, "identity"), open_database(sqlite_url, "identity")
    await ours.open()
    await theirs.open()
    seen = [ours.data_version()]
    assert seen[0] is not None
    assert ours.data_version() == seen[0]
    for writer, number in ((theirs, 1), (ours, 2), (theirs, 3)):
        await IdentityStore(writer).add_key(key(number))
        seen.append(ours.data_version())
        await IdentityStore(ours).find_key(b"")
        assert ours.data_version() == seen[-1], "reading changes nothing"
    assert len(set(seen)) == 4
    await ours.close()
    await theirs.close()
    assert ours.data_version() is None
