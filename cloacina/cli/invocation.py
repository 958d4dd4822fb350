"""What the shared options say, completed by the environment, the profile and the defaults."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path
from typing import Any

from cloacina.cli.client import ApiClient, read_bootstrap_key
from cloacina.cli.output import Printer
from cloacina.errors import InvalidRequest, Unauthorized
from cloacina.runtime.config_file import ConfigFile

DEFAULT_SERVER = "http://127.0.0.1:8080"
DEFAULT_TENANT = "public"

_LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))


class Invocation:
    """One run of the command; handed to every verb.

    What an option says comes first, then the profile that ``--profile`` names, then the environment, then the default
    profile (``CLOACINA_PROFILE``, else ``default_profile`` of the configuration file), then the default.
    """

    def __init__(self) -> None:
        self._given: dict[str, Any] = {}

    def take(self, name: str, value: Any) -> None:
        """An option was given; one that stands later wins."""
        self._given[name] = value

    @property
    def home(self) -> Path:
        """The folder of databases, logs, keys and the configuration file."""
        found = self._given.get("home") or os.environ.get("CLOACINA_HOME") or "~/.cloacina"
        return Path(found).expanduser().absolute()

    @property
    def printer(self) -> Printer:
        """Shows results."""
        form = "json" if self._given.get("as_json") else self._given.get("output", "table")
        return Printer(form, colour=not self._given.get("no_color"))

    @property
    def verbose(self) -> bool:
        """Whether debug lines are wanted."""
        return bool(self._given.get("verbose"))

    @property
    def server(self) -> str:
        """Base URL of the API.

        Raises:
            InvalidRequest: it is no URL.
        """
        found = self._setting("server", "CLOACINA_SERVER") or DEFAULT_SERVER
        if urllib.parse.urlsplit(found).scheme not in ("http", "https"):
            raise InvalidRequest(f"the server {found!r} is no http:// or https:// URL")
        return found

    @property
    def tenant(self) -> str:
        """Whose workflows."""
        return self._setting("tenant", "CLOACINA_TENANT") or DEFAULT_TENANT

    @property
    def tenant_is_given(self) -> bool:
        """Whether anything names a tenant."""
        return bool(self._setting("tenant", "CLOACINA_TENANT"))

    def client(self) -> ApiClient:
        """A client of the API, with the key that was given, or that the server on this machine made.

        Raises:
            Unauthorized: there is no key.
        """
        return ApiClient(self.server, self.api_key())

    def api_key(self) -> str:
        """The key. That of this machine's server is for this machine: no other is shown it.

        Raises:
            Unauthorized: there is none, or it cannot be read.
        """
        found = self._setting("api_key", "CLOACINA_API_KEY")
        if found:
            return _decoded(found)
        if urllib.parse.urlsplit(self.server).hostname not in _LOOPBACK:
            raise Unauthorized(
                f"no API key for {self.server}: give --api-key or CLOACINA_API_KEY, or make a profile with one: "
                "cloacinactl config profile set NAME SERVER --api-key KEY"
            )
        return read_bootstrap_key(self.home)

    def _setting(self, name: str, variable: str) -> str:
        if self._given.get(name):
            return str(self._given[name])
        chosen = self._given.get("profile")
        if chosen:
            return self._profile(chosen).get(name) or os.environ.get(variable, "")
        if os.environ.get(variable):
            return os.environ[variable]
        return self._profile(os.environ.get("CLOACINA_PROFILE") or "").get(name, "")

    def _profile(self, name: str) -> dict[str, str]:
        """A profile by name; the default one, or none, without a name.

        Raises:
            InvalidRequest: there is none of this name.
        """
        file = ConfigFile.read(self.home)
        profiles = file.table("profiles")
        name = name or str(file.document.get("default_profile", ""))
        if not name:
            return {}
        found = profiles.get(name)
        if not isinstance(found, dict):
            known = ", ".join(sorted(profiles)) or "none"
            raise InvalidRequest(f"there is no profile {name!r} in {file.path}; there are: {known}")
        return {key: str(value) for key, value in found.items()}


def _decoded(key: str) -> str:
    """A key, or the place where it is: ``env:VARIABLE`` or ``file:PATH``."""
    scheme, colon, rest = key.partition(":")
    if colon and scheme == "env":
        found = os.environ.get(rest, "")
        if not found:
            raise Unauthorized(f"the API key is to come from the variable {rest}, which is not set")
        return found
    if colon and scheme == "file":
        path = Path(rest).expanduser()
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unauthorized(f"the API key is to come from {path}, which cannot be read: {error}") from None
    return key
