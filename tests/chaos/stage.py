"""What the faults strike: the system with everything in its way that can be broken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import psutil

from tests.chaos.disorder import Disorder
from tests.chaos.proxy import Proxy
from tests.ports import free_ports
from tests.postgres import PostgresServer, find_programs
from tests.system.running import RunningSystem

LEASE_S = 3.0
HEARTBEAT_S = 0.5
_TMPFS_MIB = 1024
_FAKETIME = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"),
)


class Disk:
    """A small file system of its own, which can be filled up.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leaves no byte."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def free(self) -> None:
        """Makes room again."""
        self._ballast.unlink(missing_ok=True)


class Clock:
    """The wall clock that the services see.

    Args:
        file: what libfaketime reads.
    """

    def __init__(self, file: Path, library: Path) -> None:
        self._file = file
        self.offset_s = 0.0
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds; to read the file at each look at the clock is slow
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }
        self.set(0.0)

    def set(self, offset_s: float) -> None:
        """Has it run so many seconds ahead of the true time."""
        self.offset_s = offset_s
        successor = self._file.with_suffix(".new")
        successor.write_text(f"{offset_s:+.3f}\n")
        successor.replace(self._file)


class FurtherExecutor:
    """A second executor, which is started again whenever it ends.

    Args:
        environment: of its process.
        console: where its stderr goes.
    """

    def __init__(self, environment: dict[str, str], console: Path) -> None:
        self._environment = environment
        self._console = console
        self._task: asyncio.Task[None] | None = None
        self.process: asyncio.subprocess.Process | None = None

    def start(self) -> None:
        """Runs it until `stop`."""
        self._task = asyncio.create_task(self._keep_up())

    async def stop(self) -> None:
        """Drains it."""
        if self._task is not None:
            self._task.cancel()
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                psutil.Process(self.process.pid).resume()
                self.process.terminate()
            await self.process.wait()

    async def _keep_up(self) -> None:
        while True:
            with self._console.open("ab") as output:
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "services.executor", env=self._environment, stdout=output, stderr=output
                )
            await self.process.wait()
            await asyncio.sleep(0.2)


