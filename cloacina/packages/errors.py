"""The error of every package that is not accepted."""

from __future__ import annotations

from cloacina.errors import InvalidRequest


class PackageRefused(InvalidRequest):
    """The archive, its manifest or its code cannot be accepted; the message says what to change.

    Args:
        message: what is wrong, with the name of the file or key.
        output: the end of what the package printed while it was imported; empty when nothing was.
        code: overrides ``upload_failed``.
    """

    default_code = "upload_failed"

    def __init__(self, message: str, *, output: str = "", code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.output = output
