"""Figures with their spread, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One figure: the median of its rounds, and the least and the greatest of them.

    Args:
        part: W1, W2, …, or the name of a peer.
        subject: whose figure it is: "cloacina on sqlite", "celery on redis", …
        name: what was measured.
        unit: "workflows/s", "tasks/s", "ms", "s", "% of a core", "MiB", "%".
        rounds: the figure of each round.
        target: what is asked of it, in words; empty for none.
        met: whether the median meets it; ``None`` where there is no target.
    """

    part: str
    subject: str
    name: str
    unit: str
    rounds: tuple[float, ...]
    target: str = ""
    met: bool | None = None

    @property
    def median(self) -> float:
        """The median of its rounds."""
        return statistics.median(self.rounds)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        shown = {"median": self.median, "least": min(self.rounds), "greatest": max(self.rounds)}
        return {**asdict(self), **shown}


def at_least(figure: Figure, limit: float) -> Figure:
    """The figure with a target from below."""
    return _judged(figure, f">= {limit:g}", lambda median: median >= limit)


def at_most(figure: Figure, limit: float) -> Figure:
    """The figure with a target from above."""
    return _judged(figure, f"<= {limit:g}", lambda median: median <= limit)


def _judged(figure: Figure, target: str, holds: Callable[[float], bool]) -> Figure:
    return Figure(**{**asdict(figure), "target": target, "met": holds(figure.median)})


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def show(figures: Sequence[Figure]) -> None:
    """Prints the table."""
    print(f"\n{'part':<14}{'of':<32}{'measured':<54}{'median':>10}  {'min - max':<19}{'unit':<14}{'target':<12}met")
    for figure in figures:
        spread = f"{_number(min(figure.rounds))} - {_number(max(figure.rounds))}" if len(figure.rounds) > 1 else "-"
        met = {None: "", True: "yes", False: "NO"}[figure.met]
        print(
            f"{figure.part:<14}{figure.subject:<32}{figure.name:<54}{_number(figure.median):>10}  {spread:<19}"
            f"{figure.unit:<14}{figure.target:<12}{met}"
        )


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def write(path: Path, figures: Sequence[Figure], about: dict[str, Any]) -> None:
    """Writes the JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": about, "figures": [figure.record() for figure in figures]}, indent=2) + "\n")
