"""A database that an older program made, at each version of its schema: it is brought up to date, and work goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cloacina.domain.graph import TaskSpec
from cloacina.domain.retry import RetryPolicy
from cloacina.store.database import Database, Schema, Statement, number_parameters, open_database
from cloacina.store.identity import IdentityStore
from cloacina.store.postgres import PostgresDatabase
from cloacina.store.registry import RegistryStore
from cloacina.store.sqlite import SqliteDatabase
from tests.unit.engine.engine_bench import Bench, definition, succeeded, until

_AT = 1_700_000_000_000_000
_OLD_EPOCH = 7
_CLAIM = _OLD_EPOCH << 40 | 3


def _versions(store: str) -> list[int]:
    """Every version of a store's schema but the present one."""
    return list(range(1, len(Schema.load(store).migrations)))


async def _made_by_an_older_program(url: str, store: str, version: int, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    """Makes a database of that version.

    Args:
        url: where.
        store: which.
        version: of the schema.
        rows: by statement, in the words of the first version, in which all later ones understand it.
    """
    postgres = url.startswith("postgresql")
    known = Schema.load(store, "postgres" if postgres else "sqlite")
    queries = {f"older_{n}": number_parameters(sql) if postgres else sql for n, sql in enumerate(rows)}
    schema = dataclasses.replace(known, queries=queries, migrations=known.migrations[:version])
    database: Database = (
        PostgresDatabase(url, schema) if postgres else SqliteDatabase(Path(url.removeprefix("sqlite://")), schema)
    )
    await database.open()
    try:
        await database.write([Statement(f"older_{n}", given) for n, given in enumerate(rows.values())])
    finally:
        await database.close()


def _task(execution_id: str, index: int, name: str, status: str, **columns: Any) -> tuple[Any, ...]:
    row = {
        "execution_id": execution_id,
        "task_index": index,
        "task_name": name,
        "max_attempts": 2,
        "status": status,
        "attempt": 1,
        "claim_id": 0,
        "executor_id": "",
        "lost_claims": 0,
        "deferred": False,
        "retry_due": None,
        "ready_at": None,
        "claimed_at": None,
        "created_at": _AT,
        "updated_at": _AT,
    }
    return tuple((row | columns).values())


_EXECUTION = (
    "INSERT INTO executions (execution_id, tenant_id, workflow_name, definition_id, status, input, output, request_id, "
    "traceparent, trigger_origin, created_at, started_at, finished_at, sequence) "
    "VALUES (?, 'acme', 'flow', ?, ?, ?, ?, ?, '', 'manual', ?, ?, ?, 1)"
)
_TASK = (
    "INSERT INTO tasks (execution_id, task_index, task_name, max_attempts, status, attempt, claim_id, executor_id, "
    "lost_claims, deferred, retry_due, ready_at, claimed_at, created_at, updated_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_DEFINITION = (
    "INSERT INTO definitions (definition_id, tenant_id, workflow_name, package_id, package_digest, body) "
    "VALUES (?, 'acme', 'flow', 'p1', 'sha', ?)"
)


@pytest.mark.parametrize("version", _versions("scheduler"))
async def test_unfinished_executions_of_every_older_schema_go_on(durable_url: str, version: int) -> None:
    of = definition(TaskSpec("first", retry=RetryPolicy(max_attempts=2)), TaskSpec("second", ("first",)))
    running = {"claim_id": _CLAIM, "executor_id": "x1", "ready_at": _AT, "claimed_at": _AT}
    retried = {"attempt": 2, "claim_id": _CLAIM - 1, "executor_id": "x1", "retry_due": _AT + 1}
    rows = {
        "UPDATE epochs SET epoch = ? WHERE name = 'claims'": [(_OLD_EPOCH,)],
        _DEFINITION: [(of.definition_id, of.body)],
        _EXECUTION: [
            ("running", of.definition_id, "Running", b'{"n":1}', None, "r1", _AT, _AT, None),
            ("waiting", of.definition_id, "Running", b'{"n":2}', None, "r2", _AT + 1, _AT, None),
            ("ended", of.definition_id, "Completed", b'{"n":3}', b'{"n":3}', "r3", _AT + 2, _AT, _AT + 9),
        ],
        _TASK: [
            _task("running", 0, "first", "Running", **running),
            _task("running", 1, "second", "NotStarted"),
            _task("waiting", 0, "first", "Pending", **retried),
            _task("waiting", 1, "second", "NotStarted"),
            _task("ended", 0, "first", "Completed"),
            _task("ended", 1, "second", "Completed"),
        ],
        "INSERT INTO events (execution_id, sequence, event_type, at) VALUES (?, 1, 'workflow_started', ?)": [
            (execution_id, _AT) for execution_id in ("running", "waiting", "ended")
        ],
    }
    await _made_by_an_older_program(durable_url, "scheduler", version, rows)

    database = open_database(durable_url, "scheduler", exclusive=True)
    await database.open()
    bench = Bench(database)  # type: ignore[arg-type]
    try:
        await bench.engine.start()
        assert bench.engine.figures()["active_workflows"] == 2
        executor = await bench.join("x1", slots=4, held=[_CLAIM])
        await until(lambda: executor.assigned, "the retry that was due")
        assert (executor.assigned[0].live.execution_id, executor.assigned[0].attempt) == ("waiting", 2)
        running_live = bench.engine.find("running")
        assert running_live is not None
        held = dataclasses.replace(executor.assigned[0], claim_id=_CLAIM, live=running_live)
        bench.engine.report(executor, succeeded(held))
        done = 0
        while bench.engine.figures()["active_workflows"]:
            await until(
                lambda known=done: len(executor.assigned) > known or not bench.engine.figures()["active_workflows"]
            )
            for assignment in executor.assigned[done:]:
                assert assignment.claim_id > _CLAIM, "claims go on growing"
                bench.engine.report(executor, succeeded(assignment))
                done += 1
        for execution_id, number in (("running", 1), ("waiting", 2), ("ended", 3)):
            row = await bench.ended(execution_id)
            assert (row.status, row.output, row.request_id) == ("Completed", b'{"n":%d}' % number, f"r{number}")
        assert (await bench.store.list_executions("acme"))[1] == 3
        new = await bench.submit(idempotency_key="k")
        assert await bench.store.find_by_idempotency_key("acme", "flow", "k") == new
    finally:
        await bench.engine.stop()
        await database.close()


@pytest.mark.parametrize("version", _versions("registry"))
async def test_packages_of_every_older_schema_are_there(durable_url: str, version: int) -> None:
    package = ("p1", "acme", "tools", "1.0.0", "sha", 3, "flow", "", "success", "", "{}", _AT, None)
    rows = {
        "INSERT INTO packages (package_id, tenant_id, package_name, version, digest, size_bytes, workflow_name, "
        "description, build_status, build_error, contents, created_at, deleted_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)": [package],
        "INSERT INTO artifacts (digest, part, data) VALUES (?, ?, ?)": [("sha", 0, b"abc")],
    }
    await _made_by_an_older_program(durable_url, "registry", version, rows)
    database = open_database(durable_url, "registry")
    await database.open()
    try:
        store = RegistryStore(database)
        (found,) = await store.packages()
        assert found == (*package, "", 0), "packages of before there were signatures have none"
        assert [part async for part in store.read_artifact("sha")] == [b"abc"]
    finally:
        await database.close()


@pytest.mark.parametrize("version", _versions("identity"))
async def test_tenants_and_keys_of_every_older_schema_are_there(durable_url: str, version: int) -> None:
    key_hash = bytes(range(32))
    admin: object = True if durable_url.startswith("postgresql") else 1
    rows = {
        "INSERT INTO tenants (name, description, created_at) VALUES (?, ?, ?)": [("acme", "ours", _AT)],
        "INSERT INTO api_keys (key_id, tenant_id, name, key_hash, role, is_admin, created_at, revoked_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)": [("k1", None, "first", key_hash, "admin", admin, _AT, None)],
    }
    await _made_by_an_older_program(durable_url, "identity", version, rows)
    database = open_database(durable_url, "identity")
    await database.open()
    try:
        store = IdentityStore(database)
        assert {tenant.name for tenant in await store.list_tenants()} == {"acme", "public"}
        found = await store.find_key(key_hash)
        assert found is not None
        assert (found.key_id, found.role, bool(found.is_admin)) == ("k1", "admin", True)
        assert await store.has_admin_key()
    finally:
        await database.close()
