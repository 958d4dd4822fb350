"""The grammar of log directives; the scope of ids; which request ids are kept."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloacina.telemetry import scope
from cloacina.telemetry.directives import LEVELS, OFF, TRACE, parse_directives


@pytest.mark.parametrize(
    ("text", "root", "targets"),
    [
        ("", logging.INFO, {}),
        (" , ,", logging.INFO, {}),
        ("debug", logging.DEBUG, {}),
        ("WARN", logging.WARNING, {}),
        ("warning", logging.WARNING, {}),
        ("off", OFF, {}),
        ("debug,error", logging.ERROR, {}),
        ("cloacina", logging.INFO, {"cloacina": TRACE, "services": TRACE}),
        ("info, cloacina.store = debug ", logging.INFO, {"cloacina.store": 10, "services.store": 10}),
        ("axum=info", logging.INFO, {"aiohttp": 20}),
        ("tower_http=debug", logging.INFO, {"aiohttp": 10}),
        ("cloacina_server::routes::workflows=debug", logging.INFO, {"services.api.routes.workflows": 10}),
        ("cloacina_server=off", logging.INFO, {"services.api": OFF}),
        ("sqlx=debug", logging.INFO, {"cloacina.store": 10}),
        ("task.flow=trace", logging.INFO, {"task.flow": TRACE}),
    ],
)
def test_directives(text: str, root: int, targets: dict[str, int]) -> None:
    parsed = parse_directives(text)
    assert (parsed.root, parsed.targets, parsed.rejected) == (root, targets, [])


@pytest.mark.parametrize(
    "bad", ["cloacina=loud", "=debug", "a b=debug", "cloacina=", "a..b=info", "[span]=debug", "a/b"]
)
def test_a_bad_directive_spoils_no_other(bad: str) -> None:
    parsed = parse_directives(f"warn,{bad},services.api=debug")
    assert (parsed.root, parsed.targets) == (logging.WARNING, {"services.api": logging.DEBUG})
    assert len(parsed.rejected) == 1
    assert repr(bad) in parsed.rejected[0]


@given(st.text(max_size=60))
def test_nothing_that_is_set_is_fatal(text: str) -> None:
    parsed = parse_directives(text)
    assert parsed.root in LEVELS.values()


def test_binding_adds_to_the_scope_and_ends_with_the_block() -> None:
    with scope.bind(request_id="r", tenant_id="acme"):
        with scope.bind(tenant_id="other", attempt=2) as inner:
            assert inner == scope.current() == scope.Scope("r", "other", attempt=2)
        assert scope.current() == scope.Scope("r", "acme")
        with pytest.raises(ValueError, match="x"), scope.bind(task_name="t"):
            raise ValueError("x")
        assert scope.current().task_name is None
    assert scope.current() == scope.Scope()


async def test_tasks_at_the_same_time_do_not_see_each_others_scope() -> None:
    met = asyncio.Barrier(2)

    async def work(name: str) -> str | None:
        with scope.bind(request_id=name):
            await met.wait()
            return scope.current().request_id

    assert await asyncio.gather(work("a"), work("b")) == ["a", "b"]


def test_an_unknown_id_is_refused() -> None:
    with pytest.raises(TypeError), scope.bind(colour="red"):
        pass


@pytest.mark.parametrize(
    ("candidate", "kept"),
    [
        ("a", True),
        ("A-z.0_9", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a b", False),
        ("a\n", False),
        ("é", False),
        ("٣", False),
        ("a/b", False),
    ],
)
def test_which_request_ids_are_kept(candidate: str, kept: bool) -> None:
    accepted = scope.accept_request_id(candidate)
    assert (accepted == candidate) is kept
    assert scope.valid_request_id(accepted)
    if not kept:
        assert UUID(accepted).version == 4


def test_no_request_id_means_a_fresh_one() -> None:
    made = {scope.accept_request_id(None) for _ in range(100)}
    assert len(made) == 100
