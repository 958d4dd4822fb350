"""Signatures of packages that come: what is refused where they are required, what is shown where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloacina.errors import CloacinaError, Conflict, InvalidRequest, NotFound
from cloacina.packages.signature import TRAILER_BYTES, key_id_of, public_pem, sign
from cloacina.rpc.v1 import trust_pb2, trust_pb2_grpc
from services.reconciler.trust import MAX_KEYS

from .conftest import Stand, Start, archive

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


async def trust(stand: Stand, key: Ed25519PrivateKey, name: str = "release", tenant_id: str = "public") -> Any:
    request = trust_pb2.TrustKeyRequest(
        tenant_id=tenant_id, name=name, public_key=public_pem(raw(key)).decode(), by="an admin"
    )
    return await call(stand, "TrustKey", request)


async def revoke(stand: Stand, key_id: str, tenant_id: str = "public") -> Any:
    return await call(stand, "RevokeKey", trust_pb2.RevokeKeyRequest(tenant_id=tenant_id, key_id=key_id, by="another"))


async def call(stand: Stand, method: str, request: Any) -> Any:
    stub = trust_pb2_grpc.TrustServiceStub(stand.client.channel)
    return await stand.client.call(getattr(stub, method), request, deadline_s=30)


async def refused(stand: Stand, data: bytes, code: str, message: str, tenant_id: str = "public") -> None:
    with pytest.raises(InvalidRequest, match=message) as error:
        await stand.upload(data, tenant_id)
    assert error.value.code == code
    assert stand.spooled() == []


async def test_required_signatures(start: Start, tmp_path: Path) -> None:
    stand = await start(require_signatures=True)
    data = archive(tmp_path)
    signed = sign(data, KEY)
    await refused(stand, data, "signature_required", "is not signed.*package sign")
    await refused(stand, signed, "signing_key_unknown", f"the key {key_id_of(raw(KEY))}, which this tenant does not")
    await trust(stand, KEY, tenant_id="other")
    await refused(stand, signed, "signing_key_unknown", "does not trust")
    trusted = await trust(stand, KEY)
    changed = archive(tmp_path, version="6.6.6") + signed[-TRAILER_BYTES:]
    await refused(stand, changed, "signature_invalid", "the archive was changed after it was signed")
    await refused(stand, signed[:-5] + b"####\n", "signature_invalid", "cannot be read")
    await refused(stand, sign(data, OTHER), "signing_key_unknown", "does not trust")
    assert await stand.packages() == []

    assert (await stand.upload(signed)).created
    assert not (await stand.upload(signed)).created
    [package] = await stand.packages()
    assert (package.signature.status, package.signature.key_name) == ("trusted", "release")

    await revoke(stand, trusted.key_id)
    await refused(stand, signed, "signing_key_revoked", "'release', which was revoked")
    assert (await stand.package("demo")).signature.status == "revoked"
    assert stand.sample("cloacina_reconciler_signatures_total", outcome="trusted") == 2
    assert stand.sample("cloacina_reconciler_signatures_total", outcome="invalid") == 2
    assert stand.sample("cloacina_reconciler_signatures_total", outcome="unsigned") == 1
    assert stand.sample("cloacina_reconciler_signatures_total", outcome="revoked") == 1
    assert stand.sample("cloacina_reconciler_signatures_total", outcome="unknown") == 3


async def test_where_they_are_not_required_they_are_shown_and_wrong_ones_refused(stand: Stand, tmp_path: Path) -> None:
    trusted = await trust(stand, KEY)
    await stand.upload(archive(tmp_path, name="plain"))
    await stand.upload(sign(archive(tmp_path, name="ours"), KEY))
    await stand.upload(sign(archive(tmp_path, name="theirs"), OTHER))
    shown = {each.package_name: each.signature for each in await stand.packages()}
    assert {name: each.status for name, each in shown.items()} == {
        "plain": "unsigned",
        "ours": "trusted",
        "theirs": "unknown",
    }
    assert (shown["theirs"].key_id, shown["theirs"].key_name) == (key_id_of(raw(OTHER)), "")
    await trust(stand, OTHER, "late")  # says nothing of what came before
    assert (await stand.package("theirs")).signature.status == "unknown"
    changed = archive(tmp_path, name="fourth") + sign(b"x" * 1000, KEY)[-TRAILER_BYTES:]
    await refused(stand, changed, "signature_invalid", "was changed")
    await revoke(stand, trusted.key_id)
    await refused(stand, sign(archive(tmp_path, name="fifth"), KEY), "signing_key_revoked", "was revoked")


async def test_keys_are_kept_over_restarts_and_revoked_for_good(start: Start, tmp_path: Path) -> None:
    stand = await start()
    trusted = await trust(stand, KEY)
    await stand.upload(sign(archive(tmp_path), KEY))
    await revoke(stand, trusted.key_id)
    again = await revoke(stand, trusted.key_id)
    await stand.service.stop()

    stand = await start()
    [key] = (await call(stand, "ListSigningKeys", trust_pb2.ListSigningKeysRequest(tenant_id="public"))).keys
    assert key == again
    assert (key.name, key.created_by, key.revoked_by) == ("release", "an admin", "another")
    assert (await stand.package("demo")).signature.status == "revoked"
    with pytest.raises(Conflict, match="was revoked, which is for good"):
        await trust(stand, KEY)


async def test_keys_that_cannot_be_trusted_or_revoked(stand: Stand) -> None:
    await trust(stand, KEY)
    with pytest.raises(Conflict, match="trusted already, as 'release'"):
        await trust(stand, KEY, "twice")
    with pytest.raises(NotFound) as error:
        await revoke(stand, key_id_of(raw(KEY)), tenant_id="other")
    assert error.value.code == "signing_key_not_found"
    for name in ("", "two\nlines", "x" * 256):
        with pytest.raises(InvalidRequest, match="'name' must be"):
            await trust(stand, OTHER, name)
    for number in range(MAX_KEYS - 1):
        await trust(stand, Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big")), str(number))
    with pytest.raises(CloacinaError) as full:
        await trust(stand, OTHER)
    assert full.value.code == "too_many_signing_keys"
