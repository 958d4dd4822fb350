"""Log levels by target, in the grammar of ``RUST_LOG``: ``info``, ``cloacina=debug,services.api=trace``, ``off``."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

TRACE = 5
OFF = logging.CRITICAL + 10

LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": OFF,
}

_OURS = {
    "cloacina": ("cloacina", "services"),
    "cloacina_server": ("services.api",),
    "cloacina_daemon": ("cloacina.daemon",),
    "cloacinactl": ("cloacina.cli",),
    "axum": ("aiohttp",),
    "hyper": ("aiohttp",),
    "tower_http": ("aiohttp",),
    "tonic": ("grpc",),
    "sqlx": ("cloacina.store",),
    "diesel": ("cloacina.store",),
}
"""Targets of the original server that we do not have, and what stands for them here."""


@dataclass(frozen=True, slots=True)
class Directives:
    """A parsed level setting.

    Args:
        root: level of every target that no directive names.
        targets: level by module prefix.
        rejected: the parts that are no directive, each with the reason.
    """

    root: int = logging.INFO
    targets: dict[str, int] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)


def parse_directives(text: str, default: int = logging.INFO) -> Directives:
    """Reads a directive list; what cannot be read is in `Directives.rejected` and otherwise ignored.

    Args:
        text: comma-separated directives: ``level`` or ``target=level``.
        default: level where no directive applies.
    """
    root = default
    targets: dict[str, int] = {}
    rejected: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        target, equals, level_name = part.partition("=")
        if not equals and target.lower() in LEVELS:
            root = LEVELS[target.lower()]
            continue
        level = LEVELS.get(level_name.strip().lower()) if equals else LEVELS["trace"]
        name = target.strip().replace("::", ".")
        if level is None:
            rejected.append(f"{part!r}: {level_name!r} is not one of {', '.join(LEVELS)}")
        elif not name or not all(piece.isidentifier() for piece in name.split(".")):
            rejected.append(f"{part!r}: {target!r} is not a module path")
        else:
            head, _, rest = name.partition(".")
            for ours in _OURS.get(head, (head,)):
                targets[f"{ours}.{rest}" if rest else ours] = level
    return Directives(root, targets, rejected)
