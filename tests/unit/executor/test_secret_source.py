"""What an executor makes of the reconciler's answer: what a task may read, or why it does not run."""

from __future__ import annotations

from typing import Any

import pytest

from cloacina.dispatch.runs import Run
from cloacina.errors import CloacinaError, Forbidden, Unavailable
from cloacina.rpc.v1 import scheduler_pb2, secrets_pb2
from cloacina.telemetry import scope
from services.executor.secrets import ReconcilerSource, SecretsWithheld

DB = secrets_pb2.SecretReference(name="db", secret="db_prod")
MAIL = secrets_pb2.SecretReference(name="mail")


class Reconciler:
    """Stands for the client of the reconciler: the process border."""

    def __init__(self, answer: secrets_pb2.ResolveSecretsResponse | CloacinaError) -> None:
        self.answer = answer
        self.asked: Any = None
        self.request_id: str | None = None
        self.deadline_s = 0.0
        self.channel = self

    def unary_unary(self, *_: Any, **__: Any) -> None:
        return None

    async def call(self, method: Any, request: Any, *, deadline_s: float) -> Any:
        self.asked, self.request_id, self.deadline_s = request, scope.current().request_id, deadline_s
        if isinstance(self.answer, CloacinaError):
            raise self.answer
        return self.answer


def _run(*references: secrets_pb2.SecretReference) -> Run:
    assignment = scheduler_pb2.Assignment(
        claim_id=7,
        execution_id="e1",
        tenant_id="acme",
        workflow_name="flow",
        task_name="t",
        attempt=2,
        package_id="p1",
        secrets=references,
    )
    assignment.origin.request_id = "r1"
    return Run(assignment, None)


def _answer(*given: tuple[secrets_pb2.SecretReference, str], missing: Any = ()) -> secrets_pb2.ResolveSecretsResponse:
    secrets = [
        secrets_pb2.ResolvedSecret(
            reference=secrets_pb2.SecretReference(name=each.name, secret=each.secret or each.name), fields={"f": value}
        )
        for each, value in given
    ]
    return secrets_pb2.ResolveSecretsResponse(secrets=secrets, missing=missing)


async def _withheld(answer: Any, *references: secrets_pb2.SecretReference) -> SecretsWithheld:
    with pytest.raises(SecretsWithheld) as withheld:
        await ReconcilerSource(Reconciler(answer), "x1").secrets_of(_run(*references))
    return withheld.value


async def test_it_asks_with_all_ids_the_request_id_and_a_deadline() -> None:
    reconciler = Reconciler(_answer((DB, "v")))
    await ReconcilerSource(reconciler, "x1").secrets_of(_run(DB))
    asked = reconciler.asked
    assert (asked.tenant_id, asked.execution_id, asked.workflow_name) == ("acme", "e1", "flow")
    assert (asked.task_name, asked.attempt, asked.package_id, asked.executor_id) == ("t", 2, "p1", "x1")
    assert list(asked.references) == [DB]
    assert reconciler.request_id == "r1"
    assert 0 < reconciler.deadline_s <= 10


async def test_a_secret_is_read_by_the_declared_name_or_by_its_own() -> None:
    granted = await ReconcilerSource(Reconciler(_answer((DB, "v"), (MAIL, "w"))), "x1").secrets_of(_run(DB, MAIL))
    assert (granted("db"), granted("db_prod"), granted("mail")) == ({"f": "v"}, {"f": "v"}, {"f": "w"})
    with pytest.raises(PermissionError):
        granted("other")


async def test_a_declared_name_comes_before_the_name_of_another_secret() -> None:
    swapped = secrets_pb2.SecretReference(name="a", secret="b"), secrets_pb2.SecretReference(name="b", secret="a")
    answer = _answer((swapped[0], "of b"), (swapped[1], "of a"))
    granted = await ReconcilerSource(Reconciler(answer), "x1").secrets_of(_run(*swapped))
    assert (granted("a"), granted("b")) == ({"f": "of b"}, {"f": "of a"})


async def test_what_is_bound_must_be_there() -> None:
    withheld = await _withheld(_answer(missing=[DB]), DB)
    assert (withheld.reason, withheld.transient) == ("validation_failed", False)
    assert withheld.message == "the tenant has no secret 'db_prod' (bound to 'db')"


async def test_what_is_only_declared_is_missed_by_who_reads_it() -> None:
    granted = await ReconcilerSource(Reconciler(_answer(missing=[MAIL])), "x1").secrets_of(_run(MAIL))
    with pytest.raises(KeyError):
        granted("mail")


async def test_a_reconciler_that_is_away_is_a_failure_of_the_infrastructure() -> None:
    withheld = await _withheld(Unavailable("the reconciler cannot be reached"), DB)
    assert (withheld.reason, withheld.transient) == ("infrastructure", True)
    assert "the reconciler cannot be reached" in withheld.message


async def test_a_refusal_is_none_that_another_attempt_cures() -> None:
    withheld = await _withheld(Forbidden("declares no secrets", code="secret_not_granted"), DB)
    assert (withheld.reason, withheld.transient) == ("validation_failed", False)


async def test_without_secrets_on_the_server_only_what_is_bound_fails_before_the_run() -> None:
    away = Unavailable("not configured", code="secrets_not_configured")
    assert (await _withheld(away, DB, MAIL)).reason == "infrastructure"
    granted = await ReconcilerSource(Reconciler(away), "x1").secrets_of(_run(MAIL))
    with pytest.raises(RuntimeError):
        granted("mail")


async def test_more_than_a_frame_holds_is_refused() -> None:
    many = [secrets_pb2.SecretReference(name=f"s{number}") for number in range(150)]
    answer = _answer(*((each, "x" * 65_000) for each in many))
    assert (await _withheld(answer, *many)).reason == "validation_failed"
