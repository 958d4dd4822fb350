"""The Helm chart: every way it is rendered is valid Kubernetes, its pods are confined, and its parts fit together."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.api.settings import GatewaySettings
from services.executor.settings import ExecutorSettings
from services.reconciler.settings import ReconcilerSettings
from services.scheduler.settings import SchedulerSettings
from tests.deploy.kubernetes import CHART, Objects, Schemas, get_tools, rendered, run_helm
from tests.deploy.monitoring import DEPLOY, rules

pytestmark = pytest.mark.xdist_group("helm")

SETTINGS = {
    "api": GatewaySettings,
    "scheduler": SchedulerSettings,
    "reconciler": ReconcilerSettings,
    "executor": ExecutorSettings,
}
DATABASE = {"database": {"url": "postgresql://cloacina:hunter2@postgres:5432/cloacina"}}
EVERYTHING: dict[str, Any] = {
    "database": {"existingSecret": "database"},
    "secrets": {"existingSecret": "cloacina-secrets"},
    "image": {"pullSecrets": [{"name": "registry"}]},
    "tls": {"enabled": True, "secretName": "between-services"},
    "tracing": {"endpoint": "http://collector:4317"},
    "extraEnv": [{"name": "CLOACINA_VERBOSE", "value": "true"}],
    "api": {
        "tlsSecretName": "gateway",
        "corsOrigins": ["https://ui.example.com", "http://localhost:3000"],
        "serviceType": "LoadBalancer",
        "serviceAnnotations": {"a": "b"},
        "ingress": {"enabled": True, "className": "nginx", "tlsSecretName": "ingress", "annotations": {"a": "b"}},
        "podLabels": {"team": "data"},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "extraEnv": [{"name": "CLOACINA_API_MAX_IN_FLIGHT", "value": "2048"}],
    },
    "reconciler": {"requireSignatures": True},
    "executor": {"autoscaling": {"enabled": True}},
    "networkPolicies": {
        "restrictExecutors": True,
        "executorEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
        "apiFrom": [{"podSelector": {"matchLabels": {"app": "ingress"}}}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "serviceAccount": {"annotations": {"a": "b"}},
}
LITTLE: dict[str, Any] = {
    **DATABASE,
    "fullnameOverride": "other",
    "podDisruptionBudgets": {"enabled": False},
    "networkPolicies": {"enabled": False},
    "serviceAccount": {"create": False},
    "secrets": {"rpcToken": "sixteen-or-more!", "bootstrapKey": "clk_" + "k" * 43, "generateSecretKek": True},
}
WAYS = {"defaults": DATABASE, "everything": EVERYTHING, "little": LITTLE}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> Objects:
    """The chart, rendered with one set of values after the other."""
    return rendered(WAYS[request.param])


@pytest.fixture(scope="module")
def defaults() -> Objects:
    return rendered(DATABASE)


@pytest.fixture(scope="module")
def everything() -> Objects:
    return rendered(EVERYTHING)


def of(objects: Objects, kind: str) -> dict[str, Any]:
    """Objects of a kind by the service they are for."""
    found = {name: each for (of_kind, name), each in objects.items() if of_kind == kind}
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in found.values()}


def pods(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    for component, each in of(objects, "Deployment").items():
        yield component, each["spec"]["template"]


def environment(pod: Mapping[str, Any]) -> dict[str, Any]:
    [container] = pod["spec"]["containers"]
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names)), "a variable twice"
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


@pytest.mark.parametrize("values", WAYS.values(), ids=WAYS)
def test_helm_finds_no_fault(values: dict[str, Any]) -> None:
    ended = run_helm("lint", "--strict", str(CHART), values=values)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("version", get_tools.SCHEMA_VERSIONS)
def test_every_object_is_valid(way: Objects, version: str) -> None:
    schemas = Schemas(version)
    assert {name: faults for name, each in way.items() if (faults := schemas.faults(each))} == {}


def test_a_mistyped_field_would_be_found(defaults: Objects) -> None:
    """That the schemas are as strict as the test above takes them to be."""
    deployment = json.loads(json.dumps(defaults["Deployment", "made-executor"]))
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    [fault] = Schemas(get_tools.SCHEMA_VERSIONS[-1]).faults(deployment)
    assert "readinesProbe" in fault


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "database.url or database.existingSecret is needed"),
        ({"database": {"url": "mysql://x"}}, "database"),
        ({**DATABASE, "executr": {}}, "executr"),
        ({**DATABASE, "executor": {"slot": 3}}, "slot"),
        ({**DATABASE, "executor": {"slots": 0}}, "slots"),
        ({**DATABASE, "secrets": {"rpcToken": "short"}}, "rpcToken"),
        ({**DATABASE, "api": {"corsOrigins": ["*"]}}, "corsOrigins"),
        ({**DATABASE, "tls": {"enabled": True}}, "tls.secretName is needed"),
    ],
)
def test_values_that_cannot_be_meant(values: dict[str, Any], message: str) -> None:
    ended = run_helm("template", "made", str(CHART), values=values)
    assert ended.returncode != 0
    assert message in ended.stderr


def test_pods_are_confined(way: Objects) -> None:
    assert {component for component, _ in pods(way)} == set(SETTINGS)
    for component, pod in pods(way):
        spec = pod["spec"]
        [container] = spec["containers"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001, "the one of deploy/Dockerfile"
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, component
        assert container["resources"]["limits"]["memory"]
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/var/lib/cloacina", "/tmp"}
        assert {mount["name"] for mount in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}
        assert spec["terminationGracePeriodSeconds"] > int(environment(pod)["CLOACINA_GRACE_S"])


def test_variables_are_settings_of_the_service(way: Objects) -> None:
    for component, pod in pods(way):
        known = {f"CLOACINA_{name.upper()}" for name in SETTINGS[component].model_fields} | {"CLOACINA_LOG"}
        named = {name for name in environment(pod) if name.startswith("CLOACINA_")}
        assert named <= known, component


def test_values_of_variables_are_taken_by_the_service(everything: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs files is left out: certificates."""
    for component, pod in pods(everything):
        with monkeypatch.context() as patch:
            for name, value in environment(pod).items():
                if isinstance(value, str) and "TLS" not in name:
                    patch.setenv(name, value)
            settings = SETTINGS[component]()
        assert settings.grace_s == 30
        if isinstance(settings, GatewaySettings):
            assert settings.cors_origins == ("https://ui.example.com", "http://localhost:3000")
            assert settings.scheduler_target == "made-scheduler:9201"
        if isinstance(settings, ReconcilerSettings):
            assert settings.require_signatures is True


