"""Importing an uploaded package in a process of its own, to see what it declares (contract, section 7).

The package's code may do anything: hang, exit, fork, print without end, use up memory, answer nonsense. None of it may
harm or delay the service, so the process has limits, walls around it (`cloacina.packages.isolation`), nothing of the
service's environment or open files, a process group that is killed as a whole, and its answer is checked like any input
from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloacina.domain.graph import InvalidGraph, WorkflowSpec
from cloacina.packages.errors import PackageRefused
from cloacina.packages.isolation import Wall
from cloacina.packages.manifest import Manifest

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Bytes of what a package declares, as JSON: some thousands of tasks."""

MAX_OUTPUT_BYTES = 16 * 1024
"""Bytes kept of the end of what a package prints while it is imported."""

_CHILD = Path(__file__).with_name("inspect_child.py")
_LAST_WORDS_S = 1.0  # what a process wrote before it ended is in the pipe already
_MEMORY_SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGKILL)


async def inspect(root: Path, manifest: Manifest, *, timeout_s: float, memory_bytes: int) -> dict[str, Any]:
    """What a package declares: ``Collector.manifest()``, with its tasks checked to form a DAG.

    Args:
        root: the package root; a folder for the process is made beside it for the time.
        manifest: its manifest.
        timeout_s: seconds the import may take; also of CPU.
        memory_bytes: address space the import may have.

    Raises:
        PackageRefused: the import fails, does not end, or declares what cannot be executed.
    """
    root = Path(os.path.abspath(root))  # noqa: ASYNC240 - asks for the working directory only
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=".inspect.", dir=root.parent))
    try:
        line, output = await _run(root, manifest, folder, timeout_s, memory_bytes)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return _contents(line, manifest, output)


async def _run(root: Path, manifest: Manifest, folder: Path, timeout_s: float, memory_bytes: int) -> tuple[bytes, str]:
    """Runs the process; returns its answer and the end of its output."""
    answers, printed = _Pipe(MAX_ANSWER_BYTES), _Pipe(MAX_OUTPUT_BYTES)
    tail = bytearray()
    try:
        await answers.open()
        await printed.open()
        collecting = asyncio.create_task(_keep_tail(printed.reader, tail))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-B", "-u", str(_CHILD), str(root), manifest.workflow_name, manifest.entry_module),
            *(str(answers.write_end), str(memory_bytes), str(math.ceil(timeout_s) + 1)),
            stdin=DEVNULL,
            stdout=printed.write_end,
            stderr=printed.write_end,
            pass_fds=(answers.write_end,),
            start_new_session=True,
            cwd=folder,
            env=_environment(folder),
        )
        answers.close_write_end()
        printed.close_write_end()
        line, in_time = None, False
        try:
            async with asyncio.timeout(timeout_s):
                _note_walls(await _answer(process, answers.reader))
                line = await _answer(process, answers.reader)
                in_time = True
        except TimeoutError:
            pass
        finally:
            await _end(process, collecting)
        if not in_time:
            raise PackageRefused(
                f"the package did not finish importing within {timeout_s:g} s; importing a module may only declare "
                "tasks, not run them",
                output=_readable(tail),
            )
        if line is None:
            raise PackageRefused(
                _ending(process.returncode or 0, memory_bytes, timeout_s, _readable(tail)), output=_readable(tail)
            )
        return line, _readable(tail)
    finally:
        answers.close()
        printed.close()


def _note_walls(line: bytes | None) -> None:
    """Logs what stands around the process; it says so before it runs anything of the package."""
    if line is None:
        return
    walls = [wall.value for wall in Wall if wall in orjson.loads(line)]
    if Wall.AUDIT_HOOK in walls:
        log.warning(
            "the kernel isolates no import here: code that wants to can reach the network", extra={"walls": walls}
        )
    else:
        log.info("the import is isolated", extra={"walls": walls})


