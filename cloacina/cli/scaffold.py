"""``cloacinactl package new``: a package that runs as it is, to be changed from there."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from string import Template

from cloacina.errors import Conflict, InvalidRequest
from cloacina.packages.manifest import MANIFEST_NAME

KINDS = ("workflow", "cron", "trigger")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")

_MANIFEST = Template("""\
[package]
name = "$name"
version = "0.1.0"

[metadata]
workflow_name = "$module"
requires_python = ">=3.11"
description = "$description"
""")

_PROJECT = Template("""\
# What the tasks import beside the standard library. `cloacinactl package pack` puts it into vendor/ of the archive:
# pure-Python wheels only, since the package runs on whatever machine its executor has.
[project]
name = "$name"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = []
""")

_TASKS = '''\
"""Tasks of the workflow $module."""

from __future__ import annotations

import logging

import cloaca

log = logging.getLogger(__name__)


@cloaca.task()
def extract(context):
    """what: Reads the input. why: everything below works on what this leaves in the context."""
    numbers = context.get("numbers", [1, 2, 3])
    log.info("read %d numbers", len(numbers))
    context.set("numbers", numbers)
    return context


@cloaca.task(dependencies=[extract], retry_attempts=3, retry_delay_ms=500)
def transform(context):
    """what: Squares the numbers. why: stands for work that may fail, and is then tried again."""
    context.set("squares", [number * number for number in context["numbers"]])
    return context


@cloaca.task(dependencies=[transform])
def load(context):
    """what: Adds the squares up. why: the execution's result is what the last task leaves in the context."""
    context.set("total", sum(context["squares"]))
    return context
'''

_CRON = '''

@cloaca.trigger(on="$module", cron="*/5 * * * *", timezone="UTC")
def ${module}_schedule():
    """Every five minutes. Five fields: minute, hour, day of the month, month, day of the week."""
'''

_TRIGGER = '''

@cloaca.task(dependencies=[load])
def clear(context):
    """what: Takes the signal away. why: last, so that work which failed is still asked for."""
    if context.get("ready"):
        Path(context["ready"]).unlink(missing_ok=True)
    return context


@cloaca.trigger(on="$module", poll_interval="30s")
def ${module}_poll():
    """Is asked every 30 seconds whether there is work. The same context starts nothing more while it is worked on.

    Here a file is the signal; the variable CLOACINA_VAR_${variable} says which.
    """
    ready = Path(cloaca.var_or("$variable", "/tmp/$name.ready"))
    if not ready.exists():
        return cloaca.TriggerResult.skip()
    return cloaca.TriggerResult.fire(cloaca.Context({"numbers": [4, 5, 6], "ready": str(ready)}))
'''

_README = Template("""\
# $name

$description

```
cloacinactl package validate .
cloacinactl package publish .
cloacinactl workflow run $module --wait
```

- `package.toml` names the package, its version and its workflow. A change needs a new version.
- `workflow/$module/tasks.py` holds the tasks.
- `pyproject.toml` lists what they import; `package pack` vendors it.
""")

_DESCRIPTIONS = {
    "workflow": "Adds up the squares of numbers",
    "cron": "Adds up the squares of numbers, every five minutes",
    "trigger": "Adds up the squares of numbers, whenever there is work",
}


def scaffold(name: str, kind: str, folder: Path) -> list[Path]:
    """Writes a new package.

    Args:
        name: of the package.
        kind: one of `KINDS`.
        folder: where; it must not exist, or be empty.

    Returns:
        The files that were written.

    Raises:
        InvalidRequest: the name cannot be a package's, or its files cannot be written.
        Conflict: something is in the folder.
    """
    module = _module(name)
    variable = f"{module.upper()}_READY"
    values = {"name": name, "module": module, "variable": variable, "description": _DESCRIPTIONS[kind]}
    tasks = _TASKS + {"workflow": "", "cron": _CRON, "trigger": _TRIGGER}[kind]
    if kind == "trigger":
        tasks = tasks.replace("import logging\n", "import logging\nfrom pathlib import Path\n")
    files = {
        MANIFEST_NAME: _MANIFEST.substitute(values),
        "pyproject.toml": _PROJECT.substitute(values),
        "README.md": _README.substitute(values),
        f"workflow/{module}/__init__.py": "",
        f"workflow/{module}/tasks.py": Template(tasks).substitute(values),
    }
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Conflict(f"{folder} is there already, and is not empty; choose another place with --path")
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot be written: {error.strerror}") from None
    return [folder / path for path in files]


def _module(name: str) -> str:
    if not _NAME.match(name):
        raise InvalidRequest(f"a package's name begins with a letter or digit and has A-Z a-z 0-9 . _ -, not {name!r}")
    module = re.sub(r"[.-]", "_", name)
    if not module.isidentifier() or keyword.iskeyword(module):
        raise InvalidRequest(f"{name!r} makes no name of a Python module; begin with a letter, say my_{module}")
    if module in sys.stdlib_module_names or module in ("cloacina", "cloaca"):
        raise InvalidRequest(f"{name!r} is the name of a module that Python or Cloacina brings; say my_{module}")
    return module
