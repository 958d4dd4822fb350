"""Signed packages through the gateway, a real reconciler behind it, driven by cloacinactl."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cloacina.cli.client import ApiFailure
from cloacina.cli.main import cli
from services.api.schemas import WorkflowDetail
from services.api.trust_schemas import SigningKeyInfo, SigningKeyList, SigningKeyRevokedResponse
from tests.packages.archives import source
from tests.reconciler.conftest import running

from .conftest import StartStand
from .stand import ADMIN_KEY, Stand
from .stand_ins import TOKEN


@pytest.fixture
async def signing_stand(start_stand: StartStand, tmp_path: Path) -> AsyncIterator[Stand]:
    """A gateway with the tenant acme, in front of a reconciler that requires signatures."""
    home = tmp_path / "reconciler"
    async with running(home, rpc_token=TOKEN, require_signatures=True) as reconciler:
        stand = await start_stand(reconciler_target=reconciler.target)
        await stand.tenant("acme")
        yield stand


async def run(stand: Stand, *arguments: str, fails: bool = False) -> Any:
    """Runs cloacinactl; returns what it printed as JSON, or its error."""
    shared = ["--server", stand.url, "--api-key", ADMIN_KEY, "--tenant", "acme", "--json"]
    result: Result = await asyncio.to_thread(CliRunner().invoke, cli, [*shared, *arguments])
    if fails:
        assert result.exception is not None, result.output
        return result.exception
    assert result.exception is None, (result.output, result.exception)
    return json.loads(result.stdout)


async def test_the_life_of_a_signing_key(signing_stand: Stand, tmp_path: Path) -> None:
    stand, keyfile, public = signing_stand, tmp_path / "release", tmp_path / "release.pub"
    folder, path = source(tmp_path), "/v1/tenants/acme/signing-keys"
    key_id = (await run(stand, "package", "keygen", str(keyfile)))["key_id"]
    error = await run(stand, "package", "upload", str(folder), fails=True)
    assert isinstance(error, ApiFailure)
    assert (error.status, "[signature_required]" in error.message) == (400, True)
    error = await run(stand, "package", "upload", str(folder), "--sign", str(keyfile), fails=True)
    assert "[signing_key_unknown]" in error.message
    assert key_id in error.message

    added = await run(stand, "signing-key", "add", "release of acme", str(public))
    assert added["key_id"] == key_id
    target = tmp_path / "demo.cloacina"
    result = await asyncio.to_thread(
        CliRunner().invoke, cli, ["package", "pack", str(folder), "--sign", str(keyfile), "-O", str(target)]
    )
    assert result.exception is None
    inspected = await run(stand, "package", "inspect", str(target), "--public-key", str(public))
    assert (inspected["signed_by"], inspected["signature"]) == (key_id, "valid")
    await run(stand, "package", "upload", str(target))
    detail = (await stand.ask("GET", "/v1/tenants/acme/workflows/demo")).fits(200, WorkflowDetail)
    assert detail["signature"] == {"status": "trusted", "key_id": key_id, "key_name": "release of acme"}

    listed = (await stand.ask("GET", path)).fits(200, SigningKeyList)
    assert [(each["name"], each["revoked_at"]) for each in listed["items"]] == [("release of acme", None)]
    (await stand.ask("DELETE", f"{path}/{key_id}")).fits(200, SigningKeyRevokedResponse)
    [shown] = await run(stand, "signing-key", "list")
    assert shown["revoked_at"] is not None
    error = await run(stand, "package", "upload", str(target), fails=True)
    assert "[signing_key_revoked]" in error.message
    detail = (await stand.ask("GET", "/v1/tenants/acme/workflows/demo")).json
    assert detail["signature"]["status"] == "revoked"


async def test_what_the_routes_take(signing_stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    stand, path = signing_stand, "/v1/tenants/acme/signing-keys"
    body = {"name": "ci", "public_key": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="}
    with caplog.at_level("INFO"):
        made = (await stand.ask("POST", path, json=body)).fits(201, SigningKeyInfo)
    audit = [record for record in caplog.records if record.name == "services.api.routes.signing_keys"]
    assert [(each.message, each.signing_key) for each in audit] == [("signing key trusted", made["key_id"])]
    assert (made["created_by"], made["revoked_by"]) == (audit[0].key_name, None)
    (await stand.ask("POST", path, json=body)).refused(409, "signing_key_exists", "trusted already")
    wrong = {**body, "public_key": "x"}
    (await stand.ask("POST", path, json=wrong)).refused(400, "invalid_request", "'public_key' must be")
    (await stand.ask("POST", path, json={"name": "x"})).refused(400, "invalid_request", "public_key")
    (await stand.ask("DELETE", f"{path}/nothing")).refused(404, "signing_key_not_found", "no signing key")
    writer = await stand.key("acme", "write")
    (await stand.ask("POST", path, json=body, key=writer)).refused(403, "insufficient_permissions", "admin")
    assert (await stand.ask("GET", path, key=writer)).status == 200
