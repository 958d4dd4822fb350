"""Packages as workers load them: extracted, in a folder, by the digest of their archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cloacina.errors import CloacinaError


@dataclass(frozen=True, slots=True)
class Artifact:
    """An extracted package.

    Args:
        root: its folder.
        workflow_name: the workflow its bare tasks belong to.
        entry_module: the module that declares them.
    """

    root: Path
    workflow_name: str
    entry_module: str


class Artifacts(Protocol):
    """Where packages come from."""

    async def get(self, digest: str) -> Artifact:
        """The package with this digest.

        Raises:
            CloacinaError, OSError: it cannot be had now.
        """


def explain(error: BaseException) -> str:
    """Why a package is not here, as one line."""
    return error.message if isinstance(error, CloacinaError) else f"{type(error).__name__}: {error}"
