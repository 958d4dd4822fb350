"""What the documentation says in tables is what the code says."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

import cloacina
import services
from cloacina.engine.metrics import EngineMetrics
from cloacina.engine.retention_metrics import RetentionMetrics
from cloacina.engine.schedule_metrics import ScheduleMetrics
from cloacina.errors import CloacinaError
from cloacina.rpc.errors import to_status
from cloacina.runtime.cpu_latency import CpuLatency
from cloacina.telemetry.execution_lines import ExecutionLines, Lines
from cloacina.telemetry.metrics import RpcMetrics, StoreMetrics, create_registry
from services.api.delivery import DeliveryMetrics
from services.api.errors import HttpError, status_of
from services.api.identity_metrics import IdentityMetrics
from services.api.metrics import ApiMetrics
from services.api.routes import ALL_ROUTES
from services.reconciler.metrics import ReconcilerMetrics
from services.scheduler.forwarding import ForwardMetrics

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [
    path
    for folder in ("cloacina", "services")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.parent.name != "v1"
]


def _load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


settings_table = _load_script("settings_table")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The tables of a page: the names of the columns, and the cells of each row."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        yield rows[0], rows[2:]


def table(text: str, *columns: str) -> list[list[str]]:
    """The rows of all tables whose first columns have these names."""
    found = [row for names, rows in tables(text) if tuple(names[: len(columns)]) == columns for row in rows]
    assert found, f"there is no table with the columns {columns}"
    return found


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in SOURCES:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def error_classes() -> dict[str, type[CloacinaError]]:
    """Every error that any module declares."""
    for package in (cloacina, services):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(("__main__", "inspect_child", "_pb2_grpc")):
                importlib.import_module(module.name)
    found: dict[str, type[CloacinaError]] = {}
    waiting = [CloacinaError]
    while waiting:
        kind = waiting.pop()
        for each in kind.__subclasses__():
            if each.__module__.startswith(("cloacina.", "services.")):
                found[each.__name__] = each
                waiting.append(each)
    return found


# Settings


@pytest.mark.parametrize("name", list(settings_table.CLASSES))
def test_the_settings_tables_are_those_of_the_classes(name: str) -> None:
    text = (ROOT / settings_table.PAGES[name]).read_text(encoding="utf-8")

    assert settings_table.replaced(text, name) == text, "run: python scripts/settings_table.py --write"


def test_every_variable_that_a_page_names_is_one() -> None:
    known = {
        settings_table.variable(field, info)
        for kind in settings_table.CLASSES.values()
        for field, info in kind.model_fields.items()
    }
    named = set(re.findall(r"\bCLOACINA_[A-Z_]*[A-Z]\b", "".join(path.read_text(encoding="utf-8") for path in SOURCES)))

    for path in PAGES:
        said = re.findall(r"\bCLOACINA_[A-Z_]*[A-Z]\b(?!\*|_)", path.read_text(encoding="utf-8"))
        assert set(said) <= known | named | {"CLOACINA_TLS", "CLOACINA_VAR"}, path


# Errors


def test_the_error_table_has_every_class_with_its_code_and_statuses() -> None:
    documented = {quoted(row[0])[0]: row[1:4] for row in table(page("errors.md"), "error", "code", "gRPC", "HTTP")}
    classes = error_classes()

    assert documented.keys() == classes.keys() - {"HttpError"}
    for name, (code, rpc, http) in documented.items():
        kind = classes[name]
        example = kind.__new__(kind)
        CloacinaError.__init__(example, "an example")
        assert quoted(code) == [example.code], name
        assert quoted(http) == [str(status_of(example))], name
        if issubclass(kind, HttpError):
            assert rpc == "-", name
        else:
            assert quoted(rpc) == [to_status(example)[0].name], name


def codes_in_source() -> set[tuple[str, str]]:
    """(class, code) wherever an error is made with a code of its own."""
    found = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for keyword in node.keywords:
                    if keyword.arg == "code":
                        found |= {
                            (node.func.id, each.value)
                            for each in ast.walk(keyword.value)
                            if isinstance(each, ast.Constant) and isinstance(each.value, str)
                        }
    return found


def test_the_code_table_has_every_specific_code() -> None:
    documented = {
        (quoted(row[1])[0], quoted(row[0])[0]): quoted(row[2])[0]
        for row in table(page("errors.md"), "code", "error", "HTTP")
    }
    classes = error_classes()
    made = {(name, code) for name, code in codes_in_source() if name in classes and classes[name].default_code != code}

    assert made <= documented.keys(), "codes that docs/errors.md lacks"
    everything = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    for (name, code), status in documented.items():
        assert f'"{code}"' in everything, f"no code raises {code}"
        assert status == str(status_of(classes[name]("an example"))), code


def test_the_statuses_of_the_way_are_those_of_the_code() -> None:
    """What a call that failed on the way becomes."""
    source = (ROOT / "cloacina/rpc/errors.py").read_text(encoding="utf-8")

    for row in table(page("errors.md"), "gRPC without a code", "becomes"):
        for status in quoted(row[0]):
            assert status in grpc.StatusCode.__members__
            assert f"StatusCode.{status}" in source, status


# Telemetry


def metrics_in_source() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Kind and labels of every metric that any module declares."""
    found = {}
    for path, tree in trees():
        lists = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            kind = {"_histogram": "Histogram"}.get(node.func.id, node.func.id)
            names = [
                each.value
                for each in node.args
                if isinstance(each, ast.Constant) and re.fullmatch(r"cloacina_[a-z_]+", str(each.value))
            ]
            if kind in ("Counter", "Gauge", "Histogram") and names:
                given = [lists.get(each.id) if isinstance(each, ast.Name) else each for each in node.args]
                labels = [tuple(ast.literal_eval(each)) for each in given if isinstance(each, ast.List)]
                assert names[0] not in found, f"{names[0]} is declared twice, once in {path}"
                found[names[0]] = (kind.lower(), labels[0] if labels else ())
    return found


