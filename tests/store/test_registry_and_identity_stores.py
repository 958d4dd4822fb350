"""The reconciler's store of packages and archives, and the gateway's of tenants and keys."""

from __future__ import annotations

import pytest
from stored_rows import key, package

from cloacina.store.database import StoreConflict
from cloacina.store.identity import IdentityStore, TenantRow
from cloacina.store.registry import RegistryStore


@pytest.fixture
async def registry(database) -> RegistryStore:
    return RegistryStore(await database("registry"))


@pytest.fixture
async def identity(database) -> IdentityStore:
    store = IdentityStore(await database("identity"))
    for name in ("acme", "other"):
        await store.create_tenant(TenantRow(name, None, 1))
    return store


async def _artifact(registry: RegistryStore, digest: str) -> list[bytes]:
    return [part async for part in registry.read_artifact(digest)]


async def test_a_package_and_its_archive_come_back_as_they_were(registry: RegistryStore) -> None:
    parts = [bytes(range(256)), b"", b"tail"]
    await registry.add_package(package(1), parts)
    assert await registry.packages() == [package(1)]
    assert await _artifact(registry, "sha1") == parts
    assert await _artifact(registry, "absent") == []


async def test_a_version_is_taken_while_it_is_not_deleted(registry: RegistryStore) -> None:
    await registry.add_package(package(1), [b"old"])
    again = package(2, version=package(1).version)
    with pytest.raises(StoreConflict):
        await registry.add_package(again, [b"new"])
    assert await registry.packages() == [package(1)]
    assert await _artifact(registry, "sha2") == [], "the archive of a refused package is not kept"
    await registry.add_package(again._replace(tenant_id="other"), [b"new"])
    await registry.mark_deleted("p1", 500)
    await registry.add_package(package(3, version=package(1).version), [b"third"])
    assert [row.package_id for row in await registry.packages()] == ["p2", "p3"]


async def test_the_archive_of_a_deleted_package_stays_for_what_still_runs(registry: RegistryStore) -> None:
    await registry.add_package(package(1), [b"code"])
    await registry.mark_deleted("p1", 500)
    assert await registry.packages() == []
    assert await _artifact(registry, "sha1") == [b"code"]
    with pytest.raises(StoreConflict):
        await registry.mark_deleted("p1", 600)


async def test_two_packages_may_share_an_archive(registry: RegistryStore) -> None:
    await registry.add_package(package(1), [b"same"])
    await registry.add_package(package(2, digest="sha1", tenant_id="other"), [b"same"])
    assert await _artifact(registry, "sha1") == [b"same"]
    assert len(await registry.packages()) == 2


async def test_how_loading_went_is_noted(registry: RegistryStore) -> None:
    await registry.add_package(package(1, build_status="loading"), [b"x"])
    await registry.set_build("p1", "failed", "it raised", '{"tasks":[]}')
    noted = (await registry.packages())[0]
    assert (noted.build_status, noted.build_error, noted.contents) == ("failed", "it raised", '{"tasks":[]}')
    with pytest.raises(StoreConflict):
        await registry.set_build("absent", "loaded", "", "{}")


async def test_the_public_tenant_exists_from_the_start(identity: IdentityStore) -> None:
    assert (await identity.tenant("public")).name == "public"
    assert "public" in [row.name for row in await identity.list_tenants()]


async def test_tenants_are_unique_and_listed_by_name(identity: IdentityStore) -> None:
    await identity.create_tenant(TenantRow("zeta", "last", 5))
    await identity.create_tenant(TenantRow("alpha", None, 6))
    with pytest.raises(StoreConflict):
        await identity.create_tenant(TenantRow("zeta", "other", 7))
    assert [row.name for row in await identity.list_tenants()] == ["acme", "alpha", "other", "public", "zeta"]
    assert TenantRow("zeta", "last", 5) in await identity.list_tenants()
    assert await identity.tenant("beta") is None


