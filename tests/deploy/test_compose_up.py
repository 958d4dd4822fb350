"""docker-compose.yml is really run: images built, containers started, work done, faults survived, everything ended.

The images of other projects are stood in for under their own names (`stand_in_images`), so the file runs as it is.
CLOACINA_PROVE_STORE chooses the stores: postgres (the default) or sqlite.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cloacina.packages import archive
from tests.deploy.composed import ComposedSystem
from tests.deploy.docker_engine import DockerEngine
from tests.deploy.monitoring import RULES, read_yaml
from tests.deploy.stand_in_images import PYTHON, fill_wheelhouse, python_image, stand_in_images
from tests.system.running import ENDED, wait_until, write_package

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500), pytest.mark.xdist_group("docker")]

SERVICES = ("api", "scheduler", "reconciler", "executor")
_LOG = "/var/lib/cloacina/logs/cloacina-server.log"
EXECUTIONS = "/v1/tenants/public/executions"

WORK = """
import time

import cloaca


@cloaca.task(id="first")
def first(context):
    print("working in a container")
    time.sleep(context.get("seconds") or 0)
    context.set("first", "done")
    return context


@cloaca.task(id="second", dependencies=["first"])
def second(context):
    context.set("second", "done")
    return context
"""


def _store() -> str:
    return os.environ.get("CLOACINA_PROVE_STORE") or "postgres"


_SCALE = ("--scale", "executor=2", *(("--scale", "scheduler=2") if _store() == "postgres" else ()))
_CRASHED = ("scheduler", "reconciler", "api", *(("postgres",) if _store() == "postgres" else ()))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """A Docker Engine of the test's own."""
    with DockerEngine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture(scope="module")
def composed(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposedSystem]:
    """The system after ``docker compose up --scale executor=2``, with the package ``work``."""
    settings = {"PIP_OPTIONS": "--no-index", "PROMETHEUS_RETENTION": "1h", "CLOACINA_LEASE_S": "6"}
    settings |= {"CLOACINA_HEARTBEAT_S": "2"} | ({} if _store() == "postgres" else {"CLOACINA_DATABASE_URL": ""})
    system = ComposedSystem(engine, tmp_path_factory.mktemp("composed"), settings)
    images = system.images()
    python_image(engine, _base_image(system.folder))
    fill_wheelhouse(system.folder / "deploy" / "wheelhouse")
    system.compose("build", "api")
    others = {name: image for name, image in images.items() if image != images["api"]}
    stand_in_images(engine, others, images["api"])
    system.up(*_SCALE)
    package = write_package(tmp_path_factory.mktemp("package"), "work", WORK)
    system.client.upload("/v1/tenants/public/workflows", "work.cloacina", archive.pack(package))
    yield system
    system.down("--volumes")


def _base_image(folder: Path) -> str:
    lines = (folder / "deploy" / "Dockerfile").read_text().splitlines()
    return next(line.removeprefix("ARG BASE=") for line in lines if line.startswith("ARG BASE="))


def _execute(system: ComposedSystem, **context: object) -> str:
    path = "/v1/tenants/public/workflows/work/execute"
    return str(system.client.call("POST", path, {"context": context})["execution_id"])


def _ended(system: ComposedSystem, execution_id: str, deadline_s: float = 30.0) -> Any:
    client = system.client

    def ended() -> Any:
        found = client.call("GET", f"{EXECUTIONS}/{execution_id}")
        return found if found["status"] in ENDED else None

    return wait_until(ended, f"the end of execution {execution_id}", deadline_s)


def test_the_image_is_small_and_has_neither_compiler_nor_pip(engine: DockerEngine, composed: ComposedSystem) -> None:
    image = engine.inspect(composed.images()["api"])
    base = engine.inspect(_base_image(composed.folder))
    assert image["Size"] - base["Size"] < 150e6
    for absent in ("gcc", "cc", "ld", "make", "pip", "pip3"):
        found = composed.run_in("api", "python", "-c", f"import shutil; print(shutil.which({absent!r}))")
        assert found.strip() == "None", absent
    assert (
        composed.run_in("api", "python", "-c", "import importlib.util as u; print(u.find_spec('pytest'))").strip()
        == "None"
    )
    assert f"Python {PYTHON}" in composed.run_in("api", "python", "--version")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_confined(composed: ComposedSystem, service: str) -> None:
    for container in composed.containers(service):
        assert container["Config"]["User"] == "10001:10001"
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert host["NanoCpus"] > 0
        assert host["PidsLimit"] == 1024
    assert composed.run_in(service, "id", "-u").strip() == "10001"
    with pytest.raises(AssertionError, match="Read-only file system"):
        composed.run_in(service, "touch", "/opt/cloacina/planted")


