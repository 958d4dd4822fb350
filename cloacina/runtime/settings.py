"""Settings that every service has: a typed class, each knob with default, unit and environment variable.

A knob is set by its environment variable, or by the option of the same name on the command line, which wins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from cloacina.rpc.options import Tls

_PREFIX = "CLOACINA_"
_Settings = TypeVar("_Settings", bound="ServiceSettings")


class ServiceSettings(BaseSettings):
    """What all services share. Every field's variable is ``CLOACINA_`` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", validate_default=True, populate_by_name=True)

    home: Path = Field(Path("~/.cloacina"), description="folder of databases, logs, caches and keys")
    host: str = Field("127.0.0.1", description="address to listen on")
    database_url: str = Field(
        "", description="sqlite:///absolute/path.db; empty for a file of the service's own in the home folder"
    )
    rpc_token: str = Field(
        "",
        description="token that services show each other; empty for the one in <home>/rpc-token, if there is one",
        repr=False,
    )
    tls_cert: Path | None = Field(None, description="PEM certificate of this process, for mTLS between services")
    tls_key: Path | None = Field(None, description="PEM key of tls_cert")
    tls_ca: Path | None = Field(None, description="PEM certificate of the authority that signs the services'")
    grace_s: float = Field(30.0, ge=0, le=3600, description="seconds to finish work in after SIGTERM")
    log_retention_days: int = Field(14, ge=0, description="days of log files that are kept; 0 keeps all")
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
        return self

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
            return (self.home / "rpc-token").read_text().strip() or None
        except OSError:
            return None

    def store_url(self, name: str) -> str:
        """The database URL, or that of ``<home>/<name>.db``."""
        return self.database_url or f"sqlite://{self.home / f'{name}.db'}"

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
            print(_explain(problem), file=sys.stderr)  # noqa: T201 - before logging is configured
    except SettingsError as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def _explain(problem: Any) -> str:
    if not problem["loc"]:
        return str(problem["msg"])
    variable = _PREFIX + str(problem["loc"][0]).upper()
    given = os.environ.get(variable, problem.get("input"))
    return f"{variable}={given!r} is not valid: {problem['msg']}. Set it to a valid value, or unset it for the default."
