"""The workflows that are measured: no-op tasks in the shapes that people use."""

from __future__ import annotations

CHAIN_TASKS = 10
FAN_WIDTH = 50
WIDE_FAN = 1000

ONE = """
import cloaca

@cloaca.task(id="only")
def only(context):
    context.set("done", True)
    return context
"""

CHAIN = f"""
import cloaca

def step(number):
    @cloaca.task(id=f"step_{{number}}", dependencies=[f"step_{{number - 1}}"] if number else [])
    def run(context):
        context.set("step", number)
        return context

for number in range({CHAIN_TASKS}):
    step(number)
"""

FAN = """
import cloaca

@cloaca.task(id="split")
def split(context):
    context.set("split", True)
    return context

def part(number):
    @cloaca.task(id=f"part_{{number}}", dependencies=["split"])
    def run(context):
        return None

for number in range({width}):
    part(number)

@cloaca.task(id="join", dependencies=[f"part_{{number}}" for number in range({width})])
def join(context):
    context.set("joined", True)
    return context
"""

GATED = """
import asyncio
from pathlib import Path

import cloaca


@cloaca.task(id="work")
async def work(context):
    gate = context.get("gate")
    while gate and not Path(gate).exists():
        await asyncio.sleep(0.05)
    await asyncio.sleep(context.get("seconds", 0.0))
    return context
"""
"""Begins only when there is a file by the name of ``gate``, if its context has one, and then takes ``seconds``."""

PACKAGES = {
    "bench-one": ONE,
    "bench-chain": CHAIN,
    "bench-fan": FAN.format(width=FAN_WIDTH),
    "bench-wide": FAN.format(width=WIDE_FAN),
}
"""Code by name of the package; the workflow is named like it, with underscores."""

TASKS = {"bench_one": 1, "bench_chain": CHAIN_TASKS, "bench_fan": FAN_WIDTH + 2, "bench_wide": WIDE_FAN + 2}
"""Tasks of one execution, by workflow."""