def test_who_gets_which_secret(way: Objects) -> None:
    has = {component: environment(pod) for component, pod in pods(way)}
    for component, variables in has.items():
        assert isinstance(variables["CLOACINA_RPC_TOKEN"], dict), "never in clear"
        assert ("CLOACINA_DATABASE_URL" in variables) == (component != "executor"), "tasks do not get at the database"
        assert ("CLOACINA_BOOTSTRAP_KEY" in variables) == (component == "api")
        assert ("CLOACINA_SECRET_KEK" in variables) == (component == "reconciler")
    text = yaml.safe_dump([each for (kind, _), each in way.items() if kind != "Secret"])
    assert "hunter2" not in text


def test_secrets_that_are_made_can_be_used(defaults: Objects) -> None:
    data = {name: base64.b64decode(value).decode() for name, value in defaults["Secret", "made"]["data"].items()}
    assert data["database-url"] == DATABASE["database"]["url"]
    assert len(data["rpc-token"]) == 43
    assert re.fullmatch(r"clk_[A-Za-z0-9]{43}", data["bootstrap-key"])
    assert "secret-kek" not in data
    made = rendered(LITTLE)["Secret", "other"]["data"]
    kek = base64.b64decode(made["secret-kek"]).decode()
    assert len(base64.b64decode(kek)) == 32
    assert base64.b64decode(made["rpc-token"]).decode() == "sixteen-or-more!"
    assert not any(kind == "Secret" for kind, _ in rendered(EVERYTHING))


def test_probes_ask_what_is_there(defaults: Objects, everything: Objects) -> None:
    for objects, tls in ((defaults, False), (everything, True)):
        for component, pod in pods(objects):
            [container] = pod["spec"]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            ready = container["readinessProbe"]
            if component == "api":
                assert ready["httpGet"] == {"path": "/ready", "port": "http", "scheme": "HTTPS" if tls else "HTTP"}
            elif tls:
                assert ready["httpGet"] == {"path": "/health", "port": "metrics"}, "kubelet has no certificate"
            else:
                assert ready["grpc"] == {"port": ports["grpc"]}
            for probe in ("startupProbe", "livenessProbe"):
                assert container[probe]["httpGet"]["path"] == "/health"
                assert container[probe]["httpGet"]["port"] in ports
            settings = SETTINGS[component].model_fields
            assert ports["grpc"] == settings[f"{component}_rpc_port"].default
            own = "api_port" if component == "api" else f"{component}_metrics_port"
            assert ports["http" if component == "api" else "metrics"] == settings[own].default


