"""The programs in scripts/, as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def load_script(name: str) -> ModuleType:
    """Loads ``scripts/<name>.py``."""
    return load_file(ROOT / "scripts" / f"{name}.py")


def load_file(path: Path) -> ModuleType:
    """Loads a program from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
