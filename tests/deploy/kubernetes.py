"""The Helm chart, rendered by helm itself, and the schemas of Kubernetes to hold it against."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.deploy.monitoring import DEPLOY, ROOT
from tests.scripts import load_file

CHART = DEPLOY / "helm" / "cloacina"
TOOLS = ROOT / ".venv" / "kubernetes"
get_tools = load_file(DEPLOY / "helm" / "get_tools.py")

Objects = dict[tuple[str, str], dict[str, Any]]


@cache
def helm() -> str:
    """The program: the machine's, else the pinned one. Tests that need it are skipped where there is neither."""
    return shutil.which("helm") or str(_fetched(get_tools.helm, "helm"))


@cache
def schema_folder() -> Path:
    """The schemas of Kubernetes' versions."""
    return _fetched(get_tools.schemas, "the schemas of Kubernetes")


def _fetched(fetch: Any, what: str) -> Path:
    TOOLS.mkdir(parents=True, exist_ok=True)
    with (TOOLS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return fetch(TOOLS)
        except RuntimeError as error:
            pytest.skip(f"THE HELM CHART IS NOT CHECKED: {what} cannot be had here: {error}")


def run_helm(*arguments: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs helm; `values` go in as a file of values."""
    given = ["--values", "-"] if values is not None else []
    return subprocess.run(
        [helm(), *arguments, *given],
        input=yaml.safe_dump(dict(values)) if values is not None else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rendered(values: Mapping[str, Any]) -> Objects:
    """What the chart makes of values, by kind and name."""
    ended = run_helm("template", "made", str(CHART), "--namespace", "tests", values=values)
    assert ended.returncode == 0, ended.stderr
    found = [each for each in yaml.safe_load_all(ended.stdout) if each]
    objects = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert len(objects) == len(found), "two objects of one kind and name"
    return objects


_SERVICE_MONITOR = {
    # of the Prometheus Operator, whose schemas are not among those of Kubernetes: the part that the chart uses
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["selector", "endpoints"],
            "additionalProperties": False,
            "properties": {
                "jobLabel": {"type": "string"},
                "selector": {"type": "object", "required": ["matchLabels"]},
                "endpoints": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["port"],
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "interval": {"type": "string"},
                            "scheme": {"enum": ["http", "https"]},
                            "tlsConfig": {"type": "object"},
                        },
                    },
                },
            },
        },
    },
}


class Schemas:
    """The strict schemas of one version of Kubernetes: a field that it does not know is a fault.

    Args:
        version: one of ``get_tools.SCHEMA_VERSIONS``.
    """

    def __init__(self, version: str) -> None:
        self._folder = schema_folder() / version
        definitions = json.loads((self._folder / "_definitions.json").read_text())
        resource = Resource.from_contents(definitions, default_specification=DRAFT202012)
        self._registry = Registry().with_resource("/api/_definitions.json", resource)

    def faults(self, found: Mapping[str, Any]) -> list[str]:
        """What is wrong with an object, with the place of each fault."""
        if found["kind"] == "ServiceMonitor":
            schema = _SERVICE_MONITOR
        else:
            group, _, version = found["apiVersion"].rpartition("/")
            name = "-".join(filter(None, (found["kind"].lower(), group.partition(".")[0], version)))
            schema = json.loads((self._folder / f"{name}.json").read_text())
        validator = Draft202012Validator(schema, registry=self._registry)
        return [f"{'.'.join(map(str, fault.path))}: {fault.message}" for fault in validator.iter_errors(found)]
