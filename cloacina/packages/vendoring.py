"""Resolving what a package's ``pyproject.toml`` requires into its ``vendor/`` folder, with pip.

Only pure-Python wheels: a package runs on whatever machine its executor has. Nothing of what is installed is run.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from cloacina.packages.errors import PackageRefused

PROJECT_NAME = "pyproject.toml"
VENDOR_NAME = "vendor"

_DEADLINE_S = 600.0
_BROUGHT = frozenset(("cloaca", "cloacina"))
"""What runs the package brings these."""

_NONE_FOUND = re.compile(r"No matching distribution found for (\S+)")


@dataclass(frozen=True, slots=True)
class Vendored:
    """A distribution that was put into ``vendor/``."""

    name: str
    version: str


def requirements_of(root: Path) -> list[str]:
    """What a package requires: ``[project] dependencies`` of its ``pyproject.toml``, without what is brought anyway.

    Raises:
        PackageRefused: the file cannot be read, or one of them is no requirement.
    """
    try:
        project = tomllib.loads((root / PROJECT_NAME).read_text(encoding="utf-8")).get("project", {})
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PackageRefused(f"{PROJECT_NAME} cannot be read: {error}") from None
    listed: Any = project.get("dependencies", []) if isinstance(project, dict) else []
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise PackageRefused(f"{PROJECT_NAME}: [project] dependencies must be a list of strings")
    return [each for each in listed if canonicalize_name(_requirement(each).name) not in _BROUGHT]


def _requirement(text: str) -> Requirement:
    try:
        found = Requirement(text)
    except InvalidRequirement as error:
        raise PackageRefused(f"{PROJECT_NAME}: {text!r} is no requirement: {error}") from None
    if found.url is not None and not found.url.startswith(("https://", "file://")):
        raise PackageRefused(f"{PROJECT_NAME}: {text!r}: only https:// and file:// URLs of wheels can be vendored")
    return found


@contextmanager
def with_vendored(root: Path) -> Iterator[tuple[Path, list[Vendored]]]:
    """A package root with ``vendor/`` filled: the very one where nothing is required, else a copy for the time.

    Args:
        root: the package root; it is not changed.

    Raises:
        PackageRefused: something cannot be resolved, or would hide what the package vendors itself.
    """
    required = requirements_of(root)
    if not required:
        yield root, []
        return
    with tempfile.TemporaryDirectory(prefix="cloacina-pack-") as folder:
        copy = Path(folder) / "package"
        shutil.copytree(root, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        resolved = Path(folder) / "resolved"
        vendored = _install(required, resolved)
        _merge(resolved, copy / VENDOR_NAME)
        yield copy, vendored


def _install(required: list[str], target: Path) -> list[Vendored]:
    """Installs requirements into a folder.

    Raises:
        PackageRefused: pip is not here, takes too long, or cannot.
    """
    if importlib.util.find_spec("pip") is None:
        raise PackageRefused(
            f"the package has requirements, and this Python has no pip to resolve them: {sys.executable} -m ensurepip"
        )
    wheels = target.with_name("wheels")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    # pure wheels only: no platform, no interpreter, no ABI
    pure = ("--platform", "any", "--implementation", "py", "--abi", "none", "--python-version", version)
    _pip("download", "--only-binary=:all:", *pure, "--dest", str(wheels), *required)
    files = sorted(str(file) for file in wheels.glob("*.whl"))
    _pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(target), *files)
    found = [parse_wheel_filename(Path(file).name)[:2] for file in files]
    return [Vendored(str(name), str(version)) for name, version in found]


def _pip(verb: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", verb, "--disable-pip-version-check", "--no-input", "--quiet", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - pip, with requirements that were read as such
            command, capture_output=True, text=True, check=False, timeout=_DEADLINE_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise PackageRefused(f"pip did not resolve the requirements within {_DEADLINE_S:g} s") from None
    if done.returncode != 0:
        raise PackageRefused(_explained(done.stderr))


def _explained(said: str) -> str:
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    found = _NONE_FOUND.search(said)
    if found is not None:
        return (
            f"{PROJECT_NAME}: there is no pure-Python wheel for {found[1]}; only those can be vendored, since a "
            "package runs on whatever machine its executor has. Require another version, or have the executors' "
            "environment bring it"
        )
    return (
        f"pip cannot resolve the requirements: {' '.join(errors)[:1000] or said.strip()[-1000:] or 'it says nothing'}"
    )


def _merge(resolved: Path, vendor: Path) -> None:
    """Puts what was resolved beside what the package vendors itself."""
    vendor.mkdir(exist_ok=True)
    for entry in sorted(resolved.iterdir()):
        if entry.name in ("bin", "__pycache__"):  # commands, which no task can start
            continue
        if (vendor / entry.name).exists():
            raise PackageRefused(
                f"{VENDOR_NAME}/{entry.name} is in the package already, and {PROJECT_NAME} requires what brings it, "
                "too; remove one of them"
            )
        shutil.move(entry, vendor / entry.name)
    for information in vendor.glob("*.dist-info"):
        for name in ("direct_url.json", "RECORD", "INSTALLER", "REQUESTED"):  # they name this machine
            (information / name).unlink(missing_ok=True)