def test_targets_are_services_with_such_a_port(way: Objects) -> None:
    services = {name: each for (kind, name), each in way.items() if kind == "Service"}
    for _, pod in pods(way):
        for name, value in environment(pod).items():
            if name.endswith("_TARGET"):
                host, _, port = value.partition(":")
                assert int(port) in {each["port"] for each in services[host]["spec"]["ports"]}
    for component, pod in pods(way):
        service = next(each for name, each in services.items() if name.endswith(f"-{component}"))
        labels = pod["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        names = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= names


def allowed(objects: Objects, component: str, port: str) -> list[str]:
    """The services that a policy lets in."""
    policy = of(objects, "NetworkPolicy")[component]
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == component
    found = []
    for rule in policy["spec"]["ingress"]:
        if {"port": port} in rule["ports"]:
            for peer in rule.get("from", []):
                labels = peer.get("podSelector", {}).get("matchLabels", {})
                found.append(labels.get("app.kubernetes.io/component", "others"))
    return found


def test_network_policies(defaults: Objects, everything: Objects) -> None:
    assert allowed(defaults, "scheduler", "grpc") == ["api", "executor", "scheduler"]
    assert allowed(defaults, "reconciler", "grpc") == ["api", "scheduler", "executor"]
    assert allowed(defaults, "executor", "grpc") == ["api"]
    [rule] = of(defaults, "NetworkPolicy")["api"]["spec"]["ingress"]
    assert rule == {"ports": [{"port": "http"}]}, "everyone"
    assert allowed(everything, "api", "http") == ["others"]
    policy = of(everything, "NetworkPolicy")["executor"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]} in policy["egress"]


def test_executors_are_scaled_by_the_metric_that_the_adapter_makes(defaults: Objects, everything: Objects) -> None:
    assert "HorizontalPodAutoscaler" not in {kind for kind, _ in defaults}
    assert of(defaults, "Deployment")["executor"]["spec"]["replicas"] == 2
    spec = everything["HorizontalPodAutoscaler", "made-executor"]["spec"]
    assert spec["scaleTargetRef"]["name"] == "made-executor"
    assert "replicas" not in of(everything, "Deployment")["executor"]["spec"], "or each upgrade would undo its work"
    [metric] = spec["metrics"]
    assert metric["pods"]["target"]["averageValue"] == "700m"
    [rule] = yaml.safe_load((DEPLOY / "helm" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert "cloacina_executor_slots" in rule["seriesQuery"]


def test_every_service_can_be_disrupted_one_pod_at_a_time(defaults: Objects) -> None:
    budgets = of(defaults, "PodDisruptionBudget")
    assert set(budgets) == set(SETTINGS)
    assert all(each["spec"]["maxUnavailable"] == 1 for each in budgets.values())


def test_prometheus_knows_the_services_by_the_names_of_the_rules(everything: Objects) -> None:
    spec = everything["ServiceMonitor", "made"]["spec"]
    ports = {each["port"] for each in spec["endpoints"]}
    expressions = " ".join(rule.expression for rule in rules())
    for component, service in of(everything, "Service").items():
        labels = service["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert ports & {each["name"] for each in service["spec"]["ports"]}
        assert f'job="{labels[spec["jobLabel"]]}"' in expressions, component


def test_the_one_writer_of_a_schema_is_never_two(way: Objects) -> None:
    for component in ("scheduler", "reconciler"):
        spec = of(way, "Deployment")[component]["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_several_schedulers_reach_each_other() -> None:
    objects = rendered({**DATABASE, "scheduler": {"replicas": 3}})
    spec = of(objects, "Deployment")["scheduler"]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (3, "RollingUpdate")
    variables = environment(spec["template"])
    names = list(variables)
    assert variables["CLOACINA_SCHEDULER_ADVERTISE"] == "$(POD_IP):9201"
    assert variables["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert names.index("POD_IP") < names.index("CLOACINA_SCHEDULER_ADVERTISE"), "or it would be taken literally"
    assert "scheduler" in allowed(objects, "scheduler", "grpc")


def test_every_knob_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if re.match(r" *[A-Za-z/.]+:", line):
            assert before.strip().startswith("#"), f"values.yaml says nothing of {line.strip()!r}"


def test_the_schema_of_the_values_knows_all_of_them() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(known: Mapping[str, Any], given: Mapping[str, Any], place: str) -> None:
        if known.get("additionalProperties") is False:
            assert set(known["properties"]) - {"global"} == set(given), place
            for name, inner in given.items():
                if isinstance(inner, dict):
                    compare(known["properties"][name], inner, f"{place}.{name}")

    compare(schema, values, "values")


def test_versions_are_those_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (Path(DEPLOY).parent / "pyproject.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in project
