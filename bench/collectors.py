"""What a client sees of a trace collector: how long requests take over HTTP where there is none, and where it is quick,
away, refusing, slow or silent.

A whole system for each, all at once; the requests go to them in turn, one at a time, so that whatever else the machine
does hits all alike. Milliseconds.

Usage: python bench/collectors.py [--requests N]
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cloacina.cli.client import read_bootstrap_key
from tests import bad_collectors
from tests.otlp_collector import Collector
from tests.system.running import RunningSystem, write_package

KINDS = ("none", "quick", "away", "refusing", "slow", "silent")
REQUESTS = ("GET", "execute")
_PAUSE_S = 0.01
_TASK = """
import cloaca


@cloaca.task(id="only")
def only(context):
    return context
"""


class Target:
    """A system, and a connection to it.

    Args:
        system: what runs.
    """

    def __init__(self, system: RunningSystem) -> None:
        self.system = system
        self._connection = http.client.HTTPConnection("127.0.0.1", int(system.ports["CLOACINA_API_PORT"]), timeout=30)
        self._headers = {
            "Authorization": f"Bearer {read_bootstrap_key(system.home)}",
            "Content-Type": "application/json",
        }
        self._seen = ""

    def ask(self, kind: str) -> float:
        """Sends a request of a kind; seconds to its whole answer."""
        tenant = "/v1/tenants/public"
        began = time.perf_counter()
        if kind == "execute":
            self._connection.request("POST", f"{tenant}/workflows/quick/execute", b'{"context":{}}', self._headers)
        else:
            self._connection.request("GET", f"{tenant}/executions/{self._seen}", headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        took = time.perf_counter() - began
        assert answer.status in (200, 202), body
        if kind == "execute":
            self._seen = json.loads(body)["execution_id"]
        return took


@contextmanager
def targets(folder: Path, kinds: Sequence[str]) -> Iterator[dict[str, Target]]:
    """A system for each kind of collector, all with a package that has been executed once.

    Args:
        folder: where they live.
        kinds: some of `KINDS`.
    """
    package = write_package(folder, "quick", _TASK)
    with ExitStack() as stack:
        made = {}
        for kind in kinds:
            variables = {"CLOACINA_SLOTS": "4"}
            if kind == "quick":
                variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = stack.enter_context(Collector()).endpoint
            elif kind != "none":
                port = stack.enter_context(getattr(bad_collectors, kind)())
                variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
            system = stack.enter_context(RunningSystem(folder / f"home-{kind}", variables))
            system.upload(package)
            system.wait_for_end(system.execute("quick"))
            made[kind] = Target(system)
        yield made


def measure(made: Mapping[str, Target], requests: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of some requests of each kind to each system, in turns of another order each: by request, then by
    collector. What an execution does after its answer has a moment, so that the next request does not pay for it."""
    found: dict[str, dict[str, list[float]]] = {request: {kind: [] for kind in made} for request in REQUESTS}
    turn = list(made)
    for _ in range(requests):
        random.shuffle(turn)
        for kind in turn:
            for request in reversed(REQUESTS):
                found[request][kind].append(made[kind].ask(request))
                time.sleep(_PAUSE_S)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500, help="of each kind to each system")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, targets(Path(folder), KINDS) as made:
        measure(made, 50)
        found = measure(made, given.requests)
    for request, by_kind in found.items():
        print(f"{request:<10}{'p50':>9} {'p95':>9} {'max':>9}")
        for kind, spent in by_kind.items():
            p95 = statistics.quantiles(spent, n=20)[18]
            print(f"{kind:<10}{statistics.median(spent) * 1e3:9.3f} {p95 * 1e3:9.3f} {max(spent) * 1e3:9.3f}")


if __name__ == "__main__":
    main()
