"""``package.toml``: what a package says of itself (contract, section 7)."""

from __future__ import annotations

import keyword
import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import BaseModel, ConfigDict

from cloacina.packages.errors import PackageRefused

MANIFEST_NAME = "package.toml"
"""Name of the manifest's file, in the package root."""

MAX_MANIFEST_BYTES = 64 * 1024
"""A manifest is a few lines; what is larger is something else."""

_PACKAGE_KEYS = ("name", "version", "interface", "interface_version", "extension")
_METADATA_KEYS = (
    "language",
    "workflow_name",
    "entry_module",
    "requires_python",
    "description",
    "author",
    "graph_name",
    "reaction_mode",
    "input_strategy",
    "accumulators",
)
_GRAPH_KEYS = ("graph_name", "reaction_mode", "input_strategy", "accumulators")
_IDENTITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_WORKFLOW_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_MAX_TEXT = 4000


class Manifest(BaseModel):
    """A manifest that has been checked against the files beside it.

    Args:
        name: of the package: a letter or digit, then up to 127 of ``A-Z a-z 0-9 . _ -``.
        version: of the package, of the same characters.
        language: "python".
        workflow_name: the workflow that the package's tasks belong to.
        entry_module: dotted name of the module under ``workflow/`` that declares them.
        requires_python: version specifier such as ``>=3.11,<4``; empty for any.
        description, author: prose; may be empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    language: str
    workflow_name: str
    entry_module: str
    requires_python: str = ""
    description: str = ""
    author: str = ""

    @property
    def folder(self) -> str:
        """Name of the one top folder of its archive."""
        return f"{self.name}-{self.version}"

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Reads and checks the manifest of the package in a folder.

        Args:
            root: the package root.

        Raises:
            PackageRefused: it is missing, malformed, or says something this server cannot do.
        """
        try:
            with (root / MANIFEST_NAME).open("rb") as file:
                text = file.read(MAX_MANIFEST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise PackageRefused(f"the package has no {MANIFEST_NAME} in its top folder") from None
        package, metadata = _tables(text)
        name, version = _identity(package)
        _refuse_other_languages(root, metadata)
        _refuse_unknown("package", package, _PACKAGE_KEYS)
        _refuse_constructors(metadata)
        _refuse_unknown("metadata", metadata, _METADATA_KEYS)
        _refuse_graphs(metadata)
        requires_python = _text("metadata", metadata, "requires_python")
        _check_python(requires_python)
        return cls(
            name=name,
            version=version,
            language="python",
            workflow_name=_workflow_name(metadata),
            entry_module=_entry_module(root, name, _text("metadata", metadata, "entry_module")),
            requires_python=requires_python,
            description=_text("metadata", metadata, "description"),
            author=_text("metadata", metadata, "author"),
        )


def identity_in(text: bytes) -> tuple[str, str]:
    """Name and version in the text of a manifest, nothing else of it checked.

    Raises:
        PackageRefused: it is no manifest, or they are missing or not allowed.
    """
    return _identity(_tables(text)[0])


def _tables(text: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    if len(text) > MAX_MANIFEST_BYTES:
        raise PackageRefused(f"{MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        document = tomllib.loads(text.decode())
    except UnicodeDecodeError:
        raise PackageRefused(f"{MANIFEST_NAME} is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PackageRefused(f"{MANIFEST_NAME} is not TOML: {error}"[:300]) from None
    unknown = sorted(set(document) - {"package", "metadata"})
    if unknown:
        raise PackageRefused(
            f"{MANIFEST_NAME} has unknown tables or keys {_shown(unknown)}; it takes [package] and [metadata]"
        )
    package, metadata = document.get("package"), document.get("metadata", {})
    if not isinstance(package, dict):
        raise PackageRefused(f"{MANIFEST_NAME} has no [package] table; it needs one with 'name' and 'version'")
    if not isinstance(metadata, dict):
        raise PackageRefused(f"{MANIFEST_NAME}: 'metadata' must be a table")
    return package, metadata


def _identity(package: Mapping[str, Any]) -> tuple[str, str]:
    for key in ("name", "version"):
        value = package.get(key)
        if not isinstance(value, str) or not _IDENTITY.match(value):
            raise PackageRefused(
                f"{MANIFEST_NAME}: [package] {key!r} must begin with a letter or digit and have up to 128 of "
                f"A-Z a-z 0-9 . _ -, not {_clip(value)}"
            )
    return package["name"], package["version"]


def _refuse_other_languages(root: Path, metadata: Mapping[str, Any]) -> None:
    language = metadata.get("language")
    if language == "rust" or (language is None and (root / "Cargo.toml").exists()):
        raise PackageRefused("this is a Rust package; this server runs Python packages only, Rust is not supported")
    if (root / "Cargo.toml").exists():
        raise PackageRefused(
            "the package holds a Cargo.toml: Rust packages are not supported by this server; leave it out of a "
            "Python package"
        )
    if language not in (None, "python"):
        raise PackageRefused(f"{MANIFEST_NAME}: [metadata] 'language' must be \"python\", not {_clip(language)}")


def _refuse_unknown(table: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise PackageRefused(
            f"{MANIFEST_NAME}: [{table}] has unknown keys {_shown(unknown)}; it takes {', '.join(known)}"
        )


def _refuse_constructors(metadata: Mapping[str, Any]) -> None:
    if "providers" in metadata:
        raise PackageRefused(
            "[metadata.providers] makes this a package of WASM constructors; this server runs tasks in Python only, "
            "constructors are not supported"
        )


def _refuse_graphs(metadata: Mapping[str, Any]) -> None:
    if any(key in metadata for key in _GRAPH_KEYS):
        named = next(key for key in _GRAPH_KEYS if key in metadata)
        raise PackageRefused(_graph_message(f"[metadata] {named!r}"))


def _graph_message(what: str) -> str:
    return (
        f"{what} makes this a computation graph package; this server runs workflows of tasks only, computation graphs "
        "are not supported"
    )


def _workflow_name(metadata: Mapping[str, Any]) -> str:
    name = _text("metadata", metadata, "workflow_name")
    if not name:
        raise PackageRefused(
            f"{MANIFEST_NAME}: [metadata] 'workflow_name' is missing; it names the workflow to execute"
        )
    if not _WORKFLOW_NAME.match(name):
        raise PackageRefused(
            f"{MANIFEST_NAME}: [metadata] 'workflow_name' must be up to 128 of A-Z a-z 0-9 . _ -, not {_clip(name)}"
        )
    return name


def _entry_module(root: Path, package_name: str, given: str) -> str:
    """The entry module: the one named, else the ``tasks`` (or ``graph``) of the one folder under ``workflow/``."""
    source = root / "workflow"
    module = given or _inferred_entry_module(source, package_name)
    parts = module.split(".")
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        raise PackageRefused(
            f"{MANIFEST_NAME}: [metadata] 'entry_module' must be a dotted module name, not {_clip(module)}"
        )
    if parts[-1] == "graph":
        raise PackageRefused(_graph_message(f"the entry module {module!r}"))
    place = source.joinpath(*parts)
    if not place.with_suffix(".py").is_file() and not (place / "__init__.py").is_file():
        raise PackageRefused(
            f"the entry module {module!r} is not in the package: there is no workflow/{'/'.join(parts)}.py"
        )
    return module


def _inferred_entry_module(source: Path, package_name: str) -> str:
    conventional = package_name.replace("-", "_").replace(".", "_")
    folders = sorted(folder.name for folder in source.iterdir() if folder.is_dir()) if source.is_dir() else []
    for module in ("tasks", "graph"):
        holding = [folder for folder in folders if (source / folder / f"{module}.py").is_file()]
        if conventional in holding:
            return f"{conventional}.{module}"
        if len(holding) == 1:
            return f"{holding[0]}.{module}"
        if holding:
            raise PackageRefused(
                f"several folders under workflow/ have a {module}.py ({_shown(holding)}); name the one to start from "
                f"in {MANIFEST_NAME}: [metadata] entry_module"
            )
    raise PackageRefused(
        f"there is no workflow/<package>/tasks.py in the package; add workflow/{conventional}/tasks.py with its tasks"
    )


def _check_python(specifier: str) -> None:
    if not specifier:
        return
    running = platform.python_version()
    try:
        accepted = SpecifierSet(specifier).contains(running, prereleases=True)
    except InvalidSpecifier:
        raise PackageRefused(
            f"{MANIFEST_NAME}: [metadata] 'requires_python' must be a version specifier such as \">=3.11\", "
            f"not {_clip(specifier)}"
        ) from None
    if not accepted:
        raise PackageRefused(f"the package requires Python {specifier}, this server runs Python {running}")


def _text(table: str, given: Mapping[str, Any], key: str) -> str:
    value = given.get(key, "")
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise PackageRefused(f"{MANIFEST_NAME}: [{table}] {key!r} must be a string of at most {_MAX_TEXT} characters")
    return value


def _shown(names: list[str]) -> str:
    listed = ", ".join(_clip(name) for name in names[:5])
    return f"{listed} and {len(names) - 5} more" if len(names) > 5 else listed


def _clip(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