def test_only_the_api_and_the_uis_are_published_and_on_loopback(engine: DockerEngine, composed: ComposedSystem) -> None:
    published = set()
    for name in composed.images():
        for container in composed.containers(name):
            for bindings in container["NetworkSettings"]["Ports"].values():
                for binding in bindings or ():
                    assert binding["HostIp"] == "127.0.0.1"
                    published.add((name, int(binding["HostPort"])))
    ports = composed.ports
    assert published == {
        ("api", ports["API_PORT"]),
        ("jaeger", ports["JAEGER_PORT"]),
        ("prometheus", ports["PROMETHEUS_PORT"]),
        ("grafana", ports["GRAFANA_PORT"]),
    }


def test_user_code_cannot_reach_the_database(composed: ComposedSystem) -> None:
    reach = "import socket\ntry: socket.create_connection(('postgres', 5432), 3)\nexcept OSError: print('no way')"
    assert composed.run_in("executor", "python", "-c", reach).strip() == "no way"


@pytest.mark.skipif(_store() != "postgres", reason="row-level security is PostgreSQL's")
def test_row_level_security_holds_the_services_database_user(composed: ComposedSystem) -> None:
    ask = ("psql", "--username=cloacina", "--no-align", "--tuples-only", "--command")
    free = "SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    assert composed.run_in("postgres", *ask, free).strip() == "f"
    count = "SELECT count(*) FROM cloacina_registry.packages"
    assert composed.run_in("postgres", *ask, count).strip() == "0"
    assert int(composed.run_in("postgres", *ask, f"SET cloacina.tenant_id = 'public'; {count}").split()[-1]) > 0
    assert "row-level security does not hold" not in composed.logs("api", "scheduler", "reconciler")


def test_init_says_where_the_first_key_is_and_there_it_is(composed: ComposedSystem) -> None:
    said = composed.logs("cloacina-init")
    assert "docker compose exec api cat /var/lib/cloacina/bootstrap-key" in said
    assert composed.url in said
    assert ("PostgreSQL" if _store() == "postgres" else "SQLite") in said
    assert composed.run_in("api", "stat", "-c", "%a", "/var/lib/cloacina/bootstrap-key").strip() == "600"


def test_an_execution_lives_its_life_and_leaves_one_trace_and_one_log(composed: ComposedSystem) -> None:
    request_id = f"proof-{uuid4()}"
    path = "/v1/tenants/public/workflows/work/execute"
    answer = _request(composed, path, {"context": {}}, request_id)
    execution = _ended(composed, answer["execution_id"])
    assert (execution["status"], execution["output"]) == ("Completed", {"first": "done", "second": "done"})
    assert execution["request_id"] == request_id

    lines = [json.loads(line) for line in composed.run_in("api", "cat", _LOG).splitlines()]
    of_request = [line for line in lines if line.get("request_id") == request_id]
    assert {"api", "scheduler", "executor"} <= {line["service"] for line in of_request}
    assert [line["message"] for line in of_request if line["target"] == "task.work.first"] == ["working in a container"]
    assert {line["service"] for line in lines} >= set(SERVICES)

    def spans() -> list[Any]:
        return [span for span in composed.published("JAEGER_PORT") if span["trace_id"] == execution["trace_id"]]

    expected = {"cloacina-api", "cloacina-scheduler", "cloacina-executor", "cloacina-worker"}
    wait_until(lambda: expected <= {span["service"] for span in spans()}, "spans of every service in one trace")
    names = {span["name"] for span in spans()}
    assert "request POST /v1/tenants/{tenant_id}/workflows/{name}/execute" in names
    assert {"schedule work", "task work/first", "run first"} <= names


