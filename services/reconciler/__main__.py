"""Starts the reconciler: ``python -m services.reconciler``."""

from __future__ import annotations

import sys

from cloacina.runtime.service import run_service
from cloacina.runtime.settings import settings_from
from services.reconciler.service import Reconciler
from services.reconciler.settings import ReconcilerSettings


def main() -> int:
    """Runs until it is told to stop; returns the exit code."""
    settings = settings_from(ReconcilerSettings, sys.argv[1:], "python -m services.reconciler")
    return run_service("reconciler", settings, settings.reconciler_rpc_port, lambda: Reconciler(settings))


if __name__ == "__main__":
    sys.exit(main())
