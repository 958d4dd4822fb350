"""Reading and cleaning measurements. Plain Python: it knows nothing of workflows."""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from pathlib import Path

MISSING = frozenset(("", "NA", "-999"))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of the file, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def clean(rows: list[dict[str, str]], pollutant: str) -> tuple[dict[tuple[str, str], list[float]], dict[str, int]]:
    """Valid values by (station, day), and how many rows were dropped for which reason."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    dropped = {"missing": 0, "implausible": 0, "duplicate": 0}
    seen: set[tuple[str, str]] = set()
    for row in rows:
        hour = (row["station"], row["time"])
        if hour in seen:
            dropped["duplicate"] += 1
            continue
        seen.add(hour)
        text = row[pollutant].strip()
        if text in MISSING:
            dropped["missing"] += 1
            continue
        value = float(text)
        if not math.isfinite(value) or not 0 <= value <= 1000:
            dropped["implausible"] += 1
            continue
        values[row["station"], row["time"][:10]].append(value)
    return values, dropped


def daily_means(values: dict[tuple[str, str], list[float]], *, least_hours: int = 18) -> list[dict[str, object]]:
    """A mean for every station and day with enough valid hours."""
    return [
        {"station": station, "day": day, "mean": round(statistics.fmean(hours), 2), "hours": len(hours)}
        for (station, day), hours in sorted(values.items())
        if len(hours) >= least_hours
    ]
