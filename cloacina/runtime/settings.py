"""Settings that every service has: a typed class, each knob with default, unit and environment variable.

A knob is set by its environment variable, or by the option of the same name on the command line, which wins.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from cloacina.rpc.options import Tls, TlsError
from cloacina.runtime.rpc_token import token_file

SHORTEST_TOKEN = 16
"""Characters of a token between services: whoever guesses it may call them all."""

_TOKEN = re.compile(r"[!-~]([ -~]*[!-~])?\Z")  # what gRPC metadata carries unchanged
_PREFIX = "CLOACINA_"
_Settings = TypeVar("_Settings", bound="ServiceSettings")


class ServiceSettings(BaseSettings):
    """What all services share. Every field's variable is ``CLOACINA_`` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", validate_default=True, populate_by_name=True)

    home: Path = Field(Path("~/.cloacina"), description="folder of databases, logs, caches and keys")
    host: str = Field("127.0.0.1", description="address to listen on")
    database_url: str = Field(
        "",
        description="postgresql://user:password@host:5432/database; empty for SQLite files in the home folder",
        repr=False,
    )
    rpc_token: str = Field(
        "",
        description="token that services show each other, 16 characters or more; empty for the one in "
        "<home>/rpc-token, which the first service to start makes",
        repr=False,
    )
    tls_cert: Path | None = Field(None, description="PEM certificate of this process, for mTLS between services")
    tls_key: Path | None = Field(None, description="PEM key of tls_cert")
    tls_ca: Path | None = Field(None, description="PEM certificate of the authority that signs the services'")
    grace_s: float = Field(30.0, ge=0, le=3600, description="seconds to finish work in after SIGTERM")
    log_retention_days: int = Field(14, ge=0, description="days of log files that are kept; 0 keeps all")
    cpu_latency_us: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="microseconds that a core of this machine may take to wake up while executions go through api, "
        "scheduler or executor; 0 keeps all cores awake then. Linux only. Unset, nothing is asked of the kernel",
    )
    verbose: bool = Field(
        False, description="log at debug level", validation_alias=AliasChoices("verbose", "v", "CLOACINA_VERBOSE")
    )

    @field_validator("home")
    @classmethod
    def _expand(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = [self.tls_cert is not None, self.tls_key is not None, self.tls_ca is not None]
        if any(given) and not all(given):
            raise ValueError("CLOACINA_TLS_CERT, CLOACINA_TLS_KEY and CLOACINA_TLS_CA are set together or not at all")
        if self.tls is not None:
            try:
                self.tls.check()
            except TlsError as error:
                raise ValueError(error.message) from None
        return self

    @field_validator("rpc_token")
    @classmethod
    def _usable_token(cls, token: str) -> str:
        if token and not (_TOKEN.match(token) and len(token) >= SHORTEST_TOKEN):
            raise ValueError(
                f"it must be {SHORTEST_TOKEN} characters of printable ASCII or more, without a space at either end"
            )
        return token

    @property
    def tls(self) -> Tls | None:
        """The certificates, if they are set."""
        if self.tls_cert is None or self.tls_key is None or self.tls_ca is None:
            return None
        return Tls(self.tls_cert, self.tls_key, self.tls_ca)

    @property
    def token(self) -> str | None:
        """The shared token: the setting, else the one in the home folder, else none."""
        if self.rpc_token:
            return self.rpc_token
        try:
            return token_file(self.home).read_text().strip() or None
        except OSError:
            return None

    @field_validator("database_url")
    @classmethod
    def _only_postgresql(cls, url: str) -> str:
        if url and not url.startswith(("postgresql://", "postgres://")):
            raise ValueError("it must be postgresql://…; for SQLite leave it empty and set CLOACINA_HOME to a folder")
        return url

    def store_url(self, name: str) -> str:
        """The database URL, or that of ``<home>/<name>.db``."""
        return self.database_url or f"sqlite://{self.home / f'{name}.db'}"

    @property
    def shown_database(self) -> str:
        """Where the data is, for logs: without user, password and parameters."""
        if not self.database_url:
            return f"sqlite in {self.home}"
        address = self.database_url.split("://", 1)[1].split("?", 1)[0]
        return f"postgresql at {address.rsplit('@', 1)[-1]}"

    def make_home(self) -> None:
        """Creates the home folder, for its owner only."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)


def settings_from(kind: type[_Settings], arguments: Sequence[str], program: str) -> _Settings:
    """Settings from the environment and the command line. ``--help`` prints every knob; a bad value ends the process.

    Args:
        kind: the settings class.
        arguments: the command line after the program's name.
        program: how the program is called, for the help.
    """
    source: CliSettingsSource[_Settings] = CliSettingsSource(
        kind,
        cli_parse_args=list(arguments),
        cli_prog_name=program,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )
    try:
        return kind(_cli_settings_source=source)  # type: ignore[call-arg]
    except ValidationError as error:
        for problem in error.errors():
            print(_explain(problem, kind), file=sys.stderr)  # noqa: T201 - before logging is configured
    except SettingsError as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def _explain(problem: Any, kind: type[ServiceSettings]) -> str:
    if not problem["loc"]:
        return str(problem["msg"]).removeprefix("Value error, ")
    name = str(problem["loc"][0])
    variable = _PREFIX + name.upper()
    field = kind.model_fields.get(name.lower())
    if field is not None and not field.repr:  # a secret, or something with one in it
        return f"{variable} is not valid: {problem['msg']}"
    given = os.environ.get(variable, problem.get("input"))
    return f"{variable}={given!r} is not valid: {problem['msg']}. Set it to a valid value, or unset it for the default."