def test_the_metrics_table_has_every_metric_with_its_kind_and_labels() -> None:
    documented = {
        quoted(row[0])[0]: (row[1], tuple(name for name in quoted(row[2]) if "=" not in name))
        for row in table(page("telemetry.md"), "metric", "kind", "labels")
    }

    assert documented == metrics_in_source()


def test_the_metrics_table_names_every_value_of_a_bounded_label() -> None:
    registry = CollectorRegistry()
    EngineMetrics(registry)
    ScheduleMetrics(registry)
    RetentionMetrics(registry)
    IdentityMetrics(registry)
    ForwardMetrics(registry)
    ReconcilerMetrics(registry, {state: float for state in ("loaded", "failed", "loading")})
    rows = {quoted(row[0])[0]: " ".join(row) for row in table(page("telemetry.md"), "metric", "kind", "labels")}

    for family in registry.collect():
        for sample in family.samples:
            name = family.name + ("_total" if family.type == "counter" else "")
            for label, value in sample.labels.items():
                if label != "le":
                    assert re.search(rf"\b{value}\b", rows[name]), f"{name}: {label}={value}"


async def _keep_nothing(batch: str, lines: list[Lines]) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("service", "own"),
    [
        (
            "api",
            lambda registry: (
                StoreMetrics(registry, "identity"),
                ApiMetrics(registry),
                DeliveryMetrics(registry),
                IdentityMetrics(registry),
                ExecutionLines("api", _keep_nothing, registry),
            ),
        ),
        (
            "scheduler",
            lambda registry: (
                StoreMetrics(registry, "scheduler"),
                EngineMetrics(registry),
                ScheduleMetrics(registry),
                RetentionMetrics(registry),
                ForwardMetrics(registry),
                ExecutionLines("scheduler", _keep_nothing, registry),
            ),
        ),
        ("reconciler", lambda registry: (StoreMetrics(registry, "registry"), ReconcilerMetrics(registry, {}))),
    ],
)
def test_the_metrics_table_names_the_owner_of_every_metric(service: str, own) -> None:
    registry = create_registry(service, "0")
    RpcMetrics(registry)
    CpuLatency(None, registry)
    own(registry)
    owned = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
        if family.name.startswith("cloacina_")
    }

    documented = {
        quoted(row[0])[0]
        for row in table(page("telemetry.md"), "metric", "kind", "labels", "owner")
        if service in row[3].split(", ") or row[3] == "every service" or (row[3] == "every store")
    }

    assert documented == owned


def spans_in_source() -> set[str]:
    """The fixed beginning of the name of every span."""
    found = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or path.name == "tracing.py":
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("span", "start_span", "child_span", "record_span", "_step") and node.args:
                name = node.args[0]
                if isinstance(name, ast.JoinedStr):
                    name = name.values[0]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    found.add(name.value.strip())
    return found


def test_the_span_table_has_every_span() -> None:
    text = " ".join(row[0] for row in table(page("telemetry.md"), "span", "process"))

    for beginning in spans_in_source():
        assert re.search(rf"`{re.escape(beginning)}\b", text), f"docs/telemetry.md lacks the span {beginning}"


def test_every_log_line_of_the_pages_is_one() -> None:
    """`…` and names in <angle brackets> stand for what varies."""
    said = " \n".join(
        str(node.value)
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for names, rows in tables(path.read_text(encoding="utf-8")):
            if names[0] == "log line":
                for line in (line for row in rows for line in quoted(row[0])):
                    fixed = re.split(r"<[^>]+>|…|^(?:api|scheduler|reconciler|executor)(?= )", line)
                    assert all(part.strip() in said for part in fixed), f"{path.name}: {line}"


# The API and the pages


def test_the_route_table_is_the_route_table() -> None:
    documented = [tuple(row) for row in table(page("services/api.md"), "method", "path", "key", "what")]

    assert documented == [(each.method, f"`{each.path}`", each.access.describe(), each.summary) for each in ALL_ROUTES]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            name, _, anchor = target.partition("#")
            linked = (path.parent / name).resolve() if name else path
            assert linked.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}, target
