"""What deploy/ holds of monitoring, read: the rules, the dashboards, and the queries in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
RULE_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))

_GRAFANA_VARIABLES = {"$__rate_interval": "5m", "$job": "cloacina-.+"}
_SELECTOR = re.compile(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\}|(?=\[))|\b(cloacina[a-zA-Z0-9_:]+|process_[a-z_]+)\b")


@dataclass(frozen=True)
class Rule:
    """One rule: `name` is the alert's or the recorded series', `expression` is PromQL."""

    name: str
    expression: str
    is_alert: bool
    labels: dict[str, str]
    annotations: dict[str, str]


@dataclass(frozen=True)
class Query:
    """One query of a dashboard's panel, with Grafana's variables filled in."""

    dashboard: str
    panel: str
    expression: str


def read_yaml(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text())


def rules() -> list[Rule]:
    """All rules, in order."""
    return [
        Rule(
            name=rule.get("alert") or rule["record"],
            expression=rule["expr"],
            is_alert="alert" in rule,
            labels=rule.get("labels", {}),
            annotations=rule.get("annotations", {}),
        )
        for group in read_yaml(RULES)["groups"]
        for rule in group["rules"]
    ]


def dashboard(path: Path) -> Any:
    """A dashboard."""
    return json.loads(path.read_text())


def queries() -> list[Query]:
    """Every query of every panel."""
    return [
        Query(board["title"], panel["title"], _filled(target["expr"]))
        for board in map(dashboard, DASHBOARDS)
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


def _filled(expression: str) -> str:
    for name, value in _GRAFANA_VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def selectors(expression: str) -> Iterator[str]:
    """The series an expression asks for, as it asks for them: name and label matchers."""
    for match in _SELECTOR.finditer(expression):
        yield match[3] or match[1] + (match[2] or "")
