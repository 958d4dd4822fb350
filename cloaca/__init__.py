"""The original's API: ``import cloaca`` gives ours, under its names.

What authors write with is here at once; what runs workflows in the caller's process is imported when it is first asked
for, because a worker that runs a package's tasks needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cloacina import __version__ as __version__
from cloacina.authoring import *  # noqa: F403
from cloacina.authoring import __all__ as _authoring

if TYPE_CHECKING:
    from cloacina.embedded import DatabaseAdmin as DatabaseAdmin
    from cloacina.embedded import DefaultRunner as DefaultRunner
    from cloacina.embedded import DefaultRunnerConfig as DefaultRunnerConfig
    from cloacina.embedded import TenantConfig as TenantConfig
    from cloacina.embedded import TenantCredentials as TenantCredentials
    from cloacina.embedded import WorkflowResult as WorkflowResult

_EMBEDDED = (
    "DatabaseAdmin",
    "DefaultRunner",
    "DefaultRunnerConfig",
    "TenantConfig",
    "TenantCredentials",
    "WorkflowResult",
)

_ABSENT = {
    **dict.fromkeys(
        (
            "ComputationGraphBuilder",
            "node",
            "reactor",
            "boundary_schema",
            "passthrough_accumulator",
            "stream_accumulator",
            "polling_accumulator",
            "batch_accumulator",
            "state_accumulator",
        ),
        "computation graphs are not supported by this engine",
    ),
    "constructor": "WASM constructors are not supported by this engine",
}

__all__ = [*_authoring, *_EMBEDDED]  # noqa: PLE0604 - the names are strings


def __getattr__(name: str) -> Any:
    if name in _EMBEDDED:
        found = getattr(import_module("cloacina.embedded"), name)
        globals()[name] = found
        return found
    if name in _ABSENT:
        raise AttributeError(f"cloaca.{name} does not exist here: {_ABSENT[name]}")
    raise AttributeError(f"module 'cloaca' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
