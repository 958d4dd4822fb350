"""The reconciler's store of secrets, on every driver."""

from __future__ import annotations

import pytest
from stored_rows import package

from cloacina.store.database import StoreConflict
from cloacina.store.registry import RegistryStore
from cloacina.store.secrets import SecretRow, SecretStore


def secret(number: int = 1, **changed: object) -> SecretRow:
    """A secret of acme."""
    row = SecretRow(
        f"s{number}", "acme", f"name{number}", '["a","é"]', b"\x00cipher\xff", b"\x00key\xff", "kek1", 1, 100, 100
    )
    return row._replace(**changed)


@pytest.fixture
async def store(database) -> SecretStore:
    return SecretStore(await database("registry"))


async def test_a_secret_comes_back_as_it_was(store: SecretStore) -> None:
    await store.add(secret())
    assert await store.find("acme", "name1") == secret()
    assert await store.find("other", "name1") is None
    assert await store.find("acme", "NAME1") is None


async def test_a_name_is_taken_within_a_tenant_only(store: SecretStore) -> None:
    await store.add(secret(1))
    with pytest.raises(StoreConflict):
        await store.add(secret(2, name="name1"))
    await store.add(secret(3, name="name1", tenant_id="other"))
    await store.add(secret(2))
    assert [row.secret_id for row in await store.of_tenant("acme")] == ["s1", "s2"]
    assert [row.secret_id for row in await store.of_tenant("other")] == ["s3"]


async def test_replacing_keeps_who_it_is_and_counts_the_versions(store: SecretStore) -> None:
    await store.add(secret())
    changed = secret(9, name="name1", field_names="[]", ciphertext=b"x", data_key=b"y", kek_id="kek2", updated_at=200)
    await store.replace(changed)
    assert await store.find("acme", "name1") == changed._replace(secret_id="s1", version=2, created_at=100)
    with pytest.raises(StoreConflict):
        await store.replace(secret(9, name="absent"))


async def test_rewrapping_leaves_alone_what_was_rotated_meanwhile(store: SecretStore) -> None:
    for number in (1, 2, 3):
        await store.add(secret(number))
    assert await store.under_other_keys("kek1") == []
    read = await store.under_other_keys("kek2")
    await store.replace(secret(2, data_key=b"rotated", kek_id="kek2"))
    await store.rewrap([row._replace(data_key=b"wrapped anew", kek_id="kek2") for row in read[:2]])
    found = {row.name: (row.data_key, row.kek_id, row.version) for row in await store.of_tenant("acme")}
    assert found == {
        "name1": (b"wrapped anew", "kek2", 1),
        "name2": (b"rotated", "kek2", 2),
        "name3": (b"\x00key\xff", "kek1", 1),
    }
    assert [row.name for row in await store.under_other_keys("kek2")] == ["name3"]


async def test_a_deleted_secret_is_gone(store: SecretStore) -> None:
    await store.add(secret())
    await store.delete("acme", "name1")
    assert await store.find("acme", "name1") is None
    with pytest.raises(StoreConflict):
        await store.delete("acme", "name1")
    await store.add(secret(2, name="name1"))


async def test_what_a_deleted_package_declared_is_still_known(database) -> None:
    registry = RegistryStore(await database("registry"))
    await registry.add_package(package(1, contents='{"secrets":["a"]}'), [b"x"])
    await registry.mark_deleted("p1", 500)
    found = await registry.package_contents(package(1).tenant_id, "p1")
    assert found == (package(1).workflow_name, '{"secrets":["a"]}')
    assert await registry.package_contents("other", "p1") is None
    assert await registry.package_contents(package(1).tenant_id, "absent") is None
