"""The token that the services of one home folder show each other when none is configured (contract, section 6)."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def token_file(home: Path) -> Path:
    """Where the token of a home folder is."""
    return home / "rpc-token"


def ensure_token(home: Path) -> None:
    """Makes the token of a home folder unless there is one. Of several that try at once one succeeds, and nobody ever
    reads half of it.

    Args:
        home: the home folder; created for its owner only.

    Raises:
        OSError: the folder cannot be written.
    """
    path = token_file(home)
    if path.exists():
        return
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = home / f".rpc-token.{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
            output.write(secrets.token_urlsafe(32) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
