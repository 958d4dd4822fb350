"""Secrets of a daemon: sealed in a file of their own in the home folder, under a key that its operator keeps."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from cloacina.daemon.packages import TENANT
from cloacina.daemon.settings import DaemonSettings
from cloacina.dispatch.runs import Run
from cloacina.dispatch.secrets import SecretsWithheld, granted, granted_without
from cloacina.errors import CloacinaError
from cloacina.secrets.envelope import keyring_from
from cloacina.secrets.vault import Vault
from cloacina.store.database import open_database
from cloacina.store.secrets import SecretStore
from cloacina.telemetry import scope, tracing
from cloacina.worker.secrets import Granted

log = logging.getLogger(__name__)

_REMEDY = "set CLOACINA_SECRET_KEK, or daemon.secret_kek_file of config.toml to a file that holds the key"


@contextlib.asynccontextmanager
async def open_vault(settings: DaemonSettings) -> AsyncIterator[Vault]:
    """The secrets of a home folder, until the end of the block. The daemon and commands may have them open at once.

    Raises:
        KeyEncryptionKeyError: a key is malformed, or cannot be read.
        StoreStartupError: the file cannot be opened.
    """
    keyring = keyring_from(settings)
    database = open_database(f"sqlite://{_file(settings.home)}", "registry")
    await database.open()
    try:
        yield Vault(SecretStore(database), keyring, _REMEDY)
    finally:
        await database.close()


def has_secrets(settings: DaemonSettings) -> bool:
    """Whether there may be secrets: a key is configured, or some were stored."""
    return bool(settings.secret_kek or settings.secret_kek_old or settings.secret_kek_file) or (
        _file(settings.home).exists()
    )


def _file(home: Path) -> Path:
    return home / "secrets.db"


class VaultSource:
    """Gives the tasks of a daemon their secrets.

    Args:
        vault: where they are.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def secrets_of(self, run: Run) -> Granted:
        """See `cloacina.dispatch.secrets.SecretSource`."""
        references = list(run.assignment.secrets)
        scope.attach(run.scope)
        with tracing.continue_from(run.traceparent), tracing.span("resolve secrets") as span:
            try:
                answer = await self._vault.resolve(TENANT, references)
                found = granted(answer)
            except SecretsWithheld as withheld:
                span.fail(withheld.message)
                raise
            except CloacinaError as error:
                log.warning("secrets are not given to a task", extra={"error": error.message})
                return granted_without(error, references)
            log.info(
                "secrets given to a task",
                extra={
                    "secrets": [each.reference.secret for each in answer.secrets],
                    "missing": [each.secret or each.name for each in answer.missing],
                },
            )
            return found
