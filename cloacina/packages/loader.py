"""Importing a package, in the process that is to run or to inspect it.

Worker processes import this while somebody waits, so it imports nothing that they do not need anyway.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import cloaca  # noqa: F401 - imported before the package's paths are added, so that a vendored one cannot replace it
from cloacina.authoring.registry import Collector, collecting
from cloacina.packages.errors import PackageRefused


def load(root: Path, workflow_name: str, entry_module: str) -> Collector:
    """Imports a package's entry module and returns what it declares.

    ``workflow/`` and ``vendor/`` of the package stay in front of ``sys.path``: tasks may import when they run.

    Args:
        root: the package root, the folder that holds ``package.toml``.
        workflow_name: the workflow that its tasks belong to.
        entry_module: dotted name of the module under ``workflow/`` that declares the tasks.

    Raises:
        PackageRefused: it declares no task or one id twice, or a module of it has the name of a standard one.
        BaseException: whatever the package's code raises.
    """
    folders = [folder for folder in (root / "workflow", root / "vendor") if folder.is_dir()]
    _refuse_shadowing(folders)
    sys.path[:0] = [str(folder) for folder in folders]
    importlib.invalidate_caches()
    collector = Collector(workflow_name)
    with collecting(collector):
        module = importlib.import_module(entry_module)
    found = getattr(module, "__file__", None)
    if found is None or not Path(found).is_relative_to(root):
        raise PackageRefused(
            f"the entry module {entry_module!r} is hidden by another module of that name; rename the folder under "
            "workflow/"
        )
    if collector.duplicates:
        names = ", ".join(repr(name) for name in sorted(set(collector.duplicates)))
        raise PackageRefused(f"the package declares these task ids more than once: {names}")
    if not collector.tasks:
        raise PackageRefused(f"the module {entry_module!r} declares no task; decorate at least one function with @task")
    return collector


def _refuse_shadowing(folders: list[Path]) -> None:
    """A package's module in the place of a standard one would break what runs it in ways that nobody could explain."""
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            module = name.removesuffix(".py")
            if module in sys.stdlib_module_names or module in ("cloacina", "cloaca"):
                raise PackageRefused(
                    f"{folder.name}/{name} has the name of a module that Python or Cloacina brings; rename it"
                )
