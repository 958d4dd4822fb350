"""A daemon as a user starts it: `cloacinactl daemon start` on a home folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from cloacina.daemon.health import DaemonDown, Health, ask
from cloacina.packages import archive
from cloacina.packages.signature import read_private_key, sign
from tests.system.running import end_of, wait_for_start, wait_until, write_package

READY_DEADLINE_S = 60.0


class RunningDaemon:
    """The daemon's process.

    Args:
        home: its home folder.
        arguments: further options of ``daemon start``.
    """

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.arguments = arguments
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLOACINA_", "OTEL_"))}
        self.environment = {**kept, "CLOACINA_WATCHER_DEBOUNCE_MS": "50"}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningDaemon:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def console(self) -> Path:
        """What it wrote to stderr."""
        return self.home.with_name(self.home.name + ".console")

    @property
    def packages(self) -> Path:
        """The folder that it always watches."""
        return self.home / "packages"

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        before = len(self.messages())
        command = [sys.executable, "-m", "cloacina.cli", "--home", str(self.home), "daemon", "start", *self.arguments]
        with self.console.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        wait_for_start(
            self.process,
            lambda: "daemon ready" in self.messages()[before:],
            "readiness of the daemon",
            READY_DEADLINE_S,
            console=self.console,
            stop=self.stop,
        )

    def tell(self, number: int) -> None:
        """Sends a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it; returns the exit code."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired as late:
            process.kill()
            process.wait()
            raise AssertionError(f"{late}: {end_of(self.console)}") from None

    def cloacinactl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command."""
        command = [sys.executable, "-m", "cloacina.cli", "--home", str(self.home), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=self.environment)

    def health(self) -> Health | None:
        """What it says of itself."""
        try:
            return ask(self.home)
        except DaemonDown:
            return None

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of its JSON log."""
        log = self.home / "logs" / "cloacina.log"
        if log.exists():
            for line in log.read_text().splitlines():
                yield json.loads(line)

    def messages(self) -> list[str]:
        """Their messages."""
        return [line["message"] for line in self.lines()]

    def line(self, message: str, **fields: Any) -> dict[str, Any]:
        """The first line with this message and these fields; waits for it."""

        def found() -> dict[str, Any] | None:
            wanted = {"message": message, **fields}
            return next((line for line in self.lines() if wanted.items() <= line.items()), None)

        return wait_until(found, f"the log line {message!r} {fields}", 60) or {}

    def put(
        self,
        name: str,
        code: str,
        *,
        version: str = "1.0.0",
        folder: Path | None = None,
        file: str = "",
        key: Path | None = None,
    ) -> Path:
        """Packs a package, signs it if a key is given, and puts it into a watched folder, whole at once."""
        source = write_package(
            self.home.with_name(f"{self.home.name}-{name}-{version}-{os.urandom(3).hex()}"), name, code, version
        )
        target = (folder or self.packages) / (file or f"{name}.cloacina")
        part = target.with_name(f".{target.name}.part")
        packed = archive.pack(source)
        part.write_bytes(packed if key is None else sign(packed, read_private_key(key, str)))
        part.replace(target)
        return target
