"""The reconciler's secrets over gRPC: what is shown of them, and who is given their values."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from cloacina.errors import CloacinaError
from cloacina.rpc.v1 import secrets_pb2, secrets_pb2_grpc
from cloacina.secrets.envelope import KeyEncryptionKeyError

from .conftest import Stand, Start, archive, running

KEK, OTHER_KEK = "11" * 32, "22" * 32
TOKEN = "between-services"
VALUE = "a-value-that-nobody-may-see"
TASKS = """
import cloaca


@cloaca.workflow_secrets('db', 'mail')
@cloaca.task(id='a')
def a(context):
    return context
"""


class Caller:
    """Calls SecretService by the names of its methods."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand

    def __getattr__(self, method: str) -> Any:
        stub = secrets_pb2_grpc.SecretServiceStub(self.stand.client.channel)

        async def call(**fields: Any) -> Any:
            kind = getattr(secrets_pb2, f"{method}Request")
            return await self.stand.client.call(getattr(stub, method), kind(**fields), deadline_s=30)

        return call


@pytest.fixture
async def stand(start: Start) -> Stand:
    return await start(secret_kek=KEK, rpc_token=TOKEN)


async def _refused(call: Any) -> str:
    with pytest.raises(CloacinaError) as refused:
        await call
    assert VALUE not in refused.value.message
    return refused.value.code


async def _resolve(stand: Stand, package_id: str, *names: str, **changed: Any) -> Any:
    references = [
        secrets_pb2.SecretReference(name=name, secret=secret)
        for name, _, secret in (each.partition("=") for each in names)
    ]
    fields = {
        "tenant_id": "public",
        "execution_id": "e1",
        "workflow_name": "demo",
        "task_name": "a",
        "attempt": 1,
        "package_id": package_id,
        "executor_id": "x1",
        "references": references,
        **changed,
    }
    return await Caller(stand).ResolveSecrets(**fields)


async def test_a_secret_from_its_making_to_its_end(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ask = Caller(stand)
    made = await ask.CreateSecret(tenant_id="public", name="db", fields={"b": VALUE, "a": ""})
    assert (made.name, list(made.field_names), made.version) == ("db", ["a", "b"], 1)
    assert made.created_at == made.updated_at > 0
    assert await ask.GetSecret(tenant_id="public", name="db") == made

    rotated = await ask.RotateSecret(tenant_id="public", name="db", fields={"c": VALUE})
    assert (rotated.secret_id, rotated.created_at, rotated.version) == (made.secret_id, made.created_at, 2)
    assert list(rotated.field_names) == ["c"]
    assert rotated.updated_at >= made.updated_at

    listed = await ask.ListSecrets(tenant_id="public")
    assert list(listed.secrets) == [rotated]
    await ask.DeleteSecret(tenant_id="public", name="db")
    assert not (await ask.ListSecrets(tenant_id="public")).secrets
    assert VALUE not in caplog.text
    assert [record.message for record in caplog.records if record.message.startswith("secret ")] == [
        "secret created",
        "secret rotated",
        "secret deleted",
    ]


async def test_tenants_know_nothing_of_each_other(stand: Stand) -> None:
    ask = Caller(stand)
    await ask.CreateSecret(tenant_id="acme", name="db", fields={"a": VALUE})
    await ask.CreateSecret(tenant_id="other", name="db", fields={"b": VALUE})
    assert await _refused(ask.CreateSecret(tenant_id="acme", name="db", fields={"a": VALUE})) == "secret_exists"
    await ask.DeleteSecret(tenant_id="other", name="db")
    assert list((await ask.GetSecret(tenant_id="acme", name="db")).field_names) == ["a"]
    assert await _refused(ask.GetSecret(tenant_id="other", name="db")) == "secret_not_found"
    assert await _refused(ask.RotateSecret(tenant_id="other", name="db", fields={"a": VALUE})) == "secret_not_found"
    assert await _refused(ask.DeleteSecret(tenant_id="other", name="db")) == "secret_not_found"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("", {"a": VALUE}),
        ("x" * 256, {"a": VALUE}),
        ("two\nlines", {"a": VALUE}),
        (" db", {"a": VALUE}),
        ("db", {}),
        ("db", {"": VALUE}),
        ("db", {"a\x00": VALUE}),
        ("db", {"a": VALUE * 4000}),
    ],
)
async def test_what_cannot_be_a_secret_is_refused(stand: Stand, name: str, fields: dict[str, str]) -> None:
    call = Caller(stand).CreateSecret(tenant_id="public", name=name, fields=fields)
    assert await _refused(call) == "invalid_request"


