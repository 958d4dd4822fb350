"""Prints the settings of the services as Markdown tables, or writes them into the documentation.

A table stands in its page between the lines ``<!-- settings NAME -->`` and ``<!-- end of settings -->``.

Usage: python scripts/settings_table.py [--write] [every|api|scheduler|reconciler|executor|daemon …]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from cloacina.daemon.settings import FILE_KEYS, DaemonSettings
from cloacina.runtime.settings import ServiceSettings
from services.api.settings import GatewaySettings
from services.executor.settings import ExecutorSettings
from services.reconciler.settings import ReconcilerSettings
from services.scheduler.settings import SchedulerSettings

ROOT = Path(__file__).resolve().parent.parent
CLASSES: dict[str, type[BaseSettings]] = {
    "every": ServiceSettings,
    "api": GatewaySettings,
    "scheduler": SchedulerSettings,
    "reconciler": ReconcilerSettings,
    "executor": ExecutorSettings,
    "daemon": DaemonSettings,
}
PAGES = {
    "every": "docs/settings.md",
    **{name: f"docs/services/{name}.md" for name in ("api", "scheduler", "reconciler", "executor")},
    "daemon": "docs/daemon.md",
}

_UNITS = (
    ("_port", "port"),
    ("_days", "days"),
    ("_bytes", "bytes"),
    ("_mb", "MiB"),
    ("_ms", "milliseconds"),
    ("_s", "seconds"),
    ("_target", "address"),
)
_BOUNDS = (("ge", "≥ {}"), ("gt", "> {}"), ("le", "≤ {}"))


def table(name: str) -> str:
    """The settings of a service beside those of every service; of "every", those.

    Args:
        name: a key of `CLASSES`.
    """
    shared = {} if name in ("every", "daemon") else ServiceSettings.model_fields
    second = "config.toml" if name == "daemon" else "option"
    lines = [f"| variable | {second} | default | unit | range | meaning |", "|---|---|---|---|---|---|"]
    for field, info in CLASSES[name].model_fields.items():
        if field not in shared:
            cells = (
                f"`{variable(field, info)}`",
                _in_file(field) if name == "daemon" else f"`--{field.replace('_', '-')}`",
                _default(info),
                _unit(field, info),
                _range(info),
                (info.description or "").replace("|", "\\|").replace("<", "&lt;"),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_file(field: str) -> str:
    """Where the daemon's configuration file has a setting."""
    if field == "watch_directories":
        return "`watch.directories`"
    return f"`daemon.{field}`" if field in FILE_KEYS else "-"


def variable(field: str, info: FieldInfo) -> str:
    """The environment variable of a field."""
    if isinstance(info.validation_alias, AliasChoices):
        return next(str(name) for name in info.validation_alias.choices if str(name).startswith("CLOACINA_"))
    return f"CLOACINA_{field.upper()}"


def _default(info: FieldInfo) -> str:
    value: Any = info.default
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value == () or not str(value):
        return "empty"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _unit(field: str, info: FieldInfo) -> str:
    if info.annotation is bool:
        return "true, false"
    return next((unit for suffix, unit in _UNITS if field.endswith(suffix)), "count" if info.annotation is int else "-")


def _range(info: FieldInfo) -> str:
    bounds = [
        text.format(
            format(getattr(each, bound), "g") if isinstance(getattr(each, bound), float) else getattr(each, bound)
        )
        for bound, text in _BOUNDS
        for each in info.metadata
        if getattr(each, bound, None) is not None
    ]
    return ", ".join(bounds) or "-"


EVERY = "docs/operate.md"
"""The page that has all settings in one table."""


def every_setting() -> str:
    """All settings of all processes: which variable, who reads it, its default, what it means."""
    readers: dict[str, list[str]] = {}
    said: dict[str, dict[str, FieldInfo]] = {}
    for name, kind in CLASSES.items():
        for field, info in kind.model_fields.items():
            found = variable(field, info)
            shared = name != "every" and field in ServiceSettings.model_fields and name != "daemon"
            if not shared:
                readers.setdefault(found, []).append("every service" if name == "every" else name)
                said.setdefault(found, {})[name] = info
    lines = ["| variable | read by | default | meaning |", "|---|---|---|---|"]
    for found in sorted(readers):
        infos = list(said[found].values())
        defaults = list(dict.fromkeys(_default(info) for info in infos))
        meaning = (infos[0].description or "").replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{found}` | {', '.join(readers[found])} | {', '.join(defaults)} | {meaning} |")
    return "\n".join(lines)


def with_every_setting(text: str) -> str:
    """The page that has them all, with its table made anew.

    Raises:
        ValueError: the page has no place for it.
    """
    return _with(text, "<!-- all settings -->", every_setting(), EVERY)


def replaced(text: str, name: str) -> str:
    """A page with its table made anew.

    Args:
        text: the page.
        name: a key of `CLASSES`.

    Raises:
        ValueError: the page has no place for the table.
    """
    return _with(text, f"<!-- settings {name} -->", table(name), PAGES[name])


def _with(text: str, begin: str, made: str, page: str) -> str:
    end = "<!-- end of settings -->"
    place = f"{re.escape(begin)}.*?{re.escape(end)}"
    fresh, times = re.subn(place, lambda _: f"{begin}\n{made}\n{end}", text, flags=re.DOTALL)
    if times != 1:
        raise ValueError(f"{page} must have one {begin} … {end}")
    return fresh


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    names = [each for each in arguments if each != "--write"] or list(CLASSES)
    for name in names:
        if name not in CLASSES:
            print(f"{name!r} is none of {', '.join(CLASSES)}", file=sys.stderr)
            return 2
    for name in names:
        if "--write" in arguments:
            page = ROOT / PAGES[name]
            page.write_text(replaced(page.read_text(encoding="utf-8"), name), encoding="utf-8")
        else:
            print(f"### {name}\n\n{table(name)}\n")
    if "--write" in arguments:
        (ROOT / EVERY).write_text(with_every_setting((ROOT / EVERY).read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
