"""The packages that the battery executes. Their tasks note every run in a ledger, with the claim it ran under."""

from __future__ import annotations

from pathlib import Path

from tests.system.running import write_package

_NOTING = '''
import json
import os
import time
from uuid import uuid4

import cloaca
from cloacina.worker.output import current_claim


class Run:
    """One run of a task, from its first line in the ledger to its last."""

    def __init__(self, context, task):
        self.context, self.task, self.run = context, task, uuid4().hex
        self.note("start")

    def note(self, phase):
        line = {
            "key": self.context.get("key") or self.context.get("scheduled_time"),
            "task": self.task,
            "run": self.run,
            "claim": current_claim.get(),
            "phase": phase,
            "at": time.monotonic_ns(),
        }
        file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(file, (json.dumps(line) + "\\n").encode())
        finally:
            os.close(file)

    def done(self):
        self.context.set("ran_" + self.task, self.run)
        self.note("end")
        return self.context


RETRIES = {"retry_attempts": 8, "retry_delay_ms": 50}
'''

_DIAMOND = """
@cloaca.task(id="first", **RETRIES)
def first(context):
    return Run(context, "first").done()


@cloaca.task(id="left", dependencies=["first"], **RETRIES)
def left(context):
    run = Run(context, "left")
    time.sleep(context.get("pause_s", 0.0))
    return run.done()


@cloaca.task(id="right", dependencies=["first"], **RETRIES)
async def right(context):
    return Run(context, "right").done()


@cloaca.task(id="last", dependencies=["left", "right"], **RETRIES)
def last(context):
    return Run(context, "last").done()
"""

_FLAKY = """
tried = set()


@cloaca.task(id="fails", **RETRIES)
def fails(context):
    run = Run(context, "fails")
    if context.get("key") not in tried:
        tried.add(context.get("key"))
        raise ConnectionError("the first attempt in this process")
    return run.done()


@cloaca.task(id="follows", dependencies=["fails"], **RETRIES)
def follows(context):
    return Run(context, "follows").done()
"""

_TICKING = """
@cloaca.task(id="tick", **RETRIES)
def tick(context):
    return Run(context, "tick").done()


@cloaca.trigger(on="chaos_ticking", name="each_second", cron="* * * * * *", catch_up="run_all", catch_up_cap=1000)
def each_second():
    pass
"""

TRIGGER = "each_second"
TICKING = "chaos_ticking"
DEPENDENCIES = {
    "chaos_diamond": {"first": (), "left": ("first",), "right": ("first",), "last": ("left", "right")},
    "chaos_flaky": {"fails": (), "follows": ("fails",)},
    TICKING: {"tick": ()},
}
"""The tasks of each workflow, and what each waits for."""


def packages(folder: Path, ledger: Path) -> list[Path]:
    """Writes the packages; their folders."""
    head = _NOTING + f"LEDGER = {str(ledger)!r}\n"
    return [
        write_package(folder, name, head + code)
        for name, code in (("chaos-diamond", _DIAMOND), ("chaos-flaky", _FLAKY), ("chaos-ticking", _TICKING))
    ]
