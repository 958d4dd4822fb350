"""Tenants on a running system: what one has, another never sees; what each may use; how one is removed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloacina.cli.client import ApiClient, ApiFailure
from cloacina.packages import archive
from tests.system.running import RunningSystem, wait_until, write_package

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("tenants")]

WORK = """
import logging
import time

import cloaca


@cloaca.workflow_params(seconds=(float, 0.0), whose=(str, ""))
@cloaca.task(retry_attempts=1)
def work(context):
    logging.getLogger("author").info("working for %s", context["whose"])
    time.sleep(context["seconds"])
    context.set("done_for", context["whose"])
    return context
"""
KEK = "00" * 32


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A system with the tenants ``kept`` and ``acme``, and a workflow ``work`` in each."""
    folder = tmp_path_factory.mktemp("tenants")
    environment = {"CLOACINA_API_TENANT_DRAIN_S": "0.5", "CLOACINA_SECRET_KEK": KEK, "CLOACINA_GRACE_S": "2"}
    with RunningSystem(folder / "home", environment) as running:
        package = write_package(folder, "work", WORK)
        for tenant in ("kept", "acme"):
            running.client.call("POST", "/v1/tenants", {"name": tenant})
            running.upload(package, tenant)
        running.folder = folder  # type: ignore[attr-defined]
        yield running


def _client(system: RunningSystem, tenant: str, role: str = "admin") -> ApiClient:
    """A client with a fresh key of a tenant."""
    body = {"name": f"{tenant} {role}", "role": role}
    return ApiClient(system.url, system.client.call("POST", f"/v1/tenants/{tenant}/keys", body)["key"])


def _execute(client: ApiClient, tenant: str, seconds: float = 0.0) -> str:
    body = {"context": {"seconds": seconds, "whose": tenant}}
    return str(client.call("POST", f"/v1/tenants/{tenant}/workflows/work/execute", body)["execution_id"])


def _ended(client: ApiClient, tenant: str, execution_id: str) -> Any:
    def look() -> Any:
        found = client.call("GET", f"/v1/tenants/{tenant}/executions/{execution_id}")
        return found if found["status"] in ("Completed", "Failed", "Cancelled") else None

    return wait_until(look, f"the end of {execution_id}")


def _refused(client: ApiClient, method: str, path: str, body: Any = None) -> tuple[int, str]:
    with pytest.raises(ApiFailure) as failure:
        client.call(method, path, body)
    return failure.value.status, str(failure.value)


def _furnish(client: ApiClient, tenant: str) -> dict[str, str]:
    """Gives a tenant one of everything; their ids."""
    base = f"/v1/tenants/{tenant}"
    execution_id = _execute(client, tenant)
    request_id = client.request_id
    _ended(client, tenant, execution_id)
    client.call("POST", f"{base}/secrets", {"name": f"secret_of_{tenant}", "fields": {"token": f"value of {tenant}"}})
    instance = {"instance_name": f"instance-of-{tenant}", "params": {"whose": tenant}, "cron": "0 0 1 1 *"}
    client.call("POST", f"{base}/workflows/work/instances", instance)
    account = {"username": f"person-of-{tenant}", "password": "correct horse", "role": "read"}
    account_id = client.call("POST", f"{base}/accounts", account)["id"]
    (key,) = client.call("GET", f"{base}/keys")["items"][:1]
    return {"exec_id": execution_id, "request_id": request_id, "account_id": account_id, "key_id": key["id"]}