async def _answer(process: Process, reader: asyncio.StreamReader) -> bytes | None:
    """The line the process answers; ``None`` when it ends without one."""
    answered = asyncio.create_task(reader.readuntil(b"\n"))
    ended = asyncio.create_task(process.wait())
    try:
        await asyncio.wait({answered, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            await asyncio.wait({answered}, timeout=_LAST_WORDS_S)
        if answered.done():
            try:
                return answered.result()
            except asyncio.LimitOverrunError:
                raise PackageRefused(f"the package declares more than {MAX_ANSWER_BYTES} bytes of tasks") from None
            except asyncio.IncompleteReadError:
                pass
        await ended
        return None
    finally:
        answered.cancel()
        ended.cancel()


async def _end(process: Process, collecting: asyncio.Task[None]) -> None:
    """Kills what is left of the process and all that it started in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    # the pipe ends with the group, unless something has left the group and holds it open
    await asyncio.wait({collecting}, timeout=_LAST_WORDS_S)
    collecting.cancel()


async def _keep_tail(reader: asyncio.StreamReader, tail: bytearray) -> None:
    while chunk := await reader.read(MAX_OUTPUT_BYTES):
        tail += chunk
        del tail[:-MAX_OUTPUT_BYTES]


class _Pipe:
    """One way from the process to the event loop.

    A pair of sockets, not a pipe: uvloop closes a pipe twice, and the second time its number may be another's file.

    Args:
        limit: bytes that are buffered.
    """

    def __init__(self, limit: int) -> None:
        self.reader = asyncio.StreamReader()
        self.write_end = -1
        self._limit = limit
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        ours, theirs = socket.socketpair()
        self.write_end = theirs.detach()
        try:
            self.reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=self._limit)
        except BaseException:
            ours.close()
            raise

    def close_write_end(self) -> None:
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        self.close_write_end()
        if self._writer is not None:
            self._writer.close()


def _environment(folder: Path) -> dict[str, str]:
    """All that the process sees of the environment. Variables of authors are there when tasks run, so here too."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("CLOACINA_VAR_")}
    return {
        **variables,
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _ending(code: int, memory_bytes: int, timeout_s: float, output: str) -> str:
    """Why a process ended that did not answer."""
    if code == -signal.SIGXCPU:
        return f"importing the package used more than {math.ceil(timeout_s) + 1} s of CPU"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        said = f"importing the package was killed by signal {name}"
        if -code in _MEMORY_SIGNALS:
            said += f"; it may have met its memory limit of {memory_bytes // 2**20} MiB"
    else:
        said = f"importing the package ended the process (exit code {code}); a module that is imported must not exit"
    last = output.rstrip().rpartition("\n")[2][-200:]
    return f"{said}; it last printed {last!r}" if last else said


def _readable(output: bytearray) -> str:
    return output.decode("utf-8", "replace")


_Line = Annotated[str, Field(max_length=4000)]
_Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Count = Annotated[int, Field(ge=0, le=2**53)]


class _Declared(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Retry(_Declared):
    max_attempts: int = Field(ge=1, le=2**31 - 1)
    backoff: str
    delay_ms: _Count
    max_delay_ms: _Count
    base: float | None
    multiplier: float | None
    jitter: bool
    condition: str
    patterns: list[_Line]


class _Task(_Declared):
    id: _Name
    dependencies: list[_Name]
    retry: _Retry
    timeout_s: Annotated[float, Field(gt=0, le=2**31)] | None
    trigger_rule: dict[str, Any] | None
    what: str
    why: str
    workflow: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    for_each: Annotated[str, Field(min_length=1, max_length=255)] | None = None


class _Trigger(_Declared):
    name: _Name
    on: Annotated[str, Field(max_length=255)]
    also_on: list[_Name]
    kind: str
    cron: _Line | None
    timezone: _Line | None
    poll_interval_ms: _Count
    allow_concurrent: bool
    catch_up: Literal["skip", "run_all"]
    catch_up_cap: int = Field(ge=1, le=1000)


class _Param(_Declared):
    name: _Name
    json_schema: dict[str, Any] = Field(alias="schema")
    required: bool
    default: Any


class _Contents(_Declared):
    """The shape of ``Collector.manifest()``."""

    workflow_name: str
    tasks: list[_Task]
    triggers: list[_Trigger]
    params: list[_Param]
    secrets: list[_Name]
    max_executions: int = Field(0, ge=0, le=1_000_000)
    max_tasks: int = Field(0, ge=0, le=1_000_000)


def _contents(line: bytes, manifest: Manifest, output: str) -> dict[str, Any]:
    """Checks the answer of a process that ran somebody's code."""
    try:
        answer = orjson.loads(line)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise PackageRefused("importing the package gave no answer that can be read", output=output)
    if "error" in answer:
        raise PackageRefused(str(answer["error"])[:2000], output=output)
    try:
        contents = _Contents.model_validate(answer.get("contents")).model_dump(mode="json", by_alias=True)
        contents["workflow_name"] = manifest.workflow_name
        WorkflowSpec.from_wire({"name": manifest.workflow_name, "tasks": contents["tasks"]})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "contents"
        raise PackageRefused(f"the package declares what cannot be used: {where}: {first['msg']}"[:500]) from None
    except InvalidGraph as error:
        raise PackageRefused(error.message[:1000]) from error
    params = [param["name"] for param in contents["params"]]
    _refuse_repeated("params", params)
    contents["secrets"] = list(dict.fromkeys(contents["secrets"]))
    _refuse_repeated("params and secrets", params + contents["secrets"])
    _refuse_repeated("triggers", [trigger["name"] for trigger in contents["triggers"]])
    return contents


def _refuse_repeated(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise PackageRefused(f"the package declares these {what} more than once: {', '.join(map(repr, repeated[:5]))}")