async def test_a_task_is_given_what_its_package_declares(stand: Stand, tmp_path: Path) -> None:
    package = (await stand.upload(archive(tmp_path, tasks=TASKS))).package_id
    ask = Caller(stand)
    await ask.CreateSecret(tenant_id="public", name="db", fields={"a": VALUE, "é": "ü\n"})
    await ask.CreateSecret(tenant_id="public", name="other", fields={"o": VALUE})

    given = await _resolve(stand, package, "db", "mail=other")
    assert [(each.reference.name, each.reference.secret, dict(each.fields)) for each in given.secrets] == [
        ("db", "db", {"a": VALUE, "é": "ü\n"}),
        ("mail", "other", {"o": VALUE}),
    ]
    missing = await _resolve(stand, package, "mail")
    assert [each.name for each in missing.missing] == ["mail"]
    assert await _refused(_resolve(stand, package, "other")) == "secret_not_granted"
    assert await _refused(_resolve(stand, package, "db", tenant_id="acme")) == "secret_not_granted"
    assert await _refused(_resolve(stand, package, "db", workflow_name="another")) == "secret_not_granted"
    assert await _refused(_resolve(stand, "no-package", "db")) == "secret_not_granted"
    count = "cloacina_reconciler_secret_resolutions_total"
    outcomes = {each: stand.sample(count, outcome=each) for each in ("resolved", "missing", "refused", "failed")}
    assert outcomes == {"resolved": 1, "missing": 1, "refused": 4, "failed": 0}


async def test_an_execution_keeps_its_package_and_what_that_declares(stand: Stand, tmp_path: Path) -> None:
    first = (await stand.upload(archive(tmp_path / "1", tasks=TASKS))).package_id
    without = TASKS.replace("'db', ", "")
    second = (await stand.upload(archive(tmp_path / "2", version="2.0", tasks=without))).package_id
    await Caller(stand).CreateSecret(tenant_id="public", name="db", fields={"a": VALUE})
    await stand.delete("demo", "1.0")
    assert len((await _resolve(stand, first, "db")).secrets) == 1
    assert await _refused(_resolve(stand, second, "db")) == "secret_not_granted"


async def test_the_audit_has_names_and_no_values(
    stand: Stand, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    package = (await stand.upload(archive(tmp_path, tasks=TASKS))).package_id
    await Caller(stand).CreateSecret(tenant_id="public", name="db", fields={"a": VALUE})
    await _resolve(stand, package, "db", "mail")
    await _refused(_resolve(stand, package, "other"))
    (given,) = [record for record in caplog.records if record.message == "secrets given to a task"]
    assert (given.secrets, given.missing, given.executor_id) == (["db"], ["mail"], "x1")
    (refused,) = [record for record in caplog.records if record.message == "secrets are not given to a task"]
    assert (refused.levelno, refused.asked) == (logging.WARNING, ["other"])
    assert all(VALUE not in str(record.__dict__) for record in caplog.records)


async def test_without_a_key_nothing_can_be_done(start: Start) -> None:
    stand = await start(rpc_token=TOKEN)
    ask = Caller(stand)
    for call in (
        ask.CreateSecret(tenant_id="public", name="db", fields={"a": VALUE}),
        ask.RotateSecret(tenant_id="public", name="db", fields={"a": VALUE}),
        ask.ListSecrets(tenant_id="public"),
        ask.GetSecret(tenant_id="public", name="db"),
        ask.DeleteSecret(tenant_id="public", name="db"),
        _resolve(stand, "p", "db"),
    ):
        assert await _refused(call) == "secrets_not_configured"


async def test_over_an_open_port_no_value_is_given_out(start: Start, tmp_path: Path) -> None:
    stand = await start(secret_kek=KEK)
    package = (await stand.upload(archive(tmp_path, tasks=TASKS))).package_id
    await Caller(stand).CreateSecret(tenant_id="public", name="db", fields={"a": VALUE})
    assert await _refused(_resolve(stand, package, "db")) == "secrets_unprotected"


async def test_a_malformed_key_ends_the_start(start: Start) -> None:
    with pytest.raises(KeyEncryptionKeyError, match="CLOACINA_SECRET_KEK must be"):
        await start(secret_kek="malformed")


async def test_the_key_is_changed_by_a_start_with_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "home"
    async with running(home, secret_kek=KEK, rpc_token=TOKEN) as stand:
        package = (await stand.upload(archive(tmp_path, tasks=TASKS))).package_id
        await Caller(stand).CreateSecret(tenant_id="public", name="db", fields={"a": VALUE})

    async with running(home, secret_kek=OTHER_KEK, rpc_token=TOKEN) as stand:
        assert "a secret cannot be read" in caplog.text
        assert await _refused(_resolve(stand, package, "db")) == "secret_unreadable"
        assert (await Caller(stand).GetSecret(tenant_id="public", name="db")).name == "db"

    for former in (KEK, ""):
        async with running(home, secret_kek=OTHER_KEK, secret_kek_old=former, rpc_token=TOKEN) as stand:
            given = await _resolve(stand, package, "db")
            assert dict(given.secrets[0].fields) == {"a": VALUE}
            assert (await Caller(stand).GetSecret(tenant_id="public", name="db")).version == 1
