"""A real Prometheus on loopback, for one test run."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.system.running import wait_for_start


class QueryError(Exception):
    """Prometheus refused a query; the message is its own."""


class PrometheusServer:
    """Use it as a context manager.

    Args:
        executable: the program.
        configuration: its configuration file.
        folder: where it keeps its data.
        port: it listens on 127.0.0.1.
    """

    def __init__(self, executable: str, configuration: Path, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._console = folder / "prometheus.console"
        self._command = [
            executable,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrometheusServer:
        with self._console.open("wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        wait_for_start(
            self._process, self._is_ready, "readiness of Prometheus", 30.0, console=self._console, stop=self._stop
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/-/ready", timeout=2):
                return True
        except OSError:
            return False

    def query(self, expression: str) -> list[Any]:
        """The samples of an instant query: ``{"metric": labels, "value": [time, text]}`` each.

        Raises:
            QueryError: the expression is not valid.
        """
        return list(self.get("query", query=expression)["result"])

    def values(self, expression: str) -> list[float]:
        """The values of an instant query."""
        return [float(sample["value"][1]) for sample in self.query(expression)]

    def targets(self) -> dict[str, list[str]]:
        """Health of the targets by job."""
        found: dict[str, list[str]] = {}
        for target in self.get("targets", state="active")["activeTargets"]:
            found.setdefault(target["labels"]["job"], []).append(target["health"])
        return found

    def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of its HTTP API."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise QueryError(f"{parameters}: {error.read().decode()}") from error
