"""Starts the gateway: ``python -m services.api``."""

from __future__ import annotations

import sys

from cloacina.runtime.service import run_service
from cloacina.runtime.settings import settings_from
from services.api.service import GatewayService
from services.api.settings import GatewaySettings


def main() -> int:
    """Runs until it is told to stop; returns the exit code."""
    settings = settings_from(GatewaySettings, sys.argv[1:], "python -m services.api")
    return run_service("api", settings, settings.api_rpc_port, lambda: GatewayService(settings))


if __name__ == "__main__":
    sys.exit(main())
