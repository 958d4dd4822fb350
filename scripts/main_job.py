"""The main job, as `make run` shows it: starts the server, uploads the example, executes it, and stays up until Ctrl-C.

Usage: python scripts/main_job.py [--home FOLDER] [--once]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from cloacina.cli.client import ApiClient, ApiFailure, read_bootstrap_key
from cloacina.cli.execution import follow
from cloacina.cli.supervisor import PORTS
from cloacina.packages import archive

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "air_quality"
TENANT = "public"
WORKFLOW = "air_quality"
READY_DEADLINE_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", default=os.environ.get("CLOACINA_HOME", "~/.cloacina"), help="data and logs")
    parser.add_argument("--once", action="store_true", help="end after the result instead of staying up")
    options = parser.parse_args()
    home = Path(options.home).expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    console = home / "logs" / "console.log"
    console.parent.mkdir(exist_ok=True, mode=0o700)
    url = f"http://127.0.0.1:{port('api', 'HTTP')}"
    print(f"Starting api, scheduler, reconciler and executor (data in {home}, console output in {console})")
    with console.open("a") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "cloacina.cli", "--home", str(home), "server", "start"],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        if not wait_until_ready(server, url):
            print(problem(console), file=sys.stderr)
            return 1
        completed = run_example(home, url)
        if options.once or not completed:
            return 0 if completed else 1
        print("\nThe server stays up. Ctrl-C drains it.", flush=True)
        server.wait()
        print(problem(console), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nDraining…", flush=True)
        return 0
    finally:
        stop(server)


def port(service: str, use: str) -> int:
    return next(each.number for each in PORTS if (each.service, each.use) == (service, use))


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> bool:
    """Whether the server becomes ready before it ends or the deadline passes."""
    deadline = time.monotonic() + READY_DEADLINE_S
    executor = f"http://127.0.0.1:{port('executor', 'metrics')}/health"
    while server.poll() is None and time.monotonic() < deadline:
        try:
            for probe in (f"{url}/ready", executor):
                urllib.request.urlopen(probe, timeout=2).close()
            # another server may hold the ports: then ours ends at once
            time.sleep(0.2)
            return server.poll() is None
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False


def problem(console: Path) -> str:
    """The end of what the server said."""
    lines = console.read_text(errors="replace").splitlines()
    return "The server ended. Its last words:\n" + "\n".join(lines[-8:])


def run_example(home: Path, url: str) -> bool:
    client = ApiClient(url, read_bootstrap_key(home))
    try:
        uploaded = client.upload(f"/v1/tenants/{TENANT}/workflows", "air_quality.cloacina", archive.pack(EXAMPLE))
        print(f"\nUploaded  {EXAMPLE.relative_to(ROOT)} as package {uploaded['package_id']}")
        began = time.monotonic()
        context = {"output_folder": str(home / "output")}
        started = client.call("POST", f"/v1/tenants/{TENANT}/workflows/{WORKFLOW}/execute", {"context": context})
        request_id, execution_id = client.request_id, started["execution_id"]
        print(f"Executing {WORKFLOW}: execution {execution_id}\n")
        found = follow(client, TENANT, execution_id)
    except ApiFailure as error:
        print(f"The example could not be run: {error}", file=sys.stderr)
        return False
    print(f"\n{found['status']} after {time.monotonic() - began:.2f} s")
    for name in ("report", "report_rows", "source_rows", "breaches"):
        print(f"  {name:<12} {(found['output'] or {}).get(name)}")
    show_where_to_look(home, url, request_id, execution_id)
    return bool(found["status"] == "Completed")


def show_where_to_look(home: Path, url: str, request_id: str, execution_id: str) -> None:
    log_file = home / "logs" / "cloacina-server.log"
    print(
        f"""
x-request-id  {request_id}

One id through every process:
  logs     jq --arg rid "{request_id}" 'select(.request_id == $rid)' {log_file}
  events   .venv/bin/cloacinactl --home {home} --server {url} execution events {execution_id}
  metrics  curl -s {url}/metrics | grep cloacina_"""
    )
    for name in ("scheduler", "reconciler", "executor"):
        print(f"           curl -s http://127.0.0.1:{port(name, 'metrics')}/metrics | grep cloacina_    ({name})")
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if endpoint:
        print(f"  trace    search for request_id={request_id} in the backend behind {endpoint}")
    else:
        print("  trace    start again with OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 and a collector there")
    print(
        f"""
URLs:
  API      {url}/v1/…   (key in {home / "bootstrap-key"})
  OpenAPI  {url}/openapi.json
  state    curl -s -H "Authorization: Bearer $(cat {home / "bootstrap-key"})" {url}/v1/health/status"""
    )


def stop(server: subprocess.Popen[bytes]) -> None:
    """Has the server drain; a second Ctrl-C ends it at once."""
    if server.poll() is not None:
        return
    server.send_signal(signal.SIGTERM)
    while server.poll() is None:
        try:
            server.wait()
        except KeyboardInterrupt:
            server.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
