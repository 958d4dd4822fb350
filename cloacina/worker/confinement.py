"""What a worker process may do: limits of the kernel, an environment of its own, only the files it needs."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Mapping

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_FILES = 1024
_KEPT_VARIABLES = frozenset(("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TZDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"))
_KEPT_PREFIXES = ("CLOACINA_VAR_",)


def environment(given: Mapping[str, str], folder: str) -> dict[str, str]:
    """The environment of user code: no key, token or address of the system is in it.

    Args:
        given: the environment of the executor.
        folder: working directory of the worker; its home and its place for temporary files.
    """
    kept = {name: value for name, value in given.items() if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)}
    return {**kept, "HOME": folder, "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1"}


def variables_of_spans(given: Mapping[str, str]) -> dict[str, str]:
    """What of an environment the spans of a worker need: resource attributes and limits, never headers."""
    wanted = ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG")
    return {name: given[name] for name in wanted if name in given}


def die_with_parent(parent_pid: int, number: int = signal.SIGKILL) -> None:
    """Has the kernel signal this process when its parent ends, however it ends.

    Args:
        parent_pid: the parent as it was before the fork; if it is gone already, this process ends here.
        number: the signal.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent_pid:
        os._exit(1)


def limit(memory_bytes: int) -> None:
    """Sets the limits. No core dumps; no privileges beyond those at hand.

    Args:
        memory_bytes: address space the process may have (RLIMIT_AS); 0 for no limit.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def close_others(kept: set[int]) -> None:
    """Closes every file descriptor but those in `kept`."""
    for entry in os.listdir("/proc/self/fd"):
        number = int(entry)
        if number not in kept:
            try:
                os.close(number)
            except OSError:
                continue


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
