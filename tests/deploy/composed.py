"""The system as `docker compose up` runs it: docker-compose.yml as it is, in a Docker Engine of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from cloacina.cli.client import ApiClient, ApiFailure
from tests.deploy.debian import program
from tests.deploy.docker_engine import DockerEngine
from tests.deploy.monitoring import ROOT
from tests.ports import free_ports
from tests.system.running import wait_until

_PUBLISHED = ("API_PORT", "JAEGER_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
_COPIED = ("cloaca", "cloacina", "deploy", "services", ".dockerignore", ".env.example", "docker-compose.yml")
_COPIED_TOO = ("pyproject.toml", "requirements.lock", "README.md", "LICENSE")
_HEALTHY_DEADLINE_S = 120.0
_VOLUME_RACE = "/_data/logs: file exists"
_UP_DEADLINE_S = 900.0


class ComposedSystem:
    """A copy of the repository's files, with a `.env` of its own.

    Args:
        engine: where it runs.
        folder: where the copy is.
        settings: what is different from `.env.example`, beside the secrets and the ports.
    """

    def __init__(self, engine: DockerEngine, folder: Path, settings: dict[str, str]) -> None:
        self._engine = engine
        self.folder = folder
        self.ports = dict(zip(_PUBLISHED, free_ports(len(_PUBLISHED)), strict=True))
        for name in (*_COPIED, *(name for name in _COPIED_TOO if (ROOT / name).exists())):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        subprocess.run(["sh", str(folder / "deploy" / "make-env.sh")], check=True, capture_output=True)
        self._set({**settings, **{name: str(port) for name, port in self.ports.items()}})

    def _set(self, settings: dict[str, str]) -> None:
        path = self.folder / ".env"
        lines = [line for line in path.read_text().splitlines() if line.partition("=")[0] not in settings]
        path.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in settings.items())]) + "\n")

    # Compose

    def compose(self, *arguments: str) -> str:
        """A command of Docker Compose; returns what it printed.

        Raises:
            AssertionError: it failed.
        """
        result = subprocess.run(
            [*_compose_command(self._engine), *arguments],
            cwd=self.folder,
            env={name: value for name, value in self._engine.environment.items() if not name.startswith("CLOACINA_")},
            capture_output=True,
            text=True,
            check=False,
            timeout=_UP_DEADLINE_S,
        )
        assert result.returncode == 0, f"compose {arguments}: {result.stdout[-3000:]}{result.stderr[-3000:]}"
        return result.stdout

    def up(self, *arguments: str) -> None:
        """Starts it, and waits until every container is healthy."""
        try:
            self._up(*arguments)
        except AssertionError as error:
            error.add_note(self.logs()[-6000:])
            raise
        self.wait_until_healthy()

    def _up(self, *arguments: str) -> None:
        """The engine fills a new volume once for each container that is made with it: of two that are made at once, one
        may find a folder that was not there when it looked. Then it is asked again, as deploy/README.md says."""
        try:
            self.compose("up", "--detach", *arguments)
        except AssertionError as error:
            if _VOLUME_RACE not in str(error):
                raise
            self.compose("up", "--detach", *arguments)

    def down(self, *arguments: str) -> None:
        """Ends it."""
        self.compose("down", *arguments)

    def images(self) -> dict[str, str]:
        """The image of every service, as Compose reads the file."""
        import yaml

        return {name: service["image"] for name, service in yaml.safe_load(self.compose("config"))["services"].items()}

    # Containers

    def containers(self, service: str) -> list[Any]:
        """The containers of a service, as the engine knows them."""
        found = self._engine.run(
            *("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.service={service}"),
        )
        return [self._engine.inspect(name) for name in found.split()]

    def container(self, service: str) -> Any:
        """The first container of a service."""
        return min(self.containers(service), key=lambda found: _number(found["Config"]["Labels"]))

    def wait_until_healthy(self) -> None:
        """Returns once no container is starting or unwell, and the API is ready with an executor."""

        def all_are_well() -> bool:
            names = self._engine.run("ps", "--all", "--format", "{{.Names}}").split()
            states = [self._engine.inspect(name)["State"] for name in names]
            return all(_is_well(state) for state in states) and self.status() == "ok"

        try:
            wait_until(all_are_well, "the health of all containers", _HEALTHY_DEADLINE_S)
        except AssertionError as error:
            error.add_note(self._engine.run("ps", "--all"))
            error.add_note(self.logs()[-6000:])
            raise

    def crash(self, service: str) -> Any:
        """Ends the process of a service's container like a fault in it would; returns the container as it was."""
        container = self.container(service)
        os.kill(container["State"]["Pid"], signal.SIGKILL)
        return container

    def run_in(self, service: str, *command: str) -> str:
        """What a command in a service's container prints."""
        return self.compose("exec", "-T", service, *command)

    def logs(self, *services: str) -> str:
        """What the containers wrote."""
        return self.compose("logs", "--no-color", *services)

    # What users see, through the published ports

    @property
    def url(self) -> str:
        """Of the API."""
        return f"http://127.0.0.1:{self.ports['API_PORT']}"

    @property
    def client(self) -> ApiClient:
        """A client with the bootstrap key, read as cloacina-init says."""
        key = self.run_in("api", "cat", "/var/lib/cloacina/bootstrap-key")
        return ApiClient(self.url, key.strip())

    def status(self) -> str:
        """What GET /v1/health/status says in a word; "unreachable" where nothing answers."""
        try:
            return str(self.client.call("GET", "/v1/health/status")["status"])
        except (ApiFailure, AssertionError):
            return "unreachable"

    def published(self, port: str, path: str = "/") -> Any:
        """The JSON that a published port answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=10) as response:
            return json.load(response)

    def targets(self) -> dict[str, list[str]]:
        """Health of Prometheus' targets by job."""
        found: dict[str, list[str]] = {}
        for target in self.published("PROMETHEUS_PORT", "/api/v1/targets?state=active")["data"]["activeTargets"]:
            found.setdefault(target["labels"]["job"], []).append(target["health"])
        return found


def _number(labels: dict[str, str]) -> int:
    return int(labels["com.docker.compose.container-number"])


def _is_well(state: Any) -> bool:
    if state["Status"] == "exited":
        return bool(state["ExitCode"] == 0)  # cloacina-init has done what it is for
    return bool(state["Status"] == "running" and state.get("Health", {}).get("Status", "healthy") == "healthy")


def _compose_command(engine: DockerEngine) -> list[str]:
    """Docker Compose, as a plug-in or as a program of its own."""
    docker = program("docker", "docker.io")
    plug_in = subprocess.run(
        [docker, "compose", "version"], env=engine.environment, capture_output=True, check=False
    ).returncode
    return [docker, "compose"] if plug_in == 0 else [program("docker-compose", "docker-compose")]