def _request(composed: ComposedSystem, path: str, body: Any, request_id: str) -> Any:
    import urllib.request

    key = composed.run_in("api", "cat", "/var/lib/cloacina/bootstrap-key").strip()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "x-request-id": request_id}
    request = urllib.request.Request(composed.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        assert (response.status, response.headers["x-request-id"]) == (202, request_id)
        return json.load(response)


@pytest.mark.skipif(_store() == "sqlite", reason="SQLite has one scheduler")
def test_two_schedulers_share_the_work(composed: ComposedSystem) -> None:
    def schedulers() -> list[Any]:
        found = composed.client.call("GET", "/v1/health/status")["services"]
        return [each for each in found if each["service"] == "scheduler"]

    wait_until(lambda: [each["status"] for each in schedulers()] == ["ok", "ok"], "two schedulers")
    assert len({each["instance_id"] for each in schedulers()}) == 2
    begun = [_execute(composed, seconds=2) for _ in range(8)]
    wait_until(lambda: all(each["figures"]["active_workflows"] > 0 for each in schedulers()), "work at both")
    assert {_ended(composed, each, 60)["status"] for each in begun} == {"Completed"}


def test_spans_of_all_services_arrive(composed: ComposedSystem) -> None:
    expected = {f"cloacina-{service}" for service in (*SERVICES, "worker")}
    wait_until(lambda: expected == {span["service"] for span in composed.published("JAEGER_PORT")}, "all services")


def test_prometheus_scrapes_every_container_and_evaluates_the_rules(composed: ComposedSystem) -> None:
    expected = {f"cloacina-{service}": ["up"] * len(composed.containers(service)) for service in SERVICES}
    assert len(expected["cloacina-executor"]) == 2
    wait_until(lambda: composed.targets() == {**expected, "prometheus": ["up"]}, "targets that are all up", 60)
    groups = composed.published("PROMETHEUS_PORT", "/api/v1/rules")["data"]["groups"]
    assert [group["name"] for group in groups if any(rule["health"] == "err" for rule in group["rules"])] == []
    assert len(groups) == len(read_yaml(RULES)["groups"])


def test_grafana_is_given_what_it_is_provisioned_with(composed: ComposedSystem) -> None:
    found = composed.published("GRAFANA_PORT", "/found")
    assert found["writable"]
    assert json.loads(found["files"][found["home"]])["title"] == "Cloacina / System"
    assert "/etc/grafana/provisioning/datasources/cloacina.yml" in found["files"]
    assert "path: /etc/grafana/dashboards" in found["files"]["/etc/grafana/provisioning/dashboards/cloacina.yml"]


@pytest.mark.parametrize("service", _CRASHED)
def test_a_crashed_container_comes_back_and_nothing_is_lost(composed: ComposedSystem, service: str) -> None:
    execution_id = _execute(composed, seconds=3)
    before = composed.crash(service)
    wait_until(
        lambda: composed.container(service)["RestartCount"] > before["RestartCount"], f"the restart of {service}", 60
    )
    composed.wait_until_healthy()
    assert _ended(composed, execution_id, 60)["status"] == "Completed"
    assert _ended(composed, _execute(composed), 60)["status"] == "Completed"


def test_the_work_of_an_executor_that_vanishes_is_done_by_the_other(
    engine: DockerEngine, composed: ComposedSystem
) -> None:
    execution_ids = [_execute(composed, seconds=4) for _ in range(8)]

    def busy() -> list[Any]:
        script = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9103/metrics').read().decode())"
        return [
            container
            for container in composed.containers("executor")
            if 'cloacina_executor_slots{state="busy"} 0.0'
            not in engine.run("exec", container["Id"], "python", "-c", script)
        ]

    victim = wait_until(busy, "an executor at work")[0]
    engine.run("rm", "--force", victim["Id"])
    assert {_ended(composed, execution_id, 60)["status"] for execution_id in execution_ids} == {"Completed"}
    composed.up(*_SCALE)


def test_stop_drains_a_service(engine: DockerEngine, composed: ComposedSystem) -> None:
    execution_id = _execute(composed, seconds=2)
    composed.compose("stop", "executor")
    assert {container["State"]["ExitCode"] for container in composed.containers("executor")} == {0}
    said = composed.logs("executor")
    assert "executor drains" in said
    assert "executor stopped" in said
    composed.up(*_SCALE)
    execution = _ended(composed, execution_id, 60)
    assert execution["status"] == "Completed"
    assert [
        event["event_type"]
        for event in composed.client.call("GET", f"{EXECUTIONS}/{execution_id}/events")["events"]
        if event["event_type"] in ("task_reset", "task_abandoned")
    ] == []


def test_down_leaves_nothing_running_and_up_finds_everything_again(
    engine: DockerEngine, composed: ComposedSystem
) -> None:
    execution_id = _execute(composed)
    _ended(composed, execution_id)
    exit_codes: dict[str, int] = {}
    composed.compose("stop", *SERVICES)
    for service in SERVICES:
        exit_codes |= {container["Name"]: container["State"]["ExitCode"] for container in composed.containers(service)}
    assert set(exit_codes.values()) == {0}, exit_codes
    composed.down()
    assert engine.run("ps", "--all", "--quiet") == ""
    assert "services" not in engine.run("network", "ls", "--format", "{{.Name}}")
    composed.up()
    assert composed.client.call("GET", f"{EXECUTIONS}/{execution_id}")["status"] == "Completed"
    assert _ended(composed, _execute(composed))["status"] == "Completed"
    composed.down("--volumes")
    assert engine.run("volume", "ls", "--quiet") == ""
    composed.up()  # from nothing, once more
    assert composed.client.call("GET", EXECUTIONS)["items"] == []
