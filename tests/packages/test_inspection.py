"""Importing a package in a process of its own: what it declares, and that its code harms nobody."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloacina.packages.errors import PackageRefused
from cloacina.packages.inspection import inspect
from cloacina.packages.manifest import Manifest

from .archives import TASKS, source

_MEMORY = 256 * 1024 * 1024


async def declared(folder: Path, tasks: str, timeout_s: float = 20, memory_bytes: int = _MEMORY) -> dict[str, Any]:
    package = source(folder, tasks)
    before = {path.name for path in folder.iterdir()}
    try:
        return await inspect(package, Manifest.read(package), timeout_s=timeout_s, memory_bytes=memory_bytes)
    finally:
        assert {path.name for path in folder.iterdir()} == before, "a folder was left"
        assert not list(package.rglob("__pycache__"))


async def refused(folder: Path, tasks: str, **limits: Any) -> PackageRefused:
    with pytest.raises(PackageRefused) as error:
        await declared(folder, tasks, **limits)
    return error.value


async def test_what_a_package_declares(tmp_path: Path) -> None:
    text = TASKS.decode() + (
        "\n@cloaca.task(dependencies=[one], retry_attempts=5, trigger_rules=cloaca.always(), timeout_s=1.5)\n"
        "def two(context):\n    pass\n\n"
        '@cloaca.trigger(on="demo", cron="0 * * * *")\ndef hourly():\n    pass\n\n'
        "cloaca.workflow_params(limit=(int, 3), place=str)\n"
        'cloaca.workflow_secrets("token")\n'
    )
    contents = await declared(tmp_path, text)
    one, two = contents["tasks"]
    assert (one["id"], one["what"], one["why"]) == ("one", "counts", "to know")
    assert (two["dependencies"], two["timeout_s"], two["trigger_rule"]) == (["one"], 1.5, {"type": "Always"})
    assert two["retry"]["max_attempts"] == 5
    assert contents["triggers"][0]["cron"] == "0 * * * *"
    assert [(param["name"], param["required"], param["default"]) for param in contents["params"]] == [
        ("limit", False, 3),
        ("place", True, None),
    ]
    assert contents["secrets"] == ["token"]


async def test_vendored_modules_are_found_but_ours_come_first(tmp_path: Path) -> None:
    package = source(tmp_path, "import helper\n" + TASKS.decode())
    (package / "vendor").mkdir()
    (package / "vendor" / "helper.py").write_text("x = 1")
    manifest = Manifest.read(package)
    assert await inspect(package, manifest, timeout_s=20, memory_bytes=_MEMORY)
    (package / "vendor" / "cloaca.py").write_text("")
    with pytest.raises(PackageRefused, match=r"vendor/cloaca.py has the name of a module"):
        await inspect(package, manifest, timeout_s=20, memory_bytes=_MEMORY)


FAILING = {
    "missing module": (
        "import cloaca\n\nimport nowhere\n",
        "workflow/demo/tasks.py, line 3: ModuleNotFoundError: No module",
    ),
    "raises": ("def f():\n    raise KeyError('a')\n\nf()\n", "workflow/demo/tasks.py, line 2: KeyError: 'a'"),
    "syntax": ("x = 1\ndef (\n", "workflow/demo/tasks.py, line 2: SyntaxError: "),
    "exits": ("import sys\nsys.exit('enough')\n", "workflow/demo/tasks.py, line 2: SystemExit: enough"),
    "exits at once": ("import os\nprint('bye')\nos._exit(3)\n", "exit code 3"),
    "kills itself": ("import os\nos.kill(os.getpid(), 9)\n", "killed by signal SIGKILL"),
    "allocates": (
        "x = bytearray(1 << 30)\n",
        "workflow/demo/tasks.py, line 1: MemoryError (the import may use 256 MiB)",
    ),
    "no tasks": ("import cloaca\n", "declares no task"),
    "task twice": (TASKS.decode() * 2, "task ids more than once: 'one'"),
    "unknown dependency": (TASKS.decode().replace('"one"', '"one", dependencies=["no"]'), "do not exist: 'no'"),
    "cycle": (TASKS.decode().replace('"one"', '"one", dependencies=["one"]'), "cycle: 'one' -> 'one'"),
    "error without text": (
        "class E(Exception):\n    def __str__(self):\n        raise ValueError\n\nraise E\n",
        "line 5: E",
    ),
    "recursion": ("def f():\n    f()\n\nf()\n", "RecursionError"),
}


@pytest.mark.parametrize(("tasks", "message"), FAILING.values(), ids=FAILING)
async def test_failures_name_the_line_of_the_author(tmp_path: Path, tasks: str, message: str) -> None:
    error = await refused(tmp_path, tasks)
    assert message in error.message
    assert error.code == "upload_failed"


async def test_what_a_failing_import_printed_is_kept_in_part(tmp_path: Path) -> None:
    error = await refused(tmp_path, "print('x' * 10_000_000)\nprint('last words')\nraise ValueError('no')\n")
    assert error.output.endswith("last words\n")
    assert len(error.output) <= 16 * 1024


async def test_an_import_that_hangs_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    error = await refused(tmp_path, "import time\nwhile True:\n    time.sleep(60)\n", timeout_s=0.5)
    assert "did not finish importing within 0.5 s" in error.message
    assert time.monotonic() - began < 5


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _importing(package: Path) -> list[int]:
    """The processes that import a package."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if {str(package), "-I"} <= set(process.info["cmdline"] or ())
    ]