def test_what_a_tenant_has_another_never_sees(system: RunningSystem) -> None:
    kept, acme = _client(system, "kept"), _client(system, "acme")
    theirs, _ = _furnish(kept, "kept"), _furnish(acme, "acme")
    own = "/v1/tenants/acme"
    for listed in ("events", "tasks"):  # of what is not there the original lists nothing
        assert acme.call("GET", f"{own}/executions/{theirs['exec_id']}/{listed}")[listed] == [], listed
        assert kept.call("GET", f"/v1/tenants/kept/executions/{theirs['exec_id']}/{listed}")[listed], listed
    for path in ("", "/trace", "/explain", "/logs"):
        assert _refused(acme, "GET", f"{own}/executions/{theirs['exec_id']}{path}")[0] == 404, path
    for action in ("cancel", "pause", "resume", "retry"):
        assert _refused(acme, "POST", f"{own}/executions/{theirs['exec_id']}/{action}")[0] in (404, 409), action
    assert _refused(acme, "GET", f"/v1/requests/{theirs['request_id']}")[0] == 404
    assert _refused(acme, "GET", f"{own}/secrets/secret_of_kept")[0] == 404
    assert _refused(acme, "GET", f"{own}/workflows/work/instances/instance-of-kept")[0] == 404
    assert _refused(acme, "DELETE", f"{own}/accounts/{theirs['account_id']}")[0] == 404
    assert _refused(acme, "DELETE", f"{own}/keys/{theirs['key_id']}")[0] == 404
    for path in ("executions", "triggers", "secrets", "keys", "accounts", "workflows/work/instances", "workflows"):
        listed = str(acme.call("GET", f"{own}/{path}"))
        assert "kept" not in listed, path
        assert theirs["exec_id"] not in listed, path
        assert _refused(acme, "GET", f"/v1/tenants/kept/{path}")[0] == 403, path
    assert kept.call("GET", f"/v1/tenants/kept/executions/{theirs['exec_id']}")["status"] == "Completed"


def test_quotas_hold_and_can_be_changed(system: RunningSystem) -> None:
    client, god = _client(system, "kept"), system.client
    quotas = "/v1/tenants/kept/quotas"
    assert client.call("GET", quotas) == {"requests_per_s": 0.0, "executions": 0, "package_bytes": 0}
    assert _refused(client, "PUT", quotas, {"executions": 5})[0] == 403
    god.call("PUT", quotas, {"executions": 2})
    running = [_execute(client, "kept", 60.0) for _ in range(2)]
    status, said = _refused(
        client, "POST", "/v1/tenants/kept/workflows/work/execute", {"context": {"whose": "kept", "seconds": 0.0}}
    )
    assert (status, "execution_quota_exceeded" in said) == (429, True), said
    for execution_id in running:
        client.call("POST", f"/v1/tenants/kept/executions/{execution_id}/cancel")
        _ended(client, "kept", execution_id)
    _ended(client, "kept", _execute(client, "kept"))

    god.call("PUT", quotas, {"package_bytes": 1})
    folder = write_package(system.folder / "second", "second", WORK)  # type: ignore[attr-defined]
    with pytest.raises(ApiFailure, match="package_quota_exceeded") as failure:
        client.upload("/v1/tenants/kept/workflows", "second.cloacina", archive.pack(folder))
    assert failure.value.status == 413

    god.call("PUT", quotas, {"requests_per_s": 0.01})
    answers = []
    for _ in range(2):
        try:
            answers.append(client.call("GET", "/v1/auth/whoami")["tenant_id"])
        except ApiFailure as refusal:
            answers.append(refusal.status)
            assert "request_quota_exceeded" in str(refusal)
    assert answers == ["kept", 429], "the first request finds a full bucket of one"
    god.call("PUT", quotas, {})
    assert client.call("GET", quotas)["requests_per_s"] == 0.0
    for quota in ("requests", "executions", "package_bytes"):
        assert system.metric("api", f'cloacina_api_quota_refusals_total{{quota="{quota}"}}') >= 1, quota


def _rows_of(home: Path, tenant: str) -> dict[str, int]:
    """How many rows of a tenant each table of each store has."""
    found = {}
    for store in ("identity", "registry", "scheduler"):
        connection = sqlite3.connect(f"file:{home / f'{store}.db'}?mode=ro", uri=True)
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            for column in {"tenant_id"} & columns:
                count = connection.execute(f"SELECT count(*) FROM {table} WHERE {column} = ?", (tenant,)).fetchone()[0]
                found[f"{store}.{table}"] = count
        connection.close()
    return found


