"""A program that is killed in the middle of an execution: ``python interrupted_program.py DATABASE FOLDER``.

Its workflow has three tasks. Each writes its name to a file in FOLDER; the second waits for a file ``go_on`` there.
Importing this module only registers the workflow, as the program that comes after does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cloaca

FOLDER = Path(sys.argv[2]) if len(sys.argv) > 2 else Path()


def note(task: str) -> None:
    """Appends a line to FOLDER/ran."""
    with (FOLDER / "ran").open("a") as file:
        file.write(f"{task}\n")


def register() -> None:
    """Registers the workflow."""
    with cloaca.WorkflowBuilder("interrupted"):

        @cloaca.task()
        def first(context):
            note("first")
            context.set("first", "done")
            return context

        @cloaca.task(dependencies=[first])
        def second(context):
            note("second")
            while not (FOLDER / "go_on").exists():
                time.sleep(0.005)
            context.set("second", "done")
            return context

        @cloaca.task(dependencies=[second])
        def third(context):
            note("third")
            context.set("third", "done")
            return context


if __name__ == "__main__":
    register()
    runner = cloaca.DefaultRunner(f"sqlite://{sys.argv[1]}")
    print(runner.submit("interrupted", cloaca.Context({"number": 7})), flush=True)
    time.sleep(60)