async def test_a_key_is_found_by_its_hash_also_when_revoked(identity: IdentityStore) -> None:
    await identity.add_key(key(1))
    assert await identity.find_key(key(1).key_hash) == key(1)
    assert await identity.find_key(b"\x09" * 32) is None
    await identity.revoke_key("k1", 900)
    assert await identity.find_key(key(1).key_hash) == key(1)._replace(revoked_at=900)
    with pytest.raises(StoreConflict):
        await identity.revoke_key("k1", 950)
    with pytest.raises(StoreConflict):
        await identity.revoke_key("absent", 950)
    with pytest.raises(StoreConflict):
        await identity.add_key(key(2, key_hash=key(1).key_hash))


async def test_keys_are_listed_by_tenant_oldest_first(identity: IdentityStore) -> None:
    rows = [key(3), key(1), key(2, tenant_id=None, is_admin=True, created_at=102), key(4, tenant_id="other")]
    for row in rows:
        await identity.add_key(row)
    assert [row.key_id for row in await identity.list_keys("acme")] == ["k1", "k3"]
    assert [row.key_id for row in await identity.list_keys(None)] == ["k1", "k2", "k3", "k4"]


async def test_a_revoked_admin_key_is_none(identity: IdentityStore) -> None:
    await identity.add_key(key(1))
    assert await identity.has_admin_key() is False
    await identity.add_key(key(2, is_admin=True, tenant_id=None))
    assert await identity.has_admin_key() is True
    await identity.revoke_key("k2", 900)
    assert await identity.has_admin_key() is False


async def test_a_ticket_is_taken_once_and_before_it_expires(identity: IdentityStore) -> None:
    await identity.add_ws_ticket(b"one", "k1", now=100, expires_at=160)
    await identity.add_ws_ticket(b"two", "k2", now=100, expires_at=160)
    assert await identity.take_ws_ticket(b"three", 100) is None
    assert await identity.take_ws_ticket(b"one", 159) == "k1"
    assert await identity.take_ws_ticket(b"one", 159) is None
    assert await identity.take_ws_ticket(b"two", 160) is None
    await identity.add_ws_ticket(b"three", "k3", now=160, expires_at=220)
    assert await identity.take_ws_ticket(b"two", 100) is None, "what has expired is removed"
    assert await identity.take_ws_ticket(b"three", 161) == "k3"


async def test_a_tenant_that_is_being_removed_opens_nothing(identity: IdentityStore) -> None:
    await identity.add_key(key(1))
    await identity.add_key(key(2, tenant_id="other"))
    before = await identity.access_revision()
    assert await identity.begin_removal("nowhere", 500) is None
    assert await identity.begin_removal("acme", 500) == 1
    assert await identity.begin_removal("acme", 600) == 0, "to begin again changes nothing"
    assert await identity.access_revision() == before + 1
    assert await identity.find_key(key(1).key_hash) is None
    await identity.add_key(key(3))
    assert await identity.get_key("k3") is None, "nor does a key that was made meanwhile"
    assert await identity.tenant("acme") is None
    assert await identity.being_removed() == ["acme"]
    with pytest.raises(StoreConflict):
        await identity.create_tenant(TenantRow("acme", None, 700))
    with pytest.raises(StoreConflict):
        await identity.end_removal("other")
    await identity.end_removal("acme")
    with pytest.raises(StoreConflict):
        await identity.end_removal("acme")
    assert await identity.being_removed() == []
    assert [row.key_id for row in await identity.list_keys(None)] == ["k2"]
    await identity.add_key(key(4))  # too late: its tenant is gone
    await identity.create_tenant(TenantRow("acme", None, 800))
    assert await identity.get_key("k4") is None
    assert await identity.find_key(key(2).key_hash) is not None


async def test_quotas_are_kept(identity: IdentityStore) -> None:
    changed = TenantRow("acme", None, 1, 2.5, 10, 2**40)
    before = await identity.access_revision()
    await identity.set_quotas(changed)
    assert await identity.tenant("acme") == changed
    assert await identity.access_revision() == before + 1
    with pytest.raises(StoreConflict):
        await identity.set_quotas(changed._replace(name="nowhere"))
