"""Looks at what the services are about to start with, and says where things are: the service cloacina-init.

It runs before the others. What is wrong is said in one line each, with the remedy, and nothing starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_SHORTEST_TOKEN = 16
_PLACEHOLDERS = ("change", "secret", "example", "password")


def problems(environment: Mapping[str, str], folders: list[Path]) -> list[str]:
    """What is wrong, a line each; empty when all is well.

    Args:
        environment: the environment variables of the services.
        folders: folders that they must be able to write.
    """
    found = []
    token = environment.get("CLOACINA_RPC_TOKEN", "")
    if len(token) < _SHORTEST_TOKEN or token.lower().startswith(_PLACEHOLDERS):
        found.append(
            f"CLOACINA_RPC_TOKEN must be a random text of {_SHORTEST_TOKEN} characters or more: whoever has it may "
            "call the services. `sh deploy/make-env.sh` writes a good one into .env"
        )
    url = environment.get("CLOACINA_DATABASE_URL", "")
    if url and not url.startswith(("postgresql://", "sqlite:///")):
        found.append("CLOACINA_DATABASE_URL must begin with postgresql:// (or be empty, for SQLite in the volumes)")
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            found.append(
                f"{folder} cannot be written by uid {os.getuid()}: chown -R {os.getuid()} what is mounted there"
            )
    return found


def directions(environment: Mapping[str, str]) -> str:
    """Where the operator finds what, and the key to it."""
    address = environment.get("PUBLISH_ADDRESS") or "127.0.0.1"
    if environment.get("CLOACINA_BOOTSTRAP_KEY"):
        key = "the one you gave as CLOACINA_BOOTSTRAP_KEY"
    else:
        key = (
            f"in {environment.get('CLOACINA_HOME', '~/.cloacina')}/bootstrap-key of the service api; read it, once it "
            "runs, with\n                   docker compose exec api cat /var/lib/cloacina/bootstrap-key"
        )
    store = "PostgreSQL" if environment.get("CLOACINA_DATABASE_URL") else "SQLite, in the volumes"
    places = {
        "HTTP API": f"http://{address}:{environment.get('API_PORT') or '8080'}",
        "bootstrap key": key,
        "Jaeger": f"http://{address}:{environment.get('JAEGER_PORT') or '16686'}",
        "Prometheus": f"http://{address}:{environment.get('PROMETHEUS_PORT') or '9090'}",
        "Grafana": f"http://{address}:{environment.get('GRAFANA_PORT') or '3000'}",
        "stores": store,
    }
    return "\n".join(f"  {name + ':':<16} {place}" for name, place in places.items())


def main() -> int:
    """Returns the exit code: 0 when the services may start."""
    home = Path(os.environ.get("CLOACINA_HOME", "~/.cloacina")).expanduser()
    found = problems(os.environ, [home, home / "logs"])
    for problem in found:
        print(f"cloacina-init: {problem}", file=sys.stderr)  # noqa: T201 - this is what it is for
    if not found:
        print(f"Cloacina starts.\n{directions(os.environ)}")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
