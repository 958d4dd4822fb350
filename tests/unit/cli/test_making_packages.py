"""Scaffolds, what `package validate` finds and where, and what is vendored."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from cloacina.cli.scaffold import KINDS
from tests.cli_commands import cloacinactl

TASKS = "import cloaca\n\n\n@cloaca.task()\ndef extract(context):\n    return context\n"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_is_valid(kind: str, tmp_path: Path) -> None:
    made = cloacinactl("package", "new", f"my-{kind}.one", "--kind", kind, "--path", str(tmp_path / "made"))
    assert made.code == 0, made.err
    assert all(Path(line).is_file() for line in made.out.splitlines())
    valid = cloacinactl("package", "validate", str(tmp_path / "made"))
    assert (
        valid.out
        == f"my-{kind}.one 0.1.0 is valid: tasks {4 if kind == 'trigger' else 3}, triggers {int(kind != 'workflow')}\n"
    )
    packed = cloacinactl("package", "pack", str(tmp_path / "made"), "--out", str(tmp_path / "made.cloacina"))
    assert (packed.code, packed.out) == (0, f"{tmp_path / 'made.cloacina'}\n")
    assert cloacinactl("package", "validate", str(tmp_path / "made.cloacina")).out == valid.out


@pytest.mark.parametrize("name", ["json", "1st", "class", "cloaca", "../x", "a b"])
def test_a_name_that_cannot_be_a_package_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    refused = cloacinactl("package", "new", name, "--path", str(tmp_path / "made"))
    assert refused.code == 1
    assert refused.err.startswith("cloacinactl: ")
    assert not (tmp_path / "made").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    refused = cloacinactl("package", "new", "hello", "--path", str(tmp_path))
    assert refused.code == 5 or refused.code == 1
    assert "not empty" in refused.err


def write(folder: Path, tasks: str = TASKS, manifest: str = "", project: str = "") -> Path:
    inside = folder / "flow" / "workflow" / "flow"
    inside.mkdir(parents=True)
    (folder / "flow" / "package.toml").write_text(
        manifest or '[package]\nname = "flow"\nversion = "1.0.0"\n\n[metadata]\nworkflow_name = "flow"\n'
    )
    (inside / "__init__.py").write_text("")
    (inside / "tasks.py").write_text(tasks)
    if project:
        (folder / "flow" / "pyproject.toml").write_text(project)
    return folder / "flow"


DUPLICATE = TASKS + "\n\n@cloaca.task(id='extract')\ndef again(context):\n    return context\n"
UNKNOWN = TASKS.replace("task()", "task(dependencies=['nothing'])")
CYCLE = (
    "import cloaca\n\n@cloaca.task(dependencies=['b'])\ndef a(context):\n    return context\n\n"
    "@cloaca.task(dependencies=['a'])\ndef b(context):\n    return context\n"
)
NEVER = TASKS + "\n\n@cloaca.trigger(on='flow', cron='0 0 30 2 *')\ndef leap(): ...\n"
RAISES = "import cloaca\n\nvalue = {}['missing']\n"


@pytest.mark.parametrize(
    ("parts", "place", "said"),
    [
        ({"tasks": "def broken(:\n"}, "workflow/flow/tasks.py:1", "SyntaxError"),
        ({"tasks": RAISES}, "workflow/flow/tasks.py:3", "KeyError: 'missing'"),
        ({"tasks": DUPLICATE}, "workflow/flow/tasks.py:9", "more than once: 'extract'"),
        ({"tasks": UNKNOWN}, "workflow/flow/tasks.py:4", "'nothing'"),
        ({"tasks": CYCLE}, "workflow/flow/tasks.py:", "cycle"),
        ({"tasks": NEVER}, "workflow/flow/tasks.py:9", "never fires"),
        (
            {"manifest": '[package]\nname = "flow"\nversion = "1"\n\n[metadata]\nworkflow_name = "f"\nlanguge = "x"\n'},
            "package.toml:7",
            "unknown keys 'languge'",
        ),
        ({"manifest": '[package]\nname = "flow"\nversion = = 1\n'}, "package.toml:3", "is not TOML"),
        ({"manifest": '[package]\nname = "flow"\nversion = "1"\n[metadata]\n'}, "package.toml:1", "'workflow_name'"),
        (
            {"project": "[project]\nname = 'flow'\ndependencies = [\n  'this is none',\n]\n"},
            "pyproject.toml:4",
            "is no requirement",
        ),
    ],
    ids=lambda each: str(each)[:24] if isinstance(each, str) else "",
)
def test_what_the_server_would_refuse_is_found_with_file_and_line(
    parts: dict[str, str], place: str, said: str, tmp_path: Path
) -> None:
    found = cloacinactl("package", "validate", str(write(tmp_path, **parts)))
    assert found.code == 1
    assert found.out.startswith(f"{place}"), found.out
    assert said in found.out
    assert cloacinactl("package", "pack", str(tmp_path / "flow"), "-O", str(tmp_path / "x.cloacina")).code == 1
    assert not (tmp_path / "x.cloacina").exists()


def test_a_trigger_on_another_package_is_a_warning(tmp_path: Path) -> None:
    tasks = TASKS + "\n\n@cloaca.trigger(on='elsewhere', cron='0 0 * * *')\ndef nightly(): ...\n"
    found = cloacinactl("package", "validate", str(write(tmp_path, tasks)))
    assert found.code == 0
    assert found.out.startswith("workflow/flow/tasks.py:9: warning: trigger 'nightly' starts the workflow 'elsewhere'")


# Vendoring, from a folder of wheels in the place of an index


def wheel(folder: Path, name: str, version: str, code: str, requires: str = "", tag: str = "py3-none-any") -> None:
    information = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": code,
        f"{information}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{information}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{information}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        for path, text in {**files, f"{information}/RECORD": record}.items():
            archive.writestr(path, text)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "squares", "1.2", "import helper_of_squares\n", requires="helper_of_squares>=2")
    wheel(folder, "helper_of_squares", "2.0", "VALUE = 4\n")
    wheel(folder, "compiled", "1.0", "", tag="cp311-cp311-linux_x86_64")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def project(*required: str) -> str:
    return f"[project]\nname = 'flow'\nversion = '1'\ndependencies = {list(required)!r}\n"


def test_requirements_are_vendored_with_theirs_and_the_folder_stays(index: Path, tmp_path: Path) -> None:
    source = write(tmp_path, TASKS, project=project("squares>=1", "cloaca>=0.12"))
    before = sorted(path.relative_to(source) for path in source.rglob("*"))
    packed = cloacinactl("package", "pack", str(source), "-O", str(tmp_path / "x.cloacina"))
    assert packed.code == 0, packed.err
    assert "vendored squares 1.2" in packed.err
    assert "vendored helper-of-squares 2.0" in packed.err
    with tarfile.open(tmp_path / "x.cloacina") as archive:
        names = set(archive.getnames())
    assert {"flow-1.0.0/vendor/squares.py", "flow-1.0.0/vendor/helper_of_squares.py"} <= names
    assert not [name for name in names if "cloaca" in name or name.endswith(("RECORD", ".pyc"))]
    assert sorted(path.relative_to(source) for path in source.rglob("*")) == before


def test_the_same_requirements_make_the_same_archive(index: Path, tmp_path: Path) -> None:
    source = write(tmp_path, TASKS, project=project("squares"))
    for name in ("a", "b"):
        assert cloacinactl("package", "pack", str(source), "-O", str(tmp_path / name), "--no-validate").code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("required", "said"),
    [
        ("compiled", "there is no pure-Python wheel for compiled"),
        ("nowhere==3", "there is no pure-Python wheel for nowhere==3"),
        ("squares>=9", "there is no pure-Python wheel for squares>=9"),
    ],
)
def test_what_cannot_be_vendored_is_named(required: str, said: str, index: Path, tmp_path: Path) -> None:
    source = write(tmp_path, TASKS, project=project(required))
    refused = cloacinactl("package", "pack", str(source), "-O", str(tmp_path / "x"), "--no-validate")
    assert refused.code == 1
    assert said in refused.err


def test_what_is_vendored_by_hand_is_not_overwritten(index: Path, tmp_path: Path) -> None:
    source = write(tmp_path, TASKS, project=project("squares"))
    (source / "vendor").mkdir()
    (source / "vendor" / "squares.py").write_text("mine = True\n")
    refused = cloacinactl("package", "pack", str(source), "-O", str(tmp_path / "x"), "--no-validate")
    assert "vendor/squares.py is in the package already" in refused.err
