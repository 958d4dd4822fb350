"""The walls around the import of a package: no network, few files, no hand on other processes."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cloacina.packages import isolation
from cloacina.packages.errors import PackageRefused
from cloacina.packages.inspection import inspect
from cloacina.packages.isolation import Wall
from cloacina.packages.manifest import Manifest

from .archives import TASKS, source

with_landlock = pytest.mark.skipif(
    ctypes.CDLL(None).syscall(444, None, 0, 1) < 1, reason="this kernel has no Landlock (CONFIG_SECURITY_LANDLOCK)"
)

MEMORY = 256 * 1024 * 1024


async def message_of(folder: Path, code: str) -> str:
    """Why a package is refused whose module does this."""
    package = source(folder, code + "\n" + TASKS.decode())
    with pytest.raises(PackageRefused) as error:
        await inspect(package, Manifest.read(package), timeout_s=20, memory_bytes=MEMORY)
    return error.value.message


NETWORK = {
    "socket": "import socket\nsocket.socket()",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "datagrams": "import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "name": "import socket\nsocket.getaddrinfo('example.org', 443)",
    "http": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:8080/')",
    "wrapped": "try:\n    import socket\n    socket.socket()\nexcept OSError:\n    raise RuntimeError('no service')",
    "not by Python": (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.socket(2, 1, 0) < 0:\n"
        "    raise PermissionError(ctypes.get_errno(), 'libc says no')"
    ),
    "in a child": (
        "import subprocess, sys\nchild = subprocess.run([sys.executable, '-Ic', 'import socket; socket.socket()'],"
        " capture_output=True)\nassert child.returncode == 0 or b'PermissionError' not in child.stderr,"
        " 'no network'"
    ),
}


@pytest.mark.parametrize("code", NETWORK.values(), ids=NETWORK)
async def test_a_package_that_opens_a_socket_is_refused(tmp_path: Path, code: str) -> None:
    message = await message_of(tmp_path, code)
    assert "has no network" in message or "no network" in message
    assert message.startswith("workflow/demo/tasks.py, line ")


async def test_what_needs_no_network_still_works(tmp_path: Path) -> None:
    code = (
        "import asyncio, multiprocessing, os, pathlib, subprocess, sys, tempfile, threading, zoneinfo\n"
        "asyncio.run(asyncio.sleep(0))\n"
        "zoneinfo.ZoneInfo('Europe/Berlin')\n"
        "with tempfile.NamedTemporaryFile() as file:\n    file.write(b'x')\n"
        "pathlib.Path('note').write_text('x')\n"
        "assert pathlib.Path(__file__).read_text()\n"
        "assert subprocess.run(['/bin/sh', '-c', 'exit 3']).returncode == 3\n"
        "thread = threading.Thread(target=print)\nthread.start()\nthread.join()\n"
        "ours, theirs = multiprocessing.Pipe()\nours.send(1)\nassert theirs.recv() == 1\n"
    )
    package = source(tmp_path, code + TASKS.decode())
    assert await inspect(package, Manifest.read(package), timeout_s=20, memory_bytes=MEMORY)


FILES = {
    "of the service": "open({home!r}).read()",
    "of the system": "open('/etc/shadow').read()",
    "anywhere": "open('/tmp/cloacina-was-here', 'w')",
    "its own archive": "open(__file__, 'a')",
}


@with_landlock
@pytest.mark.parametrize("code", FILES.values(), ids=FILES)
async def test_files_that_are_out_of_reach(tmp_path: Path, code: str) -> None:
    secret = tmp_path / "bootstrap-key"
    secret.write_text("clk_secret")
    message = await message_of(tmp_path, code.format(home=str(secret)))
    assert "PermissionError" in message
    assert "a package may read its own files" in message


PROCESSES = {
    "signals": "os.kill({pid}, 0)",
    "environment": "open('/proc/{pid}/environ', 'rb').read()",
    "memory": "open('/proc/{pid}/mem', 'rb').read(1)",
    "limits": "import resource; resource.prlimit({pid}, resource.RLIMIT_NOFILE, (0, 0))",
    "groups": "os.setpgid(0, 0) if os.fork() else os.setsid()",
}


@with_landlock
@pytest.mark.parametrize("code", PROCESSES.values(), ids=PROCESSES)
async def test_processes_that_are_out_of_reach(tmp_path: Path, code: str) -> None:
    message = await message_of(tmp_path, "import os\n" + code.format(pid=os.getpid()))
    assert "PermissionError" in message


async def test_the_log_says_what_stands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    package = source(tmp_path)
    with caplog.at_level(logging.INFO, logger="cloacina.packages.inspection"):
        await inspect(package, Manifest.read(package), timeout_s=20, memory_bytes=MEMORY)
    [record] = [each for each in caplog.records if each.name == "cloacina.packages.inspection"]
    assert Wall.SECCOMP in record.walls or platform.machine() not in ("x86_64", "aarch64")


def test_where_the_kernel_does_nothing_a_hook_refuses_sockets() -> None:
    """As on a machine that has none of it: the hook cannot be taken away again, so in a process of its own."""
    code = (
        "from cloacina.packages import isolation\n"
        "def no(*_): raise OSError\n"
        "isolation._leave_the_network = isolation._restrict_files = isolation._filter_system_calls = no\n"
        "print(*isolation.isolate([], []))\n"
        "import socket\n"
        "for what in (socket.socket, lambda: socket.getaddrinfo('example.org', 80)):\n"
        "    try:\n        what()\n    except PermissionError:\n        print('refused')\n"
    )
    root = Path(isolation.__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout.splitlines() == ["audit hook", "refused", "refused"], ended.stderr
