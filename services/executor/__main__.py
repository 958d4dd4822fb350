"""Starts an executor: ``python -m services.executor``."""

from __future__ import annotations

import sys

from cloacina.runtime.service import run_service
from cloacina.runtime.settings import settings_from
from services.executor.service import Executor
from services.executor.settings import ExecutorSettings


def main() -> int:
    """Runs until it is told to stop; returns the exit code."""
    settings = settings_from(ExecutorSettings, sys.argv[1:], "python -m services.executor")
    return run_service("executor", settings, settings.executor_rpc_port, lambda: Executor(settings))


if __name__ == "__main__":
    sys.exit(main())
