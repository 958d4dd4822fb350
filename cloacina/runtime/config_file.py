"""``<home>/config.toml``: read as a whole, every key it does not know reported with the nearest one that it does."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloacina.errors import InvalidRequest

CONFIG_NAME = "config.toml"
"""Name of the file in the home folder."""

Known = Mapping[str, "Known | None"]
"""Keys that may be there: ``None`` for a value, a mapping for a table; the key ``*`` stands for any name."""


class ConfigFileError(InvalidRequest):
    """The file cannot be read, or is no TOML."""

    default_code = "invalid_configuration"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What the file says.

    Args:
        path: where it is.
        document: its tables and values; empty when there is no file.
    """

    path: Path
    document: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, home: Path) -> ConfigFile:
        """Reads the file in a home folder; one that does not exist is empty.

        Raises:
            ConfigFileError: see there.
        """
        path = home / CONFIG_NAME
        try:
            return cls(path, tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise ConfigFileError(f"{path} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigFileError(f"{path} is not TOML: {error}") from None

    def table(self, name: str) -> Mapping[str, Any]:
        """A table of it; empty when it is not there.

        Raises:
            ConfigFileError: something else than a table stands under this name.
        """
        found = self.document.get(name, {})
        if not isinstance(found, dict):
            raise ConfigFileError(f"{self.path}: {name!r} must be a table: [{name}]")
        return found

    def unknown(self, known: Known) -> list[str]:
        """What is in the file and means nothing, a line each, with what may have been meant."""
        return [f"{self.path}: {line}" for line in _unknown(self.document, known, "")]


def _unknown(document: Mapping[str, Any], known: Known, prefix: str) -> Iterator[str]:
    for key, value in document.items():
        below = known.get(key, known.get("*", _MISSING))
        if below is _MISSING:
            yield f"unknown key {prefix + key!r}{_nearest(key, known, prefix)}"
        elif isinstance(below, Mapping):
            if isinstance(value, dict):
                yield from _unknown(value, below, f"{prefix}{key}.")
            else:
                yield f"{prefix + key!r} must be a table"
        elif isinstance(value, dict):
            yield f"{prefix + key!r} must be a value, not a table"


def _nearest(key: str, known: Collection[str], prefix: str) -> str:
    near = difflib.get_close_matches(key, [each for each in known if each != "*"], n=1)
    return f"; did you mean {prefix + near[0]!r}?" if near else f"; it takes {', '.join(sorted(known))}"


_MISSING: Any = object()
