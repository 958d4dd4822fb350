"""Runs the four services as child processes: starts them, restarts what crashes, drains them in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from cloacina.runtime.parent import PARENT_PID
from cloacina.runtime.rpc_token import ensure_token
from cloacina.telemetry import logs

log = logging.getLogger(__name__)

SERVICES = ("reconciler", "scheduler", "executor", "api")
_DRAIN_ORDER = ("api", "executor", "scheduler", "reconciler")
"""No more requests first; then the tasks end, whose results the scheduler must still take."""

_READY_DEADLINE_S = 60.0
_POLL_S = 0.05
_FIRST_RESTART_S = 0.5
_LONGEST_RESTART_S = 5.0
"""A longer one would keep a service that was killed a few times in a row away for longer than a lease."""
_STEADY_S = 10.0
"""A service that has run for this long is restarted without delay when it crashes."""
_BEYOND_GRACE_S = 15.0


@dataclass(frozen=True, slots=True)
class Port:
    """A port one of the services listens on.

    Args:
        service: which.
        use: what for.
        variable: the environment variable that sets it.
        default: its number without that.
    """

    service: str
    use: str
    variable: str
    default: int

    @property
    def number(self) -> int:
        """The number in this environment."""
        text = os.environ.get(self.variable, "")
        return int(text) if text.isdigit() else self.default


PORTS = (
    Port("api", "HTTP", "CLOACINA_API_PORT", 8080),
    Port("api", "gRPC", "CLOACINA_API_RPC_PORT", 9200),
    Port("scheduler", "gRPC", "CLOACINA_SCHEDULER_RPC_PORT", 9201),
    Port("reconciler", "gRPC", "CLOACINA_RECONCILER_RPC_PORT", 9202),
    Port("executor", "gRPC", "CLOACINA_EXECUTOR_RPC_PORT", 9203),
    Port("scheduler", "metrics", "CLOACINA_SCHEDULER_METRICS_PORT", 9101),
    Port("reconciler", "metrics", "CLOACINA_RECONCILER_METRICS_PORT", 9102),
    Port("executor", "metrics", "CLOACINA_EXECUTOR_METRICS_PORT", 9103),
)


MOST_SCHEDULERS = 8


def ports_of(schedulers: int) -> tuple[Port, ...]:
    """The ports of all services; of schedulers beyond the first, those that follow 9211 and 9111."""
    more = [
        port
        for number in range(2, schedulers + 1)
        for port in (
            Port(f"scheduler-{number}", "gRPC", f"CLOACINA_SCHEDULER_{number}_RPC_PORT", 9210 + number),
            Port(f"scheduler-{number}", "metrics", f"CLOACINA_SCHEDULER_{number}_METRICS_PORT", 9110 + number),
        )
    ]
    return (*PORTS, *more)


def busy_ports(host: str, ports: Sequence[Port] = PORTS) -> list[str]:
    """What is wrong with the ports, a line each, with the remedy; empty when all are free."""
    problems = []
    for port in ports:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port.number))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    problems.append(
                        f"port {port.number} ({port.service}, {port.use}) is in use: stop what uses it, or set "
                        f"{port.variable} to a free port"
                    )
                else:
                    problems.append(f"{host}:{port.number} ({port.service}, {port.use}): {error.strerror}")
    return problems


class Supervisor:
    """The four services on this machine.

    Args:
        home: their home folder.
        verbose: whether debug lines are wanted.
        schedulers: how many schedulers; more than one with PostgreSQL only.
    """

    def __init__(self, home: Path, *, verbose: bool = False, schedulers: int = 1) -> None:
        self._home = home
        self._verbose = verbose
        self._host = os.environ.get("CLOACINA_HOST") or "127.0.0.1"
        self._ports = ports_of(schedulers)
        names = [f"scheduler-{number}" for number in range(2, schedulers + 1)]
        self._children = {name: _Child(name, self._environment(name)) for name in (*SERVICES, *names)}
        self._told = asyncio.Event()

    async def run(self) -> int:
        """Starts the services and keeps them up until a signal; returns the exit code."""
        problems = busy_ports(self._host, self._ports)
        if problems:
            for problem in problems:
                click.echo(f"cloacinactl: {problem}", err=True)
            return 1
        if not os.environ.get("CLOACINA_RPC_TOKEN"):
            ensure_token(self._home)
        logs.configure("supervisor", home=self._home, verbose=self._verbose, retention_days=_retention_days())
        self._point_targets()
        self._listen_for_signals()
        keepers = [asyncio.create_task(child.keep_up(self._told)) for child in self._children.values()]
        try:
            ready = await self._wait_until_ready(keepers)
            if ready:
                self._announce()
                await self._told.wait()
            self._told.set()
            await self._drain()
            return 0 if ready else 1
        finally:
            await asyncio.gather(*keepers, return_exceptions=True)
            logs.shutdown()

    def _point_targets(self) -> None:
        """Has the services find each other where this environment puts them."""
        host = "127.0.0.1" if self._host in ("0.0.0.0", "::") else self._host  # noqa: S104 - a comparison
        for name in ("scheduler", "reconciler", "executor"):
            numbers = [port.number for port in self._ports if _service(port.service) == name and port.use == "gRPC"]
            targets = ",".join(f"{host}:{number}" for number in numbers)
            os.environ.setdefault(f"CLOACINA_{name.upper()}_TARGET", targets)

    def _environment(self, child: str) -> dict[str, str]:
        """What is other for a scheduler beyond the first: its ports."""
        if child in SERVICES:
            return {}
        numbers = {port.use: str(port.number) for port in self._ports if port.service == child}
        return {
            "CLOACINA_SCHEDULER_RPC_PORT": numbers["gRPC"],
            "CLOACINA_SCHEDULER_METRICS_PORT": numbers["metrics"],
        }

    async def _wait_until_ready(self, keepers: list[asyncio.Task[None]]) -> bool:
        deadline = time.monotonic() + _READY_DEADLINE_S
        while not self._told.is_set():
            if await asyncio.to_thread(self._is_ready):
                return True
            failed = [child.name for child in self._children.values() if child.refused]
            if failed:
                log.error("a service cannot start; stopping the others", extra={"services": ", ".join(failed)})
                return False
            if time.monotonic() > deadline:
                log.error(f"the services are not ready after {_READY_DEADLINE_S:.0f} seconds; stopping them")
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def _is_ready(self) -> bool:
        return _answers(self.url("api", "HTTP") + "/ready") and _answers(self.url("executor", "metrics") + "/health")

    def url(self, service: str, use: str) -> str:
        """Where a service answers HTTP."""
        number = next(port.number for port in PORTS if (port.service, port.use) == (service, use))
        host = "127.0.0.1" if self._host in ("0.0.0.0", "::") else self._host  # noqa: S104 - a comparison
        scheme = "https" if use == "HTTP" and os.environ.get("CLOACINA_API_TLS_CERT") else "http"
        return f"{scheme}://{host}:{number}"

    def _announce(self) -> None:
        for child in self._children.values():
            child.proven = True
        log.info("all services are ready", extra={"url": self.url("api", "HTTP"), "home": str(self._home)})

    async def _drain(self) -> None:
        for name in _DRAIN_ORDER:
            await asyncio.gather(*(child.end() for child in self._children.values() if _service(child.name) == name))

    def _listen_for_signals(self) -> None:
        def on_signal(number: int) -> None:
            if self._told.is_set():
                log.warning("second signal: ending the services at once")
                for child in self._children.values():
                    child.kill()
                os._exit(128 + number)
            log.info("draining; a second signal ends at once")
            self._told.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)


class _Child:
    """One service process, and its successors.

    Args:
        name: of the child: the service's, or with a number for a further scheduler.
        environment: what is other for it than for the rest.
    """

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._environment = environment
        self.proven = False
        self.refused = False
        self._process: asyncio.subprocess.Process | None = None

    async def keep_up(self, told: asyncio.Event) -> None:
        """Runs the service again and again until told. One that ends before all were ever ready is not run again."""
        delay = _FIRST_RESTART_S
        while not told.is_set():
            began = time.monotonic()
            code = await self._run_once()
            if told.is_set():
                return
            if not self.proven:
                self.refused = True
                return
            if time.monotonic() - began > _STEADY_S:
                delay = _FIRST_RESTART_S
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.error("a service ended; starting it again", extra={"child": self.name, "error": ended})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), delay)
            delay = min(delay * 2, _LONGEST_RESTART_S)

    async def _run_once(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"services.{_service(self.name)}",
            env={**_environment(_service(self.name)), **self._environment, PARENT_PID: str(os.getpid())},
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal comes to the supervisor only, which drains in order
        )
        return await self._process.wait()

    async def end(self) -> None:
        """Drains the service; kills it when it takes much longer than its grace."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _grace_s() + _BEYOND_GRACE_S)
        except TimeoutError:
            log.error("a service did not end in time and is killed", extra={"child": self.name})
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """Ends the service at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _service(child: str) -> str:
    """What a child is one of."""
    return child.partition("-")[0]


def _environment(service: str) -> dict[str, str]:
    """The supervisor's own. The keys of secrets are for the reconciler: code of packages runs beside the executor."""
    return {
        name: value
        for name, value in os.environ.items()
        if service == "reconciler" or not name.startswith("CLOACINA_SECRET_KEK")
    }


_UNVERIFIED = ssl.create_default_context()
"""For probes of our own processes, which send no key: their certificate is for the names that clients use."""
_UNVERIFIED.check_hostname = False
_UNVERIFIED.verify_mode = ssl.CERT_NONE


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0, context=_UNVERIFIED) as response:  # noqa: S310 - a URL of our own
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _retention_days() -> int:
    text = os.environ.get("CLOACINA_LOG_RETENTION_DAYS", "")
    return int(text) if text.isdigit() else 14


def _grace_s() -> float:
    try:
        return float(os.environ.get("CLOACINA_GRACE_S", "30"))
    except ValueError:
        return 30.0
