"""What every driver promises of transactions: all or nothing, seen at once, kept."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from stored_rows import execution, task

from cloacina.store.database import (
    Database,
    Schema,
    Statement,
    StoreConflict,
    StoreStartupError,
    StoreUnavailable,
    number_parameters,
    open_database,
)
from cloacina.store.executions import ClaimedRow, CompletedRow, ExecutionStore
from cloacina.store.identity import TenantRow
from cloacina.store.owners import OwnerStore
from cloacina.telemetry.metrics import StoreMetrics


def _tenant(name: str) -> TenantRow:
    return TenantRow(name, None, 1)


async def test_a_write_is_seen_by_every_read_after_it(database) -> None:
    identity = await database("identity")
    for number in range(20):  # more than there are readers
        await identity.write([Statement("insert_tenant", [_tenant(f"t{number}")], expect=1)])
        assert await identity.fetch("tenant", f"t{number}") == [_tenant(f"t{number}")]
        assert await identity.fetch("tenant", f"t{number}") == [_tenant(f"t{number}")]


async def test_a_violated_uniqueness_undoes_all_of_the_transaction(database) -> None:
    identity = await database("identity")
    await identity.write([Statement("insert_tenant", [_tenant("taken")])])
    with pytest.raises(StoreConflict):
        await identity.write(
            [
                Statement("insert_tenant", [_tenant("before")]),
                Statement("insert_tenant", [_tenant("beside"), _tenant("taken")]),
            ]
        )
    assert await identity.fetch("tenant", "before") == await identity.fetch("tenant", "beside") == []
    await identity.write([Statement("insert_tenant", [_tenant("before")])])
    assert await identity.fetch("tenant", "before"), "the store still works after a conflict"


@pytest.mark.parametrize("expect", [0, 2])
async def test_an_unexpected_row_count_undoes_all_of_the_transaction(database, expect: int) -> None:
    identity = await database("identity")
    with pytest.raises(StoreConflict, match=f"insert_tenant changed 1 rows of the identity store, not {expect}"):
        await identity.write(
            [
                Statement("insert_tenant", [_tenant("before")]),
                Statement("insert_tenant", [_tenant("counted")], expect=expect),
            ]
        )
    assert await identity.fetch("tenant", "before") == await identity.fetch("tenant", "counted") == []


async def test_an_update_that_finds_no_row_is_a_conflict_if_one_was_expected(database) -> None:
    identity = await database("identity")
    with pytest.raises(StoreConflict):
        await identity.write([Statement("revoke_key", [(1, "nobody")], expect=1)])
    await identity.write([Statement("revoke_key", [(1, "nobody")])])


async def epoch(scheduler: Database) -> int:
    """The epoch that was raised last."""
    return (await OwnerStore(scheduler).join("next")).epoch - 1


async def test_statements_run_in_order_and_see_each_other(database) -> None:
    scheduler = await database("scheduler")
    await scheduler.write(
        [Statement("raise_epoch", [("claims",)] * 3, expect=3), Statement("raise_epoch", [("claims",)])]
    )
    assert await epoch(scheduler) == 4


async def test_a_transaction_of_nothing_is_allowed(database) -> None:
    identity = await database("identity")
    await identity.write([])
    await identity.write([Statement("insert_tenant", [])])


async def test_writes_at_the_same_time_all_happen(database) -> None:
    scheduler = await database("scheduler")
    await asyncio.gather(*(scheduler.write([Statement("raise_epoch", [("claims",)], expect=1)]) for _ in range(50)))
    assert await epoch(scheduler) == 50


async def test_reads_and_writes_of_a_closed_store_say_so_at_once(database) -> None:
    identity = await database("identity")
    await identity.close()
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailable, match="identity store is closed"):
            await identity.fetch("tenants")
        with pytest.raises(StoreUnavailable, match="closed"):
            await identity.write([Statement("insert_tenant", [_tenant("late")])])


async def test_what_is_asked_while_a_store_closes_is_answered_or_refused_but_never_left_waiting(database) -> None:
    identity = await database("identity")
    closing = asyncio.create_task(identity.close())
    async with asyncio.timeout(5):
        asked = []
        while not closing.done():
            asked.append(asyncio.create_task(identity.fetch("tenants")))
            await asyncio.sleep(0)
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, list | StoreUnavailable) for answer in answers)


async def test_a_closed_store_can_be_opened_again(database_url: str) -> None:
    opened = open_database(database_url, "identity")
    for _ in range(2):
        await opened.open()
        assert await opened.fetch("tenant", "public")
        await opened.close()


async def test_commits_are_measured(database_url: str) -> None:
    registry = CollectorRegistry()
    measured = open_database(database_url, "identity", metrics=StoreMetrics(registry, "identity"))
    await measured.open()
    await measured.write([Statement("insert_tenant", [_tenant("a"), _tenant("b")])])
    with pytest.raises(StoreConflict):
        await measured.write([Statement("insert_tenant", [_tenant("a")])])
    await measured.close()
    labels = {"store": "identity"}
    assert registry.get_sample_value("cloacina_store_commit_batch_size_sum", labels) == 2
    assert registry.get_sample_value("cloacina_store_commit_duration_seconds_count", labels) == 1


def test_a_url_that_no_driver_serves_is_refused_without_showing_its_password() -> None:
    with pytest.raises(StoreStartupError, match="no driver for the database URL mysql://…") as raised:
        open_database("mysql://root:hunter2@db/x", "identity")
    assert "hunter2" not in raised.value.message


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize("store", ["scheduler", "registry", "identity"])
def test_every_query_of_a_store_is_named_once_and_not_empty(store: str, dialect: str) -> None:
    schema = Schema.load(store, dialect)
    assert schema.migrations
    assert all(body and "-- name:" not in body for body in schema.queries.values())


@pytest.mark.parametrize("store", ["scheduler", "registry", "identity"])
def test_both_dialects_have_the_same_queries_and_as_many_migrations(store: str) -> None:
    sqlite, postgres = Schema.load(store), Schema.load(store, "postgres")
    assert sqlite.queries.keys() == postgres.queries.keys() >= postgres.by_arrays
    assert len(sqlite.migrations) == len(postgres.migrations)
    assert not sqlite.by_arrays


def test_parameters_are_numbered_but_not_in_texts_and_comments() -> None:
    assert number_parameters("-- why?\nSELECT '?', ? -- or?\nWHERE a = ?") == (
        "-- why?\nSELECT '?', $1 -- or?\nWHERE a = $2"
    )


async def test_texts_may_hold_any_character_of_unicode_but_for_surrogates(database) -> None:
    """Users' error messages do. A driver that cannot keep U+0000 puts another character in its place."""
    identity = await database("identity")
    await identity.write([Statement("insert_tenant", [TenantRow("nul", "a\0b\U0001f600\u0301", 1)], expect=1)])
    ((_, description, *_),) = await identity.fetch("tenant", "nul")
    assert description.replace("\0", "\ufffd") == "a\ufffdb\U0001f600\u0301"
    assert await identity.fetch("tenant", "nul\0") == []
    await identity.write([Statement("insert_tenant", [TenantRow(f"after{n}", "\0", n) for n in range(3)])])
    assert len(await identity.fetch("tenants")) == 5


