"""Generates the gRPC stubs under cloacina/rpc/v1 from protos/, or checks that the committed ones match.

Usage: python scripts/generate_protos.py [--check]
"""

from __future__ import annotations

import filecmp
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "cloacina" / "rpc" / "v1"


def generate(target: Path) -> None:
    """Writes the stubs of every proto into `target`, which it empties first."""
    with tempfile.TemporaryDirectory() as temporary:
        names = sorted(str(file.relative_to(PROTOS)) for file in PROTOS.rglob("*.proto"))
        outputs = [f"--{kind}_out={temporary}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        plugins = [
            f"--plugin=protoc-gen-{plugin}={Path(sys.executable).parent / f'protoc-gen-{plugin}'}"
            for plugin in ("mypy", "mypy_grpc")
        ]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *plugins, *outputs, *names]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        (target / "__init__.py").write_text('"""Generated from protos/ by `make protos`; do not edit."""\n')
        for file in sorted((Path(temporary) / "cloacina" / "v1").iterdir()):
            (target / file.name).write_text(_ours(file.read_text()))


def _ours(text: str) -> str:
    """The proto package is cloacina.v1; its Python home is cloacina.rpc.v1."""
    text = re.sub(r"\bfrom cloacina\.v1 import", "from cloacina.rpc.v1 import", text)
    text = re.sub(r"\bimport cloacina\.v1\.", "import cloacina.rpc.v1.", text)
    return re.sub(r"(?<![\w./'\"])cloacina\.v1\.(?=\w+_pb2)", "cloacina.rpc.v1.", text)


def check() -> int:
    """0 when the committed stubs are what the protos generate."""
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary) / "v1"
        generate(fresh)
        names = sorted({file.name for folder in (fresh, STUBS) for file in folder.glob("*.py*")})
        _, differing, missing = filecmp.cmpfiles(fresh, STUBS, names, shallow=False)
        for name in (*differing, *missing):
            print(f"cloacina/rpc/v1/{name} is not what protos/ generates; run `make protos`", file=sys.stderr)
        return 1 if differing or missing else 0


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(check())
    generate(STUBS)
