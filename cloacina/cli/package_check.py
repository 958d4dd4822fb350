"""``cloacinactl package validate``: what a server would refuse, found before it is asked, with file and line.

The checks are the server's own: manifest, archive, import in a confined process, graph, triggers. What stands in
several places is looked for in all of them; the import says the first thing only, as the server would.
"""

from __future__ import annotations

import ast
import asyncio
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloacina.catalog.contents import definition_of, loaded_row
from cloacina.errors import CloacinaError
from cloacina.packages import archive
from cloacina.packages.errors import PackageRefused
from cloacina.packages.inspection import inspect
from cloacina.packages.manifest import MANIFEST_NAME, Manifest
from cloacina.packages.vendoring import PROJECT_NAME, requirements_of

_INSPECT_S = 20.0
_INSPECT_BYTES = 2**30
_PLACED = re.compile(r"(?P<path>[^\s:]+\.py), line (?P<line>\d+): (?P<message>.*)\Z", re.DOTALL)
_QUOTED = re.compile(r"'([^']+)'")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a server would refuse, or that fails later.

    Args:
        path: of the file in the package; empty when it is about the package as a whole.
        line: from 1; 0 when it is about the file as a whole.
        message: what is wrong and what to do.
        severity: "error", or "warning" for what a server takes.
    """

    path: str
    line: int
    message: str
    severity: str = "error"

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {self.severity}: {self.message}" if place else f"{self.severity}: {self.message}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What checking a package found.

    Args:
        findings: in the order of the files.
        manifest: what it says of itself; ``None`` when it cannot be read.
        contents: what it declares; ``None`` when it cannot be imported.
    """

    findings: list[Finding]
    manifest: Manifest | None = None
    contents: dict[str, Any] | None = None

    @property
    def refused(self) -> bool:
        """Whether a server would refuse it."""
        return any(finding.severity == "error" for finding in self.findings)


def check(source: Path) -> Checked:
    """Checks a package.

    Args:
        source: its folder, or an archive.
    """
    if source.is_dir():
        return _check_folder(source)
    with tempfile.TemporaryDirectory(prefix="cloacina-validate-") as folder:
        try:
            return _check_folder(archive.extract(source, Path(folder) / "package"), packed=True)
        except PackageRefused as error:
            return Checked([Finding("", 0, error.message)])
        except OSError as error:
            return Checked([Finding("", 0, f"{source} cannot be read: {error.strerror}")])


def _check_folder(root: Path, *, packed: bool = False) -> Checked:
    try:
        manifest = Manifest.read(root)
    except PackageRefused as error:
        return Checked([_in_manifest(root, error.message)])
    findings = list(_syntax_errors(root))
    if not packed:
        findings += _unpackable(root)
    if any(finding.severity == "error" for finding in findings):
        return Checked(findings, manifest)
    try:
        contents = asyncio.run(inspect(root, manifest, timeout_s=_INSPECT_S, memory_bytes=_INSPECT_BYTES))
    except PackageRefused as error:
        return Checked([*findings, *_placed(root, error)], manifest)
    try:
        definition_of(loaded_row(manifest, contents, tenant_id="public"))
    except CloacinaError as error:
        findings.append(_of_names(root, error.message))
    findings += _strange_targets(root, manifest, contents)
    return Checked(findings, manifest, contents)


def _syntax_errors(root: Path) -> Iterator[Finding]:
    """Every file that is no Python, also those that the import would come to later."""
    for path in sorted((root / "workflow").rglob("*.py")):
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line = error.lineno or 1 if isinstance(error, SyntaxError) else 0
            said = error.msg if isinstance(error, SyntaxError) else str(error)
            yield Finding(path.relative_to(root).as_posix(), line, f"{type(error).__name__}: {said}")


def _unpackable(root: Path) -> Iterator[Finding]:
    """What packing would refuse: links, names, sizes, requirements."""
    try:
        requirements_of(root)
    except PackageRefused as error:
        named = _QUOTED.search(error.message)
        yield Finding(PROJECT_NAME, _line_with(root / PROJECT_NAME, named[1] if named else ""), error.message)
    try:
        archive.pack(root)
    except PackageRefused as error:
        yield Finding("", 0, error.message)


def _placed(root: Path, error: PackageRefused) -> Iterator[Finding]:
    """The findings of an import that failed."""
    found = _PLACED.match(error.message)
    if found is not None:
        yield Finding(found["path"], int(found["line"]), found["message"])
    else:
        yield _of_names(root, error.message)
    if error.output.strip():
        yield Finding("", 0, f"while it was imported it printed: {error.output.strip()[-500:]}", "warning")


def _of_names(root: Path, message: str) -> Finding:
    """A finding about names of tasks or triggers, at the decorator of the first of them that is there."""
    places = _decorated(root)
    for name in _QUOTED.findall(message):
        if name in places:
            # declared twice: the second one is too many
            path, line = places[name][-1]
            return Finding(path, line, message)
    return Finding("", 0, message)


def _strange_targets(root: Path, manifest: Manifest, contents: dict[str, Any]) -> Iterator[Finding]:
    """Triggers that start what this package does not hold: the server must have it first."""
    for trigger in contents["triggers"]:
        for name in (trigger["on"], *trigger["also_on"]):
            if name and name != manifest.workflow_name:
                message = (
                    f"trigger {trigger['name']!r} starts the workflow {name!r}, which this package does not hold; the "
                    "tenant must have it before this package is uploaded"
                )
                place = _of_names(root, f"{trigger['name']!r}")
                yield Finding(place.path, place.line, message, "warning")


def _decorated(root: Path) -> dict[str, list[tuple[str, int]]]:
    """Where functions with decorators stand, by their names and by the ids that the decorators give."""
    places: dict[str, list[tuple[str, int]]] = {}
    for path in sorted((root / "workflow").rglob("*.py")):
        relative = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for decorator in node.decorator_list:
                    for name in {node.name, *_given_names(decorator)}:
                        places.setdefault(name, []).append((relative, decorator.lineno))
    for found in places.values():
        found.sort()
    return places


def _given_names(decorator: ast.expr) -> Iterator[str]:
    if isinstance(decorator, ast.Call):
        for keyword in decorator.keywords:
            if keyword.arg in ("id", "name") and isinstance(keyword.value, ast.Constant):
                yield str(keyword.value.value)


def _in_manifest(root: Path, message: str) -> Finding:
    """A finding about the manifest, at the line of the key that it is about."""
    if MANIFEST_NAME not in message and "[metadata" not in message:
        return Finding("", 0, message)
    told = re.search(r"at line (\d+)", message)
    if told is not None:
        return Finding(MANIFEST_NAME, int(told[1]), message)
    for name in _QUOTED.findall(message):
        line = _line_with(root / MANIFEST_NAME, name)
        if line:
            return Finding(MANIFEST_NAME, line, message)
    return Finding(MANIFEST_NAME, 1 if (root / MANIFEST_NAME).exists() else 0, message)


def _line_with(path: Path, text: str) -> int:
    """The first line that has a text in it; 0 when none has."""
    if text:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return 0
        return next((number for number, line in enumerate(lines, 1) if text in line), 0)
    return 0
