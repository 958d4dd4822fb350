"""Starts the scheduler: ``python -m services.scheduler``."""

from __future__ import annotations

import sys

from cloacina.runtime.service import run_service
from cloacina.runtime.settings import settings_from
from services.scheduler.service import Scheduler
from services.scheduler.settings import SchedulerSettings


def main() -> int:
    """Runs until it is told to stop; returns the exit code."""
    settings = settings_from(SchedulerSettings, sys.argv[1:], "python -m services.scheduler")
    return run_service("scheduler", settings, settings.scheduler_rpc_port, lambda: Scheduler(settings))


if __name__ == "__main__":
    sys.exit(main())
