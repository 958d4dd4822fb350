"""docker-compose.yml, .env.example, the Dockerfile and the services' settings say the same thing."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloacina.runtime.settings import ServiceSettings
from services.api.settings import GatewaySettings
from services.executor.settings import ExecutorSettings
from services.reconciler.settings import ReconcilerSettings
from services.scheduler.settings import SchedulerSettings
from tests.deploy.monitoring import DEPLOY, ROOT, read_yaml

SETTINGS: dict[str, type[ServiceSettings]] = {
    "api": GatewaySettings,
    "scheduler": SchedulerSettings,
    "reconciler": ReconcilerSettings,
    "executor": ExecutorSettings,
}
METRICS_FIELDS = {
    "api": "api_port",
    "scheduler": "scheduler_metrics_port",
    "reconciler": "reconciler_metrics_port",
    "executor": "executor_metrics_port",
}
COMPOSE = read_yaml(ROOT / "docker-compose.yml")
EXTRA = read_yaml(DEPLOY / "otel" / "compose.yml")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UID = "10001"

_VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?])([^}]*))?\}")
_NOT_FIELDS = {"CLOACINA_LOG"}
"""Read by logging, not by the settings."""


def _example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _filled(text: str, given: dict[str, str]) -> str:
    """The text with ``${…}`` filled in as Compose does."""

    def value(match: re.Match[str]) -> str:
        name, operator, default = match.groups()
        found = given.get(name)
        if operator in (":-", ":?"):
            return found or default
        return default if found is None else found

    return _VARIABLE.sub(value, text)


def _environment(service: str) -> dict[str, str]:
    """What the service's process sees: of the image, then of the file, with the values of .env.example."""
    of_image = {"CLOACINA_HOME": "/var/lib/cloacina", "CLOACINA_HOST": "0.0.0.0"}
    given = _example() | {"CLOACINA_RPC_TOKEN": "x" * 32}
    of_file = COMPOSE["services"][service]["environment"]
    return of_image | {name: _filled(str(value), given) for name, value in of_file.items()}


def _default(service: str, field: str) -> Any:
    return SETTINGS[service].model_fields[field].default


@pytest.mark.parametrize("service", SETTINGS)
def test_every_variable_of_a_service_is_one_of_its_settings(service: str) -> None:
    known = {f"CLOACINA_{name.upper()}" for name in SETTINGS[service].model_fields} | _NOT_FIELDS
    given = {name for name in _environment(service) if name.startswith("CLOACINA_")}
    assert given <= known


@pytest.mark.parametrize("service", SETTINGS)
def test_the_settings_accept_what_they_are_given(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("CLOACINA_", "OTEL_"))]:
        monkeypatch.delenv(name)
    for name, value in _environment(service).items():
        monkeypatch.setenv(name, value)
    settings = SETTINGS[service]()
    assert settings.host == "0.0.0.0"
    assert settings.token == "x" * 32
    assert str(settings.home) == "/var/lib/cloacina"
    if service != "executor":
        assert settings.store_url("any").startswith("postgresql://cloacina:")


def test_services_are_called_where_they_listen() -> None:
    for service in SETTINGS:
        for name, value in _environment(service).items():
            if name.endswith("_TARGET"):
                host, port = value.split(":")
                assert int(port) == _default(host, f"{host}_rpc_port"), f"{service}: {name}"


