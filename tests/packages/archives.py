"""Archives made by hand, with what no honest packer writes in them."""

from __future__ import annotations

import bz2
import io
import tarfile
from pathlib import Path

MANIFEST = b'[package]\nname = "demo"\nversion = "1.0"\n\n[metadata]\nworkflow_name = "demo"\n'
TASKS = b'import cloaca\n\n@cloaca.task(id="one")\ndef one(context):\n    """what: counts\n    why: to know"""\n'


def file(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A plain file."""
    return entry(name, tarfile.REGTYPE, data, **fields)


def entry(name: str, type_: bytes, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """Any entry."""
    member = tarfile.TarInfo(name)
    member.type, member.size = type_, len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, data


def tar_of(*entries: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar, not compressed."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as tar:
        for member, data in entries:
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def honest(top: str = "demo-1.0", manifest: bytes = MANIFEST) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The entries of an archive that is accepted."""
    return [
        file(f"{top}/package.toml", manifest),
        file(f"{top}/workflow/demo/__init__.py"),
        file(f"{top}/workflow/demo/tasks.py", TASKS),
    ]


def write(folder: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    """An archive in a file."""
    path = folder / "made.cloacina"
    path.write_bytes(bz2.compress(tar_of(*entries)))
    return path


def source(
    folder: Path, tasks: bytes | str = TASKS, *, name: str = "demo", version: str = "1.0", workflow: str = ""
) -> Path:
    """The source folder of a package."""
    package = folder / f"{name}-source"
    module = package / "workflow" / name.replace("-", "_")
    module.mkdir(parents=True, exist_ok=True)
    (module / "__init__.py").touch()
    (module / "tasks.py").write_bytes(tasks if isinstance(tasks, bytes) else tasks.encode())
    (package / "package.toml").write_text(
        f'[package]\nname = "{name}"\nversion = "{version}"\n\n[metadata]\nworkflow_name = "{workflow or name}"\n'
    )
    return package
