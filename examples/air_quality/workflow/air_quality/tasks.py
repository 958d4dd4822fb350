"""The tasks of the workflow ``air_quality``."""

from __future__ import annotations

import csv
import hashlib
import logging
from pathlib import Path

import cloaca
from air_quality import measurements

log = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "data" / "measurements.csv"
COLUMNS = {"station", "time", "pm25", "no2", "o3"}
LIMITS = {"pm25": 25.0, "no2": 50.0, "o3": 100.0}
"""Daily means, in micrograms per cubic metre, above which a day counts as a breach."""

cloaca.workflow_params(output_folder=str)


@cloaca.task(id="fetch", retry_attempts=3, retry_delay_ms=200)
def fetch(context):
    """what: finds the measurements and checks their columns
    why: a changed export must stop the job here, not three tasks later
    """
    rows = measurements.read(SOURCE)
    missing = COLUMNS - rows[0].keys()
    if missing:
        raise ValueError(f"{SOURCE.name} lacks the columns {sorted(missing)}")
    context.set("source", str(SOURCE))
    context.set("source_sha256", hashlib.sha256(SOURCE.read_bytes()).hexdigest())
    context.set("source_rows", len(rows))
    log.info("measurements fetched", extra={"rows": len(rows)})
    return context


def clean(context, pollutant):
    """Cleans one pollutant's column and leaves its daily means."""
    values, dropped = measurements.clean(measurements.read(Path(context["source"])), pollutant)
    means = measurements.daily_means(values)
    context.set(f"{pollutant}_daily", means)
    context.set(f"{pollutant}_dropped", dropped)
    log.info("column cleaned", extra={"pollutant": pollutant, "days": len(means), **dropped})
    return context


@cloaca.task(id="clean_pm25", dependencies=["fetch"])
def clean_pm25(context):
    """Fine dust."""
    return clean(context, "pm25")


@cloaca.task(id="clean_no2", dependencies=["fetch"])
def clean_no2(context):
    """Nitrogen dioxide."""
    return clean(context, "no2")


@cloaca.task(id="clean_o3", dependencies=["fetch"])
def clean_o3(context):
    """Ozone."""
    return clean(context, "o3")


@cloaca.task(id="aggregate", dependencies=["clean_pm25", "clean_no2", "clean_o3"])
def aggregate(context):
    """what: joins the pollutants by station and day
    why: the report has one line a day
    """
    days = {}
    breaches = {}
    for pollutant, limit in LIMITS.items():
        for each in context[f"{pollutant}_daily"]:
            days.setdefault(f"{each['station']} {each['day']}", {})[pollutant] = each["mean"]
            if each["mean"] > limit:
                breaches.setdefault(each["station"], dict.fromkeys(LIMITS, 0))[pollutant] += 1
        context.remove(f"{pollutant}_daily")
    context.set("days", days)
    context.set("breaches", breaches)
    print(f"{len(days)} station days, {sum(sum(each.values()) for each in breaches.values())} breaches")
    return context


@cloaca.task(id="publish", dependencies=["aggregate"], retry_attempts=3, retry_delay_ms=200)
def publish(context):
    """what: writes the report
    why: people read spreadsheets
    """
    folder = Path(context["output_folder"])
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "air_quality.csv"
    fresh = report.with_suffix(".part")
    days = context.remove("days")
    with fresh.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["station", "day", *LIMITS])
        for key, means in sorted(days.items()):
            writer.writerow([*key.split(" "), *(means.get(pollutant, "") for pollutant in LIMITS)])
    fresh.replace(report)
    context.set("report", str(report))
    context.set("report_rows", len(days))
    log.info("report written", extra={"rows": len(days)})
    return context