async def test_statements_see_what_those_before_them_in_the_transaction_wrote(database) -> None:
    scheduler = await database("scheduler")
    written, claimed = task("e1", 0, status="Ready"), ClaimedRow(7, "there", 1, 2, 3, "e1", 0)
    await scheduler.write(
        [
            Statement("insert_execution", [execution(1)]),
            Statement("insert_task", [written]),
            Statement("claim_task", [claimed], expect=1),
            Statement("complete_task", [CompletedRow(b"{}", 4, 5, 6, "e1", 0)], expect=1),
        ]
    )
    (found,) = await ExecutionStore(scheduler).list_tasks("acme", "e1")
    assert (found.status, found.claim_id, found.executor_id, found.output) == ("Completed", 7, "there", b"{}")


async def test_a_transaction_of_which_a_row_is_missing_says_which_and_writes_nothing(database) -> None:
    scheduler = await database("scheduler")
    claims = [ClaimedRow(7, "there", 1, 2, 3, execution_id, 0) for execution_id in ("e1", "absent")]
    with pytest.raises(StoreConflict, match="claim_task changed 1 rows of the scheduler store, not 2"):
        await scheduler.write(
            [
                Statement("insert_execution", [execution(1)]),
                Statement("insert_task", [task("e1", 0, status="Ready")]),
                Statement("claim_task", claims, expect=2),
            ]
        )
    assert await ExecutionStore(scheduler).get_execution("acme", "e1") is None


async def test_a_value_of_the_wrong_type_leaves_the_store_in_order(database) -> None:
    identity = await database("identity")
    for wrong in (2**80, -(2**63) - 1):
        with pytest.raises(Exception, match=r".") as raised:
            await identity.write([Statement("insert_tenant", [_tenant("before"), TenantRow("bad", None, wrong)])])
        assert not isinstance(raised.value, StoreUnavailable), "a defect of the caller is none of the database"
    assert await identity.fetch("tenant", "before") == []
    await identity.write([Statement("insert_tenant", [_tenant("before")], expect=1)])


async def test_many_reads_at_once_are_all_answered(database) -> None:
    identity = await database("identity")
    answers = await asyncio.gather(*(identity.fetch("tenant", "public") for _ in range(200)))
    assert all(len(answer) == 1 for answer in answers)


async def test_a_reader_that_gave_up_does_not_disturb_the_next(database) -> None:
    identity = await database("identity")
    for _ in range(20):
        given_up = asyncio.create_task(identity.fetch("tenants"))
        await asyncio.sleep(0)
        given_up.cancel()
    assert len(await identity.fetch("tenants")) == 1
