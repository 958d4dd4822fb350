"""A workflow that a cron schedule starts: every ten seconds the level of a river is read and judged.

The level is made up from the time the firing is for, so that the same instant always gives the same level, also when it
is caught up later.
"""

from __future__ import annotations

import math
from datetime import datetime

import cloaca


@cloaca.workflow_params(flood_cm=(int, 520))
@cloaca.task()
def read_level(context):
    """what: The level at the time of the firing. why: all later tasks judge the same number."""
    at = datetime.fromisoformat(context["scheduled_time"])
    context.set("level_cm", round(450 + 100 * math.sin(at.timestamp() / 60)))
    return context


@cloaca.task(dependencies=[read_level])
def judge(context):
    """what: Whether it is a flood. why: the alarm runs only then."""
    context.set("flood", context["level_cm"] >= context["flood_cm"])
    return context


@cloaca.task(dependencies=[judge], trigger_rules=cloaca.context_value("flood", "equals", True))
def alarm(context):
    """what: Raises the alarm. why: skipped, visibly, while the river is calm."""
    print(f"flood: {context['level_cm']} cm")


@cloaca.trigger(on="river_levels", cron="*/10 * * * * *", timezone="Europe/Berlin")
def every_ten_seconds():
    """Only its declaration counts: a cron schedule asks nobody."""
