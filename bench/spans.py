"""What a request spends on its spans, by how well the collector is: away, refusing, slow, silent, or quick.

Each measurement is a process of its own, which ends a request's spans one after another without a pause: four spans,
as the gateway and the scheduler make for an execution. Microseconds.

Usage: python bench/spans.py [--requests N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import bad_collectors
from tests.otlp_collector import Collector

KINDS = ("off", "quick", "away", "refusing", "slow", "silent")


def measure(requests: int) -> None:
    """In a process of its own, with the environment of a service."""
    from cloacina.telemetry import tracing

    tracing.configure("api")
    bad_collectors.seconds_of_requests(200)
    spent = bad_collectors.seconds_of_requests(requests)
    per_mille = statistics.quantiles(spent, n=1000)
    print(*(f"{per_mille[at] * 1e6:9.0f}" for at in (499, 989, 998)), f"{max(spent) * 1e6:9.0f}", end="")
    print(f"{tracing.dropped_spans():9d}")
    tracing.shutdown(0.1)


def run(kind: str, requests: int, endpoint: str | None) -> None:
    print(f"{kind:<10}", end="", flush=True)
    environment = {**os.environ, **({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if endpoint else {})}
    command = [sys.executable, __file__, "--requests", str(requests), "--measure"]
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL, timeout=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.requests)
        return
    print(f"{'collector':<10}{'p50':>9} {'p99':>9} {'p99.9':>9} {'max':>9}{'dropped':>9}")
    for kind in KINDS:
        if kind == "off":
            run(kind, given.requests, None)
        elif kind == "quick":
            with Collector() as collector:
                run(kind, given.requests, collector.endpoint)
        else:
            with getattr(bad_collectors, kind)() as port:
                run(kind, given.requests, f"http://127.0.0.1:{port}")


if __name__ == "__main__":
    main()
