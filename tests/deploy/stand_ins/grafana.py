"""Stands in for Grafana: says whether it is up, and what it would have been provisioned with."""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDERS = (Path("/etc/grafana/provisioning"), Path("/etc/grafana/dashboards"))


def found() -> dict[str, object]:
    """Every file that can be read below the provisioned folders, and whether the data folder can be written."""
    files = {str(path): path.read_text() for folder in FOLDERS for path in sorted(folder.rglob("*")) if path.is_file()}
    home = os.environ["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    return {"files": files, "home": home, "writable": os.access("/var/lib/grafana", os.W_OK)}


class Handler(BaseHTTPRequestHandler):
    """GET /api/health as Grafana answers it; GET /found is the test's."""

    def do_GET(self) -> None:
        body = json.dumps({"database": "ok"} if self.path == "/api/health" else found()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer(("", 3000), Handler).serve_forever()
