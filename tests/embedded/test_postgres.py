"""The embedded runner on PostgreSQL, and each in a schema of its own."""

from __future__ import annotations

import pytest

import cloaca
from tests.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]


def _count_workflow() -> None:
    with cloaca.WorkflowBuilder("counting"):

        @cloaca.task(id="count")
        def count(context: cloaca.Context) -> cloaca.Context:
            context.set("counted", True)
            return context


def test_runners_in_different_schemas_know_nothing_of_each_other(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    _count_workflow()
    ids = {}
    for schema in ("tenant_a", "Tenant_B2", "9lives"):
        runner = cloaca.DefaultRunner.with_schema(url, schema)
        try:
            result = runner.execute("counting", cloaca.Context())
            assert (result.status, result.final_context["counted"]) == ("Completed", True)
            ids[schema] = result.execution_id
        finally:
            runner.shutdown()
    for schema, execution_id in ids.items():
        found = postgres_server.query(f'SELECT execution_id FROM "{schema}".executions', url).split()
        assert found == [execution_id]


def test_two_runners_of_one_schema_are_refused_and_of_two_are_not(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    _count_workflow()
    first, other = cloaca.DefaultRunner.with_schema(url, "one"), cloaca.DefaultRunner.with_schema(url, "two")
    try:
        with pytest.raises(RuntimeError, match="in use"):
            cloaca.DefaultRunner.with_schema(url, "one")
        assert other.execute("counting", cloaca.Context()).status == "Completed"
    finally:
        first.shutdown()
        other.shutdown()


def test_without_a_schema_it_has_the_stores_own(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    _count_workflow()
    with cloaca.DefaultRunner(url) as runner:
        assert runner.execute("counting", cloaca.Context()).status == "Completed"
    assert postgres_server.query("SELECT count(*) FROM cloacina_scheduler.executions", url).strip() == "1"
