"""Tenants of embedded runners: a schema and a user each, which see nothing of the others."""

from __future__ import annotations

import pytest

import cloaca
from tests.postgres import PostgresServer, postgres_server, superuser_url

__all__ = ["postgres_server"]


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    with cloaca.WorkflowBuilder("noting"):

        @cloaca.task(id="note")
        def note(context: cloaca.Context) -> cloaca.Context:
            context.set("noted", context["what"])
            return context

    return superuser_url(postgres_server.new_database())  # it makes users


def test_a_tenants_runner_works_in_its_own_schema_under_its_own_user(postgres_server: PostgresServer, url: str) -> None:
    admin = cloaca.DatabaseAdmin(url)
    ids = {}
    for name in ("first", "second"):
        credentials = admin.create_tenant(cloaca.TenantConfig(f"{name}_schema", f"{name}_user"))
        assert (credentials.schema_name, credentials.username) == (f"{name}_schema", f"{name}_user")
        assert len(credentials.password) == 32
        assert credentials.password.isalnum()
        assert credentials.password not in repr(credentials)
        with cloaca.DefaultRunner(credentials.connection_string) as runner:
            result = runner.execute("noting", cloaca.Context({"what": name}))
            assert (result.status, result.final_context["noted"]) == ("Completed", name)
            ids[name] = result.execution_id
    for name, execution_id in ids.items():
        stored = postgres_server.query(f"SELECT execution_id FROM {name}_schema.executions", url)
        assert stored.split() == [execution_id]
        owner = postgres_server.query(f"SELECT tableowner FROM pg_tables WHERE schemaname = '{name}_schema'", url)
        assert set(owner.split()) == {f"{name}_user"}
    with pytest.raises(AssertionError, match="permission denied"):
        postgres_server.query("SET ROLE first_user; SELECT 1 FROM second_schema.executions", url)
    for name in ids:
        admin.remove_tenant(f"{name}_schema", f"{name}_user")
        admin.remove_tenant(f"{name}_schema", f"{name}_user")
    assert postgres_server.query("SELECT count(*) FROM pg_namespace WHERE nspname ~ '_schema$'", url) == "1"
    assert postgres_server.query("SELECT count(*) FROM pg_roles WHERE rolname ~ '^(first|second)_user$'", url) == "0"


def test_an_administrators_runner_in_a_tenants_schema_leaves_what_the_tenant_can_use(
    postgres_server: PostgresServer, url: str
) -> None:
    admin = cloaca.DatabaseAdmin(url)
    credentials = admin.create_tenant(cloaca.TenantConfig("shared_schema", "shared_user", "it's a secret"))
    try:
        assert credentials.password == "it's a secret"
        for database_url in (url, credentials.connection_string):
            with cloaca.DefaultRunner.with_schema(database_url, "shared_schema") as runner:
                assert runner.execute("noting", cloaca.Context({"what": 1})).status == "Completed"
        assert postgres_server.query("SELECT count(*) FROM shared_schema.executions", url) == "2"
    finally:
        admin.remove_tenant("shared_schema", "shared_user")


def test_nothing_is_left_of_a_tenant_that_could_not_be_made(postgres_server: PostgresServer, url: str) -> None:
    admin = cloaca.DatabaseAdmin(url)
    admin.create_tenant(cloaca.TenantConfig("a_schema", "a_user"))
    try:
        with pytest.raises(RuntimeError, match=r"'other_schema'.*\"a_user\" already exists"):
            admin.create_tenant(cloaca.TenantConfig("other_schema", "a_user"))
        with pytest.raises(RuntimeError, match='"a_schema" already exists'):
            admin.create_tenant(cloaca.TenantConfig("a_schema", "other_user"))
        left = "SELECT nspname FROM pg_namespace WHERE nspname = 'other_schema'"
        assert postgres_server.query(left, url) == ""
        assert postgres_server.query("SELECT 1 FROM pg_roles WHERE rolname = 'other_user'", url) == ""
    finally:
        admin.remove_tenant("a_schema", "a_user")


@pytest.mark.parametrize(
    ("schema", "username", "problem"),
    [
        ("", "user", "schema_name '' is not allowed"),
        ("a; DROP SCHEMA public", "user", "schema_name .* is not allowed"),
        ("9lives", "user", "begin with a letter"),
        ("schema", "us er", "username 'us er' is not allowed"),
        ("s" * 64, "user", "at most 63"),
        ("public", "user", "'public' is not a tenant's"),
        ("pg_catalog", "user", "not a tenant's"),
        ("cloacina_scheduler", "user", "not a tenant's"),
    ],
)
def test_names_that_are_refused(schema: str, username: str, problem: str) -> None:
    admin = cloaca.DatabaseAdmin("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(RuntimeError, match=problem):
        admin.create_tenant(cloaca.TenantConfig(schema, username))
    with pytest.raises(RuntimeError, match=problem):
        admin.remove_tenant(schema, username)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:///file.db", "needs a PostgreSQL URL"),
        ("postgresql://user@host", "names no database"),
        ("mysql://user:hidden@host/database", "needs a PostgreSQL URL"),
    ],
)
def test_urls_that_are_refused(url: str, problem: str) -> None:
    with pytest.raises(RuntimeError, match=problem) as refused:
        cloaca.DatabaseAdmin(url)
    assert "hidden" not in str(refused.value)


async def test_a_database_that_is_away_is_named_also_inside_of_a_running_loop() -> None:
    admin = cloaca.DatabaseAdmin("postgresql://nobody:hidden@127.0.0.1:1/nothing")
    with pytest.raises(RuntimeError, match="tenant schema 'some_schema'.* was not made: .*(111|refused)"):
        admin.create_tenant(cloaca.TenantConfig("some_schema", "some_user", None))
    assert "hidden" not in repr(admin)