def test_a_service_starts_after_those_that_it_calls() -> None:
    for service in SETTINGS:
        needs = COMPOSE["services"][service]["depends_on"]
        called = {name.removeprefix("CLOACINA_").removesuffix("_TARGET").lower() for name in _environment(service)}
        # the api asks the executors how they are; it does not need them
        assert called & set(SETTINGS) - {"executor"} <= set(needs), service
        assert needs["cloacina-init"]["condition"] == "service_completed_successfully"
        assert {need["condition"] for name, need in needs.items() if name != "cloacina-init"} == {"service_healthy"}
        assert ("postgres" in needs) == ("CLOACINA_DATABASE_URL" in _environment(service))


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_is_watched_on_the_port_of_its_metrics(service: str) -> None:
    port = _default(service, METRICS_FIELDS[service])
    test = COMPOSE["services"][service]["healthcheck"]["test"]
    assert test[:2] == ["CMD", "python"]
    assert f"http://127.0.0.1:{port}/health" in test[-1]
    (job,) = (
        job
        for job in read_yaml(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
        if job["job_name"] == f"cloacina-{service}"
    )
    assert job["dns_sd_configs"][0]["names"] == [service]
    assert job["dns_sd_configs"][0]["port"] == port


@pytest.mark.parametrize("service", [*SETTINGS, "cloacina-init"])
def test_a_service_of_ours_is_confined(service: str) -> None:
    given = COMPOSE["services"][service]
    assert given["user"] == f"{UID}:{UID}"
    assert given["read_only"]
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert given["mem_limit"]
    assert given["pids_limit"]
    assert "/tmp" in given["tmpfs"]


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_has_longer_than_its_grace_to_end(service: str) -> None:
    seconds = COMPOSE["services"][service]["stop_grace_period"].removesuffix("s")
    assert int(seconds) > float(_environment(service)["CLOACINA_GRACE_S"]) + 5
    assert COMPOSE["services"][service]["init"]


@pytest.mark.parametrize(("service", "given"), [*COMPOSE["services"].items(), *EXTRA["services"].items()])
def test_images_are_pinned_memory_is_limited_and_capabilities_are_dropped(service: str, given: Any) -> None:
    name, _, tag = _filled(given["image"], _example()).rpartition(":")
    assert name
    assert re.search(r"\d+\.\d+", tag), f"{service}: {given['image']}"
    assert given["mem_limit"]
    assert given["cap_drop"] == ["ALL"]
    assert given["restart"] == ("no" if service == "cloacina-init" else "unless-stopped")


def test_only_those_that_own_data_reach_the_database() -> None:
    reach = {name for name, given in COMPOSE["services"].items() if "stores" in given.get("networks", ())}
    assert reach == {"api", "scheduler", "reconciler", "postgres"}


def test_every_port_is_published_on_the_address_of_the_settings() -> None:
    for given in COMPOSE["services"].values():
        for port in given.get("ports", ()):
            assert port.startswith("${PUBLISH_ADDRESS:-127.0.0.1}:")
    assert _example()["PUBLISH_ADDRESS"] == "127.0.0.1"


def test_the_example_has_every_knob_explained_and_no_other() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docker-compose.yml",))
    used = {match[1] for match in _VARIABLE.finditer(text)}
    assert set(_example()) == used
    above = ""
    for line in (ROOT / ".env.example").read_text().splitlines():
        if line and not line.startswith("#"):
            assert above.startswith("# "), line
            assert not above.startswith("# --"), line
        else:
            above = line


def test_the_example_repeats_the_defaults() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name, operator, default in (match.groups() for match in _VARIABLE.finditer(text)):
        if operator in (":-", "-"):
            assert _example()[name] == default, name


def test_the_example_repeats_the_defaults_of_the_settings() -> None:
    for service, settings in SETTINGS.items():
        for name, value in _environment(service).items():
            field = name.removeprefix("CLOACINA_").lower()
            known = settings.model_fields.get(field)
            if name in _example() and known is not None and isinstance(known.default, int | float):
                assert float(value) == known.default, name


def test_the_image_is_the_one_of_the_example_and_runs_as_the_uid_of_the_file() -> None:
    assert f"ARG BASE={_example()['CLOACINA_BASE_IMAGE']}\n" in DOCKERFILE
    assert f"USER {UID}:{UID}\n" in DOCKERFILE
    assert DOCKERFILE.count("FROM ${BASE}") == 2
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert _example()["CLOACINA_IMAGE"] == f"cloacina:{version[1]}"


def test_the_lock_has_every_package_that_the_image_holds() -> None:
    """Otherwise the image does not build: it takes nothing that is not pinned."""
    import tomllib
    from importlib import metadata

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    locked = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    wanted = [
        Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    needed: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in needed or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        needed.add(name)
        wanted.extend(Requirement(text) for text in metadata.requires(name) or ())
    assert needed <= locked


def test_the_build_sees_what_it_installs() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for needed in ("cloaca", "cloacina", "services", "pyproject.toml", "requirements.lock", "README.md"):
        assert f"!{needed}" in ignored
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in copied.split():
            assert source == "." or f"!{source}" in ignored


# The two small programs beside it


def _preflight(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEPLOY / "preflight.py")], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder that can be written."""
    (tmp_path / "logs").mkdir()
    return tmp_path


def test_preflight_says_where_everything_is(home: Path) -> None:
    result = _preflight(CLOACINA_HOME=str(home), CLOACINA_RPC_TOKEN="f" * 40, API_PORT="18080")
    assert (result.returncode, result.stderr) == (0, "")
    assert "http://127.0.0.1:18080" in result.stdout
    assert f"{home}/bootstrap-key" in result.stdout
    assert "SQLite" in result.stdout


@pytest.mark.parametrize("token", ["", "short", "change-me-please-now", "secret-secret-secret"])
def test_preflight_refuses_a_token_that_can_be_guessed(home: Path, token: str) -> None:
    result = _preflight(CLOACINA_HOME=str(home), CLOACINA_RPC_TOKEN=token)
    assert result.returncode == 1
    assert "make-env.sh" in result.stderr
    assert token not in result.stderr or not token


def test_preflight_names_a_folder_that_cannot_be_written_and_a_wrong_url(home: Path) -> None:
    (home / "logs").rmdir()
    result = _preflight(CLOACINA_HOME=str(home), CLOACINA_RPC_TOKEN="f" * 40, CLOACINA_DATABASE_URL="mysql://x")
    assert result.returncode == 1
    assert str(home / "logs") in result.stderr
    assert "postgresql://" in result.stderr


def test_preflight_does_not_print_the_key_it_was_given(home: Path) -> None:
    key = "clk_" + "k" * 43
    result = _preflight(CLOACINA_HOME=str(home), CLOACINA_RPC_TOKEN="f" * 40, CLOACINA_BOOTSTRAP_KEY=key)
    assert result.returncode == 0
    assert key not in result.stdout + result.stderr


def test_make_env_fills_in_secrets_once_and_keeps_them_to_the_owner(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(DEPLOY / "make-env.sh", tmp_path / "deploy")
    shutil.copy(ROOT / ".env.example", tmp_path)
    command = ["sh", str(tmp_path / "deploy" / "make-env.sh")]
    subprocess.run(command, check=True, capture_output=True)
    written = tmp_path / ".env"
    first = written.read_text()
    values = dict(line.split("=", 1) for line in first.splitlines() if line and not line.startswith("#"))
    names = ("CLOACINA_RPC_TOKEN", "POSTGRES_PASSWORD", "POSTGRES_ADMIN_PASSWORD", "GRAFANA_PASSWORD")
    secrets = {values[name] for name in names}
    assert len(secrets) == len(names)
    assert {len(secret) for secret in secrets} == {48}
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    subprocess.run(command, check=True, capture_output=True)
    assert written.read_text() == first
