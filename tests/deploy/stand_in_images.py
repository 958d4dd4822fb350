"""The images that docker-compose.yml names, made of Debian packages where nothing can be pulled.

What is slow to make or needs a network is made first (``python -m tests.deploy.stand_in_images``) and kept in a cache:
two file systems of Debian (one with Python, one with what the stand-ins need as well) and the wheels of the image's
Python. `CLOACINA_PROVE_CACHE` says where; `CLOACINA_PROVE_MIRROR` which mirror of Debian, if not debootstrap's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy.debian import program
from tests.deploy.docker_engine import DockerEngine
from tests.deploy.monitoring import ROOT

DEBIAN = "trixie"
PYTHON = "3.13"
"""The Python of that Debian."""
PYTHON_PACKAGES = ("python3", "python3-venv", "ca-certificates")
TOOLS = ("prometheus", "postgresql", "wget")
STAND_INS = {"prometheus": "prom/prometheus", "postgres": "postgres", "grafana": "grafana/grafana"}
"""Targets of stand_ins/Dockerfile by the name of the service, and the image each stands in for."""

_MIRROR = os.environ.get("CLOACINA_PROVE_MIRROR")
_TOOLS_IMAGE = f"cloacina-stand-in/debian:{DEBIAN}"
_HERE = Path(__file__).parent


def cache() -> Path:
    """The folder of what is kept from run to run."""
    folder = Path(os.environ.get("CLOACINA_PROVE_CACHE") or Path("~/.cache/cloacina-prove").expanduser())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def python_image(engine: DockerEngine, tag: str) -> None:
    """Stands in for the image that the Dockerfile is built on."""
    engine.import_tree(_file_system("python"), tag)


def stand_in_images(engine: DockerEngine, images: dict[str, str], cloacina: str) -> None:
    """Stands in for the images of other projects.

    Args:
        engine: where they are made.
        images: image by service, as docker-compose.yml has them.
        cloacina: the image of the four services; Jaeger's stand-in is built on it.
    """
    engine.import_tree(_file_system("tools"), _TOOLS_IMAGE)
    for service, image in images.items():
        engine.run(
            *("build", "--quiet", "--network", "none", "--target", service, "--tag", image),
            *("--build-arg", f"BASE={_TOOLS_IMAGE}", "--build-arg", f"CLOACINA={cloacina}", str(_HERE / "stand_ins")),
        )


def fill_wheelhouse(folder: Path) -> None:
    """Puts the wheels of the program's packages where the Dockerfile looks for them."""
    for wheel in (cache() / "wheels").glob("*.whl"):
        shutil.copy(wheel, folder)


def prepare() -> None:
    """Fills the cache, and installs what the proof starts."""
    for name, package in (("dockerd", "docker.io"), ("docker-compose", "docker-compose"), ("ip", "iproute2")):
        program(name, package)
    for name in ("python", "tools"):
        _file_system(name)
    command = ["sh", str(ROOT / "deploy" / "fill-wheelhouse.sh"), str(cache() / "wheels")]
    subprocess.run(command, env={**os.environ, "PYTHON": sys.executable, "TARGET": PYTHON}, check=True)


def _file_system(name: str) -> Path:
    """A tar file of Debian: "python" has Python, "tools" has the stand-ins' programs as well."""
    archive = cache() / f"{DEBIAN}-{name}.tar"
    if archive.exists():
        return archive
    tree = cache() / f"{DEBIAN}-{name}.tree"
    shutil.rmtree(tree, ignore_errors=True)
    if name == "python":
        command = [program("debootstrap", "debootstrap"), "--variant=minbase", f"--include={','.join(PYTHON_PACKAGES)}"]
        _run(*command, DEBIAN, str(tree), *([_MIRROR] if _MIRROR else []))
    else:
        tree.mkdir()
        _run("tar", "-C", str(tree), "-xf", str(_file_system("python")))
        _install(tree, *TOOLS)
    _run("chroot", str(tree), "apt-get", "clean")
    unfinished = archive.with_suffix(".unfinished")
    _run("tar", "-C", str(tree), "-cf", str(unfinished), ".")
    unfinished.rename(archive)
    shutil.rmtree(tree)
    return archive


def _install(tree: Path, *packages: str) -> None:
    """Installs packages into a tree, without starting what they bring."""
    refuse = tree / "usr" / "sbin" / "policy-rc.d"
    refuse.write_text("#!/bin/sh\nexit 101\n")
    refuse.chmod(0o755)
    clusters = tree / "etc" / "postgresql-common" / "createcluster.conf"
    clusters.parent.mkdir(exist_ok=True)
    clusters.write_text("create_main_cluster = false\n")
    shutil.copy("/etc/resolv.conf", tree / "etc" / "resolv.conf")
    _run("chroot", str(tree), "apt-get", "update", "-qq")
    _run("chroot", str(tree), "apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages)


def _run(*command: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stdout[-2000:]}{result.stderr[-2000:]}"


if __name__ == "__main__":
    prepare()
