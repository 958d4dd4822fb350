"""Settings of what speaks HTTP to clients: its certificate, and whose pages may call it."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from cloacina.rpc.options import TlsError, server_context
from cloacina.runtime.settings import ServiceSettings

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[1-9][0-9]{0,4})?\Z")


class HttpSettings(ServiceSettings):
    """Every field's variable is ``CLOACINA_`` and its name in capitals."""

    api_tls_cert: Path | None = Field(
        None, description="PEM certificate, with its chain, that the HTTP API shows; with it, the API speaks TLS only"
    )
    api_tls_key: Path | None = Field(None, description="PEM key of api_tls_cert, without a password")
    api_cors_origins: str = Field(
        "",
        description="origins whose pages may call the API from browsers, comma-separated, such as "
        "https://ui.example.com; empty for none",
    )

    @field_validator("api_cors_origins")
    @classmethod
    def _only_origins(cls, text: str) -> str:
        for origin in _listed(text):
            if not _ORIGIN.match(origin):
                raise ValueError(
                    f"{origin[:100]!r} is no origin: it must be http:// or https:// and a host in lower case, with a "
                    "port where it is not the usual one, and nothing after it"
                )
        return text

    @model_validator(mode="after")
    def _usable_certificate(self) -> Self:
        if (self.api_tls_cert is None) != (self.api_tls_key is None):
            raise ValueError("CLOACINA_API_TLS_CERT and CLOACINA_API_TLS_KEY are set together or not at all")
        try:
            self.server_tls()
        except TlsError as error:
            raise ValueError(error.message) from None
        return self

    def server_tls(self) -> ssl.SSLContext | None:
        """What the HTTP API shows of itself; ``None`` for plain HTTP.

        Raises:
            TlsError: the files cannot be used.
        """
        if self.api_tls_cert is None or self.api_tls_key is None:
            return None
        return server_context(self.api_tls_cert, self.api_tls_key, setting="CLOACINA_API_TLS")

    @property
    def cors_origins(self) -> tuple[str, ...]:
        """The origins, one by one."""
        return _listed(self.api_cors_origins)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
