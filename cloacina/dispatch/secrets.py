"""What a task is given of the secrets that were found for it, or why it is given none."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from cloacina.dispatch.runs import Run
from cloacina.errors import CloacinaError, Unavailable
from cloacina.rpc.v1 import secrets_pb2
from cloacina.worker.frames import MAX_BODY_BYTES
from cloacina.worker.secrets import Granted

log = logging.getLogger(__name__)


class SecretsWithheld(Exception):
    """A task cannot have its secrets, and does not run.

    Args:
        reason: of the failure, a value of `cloacina.domain.execution.FailureReason`.
        message: prose; never a value.
        transient: whether another attempt may have them.
    """

    def __init__(self, reason: str, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.transient = transient


class SecretSource(Protocol):
    """Where the secrets of tasks come from."""

    async def secrets_of(self, run: Run) -> Granted:
        """What a run may read. Called in a task of its own, whose scope becomes the run's.

        A secret that the execution was bound to must be there. One that is only declared need not be: a task that
        reads it is told.

        Args:
            run: whose assignment names secrets.

        Raises:
            SecretsWithheld: see there.
        """
        ...


async def supply(run: Run, source: SecretSource) -> bool:
    """Gives a run its secrets, or has it fail with the reason why it gets none. Returns whether it can begin."""
    try:
        run.secrets = await source.secrets_of(run)
    except SecretsWithheld as withheld:
        run.fail(withheld.reason, withheld.message, transient=withheld.transient)
    except Exception as error:
        log.exception("the secrets of a task could not be had")
        run.fail("infrastructure", f"the task's secrets cannot be had: {type(error).__name__}")
    else:
        return True
    return False


def granted(answer: secrets_pb2.ResolveSecretsResponse) -> Granted:
    """What may be read of an answer. A secret that the execution was bound to must be there. One that is only declared
    need not be: a task that reads it is told.

    Raises:
        SecretsWithheld: a bound one is missing, or they are too large.
    """
    lacking = [each for each in answer.missing if each.secret]
    if lacking:
        said = ", ".join(f"{each.secret!r} (bound to {each.name!r})" for each in lacking)
        raise SecretsWithheld("validation_failed", f"the tenant has no secret {said}", transient=False)
    found = _by_name(answer)
    if len(found.encode()) > MAX_BODY_BYTES:
        raise SecretsWithheld(
            "validation_failed", f"the task's secrets are over {MAX_BODY_BYTES} bytes together", transient=False
        )
    return found


def granted_without(error: CloacinaError, references: Iterable[secrets_pb2.SecretReference]) -> Granted:
    """What may be read where secrets cannot be had: nothing, which is told to tasks that read what is only declared.

    Raises:
        SecretsWithheld: the execution is bound to one, or they may be had later.
    """
    asked = list(references)
    if error.code == "secrets_not_configured" and not any(each.secret for each in asked):
        return Granted(unconfigured=[each.name for each in asked])
    away = isinstance(error, Unavailable)
    raise SecretsWithheld(
        "infrastructure" if away else "validation_failed",
        f"the task's secrets cannot be had: {error.message}",
        transient=away,
    )


def _by_name(answer: secrets_pb2.ResolveSecretsResponse) -> Granted:
    """A secret is read by the name that the workflow declares, or by its own. A declared name comes first."""
    fields = {each.reference.secret: dict(each.fields) for each in answer.secrets}
    fields |= {each.reference.name: dict(each.fields) for each in answer.secrets}
    missing = [each.name for each in answer.missing]
    return Granted({name: values for name, values in fields.items() if name not in missing}, missing)