async def _until_gone(pid: int) -> None:
    async with asyncio.timeout(5):
        while not _gone(pid):
            await asyncio.sleep(0.01)


_FORKS = """
import os, time
import cloaca
child = os.fork()
if child == 0:
    while True:
        time.sleep(60)
cloaca.workflow_params(child=(int, child))
print("child", child)
"""


@pytest.mark.parametrize("end", ["", "os._exit(0)\n", "while True: time.sleep(60)\n"], ids=["good", "exits", "hangs"])
async def test_what_an_import_started_ends_with_it(tmp_path: Path, end: str) -> None:
    text = _FORKS + end + TASKS.decode()
    if end:
        error = await refused(tmp_path, text, timeout_s=3 if "exit" in end else 1.5)
        child = int(error.output.split()[1])
    else:
        child = (await declared(tmp_path, text))["params"][0]["default"]
    await _until_gone(child)


async def test_a_caller_that_gives_up_ends_the_import(tmp_path: Path) -> None:
    package = source(tmp_path, "import time\ntime.sleep(60)\n")
    inspecting = asyncio.create_task(inspect(package, Manifest.read(package), timeout_s=60, memory_bytes=_MEMORY))
    async with asyncio.timeout(10):
        while not (importing := _importing(package)):
            await asyncio.sleep(0.01)
    inspecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await inspecting
    await _until_gone(importing[0])


async def test_variables_can_be_read_while_the_package_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOACINA_VAR_REGION", "eu")
    await declared(tmp_path, f"import cloaca\nassert cloaca.var('REGION') == 'eu'\n{TASKS.decode()}")


async def test_secrets_are_declared_once_and_not_as_params(tmp_path: Path) -> None:
    twice = "import cloaca\ncloaca.workflow_secrets('a', 'b')\ncloaca.workflow_secrets('b')\n"
    assert (await declared(tmp_path / "1", twice + TASKS.decode()))["secrets"] == ["a", "b"]
    both = "import cloaca\ncloaca.workflow_secrets('a')\ncloaca.workflow_params(a=str)\n"
    assert "params and secrets more than once: 'a'" in (await refused(tmp_path / "2", both + TASKS.decode())).message


async def test_nothing_of_the_service_reaches_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOACINA_RPC_TOKEN", "hidden")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)
    text = (
        "import os, sys\n"
        "files = [f'/proc/self/fd/{number}' for number in os.listdir('/proc/self/fd')]\n"
        "alone = os.getpgid(0) == os.getpid() == os.getsid(0)\n"
        "print(sorted(os.environ))\n"
        "print([os.readlink(file) for file in files if os.path.exists(file)])\n"
        "print(os.getcwd() == os.environ['HOME'], alone, sys.stdin.read() == '')\n"
        "raise ValueError('seen')\n"
    )
    try:
        error = await refused(tmp_path, text)
    finally:
        os.close(secret)
    environment, files, facts = error.output.splitlines()
    assert environment == "['HOME', 'LANG', 'PATH', 'PYTHONDONTWRITEBYTECODE', 'TMPDIR']"
    assert f"'{tmp_path}'" not in files
    assert len(set(re.findall(r"socket:\[\d+\]", files))) == 2, "its output and its answer, nothing else"
    assert facts == "True True True"


FORGED = {
    "no answer": "os.closerange(3, 100)\nos._exit(0)\n",
    "not JSON": "say(b'hello\\n')\n",
    "no object": "say(b'[1]\\n')\n",
    "nothing in it": "say(b'{}\\n')\n",
    "other shape": 'say(b\'{"contents": {"tasks": 1}}\\n\')\n',
    "nested": "say(b'[' * 100_000 + b'\\n')\n",
    "without end": "say(b'x' * 6_000_000)\n",
}


@pytest.mark.parametrize("code", FORGED.values(), ids=FORGED)
async def test_answers_that_the_package_forges_are_checked(tmp_path: Path, code: str) -> None:
    prelude = (
        "import os, sys\n"
        "def say(data):\n"
        "    while data:\n"
        "        data = data[os.write(int(sys.argv[4]), data):]\n"
        "    os._exit(0)\n"
    )
    assert (await refused(tmp_path, prelude + code)).message


async def test_numbers_that_nothing_can_hold_are_refused(tmp_path: Path) -> None:
    text = TASKS.decode().replace('"one"', '"one", retry_attempts=2**40')
    assert "retry.max_attempts" in (await refused(tmp_path, text)).message