class Stage:
    """The system, and the means to break it. `disk`, `clock` and `postgres` are ``None`` where there are none.

    Args:
        folder: for everything it writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "ledger.jsonl"
        self.missing: list[str] = []
        self.disk: Disk | None = None
        self.clock: Clock | None = None
        self.postgres: PostgresServer | None = None
        self.postgres_url = ""
        self.system: RunningSystem
        self.further: FurtherExecutor
        self.proxies: dict[str, Proxy] = {}
        """In the way of each scheduler (``scheduler``, ``scheduler-2``), of the reconciler, and of PostgreSQL."""
        self.disorders: list[Disorder] = []
        """Behind each of which the further executor finds a scheduler."""

    @property
    def schedulers(self) -> list[str]:
        """The names of the schedulers."""
        return [name for name in self.proxies if name.startswith("scheduler")]

    async def process(self, service: str) -> psutil.Process:
        """The process of a service, waited for if it is being started again.

        Args:
            service: its name, see `RunningSystem.process`; "further" for the second executor.
        """
        for _ in range(200):
            with contextlib.suppress(StopIteration, psutil.Error):
                if service != "further":
                    return self.system.process(service)
                if self.further.process is not None and self.further.process.returncode is None:
                    return psutil.Process(self.further.process.pid)
            await asyncio.sleep(0.1)
        raise AssertionError(f"the {service} is not started again within 20 s")


@asynccontextmanager
async def set_up(folder: Path, database: str, seed: int) -> AsyncIterator[Stage]:
    """Everything, running, until the end of the block.

    Args:
        folder: an empty one.
        database: "sqlite" or "postgres".
        seed: of what the proxies draw.
    """
    async with AsyncExitStack() as stack:
        stage = Stage(folder)
        mounts = stack.enter_context(ExitStack())
        disk_folder = _mount(folder / "disk", mounts, stage)
        environment = {
            "CLOACINA_LEASE_S": str(LEASE_S),
            "CLOACINA_HEARTBEAT_S": str(HEARTBEAT_S),
            "CLOACINA_RPC_TOKEN": secrets.token_hex(16),
            "CLOACINA_LOG": os.environ.get("CLOACINA_LOG", "info"),
            "CLOACINA_GRACE_S": "10",
        }
        _prepare_clock(folder, environment, stage)
        home = disk_folder / "home" if database == "sqlite" else folder / "home"
        stage.system = RunningSystem(home, environment, schedulers=2 if database == "postgres" else 1)
        await _put_proxies(stage, stack, seed)
        if database == "postgres":
            await _put_postgres(stage, stack, disk_folder)
        stage.system.environment.update(
            CLOACINA_SCHEDULER_TARGET=_targets(stage.proxies[name].port for name in stage.schedulers),
            CLOACINA_RECONCILER_TARGET=_targets([stage.proxies["reconciler"].port]),
        )
        stack.push_async_callback(asyncio.to_thread, stage.system.stop)  # the proxies go on meanwhile
        await asyncio.to_thread(stage.system.start)
        rpc_port, metrics_port = free_ports(2)
        stage.further = FurtherExecutor(
            {
                **stage.system.environment,
                "CLOACINA_HOME": str(home),
                "CLOACINA_SCHEDULER_TARGET": _targets(disorder.port for disorder in stage.disorders),
                "CLOACINA_EXECUTOR_RPC_PORT": str(rpc_port),
                "CLOACINA_EXECUTOR_METRICS_PORT": str(metrics_port),
            },
            folder / "further.console",
        )
        stage.further.start()
        stack.push_async_callback(stage.further.stop)
        yield stage


def _mount(folder: Path, mounts: ExitStack, stage: Stage) -> Path:
    folder.mkdir()
    folder.chmod(0o755)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_TMPFS_MIB}m,mode=755", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        stage.missing.append("disk full: only root can mount the small tmpfs that this fault fills")
        return folder
    mounts.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=False)
    stage.disk = Disk(folder)
    return folder


def _prepare_clock(folder: Path, environment: dict[str, str], stage: Stage) -> None:
    library = next((path for path in _FAKETIME if path.exists()), None)
    if library is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "faketime"], capture_output=True, check=False, timeout=300)
        library = next((path for path in _FAKETIME if path.exists()), None)
    if library is None:
        stage.missing.append("clock jump: libfaketime is not on this machine (apt-get install faketime)")
        return
    stage.clock = Clock(folder / "clock", library)
    environment.update(stage.clock.environment)


async def _put_proxies(stage: Stage, stack: AsyncExitStack, seed: int) -> None:
    behind = {
        variable.removeprefix("CLOACINA_").removesuffix("_RPC_PORT").lower().replace("_", "-"): port
        for variable, port in stage.system.ports.items()
        if variable.endswith("_RPC_PORT")
    }
    for name, port in behind.items():
        if name.startswith(("scheduler", "reconciler")):
            stage.proxies[name] = Proxy(free_ports(1)[0], port)
    for number, name in enumerate(stage.schedulers):
        stage.disorders.append(Disorder(free_ports(1)[0], stage.proxies[name].port, seed + number))
    for each in (*stage.proxies.values(), *stage.disorders):
        await each.start()
        stack.push_async_callback(each.stop)


def _targets(ports: Iterable[int]) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ports)


async def _put_postgres(stage: Stage, stack: AsyncExitStack, disk_folder: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=disk_folder))
    folder.chmod(0o755)
    stage.folder.chmod(0o755)
    stage.postgres = PostgresServer(folder, find_programs())
    stack.push_async_callback(asyncio.to_thread, stage.postgres.discard)
    await asyncio.to_thread(stage.postgres.create)
    stage.postgres_url = await asyncio.to_thread(stage.postgres.new_database)
    proxy = stage.proxies["postgres"] = Proxy(free_ports(1)[0], stage.postgres.port)
    await proxy.start()
    stack.push_async_callback(proxy.stop)
    stage.system.environment["CLOACINA_DATABASE_URL"] = stage.postgres_url.replace(
        f":{stage.postgres.port}/", f":{proxy.port}/"
    )