def test_a_tenant_is_removed_with_all_it_has(system: RunningSystem) -> None:
    acme, kept = _client(system, "acme"), _client(system, "kept")
    account = {"username": "leaver", "password": "correct horse", "role": "read"}
    acme.call("POST", "/v1/tenants/acme/accounts", account)
    acme.call("POST", "/v1/tenants/acme/secrets", {"name": "token", "fields": {"value": "x"}})
    instance = {"instance_name": "yearly", "params": {"whose": "acme"}, "cron": "0 0 1 1 *"}
    acme.call("POST", "/v1/tenants/acme/workflows/work/instances", instance)
    before = _rows_of(system.home, "kept")
    running = _execute(acme, "acme", 60.0)
    wait_until(
        lambda: acme.call("GET", f"/v1/tenants/acme/executions/{running}")["status"] == "Running",
        "the execution to run",
    )
    login = {"username": "leaver", "password": "correct horse", "tenant": "acme"}
    session = ApiClient(
        system.url, ApiClient(system.url, "clk_" + "x" * 43).call("POST", "/v1/auth/local/login", login)["key"]
    )
    had = _rows_of(system.home, "acme")
    for table in ("scheduler.executions", "scheduler.schedules", "scheduler.instances", "registry.packages"):
        assert had[table] > 0, table

    removed = system.client.call("DELETE", "/v1/tenants/acme")
    request_id = system.client.request_id
    assert (removed["status"], removed["schema_name"]) == ("removed", "acme")
    assert removed["revoked_keys"] >= 1
    assert {table: count for table, count in _rows_of(system.home, "acme").items() if count} == {}
    assert _refused(acme, "GET", "/v1/auth/whoami")[0] == 401
    assert _refused(session, "GET", "/v1/auth/whoami")[0] == 401
    assert _refused(system.client, "GET", "/v1/tenants/acme/executions")[0] == 404
    assert _refused(system.client, "DELETE", "/v1/tenants/acme")[0] == 404
    steps = [line for line in system.log() if line["message"] == "tenant removal step done"]
    assert [step["step"] for step in steps] == ["revoke keys", "drain", "unload packages", "drop data"]
    assert {step["target"] for step in steps} == {"services.api.audit"}
    assert all(step["duration_ms"] >= 0 and step["tenant_id"] == "acme" and step["key_id"] for step in steps)
    assert len({step["request_id"] for step in steps}) == 1, request_id
    assert steps[1]["executions_cancelled"] == 1

    assert _rows_of(system.home, "kept") == {**before, "identity.api_keys": before["identity.api_keys"]}
    assert kept.call("GET", "/v1/tenants/kept/workflows")["items"]
    system.client.call("POST", "/v1/tenants", {"name": "acme"})
    anew = _client(system, "acme")
    assert anew.call("GET", "/v1/tenants/acme/executions")["total"] == 0
    system.upload(system.folder / "work", "acme")  # type: ignore[attr-defined]
    assert _ended(anew, "acme", _execute(anew, "acme"))["status"] == "Completed"


@pytest.mark.parametrize("dies", ["api", "scheduler", "reconciler"])
def test_a_removal_that_a_crash_broke_off_comes_to_its_end(system: RunningSystem, dies: str) -> None:
    tenant = f"left_by_{dies}"
    system.client.call("POST", "/v1/tenants", {"name": tenant})
    system.upload(system.folder / "work", tenant)  # type: ignore[attr-defined]
    client = _client(system, tenant)
    _execute(client, tenant, 60.0)
    with ThreadPoolExecutor() as threads:
        removal = threads.submit(system.client.call, "DELETE", f"/v1/tenants/{tenant}")
        wait_until(lambda: _refuses(client), "the keys to be revoked")
        killed = system.kill(dies)
        removal.exception(timeout=120)  # it fails or succeeds: the client cannot know
    system.wait_for_successor(killed, dies)

    def is_gone() -> bool:
        try:
            names = [each["name"] for each in system.client.call("GET", "/v1/tenants")["items"]]
        except ApiFailure:
            return False
        return tenant not in names

    wait_until(is_gone, f"the end of {tenant}", 60.0)
    assert {table: count for table, count in _rows_of(system.home, tenant).items() if count} == {}


def _refuses(client: ApiClient) -> bool:
    try:
        client.call("GET", "/v1/auth/whoami")
    except ApiFailure as failure:
        return failure.status == 401
    return False


def test_the_public_tenant_stays(system: RunningSystem) -> None:
    assert _refused(system.client, "DELETE", "/v1/tenants/public")[0] == 400
